"""A pytest plugin: takes down how long each test took, for who wants the quick ones first."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / ".coverage-tests.json"

_taken_ms: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _taken_ms[report.nodeid] += round(report.duration * 1000)


def pytest_sessionfinish() -> None:
    DATA.write_text(json.dumps(_taken_ms), encoding="utf-8")


def read() -> dict[str, int]:
    """Node id -> milliseconds."""
    found: dict[str, int] = json.loads(DATA.read_text(encoding="utf-8"))
    return found
