"""Upkeep: what lapses goes, in bounded steps, and never because the store or reconcile itself was away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import NodeStatus, ReconcileLimits, Registration
from pyscheduler.errors import InvalidInput, LimitExceeded, SessionLost
from tests.cells import Replica, limited_cell
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, facts_of
from tests.oracle import State, read_state
from tests.support import wait_until_async

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


async def remembered(cell: Cell) -> set[str]:
    """The instances that have an entry, lapsed or not."""
    return set(await cell.store.command("HKEYS", cell.store.key("instances"))) - {""}


async def test_an_instance_that_does_not_renew_its_lease_is_forgotten_two_leases_later(cell: Cell) -> None:
    await cell.register("a", "en", instance="one", lease_ms=10 * LEASE_MS)
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={"node_port": 5010})
    await cell.allocator.renew_instance("two", lease_ms=10 * LEASE_MS, info={})
    await cell.pass_time(3 * LEASE_MS - 10_000)
    await cell.reconcile()
    assert await remembered(cell) == {"one", "two"}
    await cell.pass_time(10_000)
    await cell.reconcile()
    assert await remembered(cell) == {"two"}
    assert await cell.pool_of("a") == "en"


async def test_an_instance_whose_lease_has_lapsed_is_not_listed(cell: Cell) -> None:
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.allocator.renew_instance("two", lease_ms=1, info={})

    async def listed() -> bool:
        return [instance.instance for instance in await cell.allocator.instances()] == ["one"]

    await wait_until_async(listed, "its lease has lapsed")
    assert await remembered(cell) == {"one", "two"}


async def test_instances_outlast_an_outage_of_the_store(cell: Cell) -> None:
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.trust_leases()
    await cell.advance(10 * MINUTE_MS)
    await cell.reconcile()
    assert await remembered(cell) == {"one"}


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
        # One that lapsed is kept for its nodes' sake, but not at the cost of one that lives.
        await cell.advance(LEASE_MS)
        await cell.allocator.renew_instance("three", lease_ms=LEASE_MS, info={})
        assert await remembered(cell) == {"three"}
        with pytest.raises(InvalidInput):
            await cell.allocator.renew_instance("three", lease_ms=LEASE_MS, info={"x": "y" * 4096})


# --- nodes of an instance that has gone -------------------------------------------------------------------------------


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
