"""Expiry: what lapses goes, in bounded steps, and under a brake where it is much at once."""

from __future__ import annotations

import pytest

from tests.harness import GRACE_MS, LEASE_MS, Cell
from tests.oracle import read_state
from tests.upkeep import events_of, fleet, traces

# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_a_node_whose_lease_has_lapsed_leaves_no_trace(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.register("b", "de")
    await cell.pass_time(LEASE_MS)
    await cell.register("b", "de", session_id="again")
    report = await cell.reconcile()
    assert (report.expired, report.lapsed, report.dropped_classes) == (1, 1, 1)
    state = await read_state(cell.store)
    assert traces(state, "a") == []
    assert [entry for entry in state.capabilities if "zh" in entry] == []
    (event,) = await events_of(cell, "node.expired")
    assert (event["node_id"], event["pool"], event["reason"]) == ("a", "en-zh", "lease_lapsed")


async def test_a_released_node_leaves_when_its_grace_has_ended(cell: Cell) -> None:
    session = (await cell.register("a", "en")).session
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    await cell.pass_time(GRACE_MS)
    assert (await cell.reconcile()).expired == 1
    (event,) = await events_of(cell, "node.expired")
    assert event["reason"] == "grace_ended"


async def test_a_lease_that_lives_is_left_alone(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.pass_time(LEASE_MS - 10_000)
    report = await cell.reconcile()
    assert (report.expired, report.lapsed) == (0, 0)
    assert await cell.pool_of("a") == "en"


async def test_a_hold_outlives_its_node(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.allocator.hold("a", owner="ops", reason="disk")
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    assert traces(await read_state(cell.store), "a") == ["holds"]


async def test_a_step_expires_no_more_than_it_is_told(cell: Cell) -> None:
    await fleet(cell, 7)
    await cell.pass_time(LEASE_MS)
    counts = [(await cell.reconcile(expire=3)).expired for _ in range(4)]
    assert counts == [3, 3, 1, 0]


async def test_a_step_that_finds_nothing_to_do_leaves_no_event(cell: Cell) -> None:
    await cell.register("a", "en")
    before = (await read_state(cell.store)).events
    for _ in range(3):
        await cell.reconcile()
    assert (await read_state(cell.store)).events == before


async def test_a_step_that_did_something_says_so(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    (event,) = await events_of(cell, "reconcile.ran")
    assert (event["expired"], event["dropped_classes"], event["violations"]) == ("1", "1", "0")


# --- the brake --------------------------------------------------------------------------------------------------------


async def test_when_a_great_part_of_the_fleet_lapses_at_once_it_goes_slowly_and_says_so_once(cell: Cell) -> None:
    await fleet(cell, 10)
    await cell.pass_time(LEASE_MS)
    steps = [await cell.reconcile(brake_share=0.3, brake_floor=4, brake_expire=2) for _ in range(6)]
    assert [step.expired for step in steps] == [2, 2, 2, 4, 0, 0]
    assert [step.braked for step in steps] == [True, True, True, False, False, False]
    (event,) = await events_of(cell, "reconcile.braked")
    assert (event["lapsed"], event["nodes"]) == ("10", "10")


@pytest.mark.parametrize(("nodes", "expired"), [(200, 2), (201, 3)])
async def test_of_a_large_fleet_one_in_a_hundred_goes_in_a_braked_step(cell: Cell, nodes: int, expired: int) -> None:
    await fleet(cell, nodes)
    await cell.pass_time(LEASE_MS)
    report = await cell.reconcile(brake_floor=20, brake_expire=1)
    assert (report.braked, report.expired) == (True, expired)
    assert (await cell.reconcile(brake_floor=20, brake_expire=1, expire=2)).expired == 2


async def test_a_brake_that_was_off_in_between_says_so_again(cell: Cell) -> None:
    for _ in range(2):
        await fleet(cell, 6)
        await cell.pass_time(LEASE_MS)
        while (await cell.reconcile(brake_floor=2, brake_expire=2)).lapsed:
            pass
    assert len(await events_of(cell, "reconcile.braked")) == 2


@pytest.mark.parametrize(("lapsing", "braked"), [(3, False), (4, True)])
async def test_the_brake_acts_beyond_a_share_of_the_fleet(cell: Cell, lapsing: int, braked: bool) -> None:
    await fleet(cell, 10, lease_ms=10 * LEASE_MS)
    for number in range(lapsing):
        await cell.register(f"n{number:03}", "en", "zh", session_id="again", lease_ms=1)
    await cell.pass_time(LEASE_MS)
    report = await cell.reconcile(brake_share=0.3, brake_floor=0, brake_expire=1)
    assert (report.braked, report.expired) == (braked, 1 if braked else lapsing)


async def test_a_fleet_of_a_few_nodes_has_no_brake(cell: Cell) -> None:
    await fleet(cell, 5)
    await cell.pass_time(LEASE_MS)
    report = await cell.reconcile(brake_floor=5)
    assert (report.braked, report.expired) == (False, 5)
