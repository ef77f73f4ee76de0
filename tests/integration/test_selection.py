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
from tests.cells import limited_cell
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


async def nodes_of(cell: Cell, names: Iterable[str]) -> list[str]:
    found = await cell.allocator.reserve_many(
        [JobAsk(name, JobRequest("zh", "en")) for name in names], owner="me", lease_ms=LONG_MS
    )
    return [one.node_id if isinstance(one, Reservation) else type(one).__name__ for one in found]


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


async def test_the_only_idle_one_of_many_is_found_wherever_it_stands(cell: Cell) -> None:
    """More nodes than a look at the leases would find."""
    await asyncio.gather(*(cell.register(f"n{number:03}", "en", "zh", load=0.9) for number in range(150)))
    for number in (0, 70, 149):
        await cell.register(f"n{number:03}", "en", "zh", load=0.1)
        assert await nodes_of(cell, [f"j{number}"]) == [f"n{number:03}"]
        await cell.register(f"n{number:03}", "en", "zh", load=1.0)


async def planned(cell: Cell, job_id: str, exclude: tuple[str, ...] = ()) -> str:
    """The node that a job would get, in a call of its own."""
    request = JobRequest("zh", "en", exclude=exclude)
    return (await cell.allocator.reserve(job_id, request, owner="me", lease_ms=LONG_MS, dry_run=True)).node_id


# --- many classes -----------------------------------------------------------------------------------------------------


async def classes(cell: Cell, loads: Iterable[float]) -> None:
    """A node of a class of its own for each load."""
    for number, load in enumerate(loads, 1):
        facts = facts_of("en", "zh", gpu_memory_gb=(number,))
        await cell.register(f"class-{number}", facts=facts, load=load, lease_ms=LONG_MS)


async def test_of_many_classes_two_that_follow_each_other_by_chance_are_compared(
    redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace, MAX_COMPARED=2) as cell:
        await classes(cell, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
        found = [await planned(cell, f"j{number}") for number in range(40)]
        assert set(found) == {f"class-{number}" for number in range(1, 6)}
        assert 5 <= found.count("class-1") < 30


async def test_classes_without_a_node_that_is_able_are_not_among_those_compared(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_COMPARED=2) as cell:
        await classes(cell, [0.1] * 7)
        able = {"class-3", "class-6"}
        exclude = tuple(f"class-{number}" for number in range(1, 8) if f"class-{number}" not in able)
        for number in range(12):
            assert await planned(cell, f"j{number}", exclude) in able


async def test_few_classes_are_all_compared_and_of_equally_good_ones_the_first_is_taken(
    redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace, MAX_COMPARED=3) as cell:
        await classes(cell, (0.5, 0.5, 0.5))
        assert {await planned(cell, f"j{number}") for number in range(6)} == {"class-1"}
        assert await planned(cell, "j", ("class-1",)) == "class-2"
        await cell.register("class-3", facts=facts_of("en", "zh", gpu_memory_gb=(3,)), load=0.4, lease_ms=LONG_MS)
        assert {await planned(cell, f"k{number}") for number in range(6)} == {"class-3"}


async def test_chance_among_more_classes_than_are_compared_takes_the_less_loaded(
    redis_url: str, namespace: str
) -> None:
    """Where counting each class would cost too much, nodes are compared as they are without chance."""
    async with limited_cell(redis_url, namespace, MAX_COMPARED=2) as cell:
        await cell.allocator.sync(document_of(selection={"strategy": "random"}))
        await classes(cell, (0.1, 0.9))
        assert {await planned(cell, f"j{number}") for number in range(12)} == {"class-1", "class-2"}
        await cell.register("class-3", facts=facts_of("en", "zh", gpu_memory_gb=(3,)), load=0.9, lease_ms=LONG_MS)
        found = [await planned(cell, f"j{number}") for number in range(30)]
        assert found.count("class-1") > 12


# --- behind the dead --------------------------------------------------------------------------------------------------


async def dead(cell: Cell, count: int) -> None:
    """Nodes that come before all others in order, whose leases end at once."""
    await asyncio.gather(*(cell.register(f"dead-{number:03}", "en", "zh", lease_ms=1) for number in range(count)))
    await cell.advance(10)


async def test_behind_many_dead_ones_a_node_that_has_jobs_is_taken_first(cell: Cell) -> None:
    """Nodes behind more dead ones than are looked at for that have to wait: who lives has been given jobs."""
    await cell.register("busy", "en", "zh", lease_ms=LONG_MS)
    assert await nodes_of(cell, ["a"]) == ["busy"]
    await dead(cell, 70)
    await cell.register("free", "en", "zh", load=0.01, lease_ms=LONG_MS)
    assert await nodes_of(cell, ["b"]) == ["busy"]


async def test_behind_one_that_is_left_out_none_is_taken_twice_while_another_is_free(cell: Cell) -> None:
    for name in ("X", "b", "c"):
        await cell.register(name, "en", "zh", lease_ms=LONG_MS)
    request = JobRequest("zh", "en", exclude=("X",))
    found = await cell.allocator.reserve_many([JobAsk(name, request) for name in "jkl"], owner="me", lease_ms=LONG_MS)
    assert [one.node_id for one in found if isinstance(one, Reservation)] == ["b", "c", "b"]


async def test_nodes_that_are_read_together_may_have_different_slots_reserved(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 2}))
    for name in ("a", "b", "c"):
        await cell.register(name, "en", "zh", load=0.0, lease_ms=LONG_MS)
    assert await nodes_of(cell, ["j"]) == ["a"]
    assert await nodes_of(cell, ["k", "l", "m"]) == ["b", "c", "a"]


async def test_a_node_with_a_full_load_is_found_at_once(cell: Cell) -> None:
    await cell.register("a", "en", "zh", load=1.0, lease_ms=LONG_MS)
    await cell.store.command("CONFIG", "RESETSTAT")
    assert await planned(cell, "j") == "a"
    assert "cmdstat_zrangebyscore:calls=1," in str(await cell.store.command("INFO", "commandstats"))


@pytest.mark.parametrize("count", [10, 40])
async def test_behind_few_dead_ones_the_best_is_found(cell: Cell, count: int) -> None:
    await cell.register("busy", "en", "zh", lease_ms=LONG_MS)
    assert await nodes_of(cell, ["a"]) == ["busy"]
    await dead(cell, count)
    await cell.register("free", "en", "zh", load=0.01, lease_ms=LONG_MS)
    assert await nodes_of(cell, ["b"]) == ["free"]


async def test_behind_many_dead_ones_a_node_with_too_few_slots_is_not_taken(cell: Cell) -> None:
    await cell.register("busy", "en", "zh", lease_ms=LONG_MS)
    assert await nodes_of(cell, ["a", "b", "c"]) == ["busy"] * 3
    await dead(cell, 70)
    with pytest.raises(NoNode):
        await cell.allocator.reserve("j", JobRequest("zh", "en", slots=2), owner="me", lease_ms=LONG_MS)
    assert await nodes_of(cell, ["d"]) == ["busy"]


@pytest.mark.parametrize("bound", ["MAX_LOOKED_CLASS", "MAX_LOOKED"])
@pytest.mark.parametrize("before", [0, 4])
async def test_the_last_node_that_may_be_looked_at_is(redis_url: str, namespace: str, bound: str, before: int) -> None:
    async with limited_cell(redis_url, namespace, **{bound: before + 1}) as cell:
        await dead(cell, before)
        await cell.register("alive", "en", "zh", lease_ms=LONG_MS, load=0.5)
        assert await planned(cell, "j") == "alive"


async def test_no_more_nodes_are_looked_at_than_a_call_may(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED=4) as cell:
        for number in range(4):
            await cell.register(f"n{number}", "en", "zh", load=0.5, lease_ms=LONG_MS)
        await cell.register("idle", facts=facts_of("en", "zh", gpu_memory_gb=(7,)), load=0.1, lease_ms=LONG_MS)
        assert await planned(cell, "j") == "n0"


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
