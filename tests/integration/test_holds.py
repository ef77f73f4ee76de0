"""Holds: reasons, each with an owner, why a node takes no new work."""

from __future__ import annotations

from typing import Any

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import InvalidInput, LimitExceeded, NotFound
from tests.cells import limited_cell, lose_everything
from tests.harness import GRACE_MS, LEASE_MS, Cell, facts_of
from tests.oracle import read_state


async def takes_work(cell: Cell, node_id: str) -> bool:
    return node_id in (await read_state(cell.store)).ready


async def status(cell: Cell, node_id: str) -> NodeStatus:
    return (await cell.allocator.node(node_id)).state.status


async def hold(cell: Cell, owner: str = "ops", reason: str = "disk", **options: Any) -> Any:
    return await cell.allocator.hold("a", owner=owner, reason=reason, **options)


async def lift(cell: Cell, owner: str = "ops", reason: str = "disk is new") -> Any:
    return await cell.allocator.lift("a", owner=owner, reason=reason)


async def test_a_held_node_takes_no_new_work_and_stays_in_its_pool(cell: Cell) -> None:
    await cell.register("a", "en")
    result = await hold(cell)
    assert (result.changed, result.live) == (True, True)
    assert [(held.owner, held.reason) for held in result.holds] == [("ops", "disk")]
    assert not await takes_work(cell, "a")
    assert await status(cell, "a") is NodeStatus.DRAINING
    assert await cell.pool_of("a") == "en"
    assert (await lift(cell)).holds == ()
    assert await takes_work(cell, "a")
    assert await status(cell, "a") is NodeStatus.READY


async def test_a_node_takes_work_when_no_hold_is_left(cell: Cell) -> None:
    await cell.register("a", "en")
    await hold(cell, "ops")
    await hold(cell, "autoscaler", "scaling down")
    result = await lift(cell, "ops")
    assert [held.owner for held in result.holds] == ["autoscaler"]
    assert not await takes_work(cell, "a")
    await lift(cell, "autoscaler")
    assert await takes_work(cell, "a")


async def test_nobody_lifts_the_hold_of_another(cell: Cell) -> None:
    await cell.register("a", "en")
    await hold(cell, "ops")
    before = await read_state(cell.store)
    result = await lift(cell, "somebody")
    assert (result.changed, [held.owner for held in result.holds]) == (False, ["ops"])
    assert await read_state(cell.store) == before


async def test_holding_and_lifting_may_be_repeated(cell: Cell) -> None:
    await cell.register("a", "en")
    await hold(cell)
    before = await read_state(cell.store)
    assert not (await hold(cell)).changed
    assert await read_state(cell.store) == before
    await lift(cell)
    before = await read_state(cell.store)
    assert not (await lift(cell)).changed
    assert await read_state(cell.store) == before


async def test_a_lift_may_be_repeated_while_others_hold_the_node_and_when_it_has_gone(cell: Cell) -> None:
    """Whoever lost the reply cannot know that it was done."""
    for owner in ("ops", "autoscaler"):
        await hold(cell, owner, allow_unknown=True)
    for owner, left in (("ops", ["autoscaler"]), ("autoscaler", [])):
        assert (await lift(cell, owner)).changed
        again = await lift(cell, owner)
        assert (again.changed, again.live, [held.owner for held in again.holds]) == (False, False, left)


async def test_an_owner_may_give_another_reason(cell: Cell) -> None:
    await cell.register("a", "en")
    await hold(cell, reason="disk")
    result = await hold(cell, reason="disk and fan")
    assert (result.changed, [held.reason for held in result.holds]) == (True, ["disk and fan"])


async def test_holds_outlive_sessions(cell: Cell) -> None:
    session = (await cell.register("a", "en", session_id="s1")).session
    await hold(cell)
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    assert await status(cell, "a") is NodeStatus.OFFLINE
    registered = await cell.register("a", "en", session_id="s2")
    assert registered.status is NodeStatus.DRAINING
    assert not await takes_work(cell, "a")

    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    assert (await cell.register("a", "en", session_id="s3")).status is NodeStatus.DRAINING
    assert [held.reason for held in (await cell.allocator.node("a")).state.holds] == ["disk"]


async def test_a_held_node_lives_on_heartbeats_and_updates_as_any_other(cell: Cell) -> None:
    session = (await cell.register("a", "en", load=0.25)).session
    await hold(cell)
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.75, usage='{"cpu":1}')
    assert not await takes_work(cell, "a")
    changed = await cell.allocator.update(session, NodeReport.of(facts_of("de"), load=0.5), lease_ms=LEASE_MS)
    assert (changed.pool, changed.status) == ("de", NodeStatus.DRAINING)
    assert not await takes_work(cell, "a")
    await cell.allocator.heartbeat(changed.session, lease_ms=LEASE_MS, load=0.125)
    await lift(cell)
    assert (await read_state(cell.store)).ready["a"] == changed.node_class * 1024 + 0.125, (
        "with the load of its last word"
    )


@pytest.mark.parametrize("reported", [NodeStatus.REGISTERING, NodeStatus.DEGRADED])
async def test_lifting_a_hold_makes_no_node_ready_that_is_not(cell: Cell, reported: NodeStatus) -> None:
    await cell.register("a", "en", status=reported)
    await hold(cell)
    assert await status(cell, "a") is NodeStatus.DRAINING
    await lift(cell)
    assert await status(cell, "a") is reported
    assert not await takes_work(cell, "a")


async def test_lifting_the_hold_of_a_node_in_grace_makes_it_ready_when_it_is_back(cell: Cell) -> None:
    session = (await cell.register("a", "en", session_id="s1")).session
    await hold(cell)
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    await lift(cell)
    assert not await takes_work(cell, "a")
    await cell.register("a", "en", session_id="s2")
    assert await takes_work(cell, "a")


async def test_a_node_in_grace_that_is_held_is_still_offline(cell: Cell) -> None:
    session = (await cell.register("a", "en", session_id="s1")).session
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    await hold(cell)
    assert await status(cell, "a") is NodeStatus.OFFLINE
    event = (await cell.allocator.events())[-1]
    assert (event.from_, event.to) == ("offline", "offline")


async def test_a_node_that_is_not_there_is_held_only_if_that_is_said(cell: Cell) -> None:
    with pytest.raises(NotFound):
        await hold(cell)
    assert not (await lift(cell)).changed
    result = await hold(cell, allow_unknown=True)
    assert (result.changed, result.live) == (True, False)
    assert (await cell.register("a", "en")).status is NodeStatus.DRAINING
    await lift(cell)
    assert await takes_work(cell, "a")


async def test_the_hold_of_a_node_that_has_gone_can_be_renewed_and_lifted(cell: Cell) -> None:
    await cell.register("a", "en")
    await hold(cell, "ops")
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    assert (await hold(cell, "other")).live is False
    await lift(cell, "ops")
    assert (await lift(cell, "other")).holds == ()
    assert (await read_state(cell.store)).holds == {}


async def test_each_change_of_a_hold_has_its_event_with_owner_and_reason(cell: Cell) -> None:
    await cell.register("a", "en")
    await hold(cell, "ops", "disk")
    await lift(cell, "ops", "disk is new")
    held, lifted = (await cell.allocator.events())[-2:]
    assert (held.type, held.node_id, held.pool, held.from_, held.to) == ("node.status", "a", "en", "ready", "draining")
    assert (held.fields["hold"], held.fields["owner"], held.reason) == ("set", "ops", "disk")
    assert (lifted.from_, lifted.to, lifted.reason) == ("draining", "ready", "disk is new")


@pytest.mark.parametrize("owner", ["1", "ops/team: ß 🚀", '"', "\\", "{}", "__proto__"])
async def test_an_owner_is_any_short_text(cell: Cell, owner: str) -> None:
    await cell.register("a", "en")
    await hold(cell, owner, "\n\t\x00 any text ✓")
    await hold(cell, "2")
    (found,) = [held for held in (await cell.allocator.node("a")).state.holds if held.owner == owner]
    assert found.reason == "\n\t\x00 any text ✓"
    await lift(cell, owner)
    assert [held.owner for held in (await lift(cell, "2")).holds] == []


@pytest.mark.parametrize(
    "argument", [{"owner": ""}, {"owner": "o" * 65}, {"reason": ""}, {"reason": "r" * 257}, {"owner": "\ud800"}]
)
async def test_an_owner_or_a_reason_out_of_its_bounds_is_refused(cell: Cell, argument: dict[str, str]) -> None:
    await cell.register("a", "en")
    before = await read_state(cell.store)
    with pytest.raises(InvalidInput):
        await hold(cell, **argument)
    assert await read_state(cell.store) == before


async def test_holds_are_bounded(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_OWNERS=2, MAX_HOLDS=2) as cell:
        await hold(cell, "one", allow_unknown=True)
        await hold(cell, "two")
        with pytest.raises(LimitExceeded, match="2 holds"):
            await hold(cell, "three")
        assert (await hold(cell, "two", "another reason")).changed
        await cell.allocator.hold("b", owner="one", reason="x", allow_unknown=True)
        with pytest.raises(LimitExceeded):
            await cell.allocator.hold("c", owner="one", reason="x", allow_unknown=True)
        await cell.allocator.lift("b", owner="one", reason="x")
        await cell.allocator.hold("c", owner="one", reason="x", allow_unknown=True)


async def test_a_store_that_lost_everything_has_lost_its_holds(cell: Cell) -> None:
    """Said here because an operator must know it."""
    session = (await cell.register("a", "en", session_id="s1")).session
    await hold(cell)
    await lose_everything(cell)
    back = await cell.register("a", "en", session_id="s1", epoch=session.epoch)
    assert back.status is NodeStatus.READY
