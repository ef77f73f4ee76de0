"""How an event of the namespace stands in the log of a process."""

from __future__ import annotations

import io
import json

import pytest

from pyscheduler.core.results import Event
from pyscheduler.registry import logs
from pyscheduler.registry.watcher import write_line


def line_of(event: Event, *, ours: bool) -> dict[str, object]:
    stream = io.StringIO()
    write_line(logs.make("json", "debug", stream=stream), event, ours=ours)
    line: dict[str, object] = json.loads(stream.getvalue())
    del line["at"]
    return line


@pytest.mark.parametrize(
    ("kind", "reason", "ours", "level"),
    [
        ("node.assigned", "new", True, "info"),
        ("node.assigned", "new", False, "debug"),
        ("node.expired", "lease_lapsed", False, "info"),
        ("pool.created", "auto", False, "info"),
        ("class.remapped", "document", False, "info"),
        ("config.bumped", "document", False, "info"),
        ("node.registered", "takeover", True, "info"),
        ("node.registered", "cloned_id", True, "warning"),
        ("node.registered", "cloned_id", False, "warning"),
        ("reconcile.braked", "too many", False, "warning"),
    ],
)
def test_whom_an_event_concerns_decides_about_its_level(kind: str, reason: str, ours: bool, level: str) -> None:
    event = Event(id="1-1", at_ms=1, type=kind, version=2, reason=reason)
    assert line_of(event, ours=ours)["level"] == level
    stream = io.StringIO()
    write_line(logs.make("json", "error", stream=stream), event, ours=ours)
    assert stream.getvalue() == ""


def test_a_line_has_the_event_s_fields_in_their_order_and_its_instance_under_another_name() -> None:
    fields = {"class": "5", "instance": "i-2", "pool": "never", "version": "never"}
    event = Event("1-1", 1, "node.assigned", 2, node_id="n1", pool="en", to="en", reason="new", fields=fields)
    assert list(line_of(event, ours=True).items()) == [
        ("level", "info"),
        ("event", "node.assigned"),
        ("event_id", "1-1"),
        ("version", 2),
        ("node_id", "n1"),
        ("pool", "en"),
        ("to", "en"),
        ("class", "5"),
        ("node_instance", "i-2"),
        ("from", ""),
        ("reason", "new"),
    ]


def test_an_event_without_a_reason_has_an_empty_one() -> None:
    assert line_of(Event("1-1", 1, "config.bumped", 2), ours=False) == {
        "level": "info",
        "event": "config.bumped",
        "event_id": "1-1",
        "version": 2,
        "reason": "",
    }
