"""Nodes whose scheduler instance has gone: they get the reconnect grace, once."""

from __future__ import annotations

from typing import Any

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import NodeStatus, Registration
from pyscheduler.errors import SessionLost
from tests.harness import GRACE_MS, LEASE_MS, Cell, facts_of
from tests.oracle import read_state
from tests.upkeep import MINUTE_MS, events_of, remembered, tick, traces


async def orphan(cell: Cell, node_id: str = "a", **options: Any) -> Registration:
    """A ready node whose lease has lapsed, and whose instance's lease has, too."""
    registered = await cell.register(node_id, "en", **{"instance": "one", **options})
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS // 3, info={})
    await cell.pass_time(LEASE_MS)
    return registered


async def test_a_node_whose_instance_has_gone_gets_the_grace_once(cell: Cell) -> None:
    epoch = (await orphan(cell)).session.epoch
    report = await cell.reconcile()
    assert (report.expired, report.released, report.lapsed) == (0, 1, 1)
    state = await read_state(cell.store)
    assert traces(state, "a") == ["members", "leases", "sessions", "nodes", "usage"], "it takes no work"
    node = (await cell.allocator.node("a")).state
    assert (node.status, node.pool, node.epoch) == (NodeStatus.OFFLINE, "en", epoch)
    assert GRACE_MS - 10_000 < state.leases["a"] - await cell.now_ms() <= GRACE_MS
    (event,) = await events_of(cell, "node.released")
    assert (event["pool"], event["epoch"], event["reason"]) == ("en", str(epoch), "instance_lost")
    assert (await events_of(cell, "reconcile.ran"))[-1]["released"] == "1"

    assert (await cell.reconcile()).lapsed == 0
    await cell.pass_time(GRACE_MS)
    report = await cell.reconcile()
    assert (report.expired, report.released) == (1, 0)
    assert [event["reason"] for event in await events_of(cell, "node.expired")] == ["grace_ended"]


async def test_a_node_that_returns_within_the_grace_has_not_left_its_pool(cell: Cell) -> None:
    first = await orphan(cell)
    await cell.reconcile()
    second = await cell.register("a", "en", session_id="again", instance="two")
    assert second.session.epoch > first.session.epoch
    assert (await events_of(cell, "node.registered"))[-1]["reason"] == "reconnect", "nobody was taken over"
    assert len(await events_of(cell, "node.assigned")) == 1
    assert (await cell.allocator.node("a")).state.status is NodeStatus.READY
    with pytest.raises(SessionLost) as lost:
        await cell.allocator.heartbeat(first.session, lease_ms=LEASE_MS)
    assert not lost.value.unknown


async def test_a_policy_that_refuses_takeovers_lets_it_return_too(cell: Cell) -> None:
    await orphan(cell)
    await cell.reconcile()
    await cell.register("a", "en", session_id="again", instance="two", takeover=False)


async def test_an_instance_that_was_only_away_goes_on_with_its_nodes(cell: Cell) -> None:
    """It could not reach the store for long; the sockets stayed open."""
    session = (await orphan(cell)).session
    await cell.reconcile()
    for attempt in (
        cell.allocator.heartbeat(session, lease_ms=LEASE_MS),
        cell.allocator.update(session, NodeReport.of(facts_of("en")), lease_ms=LEASE_MS),
    ):
        with pytest.raises(SessionLost) as lost:
            await attempt
        assert lost.value.unknown
    resumed = await cell.register("a", "en", instance="one", epoch=session.epoch)
    assert resumed.session.epoch == session.epoch
    assert (await cell.allocator.node("a")).state.status is NodeStatus.READY
    await cell.allocator.heartbeat(resumed.session, lease_ms=LEASE_MS)
    await cell.allocator.release(resumed.session, grace_ms=GRACE_MS, reason="closed")
    with pytest.raises(SessionLost):
        await cell.register("a", "en", instance="one", epoch=session.epoch)


async def test_a_socket_that_closed_meanwhile_ends_the_session_for_good(cell: Cell) -> None:
    session = (await orphan(cell)).session
    await cell.reconcile()
    await cell.advance(1000)
    lease_end = (await read_state(cell.store)).leases["a"]
    assert await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    assert (await read_state(cell.store)).leases["a"] == lease_end, "the grace does not begin again"
    with pytest.raises(SessionLost) as lost:
        await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)
    assert not lost.value.unknown


async def test_a_hold_on_a_node_whose_instance_has_gone_is_kept(cell: Cell) -> None:
    await cell.register("a", "en", instance="one")
    await cell.allocator.hold("a", owner="ops", reason="disk")
    await orphan(cell)
    await cell.reconcile()
    assert (await cell.allocator.node("a")).state.status is NodeStatus.OFFLINE
    await cell.register("a", "en", session_id="again", instance="two")
    assert (await cell.allocator.node("a")).state.status is NodeStatus.DRAINING


@pytest.mark.parametrize("instance", ["alive", "left", "never-had-a-lease"])
async def test_nodes_of_other_instances_are_expired_at_once(cell: Cell, instance: str) -> None:
    await cell.allocator.renew_instance("alive", lease_ms=10 * LEASE_MS, info={})
    await cell.allocator.renew_instance("left", lease_ms=1, info={})
    await cell.allocator.leave_instance("left")
    await orphan(cell, "b")
    await cell.register("a", "en", instance=instance, lease_ms=1)
    await cell.pass_time(1000)
    report = await cell.reconcile()
    assert (report.expired, report.released) == (1, 1)
    assert [(event["node_id"], event["reason"]) for event in await events_of(cell, "node.expired")] == [
        ("a", "lease_lapsed")
    ]


async def test_a_node_that_was_released_before_its_instance_died_is_expired(cell: Cell) -> None:
    session = (await cell.register("a", "en", instance="one")).session
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    await cell.allocator.renew_instance("one", lease_ms=1, info={})
    await cell.pass_time(GRACE_MS)
    report = await cell.reconcile()
    assert (report.expired, report.released) == (1, 0)


async def test_after_an_outage_no_instance_is_taken_for_dead_before_it_had_a_full_lease(cell: Cell) -> None:
    await cell.trust_leases()
    await cell.register("a", "en", instance="one")
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS // 3, info={})
    await cell.reconcile()
    await cell.advance(10 * MINUTE_MS)
    report = await cell.reconcile()
    assert (report.expired, report.released, report.lapsed) == (0, 0, 1)
    assert await tick(cell, LEASE_MS - 10_000) == 0
    assert (await cell.allocator.node("a")).state.status is NodeStatus.READY


async def test_the_brake_and_the_bound_of_a_step_count_releases_too(cell: Cell) -> None:
    for number in range(10):
        await cell.register(f"n{number}", "en", instance="one")
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS // 3, info={})
    # So long after that the instance would have been forgotten, if no node waited.
    await cell.pass_time(4 * LEASE_MS)
    limits = {"brake_share": 0.3, "brake_floor": 4, "brake_expire": 2, "expire": 3}
    steps = [await cell.reconcile(**limits) for _ in range(6)]
    assert [step.released for step in steps] == [2, 2, 2, 3, 1, 0]
    assert sum(step.expired for step in steps) == 0
    assert await remembered(cell) == set()
