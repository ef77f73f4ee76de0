"""Scenarios of nodes: registrations, updates, heartbeats, releases, holds."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler import Facts, NodeReport
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import AdmissionChanged, NodeIdConflict, SessionLost
from tests.crash.scenario import ENGLISH, Steps, auto, quiet_scenario, scenario, sync
from tests.harness import GRACE_MS, LEASE_MS, Cell, facts_of

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
    assert not (await cell.allocator.lift("a", owner="somebody", reason="mended")).changed
