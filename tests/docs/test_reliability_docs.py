"""Nothing stands in docs/reliability.md that no test shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[tuple[str, list[str]]]:
    """Every row of a table of which the last column is ``shown by``: what it says, and that column."""
    found, promises = [], False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            promises = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[-1] == "shown by":
            promises = True
        elif promises and not set(line) <= set("|- "):
            found.append((cells[0], [match[0].strip("`") for match in TEST.finditer(cells[-1])]))
    return found


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_there_are_promises() -> None:
    assert len(rows()) > 30


@pytest.mark.parametrize(("promise", "tests"), rows(), ids=[promise[:60] for promise, _ in rows()])
def test_every_promise_and_every_fault_has_its_test(promise: str, tests: list[str]) -> None:
    assert tests, f"no test is named that shows: {promise}"
    for name in tests:
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), f"{file} is not there"
        assert not function or function in functions_of(ROOT / file), f"{name} is not there"
