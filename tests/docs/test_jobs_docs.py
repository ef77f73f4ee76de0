"""What docs/jobs.md says of states and reasons is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from pyscheduler.allocator import Allocator
from pyscheduler.core.jobs import NO_NODE_REASONS, JobState

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_reason_has_its_row() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", section("When there is no node"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(NO_NODE_REASONS)


def test_every_state_is_explained() -> None:
    assert set(re.findall(r"\*\*(\w+)\*\*", section("A reservation"))) == set(JobState)


def test_every_call_exists() -> None:
    calls = re.findall(r"`(?:Allocator\.)?(\w+)`", PAGE.partition("## ")[0])
    assert "reserve" in calls
    assert [name for name in calls if not hasattr(Allocator, name)] == []
