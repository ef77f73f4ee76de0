"""How reservations end that nobody ends: by their lease, with their node, and what does not end them."""

from __future__ import annotations

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.jobs import JobState
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import (
    JobEnded,
    NoNode,
)
from tests.cells import limited_cell
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, facts_of
from tests.oracle import read_state
from tests.reserving import JOB_MS, ended, many, reasons, reserve


async def test_a_lease_that_nobody_renews_lapses(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await reserve(cell, "j")
    await cell.pass_time(JOB_MS + 1)
    assert (await cell.reconcile()).ended_jobs == 1
    assert await ended(cell, "j") == [("lapsed", "lease_lapsed")]
    assert (await reserve(cell, "j")).state is JobState.LAPSED
    with pytest.raises(JobEnded, match="lapsed"):
        await cell.allocator.finish_job("j", 1, owner="me")
    with pytest.raises(NoNode, match="excluded"):
        await reserve(cell, "j", attempt=2)


async def test_an_outage_of_the_store_ends_no_reservation(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await reserve(cell, "j")
    await cell.reconcile()
    await cell.advance(10 * JOB_MS)
    assert (await cell.reconcile()).ended_jobs == 0
    assert (await cell.allocator.renew_job("j", 1, owner="me", lease_ms=JOB_MS)).state is JobState.RESERVED


async def test_a_closed_socket_keeps_reservations_through_its_grace_and_loses_them_after(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    await reserve(cell, "j", lease_ms=10 * LEASE_MS)
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    await cell.pass_time(GRACE_MS - 5_000)
    assert (await cell.reconcile()).ended_jobs == 0
    back = await cell.register("a", "en", "zh", session_id="again")
    assert (await read_state(cell.store)).ready["a"] == 1024 + 2
    await cell.allocator.release(back.session, grace_ms=GRACE_MS, reason="closed")
    await cell.pass_time(GRACE_MS + 1_000)
    report = await cell.reconcile()
    assert (report.expired, report.ended_jobs) == (1, 1)
    assert await ended(cell, "j") == [("lost", "node_expired")]


@pytest.mark.parametrize("fate", ["keep", "lose"])
async def test_what_becomes_of_reservations_when_a_node_begins_a_new_session_or_is_drained(
    cell: Cell, fate: str
) -> None:
    await cell.allocator.sync(document_of(selection={"on_new_epoch": fate, "on_drain": fate}))
    await cell.register("a", "en", "zh")
    await reserve(cell, "j1")
    await cell.register("a", "en", "zh", session_id="again")
    await cell.register("a", "en", "zh", session_id="again")
    await cell.pass_time(1)
    await cell.reconcile()
    assert await ended(cell, "j1") == ([("lost", "new_epoch")] if fate == "lose" else [])
    await reserve(cell, "j2")
    await cell.pass_time(1)
    await cell.reconcile()
    assert await ended(cell, "j2") == []
    await cell.allocator.hold("a", owner="ops", reason="repair")
    await cell.pass_time(1)
    await cell.reconcile()
    assert await ended(cell, "j2") == ([("lost", "drained")] if fate == "lose" else [])
    assert not [name for name in (await read_state(cell.store)).due if name.startswith("!")]


@pytest.mark.parametrize(("most", "steps"), [(5, [(1, 4), (1, 4), (1, 4)]), (8, [(2, 8), (1, 4), (0, 0)])])
async def test_a_step_of_upkeep_ends_a_bounded_number_and_forgets_no_node_before_its_reservations(
    redis_url: str, namespace: str, most: int, steps: list[tuple[int, int]]
) -> None:
    async with limited_cell(redis_url, namespace, MAX_ENDS=most) as cell:
        for number in range(3):
            await cell.register(f"n{number}", "en", "zh")
        await many(cell, 12, lease_ms=10 * LEASE_MS)
        await cell.pass_time(LEASE_MS + 1)
        reports = [await cell.reconcile(brake_share=1.0) for _ in range(3)]
        assert [(report.expired, report.ended_jobs) for report in reports] == steps


async def test_what_a_node_has_reserved_is_kept_through_changes_of_all_else(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    await many(cell, 3)
    report = NodeReport.of(facts_of("de", "en", "zh"), status=NodeStatus.DEGRADED)
    session = (await cell.allocator.update(session, report, lease_ms=LEASE_MS)).session
    session = (
        await cell.allocator.update(session, NodeReport.of(facts_of("en", "zh"), load=0.5), lease_ms=LEASE_MS)
    ).session
    await cell.allocator.hold("a", owner="ops", reason="x")
    await cell.allocator.finish_job("job-0", 1, owner="me")
    await cell.allocator.lift("a", owner="ops", reason="x")
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=1.0)
    assert (await read_state(cell.store)).ready["a"] == 1024 + 2 * 2 + 1
    # A pool with fewer slots takes nothing away, and gives nothing out.
    await cell.allocator.sync(document_of(selection={"slots_per_node": 1}))
    assert await reasons(cell) == {"no_slot": 1}
