"""Which node a job gets, compared with the best one of all; and how much is looked at to find it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest, Reservation
from pyscheduler.errors import NoNode
from tests.harness import LEASE_MS, Cell, document_of, facts_of

LONG_MS = 10 * LEASE_MS


@dataclass
class Node:
    """A node as this test knows it."""

    load: float
    dead: bool
    used: int = 0


def able(nodes: dict[str, Node], request: JobRequest, slots: int) -> dict[str, tuple[float, int]]:
    """How good each node is that can take the job: its weight and its reserved slots, less is better."""
    return {
        name: (max(node.load, node.used / slots), node.used)
        for name, node in nodes.items()
        if not node.dead and node.used + request.slots <= slots and name not in request.exclude
    }


async def fleet(cell: Cell, chance: random.Random, count: int, dead: float) -> dict[str, Node]:
    """Nodes of up to three classes, with loads by chance; of some the lease has ended."""
    loads = chance.choice(([0.25], [0.0, 0.5, 1.0], [number / 100 for number in range(101)]))
    nodes = {f"n{number:03}": Node(chance.choice(loads), chance.random() < dead) for number in range(count)}
    await asyncio.gather(
        *(
            cell.register(
                name,
                facts=facts_of("en", "zh", gpu_memory_gb=(chance.choice((8, 24, 80)),)),
                load=node.load,
                lease_ms=1 if node.dead else LONG_MS,
            )
            for name, node in nodes.items()
        )
    )
    await cell.advance(10)
    return nodes


@pytest.mark.parametrize("turn", range(8))
async def test_every_job_of_a_burst_gets_the_least_loaded_node_that_is_left(cell: Cell, turn: int) -> None:
    seed = int(os.environ.get("PYSCHEDULER_TEST_SEED", "1")) * 100 + turn
    chance = random.Random(seed)
    slots = chance.choice((1, 2, 4, 9))
    await cell.allocator.sync(
        document_of({"name": "p", "match": {"semantic": {"contains": ["en"]}}}, selection={"slots_per_node": slots})
    )
    nodes = await fleet(cell, chance, chance.randrange(1, 80), dead=chance.choice((0, 0, 0.3)))
    for burst in range(4):
        asks = []
        for number in range(chance.randrange(1, 33)):
            exclude = tuple(chance.sample(sorted(nodes), min(len(nodes), chance.choice((0, 0, 0, 5)))))
            request = JobRequest("zh", "en", slots=chance.choice((1, 1, 1, min(2, slots))), exclude=exclude)
            asks.append(JobAsk(f"j{burst}-{number}", request))
        found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=LONG_MS)
        for ask, one in zip(asks, found, strict=True):
            best = able(nodes, ask.request, slots)
            if isinstance(one, Reservation):
                assert best[one.node_id] == min(best.values()), f"PYSCHEDULER_TEST_SEED, turn: {seed}; {ask}"
                nodes[one.node_id].used += ask.request.slots
            else:
                assert isinstance(one, NoNode)
                assert not best, f"PYSCHEDULER_TEST_SEED, turn: {seed}; {ask}"


# --- behind the dead --------------------------------------------------------------------------------------------------


async def dead(cell: Cell, count: int) -> None:
    """Nodes that come before all others in order, whose leases end at once."""
    await asyncio.gather(*(cell.register(f"dead-{number:03}", "en", "zh", lease_ms=1) for number in range(count)))
    await cell.advance(10)


async def nodes_of(cell: Cell, names: Iterable[str]) -> list[str]:
    found = await cell.allocator.reserve_many(
        [JobAsk(name, JobRequest("zh", "en")) for name in names], owner="me", lease_ms=LONG_MS
    )
    return [one.node_id if isinstance(one, Reservation) else type(one).__name__ for one in found]


async def test_behind_many_dead_ones_a_node_that_has_jobs_is_taken_first(cell: Cell) -> None:
    """Nodes behind more dead ones than are looked at for that have to wait: who lives has been given jobs."""
    await cell.register("busy", "en", "zh", lease_ms=LONG_MS)
    assert await nodes_of(cell, ["a"]) == ["busy"]
    await dead(cell, 60)
    await cell.register("free", "en", "zh", load=0.01, lease_ms=LONG_MS)
    assert await nodes_of(cell, ["b"]) == ["busy"]


async def test_behind_few_dead_ones_the_best_is_found(cell: Cell) -> None:
    await cell.register("busy", "en", "zh", lease_ms=LONG_MS)
    assert await nodes_of(cell, ["a"]) == ["busy"]
    await dead(cell, 10)
    await cell.register("free", "en", "zh", load=0.01, lease_ms=LONG_MS)
    assert await nodes_of(cell, ["b"]) == ["free"]


async def test_behind_many_dead_ones_a_free_node_is_found_where_there_is_no_other(cell: Cell) -> None:
    await dead(cell, 120)
    for name in ("one", "two"):
        await cell.register(name, "en", "zh", load=0.01, lease_ms=LONG_MS)
    assert sorted(await nodes_of(cell, ["a", "b"])) == ["one", "two"]


async def test_a_dead_node_that_a_job_gave_back_gets_no_other_job_of_the_same_call(cell: Cell) -> None:
    await cell.register("dying", "en", "zh")
    assert await nodes_of(cell, ["a"]) == ["dying"]
    await cell.register("well", "en", "zh", load=0.9, lease_ms=LONG_MS)
    await cell.advance(LEASE_MS)
    found = await cell.allocator.reserve_many(
        [JobAsk("a", JobRequest("zh", "en"), attempt=2), JobAsk("b", JobRequest("zh", "en"))],
        owner="me",
        lease_ms=LONG_MS,
    )
    assert [one.node_id for one in found if isinstance(one, Reservation)] == ["well", "well"]
