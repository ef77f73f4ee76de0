"""docs/limits.md has every bound of the Python side, with its value."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
CORE = "core/limits.py"


def constants() -> dict[tuple[str, str], float]:
    """Every constant called MAX_... or MIN_... by the module that sets it."""
    found: dict[tuple[str, str], float] = {}
    for path in sorted((ROOT / "pyscheduler").glob("**/*.py")):
        where = path.relative_to(ROOT / "pyscheduler").as_posix()
        targets = [
            name.id
            for statement in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign | ast.AnnAssign)
            for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
            for name in ast.walk(target)
            if isinstance(name, ast.Name) and re.match("(MAX|MIN)_", name.id)
        ]
        if targets:
            module = importlib.import_module("pyscheduler." + where.removesuffix(".py").replace("/", "."))
            found.update({(where, name): getattr(module, name) for name in targets})
    return found


def documented() -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for line in PAGE.splitlines():
        row = re.match(r"\| `(M\w+)` \| (?:`([\w/.]+)` \| )?(-?[\d,]+)\b", line)
        if row:
            place = (row[2] or CORE, row[1])
            assert place not in found, f"{place} stands there twice"
            found[place] = float(row[3].replace(",", ""))
        else:
            assert not line.startswith("| `"), f"a row without a bound: {line}"
    return found


def test_every_bound_is_there_with_its_value_and_no_other() -> None:
    there, page = constants(), documented()
    assert {place: value for place, value in there.items() if page.get(place) != value} == {}
    assert set(page) == set(there)
