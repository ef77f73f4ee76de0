"""Every point of every script: an error there, SCRIPT KILL there, the server's end there. All of a call or nothing.

The normal suite tries every point that takes no restart, and for each scenario some that do; ``make faults`` tries all.
"""

from __future__ import annotations

import pytest

from pyscheduler.keys import key
from pyscheduler.scripts import load_scripts
from tests.crash import points
from tests.crash.rig import NAMESPACE, Prepared, Rig
from tests.crash.scenarios import SCENARIOS, WRITING

EACH = pytest.mark.parametrize("name", SCENARIOS)
EACH_THAT_WRITES = pytest.mark.parametrize("name", WRITING)


def some(prepared: Prepared, name: str) -> list[int]:
    """The first write, what follows it, and a point that differs from scenario to scenario."""
    other = list(SCENARIOS).index(name) * 7 % len(prepared.points)
    return sorted({prepared.first_write, prepared.first_write + 1, other}) if name in WRITING else [other]


def test_every_script_and_every_event_is_among_the_scenarios(rig: Rig) -> None:
    calls: set[str] = set()
    events: dict[str, set[str]] = {name: set() for name in load_scripts()}
    for name, scenario in SCENARIOS.items():
        prepared = rig.prepare(scenario)
        (call,) = prepared.calls
        calls.add(call.script)
        events[call.script] |= prepared.events
        assert (prepared.first_write < len(prepared.trace)) is (name in WRITING)
        assert (prepared.before != prepared.after) is (name in WRITING)
    assert calls == set(load_scripts())
    assert events == {name: set(script.header.events) for name, script in load_scripts().items()}


@EACH
def test_nothing_is_read_after_the_first_write(rig: Rig, name: str) -> None:
    assert points.reads_after_the_first_write(rig, rig.prepare(SCENARIOS[name])) == []


@EACH
def test_every_key_that_is_touched_is_declared(rig: Rig, name: str) -> None:
    prepared = rig.prepare(SCENARIOS[name])
    (call,) = prepared.calls
    declared = {key(NAMESPACE, of_script) for of_script in load_scripts()[call.script].header.keys}
    assert {command.split()[1] for command in prepared.trace} <= declared


@EACH
def test_an_error_up_to_the_first_write_changes_nothing(rig: Rig, name: str) -> None:
    prepared = rig.prepare(SCENARIOS[name])
    for point in range(prepared.first_write + 1):
        points.script_fails(rig, prepared, point)


@EACH
def test_a_script_that_is_killed_has_written_nothing(rig: Rig, name: str) -> None:
    prepared = rig.prepare(SCENARIOS[name])
    for point in some(prepared, name):
        if point <= prepared.first_write:
            points.script_is_killed(rig, prepared, point)


@EACH
def test_a_server_that_dies_has_done_all_of_a_call_or_nothing(rig: Rig, name: str) -> None:
    prepared = rig.prepare(SCENARIOS[name])
    for point in some(prepared, name):
        if point != prepared.first_write:
            points.server_dies(rig, prepared, point)


@EACH_THAT_WRITES
def test_what_the_server_has_acknowledged_survives_it(rig: Rig, name: str) -> None:
    points.server_dies_before_the_reply_is_read(rig, rig.prepare(SCENARIOS[name]))


@EACH_THAT_WRITES
def test_a_log_that_ends_in_the_middle_of_a_call_has_all_of_it_or_nothing(rig: Rig, name: str) -> None:
    points.log_is_torn(rig, rig.prepare(SCENARIOS[name]), slice(2, 3))


@pytest.mark.faults
@EACH
def test_a_server_that_dies_at_any_point(rig: Rig, name: str) -> None:
    prepared = rig.prepare(SCENARIOS[name])
    for point in prepared.points:
        points.server_dies(rig, prepared, point)


@pytest.mark.faults
@EACH
def test_a_script_is_killed_at_any_point_or_not_any_more(rig: Rig, name: str) -> None:
    prepared = rig.prepare(SCENARIOS[name])
    for point in prepared.points:
        points.script_is_killed(rig, prepared, point)


@pytest.mark.faults
@EACH_THAT_WRITES
def test_a_log_that_ends_anywhere(rig: Rig, name: str) -> None:
    points.log_is_torn(rig, rig.prepare(SCENARIOS[name]), slice(None))
