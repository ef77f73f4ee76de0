"""Scenarios of a namespace: its making, configurations, upkeep, instances, readers."""

from __future__ import annotations

import pytest

from pyscheduler.core.results import ReconcileLimits
from pyscheduler.errors import GuardRefused, NotFound, VersionConflict
from pyscheduler.keys import KEY_NAMES
from tests.crash.scenario import CHINESE, ENGLISH, Steps, auto, pass_time, quiet_scenario, scenario, sync
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool

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
    await pass_time(cell, 120_000)
    yield
    report = await cell.reconcile()
    assert (report.expired, report.dropped_classes, report.removed_pools) == (2, 1, ("fr",))


@scenario
async def upkeep_that_finds_the_nodes_of_a_dead_instance(cell: Cell) -> Steps:
    """Two nodes lapsed after their instance did, and get the grace; one of another instance expires."""
    await cell.allocator.renew_instance("test", lease_ms=1, info={})
    await cell.register("a", "en", "zh", lease_ms=1)
    await cell.register("b", "de", lease_ms=1)
    await cell.register("c", "de", lease_ms=1, instance="another")
    await pass_time(cell, 1_000)
    yield
    report = await cell.reconcile()
    assert (report.released, report.expired) == (2, 1)


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
async def upkeep_that_leaves_nodes_to_the_next_step(cell: Cell) -> Steps:
    """It looks at no class, though one is unused."""
    for node in "abc":
        await cell.register(node, "en", "zh")
    await cell.register("a", "de", session_id="again")
    await pass_time(cell, 60_000)
    yield
    report = await cell.reconcile(expire=2)
    assert (report.expired, report.lapsed, report.dropped_classes) == (2, 3, 0)


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
