"""What is disturbed: for every script each branch that writes, and each kind of refusal.

Each scenario prepares a state, yields, and makes one call. The clock stands, so that what two runs do can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from pyscheduler import Facts, NodeReport
from pyscheduler.core.results import NodeStatus, ReconcileLimits
from pyscheduler.errors import (
    AdmissionChanged,
    GuardRefused,
    HoldConflict,
    NodeIdConflict,
    NotFound,
    SessionLost,
    VersionConflict,
)
from pyscheduler.keys import KEY_NAMES
from tests.crash.rig import Scenario
from tests.harness import EPOCH_MS, GRACE_MS, LEASE_MS, Cell, document_of, facts_of, pool

Steps = AsyncGenerator[None, None]

WRITING: dict[str, Scenario] = {}
"""Scenarios whose call writes, by name."""

QUIET: dict[str, Scenario] = {}
"""Those whose call is refused, has nothing to do, or only reads."""

CHINESE = pool("chinese", semantic={"contains": ["zh"]})
ENGLISH = pool("english", semantic={"contains": ["en"]})


def scenario(function: Scenario) -> Scenario:
    WRITING[function.__name__] = function
    return function


def quiet_scenario(function: Scenario) -> Scenario:
    QUIET[function.__name__] = function
    return function


def auto(**policy: Any) -> dict[str, Any]:
    return {"require_services": [], "idle_ttl": "1s", **policy}


async def pass_time(cell: Cell, milliseconds: int) -> None:
    """Lets time pass as it does while upkeep is running all along."""
    await cell.advance(milliseconds)
    config = cell.store.key("config")
    offset = int(await cell.store.command("HGET", config, "test_offset_ms"))
    await cell.store.command("HSET", config, "ticked_at", EPOCH_MS + offset, "suspended_until", 0)


async def sync(cell: Cell, *pools: dict[str, Any], **sections: Any) -> None:
    await cell.allocator.sync(document_of(*pools, **sections), force=True, allow_empty=True)


# --- open_namespace ---------------------------------------------------------------------------------------------------


@scenario
async def a_new_namespace(cell: Cell) -> Steps:
    await cell.store.command("DEL", *(cell.store.key(name) for name in KEY_NAMES))
    yield
    await cell.allocator._open_namespace()


@quiet_scenario
async def a_namespace_that_is_there(cell: Cell) -> Steps:
    yield
    await cell.allocator._open_namespace()


# --- upsert_node_to_pool ----------------------------------------------------------------------------------------------


@scenario
async def the_first_node_of_a_new_auto_pool(cell: Cell) -> Steps:
    yield
    await cell.register("a", "en", "zh", record={"name": "x"}, load=0.25)


@scenario
async def a_node_of_a_known_class(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh")
    yield
    await cell.register("b", "en", "zh")


@scenario
async def a_new_class_in_a_declared_pool(cell: Cell) -> Steps:
    await sync(cell, ENGLISH)
    yield
    await cell.register("a", "en", "zh")


@scenario
async def a_node_that_nothing_takes(cell: Cell) -> Steps:
    yield
    await cell.register("a", facts=Facts())


@scenario
async def a_node_that_brings_waiting_classes_their_pool(cell: Cell) -> Steps:
    await sync(cell, auto=auto(min_nodes=3))
    await cell.register("a", "en", "zh")
    await cell.register("b", facts=facts_of("en", "zh", gpu_memory_gb=(8,)))
    yield
    await cell.register("c", facts=facts_of("en", "zh", gpu_memory_gb=(80,)))


@scenario
async def a_node_that_brings_its_own_class_its_pool(cell: Cell) -> Steps:
    await sync(cell, auto=auto(min_nodes=2))
    await cell.register("a", "en", "zh")
    yield
    await cell.register("b", "en", "zh")


@scenario
async def an_update_that_moves(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh")).session
    yield
    await cell.allocator.update(session, NodeReport.of(facts_of("de", "fr"), load=0.5), lease_ms=LEASE_MS)


@scenario
async def an_update_of_the_status(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh")).session
    yield
    report = NodeReport.of(facts_of("en", "zh"), status=NodeStatus.DEGRADED)
    await cell.allocator.update(session, report, lease_ms=LEASE_MS)


@quiet_scenario
async def an_update_under_an_old_epoch(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.register("a", "en", "zh", session_id="s2")
    yield
    with pytest.raises(SessionLost):
        await cell.allocator.update(session, NodeReport.of(facts_of("de")), lease_ms=LEASE_MS)


@scenario
async def a_takeover(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh", session_id="s1")
    yield
    await cell.register("a", "de", "fr", session_id="s2")


@scenario
async def a_cloned_id(cell: Cell) -> Steps:
    for number in range(3):
        await cell.register("a", "en", "zh", session_id=f"s{number}")
    yield
    await cell.register("a", "en", "zh", session_id="s9")


@quiet_scenario
async def a_takeover_that_is_refused(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh", session_id="s1")
    yield
    with pytest.raises(NodeIdConflict):
        await cell.register("a", "en", "zh", session_id="s2", takeover=False)


@scenario
async def a_node_that_comes_back_in_its_grace(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    yield
    await cell.register("a", "en", "zh", session_id="s2")


@scenario
async def a_session_that_is_put_back(cell: Cell) -> Steps:
    yield
    await cell.register("a", "en", "zh", epoch=5)


@scenario
async def a_held_node_registers(cell: Cell) -> Steps:
    await cell.allocator.hold("a", owner="ops", reason="disk", allow_unknown=True)
    yield
    await cell.register("a", "en", "zh")


@quiet_scenario
async def a_node_checked_under_another_admission_policy(cell: Cell) -> Steps:
    yield
    with pytest.raises(AdmissionChanged):
        await cell.register("a", "en", "zh", admission_digest="0123456789abcdef")


# --- touch_nodes ------------------------------------------------------------------------------------------------------


@scenario
async def heartbeats_of_every_kind(cell: Cell) -> Steps:
    alive, loaded, held, stale, lost = [(await cell.register(node, "en", "zh")).session for node in "abcde"]
    await cell.allocator.hold("c", owner="ops", reason="disk")
    await cell.register("d", "en", "zh", session_id="newer")
    await cell.store.command("HDEL", cell.store.key("sessions"), "e")
    for name in ("members", "ready", "leases"):
        await cell.store.command("ZREM", cell.store.key(name), "e")
    for name in ("nodes", "usage"):
        await cell.store.command("HDEL", cell.store.key(name), "e")
    # As if it had never been there, for the replay of the events.
    newest = await cell.store.command("XREVRANGE", cell.store.key("events"), "+", "-")
    gone = [entry_id for entry_id, fields in newest if "e" in fields]
    await cell.store.command("XDEL", cell.store.key("events"), *gone)
    await cell.advance(1_000)
    yield
    beat = cell.allocator.heartbeat
    outcomes = await asyncio.gather(
        beat(alive, lease_ms=LEASE_MS),
        beat(loaded, lease_ms=LEASE_MS, load=0.75, usage='{"cpu":1}'),
        beat(held, lease_ms=LEASE_MS, load=0.5),
        beat(stale, lease_ms=LEASE_MS, load=0.5),
        beat(lost, lease_ms=LEASE_MS),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, int, int, SessionLost, SessionLost]


@scenario
async def a_heartbeat_without_news(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh")).session
    await cell.advance(1_000)
    yield
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)


# --- release_node -----------------------------------------------------------------------------------------------------


@scenario
async def a_release(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh")).session
    yield
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")


@quiet_scenario
async def a_release_under_an_old_epoch(cell: Cell) -> Steps:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.register("a", "en", "zh", session_id="s2")
    yield
    assert not await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")


# --- hold_node --------------------------------------------------------------------------------------------------------


@scenario
async def a_first_hold(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh")
    yield
    await cell.allocator.hold("a", owner="ops", reason="disk")


@scenario
async def a_second_hold(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh")
    await cell.allocator.hold("a", owner="ops", reason="disk")
    yield
    await cell.allocator.hold("a", owner="autoscaler", reason="idle")


@scenario
async def a_hold_of_a_node_that_is_not_there(cell: Cell) -> Steps:
    yield
    await cell.allocator.hold("a", owner="ops", reason="disk", allow_unknown=True)


@scenario
async def a_lift_of_the_last_hold(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh", load=0.25)
    await cell.allocator.hold("a", owner="ops", reason="disk")
    yield
    await cell.allocator.lift("a", owner="ops", reason="mended")


@scenario
async def a_lift_of_one_hold_of_two(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh")
    await cell.allocator.hold("a", owner="ops", reason="disk")
    await cell.allocator.hold("a", owner="autoscaler", reason="idle")
    yield
    await cell.allocator.lift("a", owner="ops", reason="mended")


@quiet_scenario
async def a_lift_by_somebody_else(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh")
    await cell.allocator.hold("a", owner="ops", reason="disk")
    yield
    with pytest.raises(HoldConflict):
        await cell.allocator.lift("a", owner="somebody", reason="mended")


# --- bump_config_version ----------------------------------------------------------------------------------------------


async def configured(cell: Cell) -> None:
    """Two declared pools and an auto pool, each with nodes."""
    await sync(cell, ENGLISH, CHINESE)
    for node_id, languages in {"a": ("en", "de"), "b": ("zh",), "c": ("zh", "ja"), "d": ("fr",)}.items():
        await cell.register(node_id, *languages)


OTHER = document_of(pool("french", semantic={"contains": ["fr"]}), pool("english", priority=1, asr={"any": ["de"]}))


@scenario
async def a_sync_that_makes_changes_and_removes_pools(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.sync(OTHER, expect_version=2, author="me", reason="why")


@scenario
async def a_sync_that_leaves_nodes_without_a_pool(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.sync(document_of(auto=auto(enabled=False)), force=True, allow_empty=True)


@scenario
async def a_rollback(cell: Cell) -> Steps:
    await configured(cell)
    await cell.allocator.sync(OTHER, force=True)
    yield
    await cell.allocator.rollback(2, force=True)


@quiet_scenario
async def a_dry_run(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.sync(OTHER, dry_run=True)


@quiet_scenario
async def a_sync_of_what_is_in_force(cell: Cell) -> Steps:
    await cell.allocator.sync(OTHER)
    yield
    await cell.allocator.sync(OTHER, expect_version=0)


@quiet_scenario
async def a_sync_after_somebody_elses(cell: Cell) -> Steps:
    await configured(cell)
    yield
    with pytest.raises(VersionConflict):
        await cell.allocator.sync(OTHER, expect_version=1)


@quiet_scenario
async def a_sync_that_the_guard_refuses(cell: Cell) -> Steps:
    await configured(cell)
    yield
    with pytest.raises(GuardRefused):
        await cell.allocator.sync(document_of(pool("none", labels={"no": "node"}), auto=auto(enabled=False)))


# --- reconcile --------------------------------------------------------------------------------------------------------


@scenario
async def upkeep_that_expires_drops_and_removes(cell: Cell) -> Steps:
    """An idle pool goes; two nodes expire, and with them a class and an instance."""
    await sync(cell, auto=auto())
    await cell.register("x", "fr", lease_ms=1)
    await pass_time(cell, 1_000)
    await cell.reconcile()
    await cell.register("a", "en", "zh", lease_ms=1)
    await cell.register("b", "de", lease_ms=1)
    await cell.register("c", "de", lease_ms=600_000)
    await cell.allocator.renew_instance("i1", lease_ms=1, info={})
    await pass_time(cell, 60_000)
    yield
    report = await cell.reconcile()
    assert (report.expired, report.dropped_classes, report.removed_pools) == (2, 1, ("fr",))


@scenario
async def upkeep_that_places_what_waits(cell: Cell) -> Steps:
    """Two classes have waited for the room that the third pool took."""
    await sync(cell, auto=auto(max_pools=1))
    await cell.register("x", "fr", lease_ms=1)
    await cell.register("a", "en", "zh", lease_ms=600_000)
    await cell.register("b", facts=facts_of("en", "zh", gpu_memory_gb=(8,)), lease_ms=600_000)
    await pass_time(cell, 60_000)
    await cell.reconcile()
    await pass_time(cell, 60_000)
    yield
    report = await cell.reconcile()
    assert (report.removed_pools, report.created_pools, report.placed_classes) == (("fr",), ("en-zh",), 2)


@scenario
async def upkeep_that_brakes(cell: Cell) -> Steps:
    for node in "abcd":
        await cell.register(node, "en", "zh")
    await pass_time(cell, 60_000)
    yield
    report = await cell.reconcile(brake_floor=1, brake_expire=1)
    assert (report.braked, report.expired) == (True, 1)


@scenario
async def upkeep_after_the_clock_went_back(cell: Cell) -> Steps:
    await cell.reconcile()
    await cell.advance(600_000)
    await cell.register("a", "en", "zh")
    await cell.reconcile()
    await cell.advance(-600_000)
    yield
    await cell.reconcile()


@scenario
async def upkeep_after_an_outage(cell: Cell) -> Steps:
    await cell.register("a", "en", "zh")
    await cell.reconcile()
    await cell.advance(60_000)
    yield
    report = await cell.reconcile()
    assert (report.expired, report.lapsed, report.suspended_ms) == (0, 1, LEASE_MS)


@quiet_scenario
async def upkeep_that_comes_too_soon(cell: Cell) -> Steps:
    await cell.reconcile()
    await cell.advance(1)
    yield
    limits = ReconcileLimits(min_interval_ms=1_000)
    assert (await cell.allocator.reconcile(lease_ms=LEASE_MS, limits=limits)).skipped


# --- renew_instance ---------------------------------------------------------------------------------------------------


@scenario
async def an_instance_renews(cell: Cell) -> Steps:
    yield
    await cell.allocator.renew_instance("i1", lease_ms=LEASE_MS, info={"host": "h"})


@scenario
async def an_instance_leaves(cell: Cell) -> Steps:
    await cell.allocator.renew_instance("i1", lease_ms=LEASE_MS, info={"host": "h"})
    yield
    await cell.allocator.leave_instance("i1")


# --- those that read --------------------------------------------------------------------------------------------------


@quiet_scenario
async def a_list_of_pools(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.pools()


@quiet_scenario
async def a_list_of_nodes(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.nodes(pool="english")


@quiet_scenario
async def an_explanation(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.explain("a")


@quiet_scenario
async def an_explanation_of_nothing(cell: Cell) -> Steps:
    yield
    with pytest.raises(NotFound):
        await cell.allocator.explain("a")


@quiet_scenario
async def a_search(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.find("de", "en", ["asr"])


@quiet_scenario
async def a_check(cell: Cell) -> Steps:
    await configured(cell)
    yield
    await cell.allocator.check()


SCENARIOS = WRITING | QUIET
"""Every scenario, by name."""
