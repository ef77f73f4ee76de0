"""Jobs that wait for a node."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler.core.jobs import Reservation
from pyscheduler.errors import InvalidInput, NoNode
from pyscheduler.scripts.calls import Call
from tests.harness import Cell
from tests.reserving import JOB_MS, ZH_EN, many


async def test_who_waits_gets_the_slot_that_becomes_free(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await many(cell, 4)
    waiting = asyncio.create_task(
        cell.allocator.wait_for_slot("late", ZH_EN, owner="me", lease_ms=JOB_MS, timeout_s=30)
    )
    await asyncio.sleep(0)
    await cell.allocator.finish_job("job-2", 1, owner="me")
    assert (await waiting).node_id == "a"


async def test_who_waits_gets_a_node_that_comes(cell: Cell) -> None:
    waiting = asyncio.create_task(
        cell.allocator.wait_for_slot("early", ZH_EN, owner="me", lease_ms=JOB_MS, timeout_s=30)
    )
    await asyncio.sleep(0)
    await cell.register("a", "en", "zh")
    assert (await waiting).node_id == "a"


async def test_who_waits_in_vain_is_told_why(cell: Cell) -> None:
    await cell.register("a", "de")
    with pytest.raises(NoNode, match="no_pair 1"):
        await cell.allocator.wait_for_slot("j", ZH_EN, owner="me", lease_ms=JOB_MS, timeout_s=0.2)
    with pytest.raises(InvalidInput):
        await cell.allocator.wait_for_slot("j", ZH_EN, owner="me", lease_ms=JOB_MS, timeout_s=0)
    waiting = asyncio.create_task(cell.allocator.wait_for_slot("j", ZH_EN, owner="me", lease_ms=1, timeout_s=30))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_attempt_that_is_under_way_when_the_time_is_over_is_not_cut_off(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have reserved a slot, and nobody would know."""
    await cell.register("a", "en", "zh")
    reservations = cell.allocator._reservations
    run = reservations._run

    async def late(call: Call) -> list[str]:
        reply = await run(call)
        await asyncio.sleep(0.3)
        return reply

    monkeypatch.setattr(reservations, "_run", late)
    found = await cell.allocator.wait_for_slot("j", ZH_EN, owner="me", lease_ms=JOB_MS, timeout_s=0.1)
    assert isinstance(found, Reservation)
