"""Jobs that wait for a node."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler.errors import (
    InvalidInput,
    NoNode,
)
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
