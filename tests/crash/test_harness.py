"""The harness finds what it is for: each of these scripts breaks the rule that it is all of a call or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from pyscheduler.embedded import find_server
from tests.cells import altered_script
from tests.crash import points
from tests.crash.node_scenarios import a_first_hold, a_node_of_a_known_class, a_release
from tests.crash.rig import Rig
from tests.crash.scenario import Steps
from tests.harness import Cell

pytestmark = pytest.mark.breaks_store


@pytest.fixture
def make_rig() -> Iterator[Callable[[Mapping[str, str]], Rig]]:
    made: list[Rig] = []

    def make(overrides: Mapping[str, str]) -> Rig:
        made.append(Rig(find_server(), overrides))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


MakeRig = Callable[[Mapping[str, str]], Rig]


def test_a_script_that_writes_and_then_reads_and_refuses(make_rig: MakeRig) -> None:
    late = "redis.call('ZADD', LEASES, digits(math.min(lease_end, now + grace_ms)), node_id)"
    check = f"if redis.call('HEXISTS', SESSIONS, node_id) == 0 then\n  return {{ 'UNKNOWN' }}\nend\n{late}"
    rig = make_rig(altered_script("release_node.lua", late, check))
    prepared = rig.prepare(a_release)
    assert points.reads_after_the_first_write(rig, prepared) == ["HEXISTS {crash}:sessions"]


def test_a_script_that_writes_before_it_has_read_all(make_rig: MakeRig) -> None:
    early = "redis.call('XLEN', EVENTS)\nlocal pool"
    rig = make_rig(altered_script("release_node.lua", early, f"redis.call('ZREM', READY, node_id)\n{early}"))
    prepared = rig.prepare(a_release)
    assert points.reads_after_the_first_write(rig, prepared)
    # The first write is earlier now, and what used to be safe is not any more.
    points.script_fails(rig, prepared, prepared.first_write)
    with pytest.raises(AssertionError, match="ready"):
        points.script_fails(rig, prepared, prepared.first_write + 1)


async def a_hold_in_two_calls(cell: Cell) -> Steps:
    """As a client would that makes two calls of what must be one: each hold is a step of its own."""
    await cell.register("a", "en")
    yield
    await cell.allocator.hold("a", owner="ops", reason="disk")
    await cell.allocator.hold("a", owner="ops", reason="disk and fan")


def test_a_change_that_is_made_by_two_calls(make_rig: MakeRig) -> None:
    rig = make_rig({})
    prepared = rig.prepare(a_hold_in_two_calls)
    assert len(prepared.calls) == 2
    found = []
    for point in prepared.points:
        try:
            points.server_dies(rig, prepared, point)
        except AssertionError as error:
            assert "the state is not that before nor that after" in str(error)  # noqa: PT017
            found.append(point)
    assert found == list(range(prepared.sizes[0], len(prepared.trace) + 1)), "found once the first call has ended"
    with pytest.raises(AssertionError, match="nor that after"):
        points.log_is_torn(rig, prepared, slice(None))


def test_a_script_that_does_not_ask_for_its_permissions(make_rig: MakeRig) -> None:
    rig = make_rig({"lib/permissions.lua": "local function denied()\n  return nil\nend\n"})
    prepared = rig.prepare(a_release)
    rig.client.execute_command("ACL", "SETUSER", "poor", "on", ">secret", "~*", "+@all", "-xadd")
    rig.put(prepared.snapshot)
    assert rig.attempt(prepared, "poor"), "denied in its middle"
    with pytest.raises(AssertionError, match="sessions"):
        points.assert_state(rig.look(), {"before": prepared.before}, "without XADD")


def test_a_script_whose_repetition_does_more(make_rig: MakeRig) -> None:
    condition = "if holds[owner] and holds[owner].reason == why then"
    rig = make_rig(altered_script("hold_node.lua", condition, "if false then"))
    with pytest.raises(AssertionError, match="repeated"):
        points.repeats(rig.prepare(a_first_hold))


def test_a_server_that_forgets_what_it_has_acknowledged(make_rig: MakeRig) -> None:
    rig = make_rig({})
    prepared = rig.prepare(a_node_of_a_known_class)
    rig.put({})
    rig.client.config_set("appendonly", "no")
    with pytest.raises(AssertionError, match="after its answer"):
        points.server_dies_before_the_reply_is_read(rig, prepared)
