"""Expiry waits where the store, its clock or reconcile itself was away: nobody goes who is there."""

from __future__ import annotations

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import ReconcileLimits
from tests.cells import Replica, limited_cell
from tests.harness import LEASE_MS, Cell, facts_of
from tests.upkeep import MINUTE_MS, fleet, tick


async def test_the_first_step_ever_expires_nothing_before_a_full_lease_has_passed(cell: Cell) -> None:
    await cell.register("a", "en", lease_ms=1)
    await cell.advance(10)
    report = await cell.reconcile()
    assert (report.expired, report.lapsed) == (0, 1)
    assert LEASE_MS - 10_000 < report.suspended_ms <= LEASE_MS


async def test_an_outage_of_the_store_does_not_empty_the_pools(cell: Cell) -> None:
    """Every lease has lapsed while nobody could renew one. Those who are there get the time to say so."""
    await cell.trust_leases()
    alive = (await cell.register("alive", "en")).session
    await cell.register("dead", "en")
    await cell.reconcile()
    await cell.advance(10 * MINUTE_MS)

    report = await cell.reconcile()
    assert (report.expired, report.lapsed) == (0, 2)
    assert report.suspended_ms > 0
    await cell.allocator.heartbeat(alive, lease_ms=10 * LEASE_MS)
    assert await tick(cell, LEASE_MS - 10_000) == 0
    assert await tick(cell, 20_000) == 1
    assert [node.node_id for node in (await cell.allocator.nodes()).nodes] == ["alive"]


@pytest.mark.parametrize(("pause", "suspended"), [(LEASE_MS // 2 - 5_000, False), (LEASE_MS // 2 + 5_000, True)])
async def test_reconcile_counts_as_away_after_half_a_lease(cell: Cell, pause: int, suspended: bool) -> None:
    await cell.trust_leases()
    await cell.reconcile()
    await cell.advance(pause)
    assert bool((await cell.reconcile()).suspended_ms) is suspended


@pytest.mark.parametrize("jump", [3_600_000, -3_600_000])
async def test_a_clock_that_jumps_expires_nobody_who_is_there(cell: Cell, jump: int) -> None:
    await cell.trust_leases()
    session = (await cell.register("a", "en")).session
    await cell.reconcile()
    await cell.advance(jump)
    assert (await cell.reconcile()).expired == 0
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)
    for _ in range(12):
        assert await tick(cell, 10_000) == 0
        await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)
    assert await cell.pool_of("a") == "en"


async def test_a_clock_that_goes_back_keeps_no_dead_node_alive(cell: Cell) -> None:
    """Its lease ends an hour from now, by a clock that was an hour ahead."""
    await cell.trust_leases()
    alive = (await cell.register("alive", "en", lease_ms=2 * LEASE_MS)).session
    await cell.register("dead", "en")
    await cell.reconcile()
    await cell.advance(-3_600_000)
    expired = await tick(cell, LEASE_MS - 10_000)
    await cell.allocator.heartbeat(alive, lease_ms=2 * LEASE_MS)
    expired += await tick(cell, LEASE_MS + 10_000)
    assert expired == 1
    assert [node.node_id for node in (await cell.allocator.nodes()).nodes] == ["alive"]


async def test_leases_from_before_the_clock_went_back_are_cut_over_several_steps(
    redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace, MAX_CUT_LEASES=1) as cell:
        await cell.trust_leases()
        await fleet(cell, 3)
        await cell.advance(-3_600_000)
        assert await tick(cell, 2 * LEASE_MS + 10_000) == 3


async def test_a_clock_that_goes_back_does_not_stop_upkeep_until_it_has_caught_up(cell: Cell) -> None:
    limits = ReconcileLimits(min_interval_ms=5_000)
    await cell.trust_leases()
    await cell.advance(-3_600_000)
    assert not (await cell.allocator.reconcile(lease_ms=LEASE_MS, limits=limits)).skipped
    assert (await cell.allocator.reconcile(lease_ms=LEASE_MS, limits=limits)).skipped


async def test_where_the_clock_goes_on_a_lease_may_be_longer_than_the_usual(cell: Cell) -> None:
    await cell.trust_leases()
    await cell.register("a", "en", lease_ms=10 * LEASE_MS)
    await tick(cell, LEASE_MS)
    assert (await cell.allocator.node("a")).state.lease_ms > 8 * LEASE_MS


async def test_a_failover_to_an_old_replica_expires_nobody_who_is_there(cell: Cell) -> None:
    await cell.trust_leases()
    session = (await cell.register("a", "en")).session
    await cell.reconcile()
    replica = await Replica.of(cell)
    for _ in range(12):
        await tick(cell, 10_000)
        await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)
    await replica.fail_over()
    report = await cell.reconcile()
    assert (report.expired, report.lapsed) == (0, 1)
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)
    assert await tick(cell, 20_000) == 0


async def test_while_expiry_waits_the_rest_of_the_work_goes_on(cell: Cell) -> None:
    session = (await cell.register("a", "en")).session
    await cell.allocator.update(session, NodeReport.of(facts_of("de")), lease_ms=LEASE_MS)
    report = await cell.reconcile()
    assert report.suspended_ms > 0
    assert report.dropped_classes == 1
