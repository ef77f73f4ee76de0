"""Upkeep: what lapses goes, in bounded steps, and never because the store or reconcile itself was away."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import ReconcileLimits
from pyscheduler.errors import InvalidInput, LimitExceeded
from tests.cells import Replica, limited_cell
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, facts_of
from tests.oracle import State, read_state

MINUTE_MS = 60_000


async def fleet(cell: Cell, count: int, **options: object) -> None:
    for number in range(count):
        await cell.register(f"n{number:03}", "en", "zh", **options)


async def events_of(cell: Cell, kind: str) -> list[dict[str, str]]:
    return [event for event in (await read_state(cell.store)).events if event["type"] == kind]


def traces(state: State, node_id: str) -> list[str]:
    """Keys that know a node."""
    keys = ("members", "ready", "leases", "sessions", "nodes", "usage", "holds")
    return [key for key in keys if node_id in getattr(state, key)]


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


# --- away -------------------------------------------------------------------------------------------------------------


async def test_the_first_step_ever_expires_nothing_before_a_full_lease_has_passed(cell: Cell) -> None:
    await cell.register("a", "en", lease_ms=1)
    await cell.advance(10)
    report = await cell.reconcile()
    assert (report.expired, report.lapsed) == (0, 1)
    assert LEASE_MS - 10_000 < report.suspended_ms <= LEASE_MS


async def tick(cell: Cell, milliseconds: int) -> int:
    """Time passes in short steps with a reconcile in each; returns how many nodes it expired."""
    expired = 0
    while milliseconds > 0:
        step = min(milliseconds, LEASE_MS // 4)
        milliseconds -= step
        await cell.advance(step)
        expired += (await cell.reconcile()).expired
    return expired


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


# --- the brake --------------------------------------------------------------------------------------------------------


async def test_when_a_great_part_of_the_fleet_lapses_at_once_it_goes_slowly_and_says_so_once(cell: Cell) -> None:
    await fleet(cell, 10)
    await cell.pass_time(LEASE_MS)
    steps = [await cell.reconcile(brake_share=0.3, brake_floor=4, brake_expire=2) for _ in range(6)]
    assert [step.expired for step in steps] == [2, 2, 2, 4, 0, 0]
    assert [step.braked for step in steps] == [True, True, True, False, False, False]
    (event,) = await events_of(cell, "reconcile.braked")
    assert (event["lapsed"], event["nodes"]) == ("10", "10")


async def test_of_a_large_fleet_one_in_a_hundred_goes_in_a_braked_step(cell: Cell) -> None:
    await fleet(cell, 201)
    await cell.pass_time(LEASE_MS)
    report = await cell.reconcile(brake_floor=20, brake_expire=1)
    assert (report.braked, report.expired) == (True, 3)
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


# --- classes ----------------------------------------------------------------------------------------------------------


async def test_steps_take_turns_over_all_classes(cell: Cell) -> None:
    for number in range(5):
        await cell.register(f"stays{number}", facts=facts_of("en", gpu_memory_gb=(number,)))
    session = (await cell.register("a", facts=facts_of("en", gpu_memory_gb=(99,)))).session
    await cell.allocator.update(session, NodeReport.of(facts_of("de")), lease_ms=LEASE_MS)
    dropped = [(await cell.reconcile(scan=2)).dropped_classes for _ in range(4)]
    assert sum(dropped) == 1
    for number in range(3):
        await cell.allocator.update(session, NodeReport.of(facts_of("fr", gpu_memory_gb=(number,))), lease_ms=LEASE_MS)
    assert sum([(await cell.reconcile(scan=1)).dropped_classes for _ in range(20)]) == 3


async def test_a_class_stays_while_a_node_in_grace_is_in_it(cell: Cell) -> None:
    first = await cell.register("a", "en", session_id="s1")
    await cell.allocator.release(first.session, grace_ms=GRACE_MS, reason="closed")
    assert (await cell.reconcile()).dropped_classes == 0
    assert (await cell.register("a", "en", session_id="s2")).node_class == first.node_class


async def test_the_number_of_a_dropped_class_is_not_given_again(cell: Cell) -> None:
    first = await cell.register("a", "en")
    await cell.allocator.update(first.session, NodeReport.of(facts_of("de")), lease_ms=LEASE_MS)
    await cell.reconcile()
    assert (await cell.register("b", "en")).node_class > first.node_class + 1


# --- the audit --------------------------------------------------------------------------------------------------------


@pytest.mark.breaks_store
async def test_the_audit_comes_by_every_node_and_counts_what_is_wrong(cell: Cell) -> None:
    await fleet(cell, 7)
    await cell.store.command("HDEL", cell.store.key("sessions"), "n005")
    found = [(await cell.reconcile(scan=2)).violations for _ in range(5)]
    assert sum(found) == 1
    assert (await events_of(cell, "reconcile.ran"))[-1]["violations"] == "1"


@pytest.mark.breaks_store
async def test_a_class_whose_facts_are_lost_is_counted_and_stops_nothing(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"max_pools": 0}))
    registered = await cell.register("a", "en")
    await cell.register("b", "de", lease_ms=1)
    await cell.store.command("HDEL", cell.store.key("class_facts"), registered.node_class)
    await cell.store.command(
        "HSET",
        cell.store.key("config"),
        "auto",
        '{"enabled":true,"idle_ttl_ms":1,"max_pools":1,"min_nodes":1,"require_services":{}}',
    )
    await cell.pass_time(10)
    report = await cell.reconcile()
    assert (report.violations, report.expired, report.created_pools) == (1, 1, ("en",))


# --- how often --------------------------------------------------------------------------------------------------------


async def test_processes_that_reconcile_at_once_do_not_do_it_twice(cell: Cell) -> None:
    limits = ReconcileLimits(min_interval_ms=5_000)

    async def step(force: bool = False) -> bool:
        return (await cell.allocator.reconcile(lease_ms=LEASE_MS, limits=limits, force=force)).skipped

    await cell.trust_leases()
    await cell.advance(5_000)
    assert sorted(await asyncio.gather(*(step() for _ in range(4)))) == [False, True, True, True]
    assert await step(force=True) is False
    await cell.advance(5_000)
    assert await step() is False


@pytest.mark.parametrize(
    "limits",
    [{"expire": 0}, {"expire": 1001}, {"scan": 0}, {"brake_share": 1.1}, {"brake_floor": -1}, {"min_interval_ms": -1}],
)
async def test_limits_out_of_their_bounds_are_refused(cell: Cell, limits: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.reconcile(lease_ms=LEASE_MS, limits=ReconcileLimits(**limits))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        await cell.allocator.reconcile(lease_ms=0)


# --- instances --------------------------------------------------------------------------------------------------------


async def test_instances_that_do_not_renew_their_lease_are_dropped_and_their_nodes_are_not_touched(cell: Cell) -> None:
    await cell.register("a", "en", instance="one", lease_ms=10 * LEASE_MS)
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={"node_port": 5010})
    await cell.allocator.renew_instance("two", lease_ms=10 * LEASE_MS, info={})
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    assert [instance.instance for instance in await cell.allocator.instances()] == ["two"]
    assert await cell.pool_of("a") == "en"


async def test_instances_outlast_an_outage_of_the_store(cell: Cell) -> None:
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.trust_leases()
    await cell.advance(10 * MINUTE_MS)
    await cell.reconcile()
    assert [instance.instance for instance in await cell.allocator.instances()] == ["one"]


async def test_an_instance_shows_what_it_says_of_itself_until_it_leaves(cell: Cell) -> None:
    await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={"host": "Rechner ü", "port": 1})
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={"host": "other"})
    one, two = await cell.allocator.instances()
    assert (one.instance, two.instance, two.info) == ("one", "two", {"host": "other"})
    assert LEASE_MS - 10_000 < two.lease_ms <= LEASE_MS
    await cell.allocator.leave_instance("two")
    await cell.allocator.leave_instance("two")
    assert [instance.instance for instance in await cell.allocator.instances()] == ["one"]


async def test_instances_are_bounded(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_INSTANCES=1) as cell:
        await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
        with pytest.raises(LimitExceeded, match="1 instances"):
            await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={})
        await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={"x": 1})
        await cell.allocator.leave_instance("one")
        await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={})
        with pytest.raises(InvalidInput):
            await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={"x": "y" * 4096})
