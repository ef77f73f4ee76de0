"""Steps of upkeep: the classes and nodes that each looks at, what it finds wrong, and how often one comes."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import ReconcileLimits
from pyscheduler.errors import InvalidInput
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, facts_of
from tests.upkeep import events_of, fleet

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
async def test_a_step_comes_by_each_class_once_however_many_it_looks_at(cell: Cell) -> None:
    for number in range(1, 131):
        await cell.register("a", facts=facts_of("en", gpu_memory_gb=(number,)), session_id=f"s{number}")
    for number in (1, 63, 64, 65, 66, 127, 128, 129, 130):
        await cell.store.command("HDEL", cell.store.key("class_facts"), number)
    digest = hashlib.sha1(facts_of("en", gpu_memory_gb=(100,)).json.encode()).hexdigest()
    await cell.store.command("HSET", cell.store.key("class_index"), digest, 101)
    step = await cell.reconcile(scan=1000)
    assert (step.violations, step.dropped_classes) == (10, 121)


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
