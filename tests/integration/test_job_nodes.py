"""Which node of a pool a job gets, under each strategy."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from pyscheduler.core.jobs import JobRequest, Reservation
from pyscheduler.errors import (
    NoNode,
)
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state
from tests.reserving import KEPT_MS, many, reasons, reserve


async def test_a_burst_goes_to_all_nodes_alike(cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh", load=0.1) for number in range(16)))
    assert set(Counter(one.node_id for one in await many(cell, 32)).values()) == {2}
    later = [await reserve(cell, f"later-{number}") for number in range(16)]
    assert set(Counter(one.node_id for one in later).values()) == {1}


async def test_the_least_loaded_counts_what_it_reports_and_what_is_reserved(cell: Cell) -> None:
    await cell.register("busy", "en", "zh", load=0.6)
    session = (await cell.register("idle", "en", "zh", load=0.1)).session
    assert [(await reserve(cell, f"j{number}")).node_id for number in range(3)] == ["idle", "idle", "idle"]
    assert (await reserve(cell, "j3")).node_id == "busy"
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.9)
    assert (await reserve(cell, "j4")).node_id == "busy"


async def test_many_who_are_busy_with_something_else_do_not_hide_one_who_is_not(cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"busy-{number:02}", "en", "zh", load=0.9) for number in range(40)))
    await cell.register("idle", "en", "zh", load=0.0)
    assert [(await reserve(cell, f"j{number}")).node_id for number in range(2)] == ["idle", "idle"]


@pytest.mark.parametrize("strategy", ["random", "power_of_two"])
async def test_chance_takes_any_node_and_none_beyond_its_slots(cell: Cell, strategy: str) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": strategy, "slots_per_node": 4}))
    for number in range(8):
        await cell.register(f"n{number}", facts=facts_of("en", "zh", gpu_memory_gb=(number % 3,)))
    found = Counter(one.node_id for one in await many(cell, 16) if isinstance(one, Reservation))
    assert len(found) > 4
    for number in range(100):
        try:
            await reserve(cell, f"further-{number}")
        except NoNode:
            continue
    assert set((await read_state(cell.store)).ready.values()) <= {1024 * number + 8 for number in (1, 2, 3)}


async def test_a_session_stays_on_its_node_while_that_is_able(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity", "slots_per_node": 2}))
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh") for number in range(4)))
    talk = JobRequest("zh", "en", session="talk")
    first = (await reserve(cell, "j1", talk)).node_id
    assert (await reserve(cell, "j2", talk)).node_id == first
    other = (await reserve(cell, "j3", talk)).node_id
    assert other != first, "the node is full"
    await cell.register("n9", "en", "zh")
    assert (await reserve(cell, "j4", talk)).node_id == other
    await cell.pass_time(KEPT_MS)
    await cell.reconcile(expire=1)
    assert (await read_state(cell.store)).affinities == {}


async def test_the_dead_are_passed_over_also_where_they_are_most(cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"dead-{number:02}", "en", "zh", lease_ms=1) for number in range(60)))
    await cell.register("alive", "en", "zh", load=0.9, lease_ms=10 * LEASE_MS)
    await cell.advance(10)
    assert (await reserve(cell, "j")).node_id == "alive"
    assert await reasons(cell, JobRequest("zh", "en", exclude=("alive",))) == {"excluded": 1, "lapsed": 60}


async def test_also_behind_hundreds_of_dead_of_its_class_and_living_of_others_a_node_is_found(cell: Cell) -> None:
    await asyncio.gather(
        *(cell.register(f"dead-{number:03}", "en", "zh", lease_ms=1) for number in range(150)),
        *(cell.register(f"other-{number:03}", "de", "fr") for number in range(150)),
    )
    await cell.register("alive", "en", "zh", load=0.9, lease_ms=LEASE_MS // 2)
    await cell.advance(10)
    assert (await reserve(cell, "j")).node_id == "alive"


async def test_a_pool_has_slots_of_its_own(cell: Cell) -> None:
    own = {**pool("english", semantic={"contains": ["en"]}), "selection": {"slots_per_node": 7}}
    await cell.allocator.sync(document_of(own, selection={"slots_per_node": 1}))
    await cell.register("a", "en", "zh")
    await cell.register("b", "de", "fr")
    assert [isinstance(one, Reservation) for one in await many(cell, 8)] == [True] * 7 + [False]
    assert (await reserve(cell, "other", JobRequest("de", "fr"))).node_id == "b"
    with pytest.raises(NoNode):
        await reserve(cell, "another", JobRequest("de", "fr"))
