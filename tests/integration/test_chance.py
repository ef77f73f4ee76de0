"""Where chance or the memory of a session decides which node a job gets, or all that was looked at is dead."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest, Reservation
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of
from tests.oracle import read_state

ZH_EN = JobRequest("zh", "en")
TALK = JobRequest("zh", "en", session="X")


async def planned(cell: Cell, count: int, request: JobRequest = ZH_EN) -> Counter[str]:
    """How many of some jobs each node would get, were it the first of them."""
    asks = [JobAsk(f"job-{number}", request) for number in range(count)]
    found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=LEASE_MS, dry_run=True)
    return Counter(one.node_id if isinstance(one, Reservation) else type(one).__name__ for one in found)


async def reserve(cell: Cell, job_id: str, request: JobRequest = ZH_EN, **options: Any) -> str:
    return (await cell.allocator.reserve(job_id, request, owner="me", lease_ms=LEASE_MS, **options)).node_id


async def classes(cell: Cell, *counts: int, load: float = 0.0) -> None:
    """So many nodes of a first class, of a second one, and so on."""
    for number, count in enumerate(counts, 1):
        facts = facts_of("en", "zh", gpu_memory_gb=(number,))
        for place in range(count):
            await cell.register(f"class-{number}-{place}", facts=facts, load=load)


# --- chance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["random", "power_of_two"])
async def test_each_node_is_as_likely_as_any_other_whatever_its_class(cell: Cell, strategy: str) -> None:
    await cell.register("other", "aa", "ab")
    await cell.allocator.sync(document_of(selection={"strategy": strategy}))
    await classes(cell, 3, 5, 2, load=0.5)
    found = await planned(cell, 300)
    assert len(found) == 10
    assert set(found.values()) <= set(range(15, 46)), found


async def test_of_two_by_chance_the_less_loaded_is_taken(cell: Cell) -> None:
    """By chance alone half of the jobs go to it; the better of two is the worse one only where that is drawn twice."""
    await cell.register("idle", "en", "zh", load=0.1)
    await cell.register("busy", "en", "zh", load=0.2)
    share = {}
    for strategy in ("random", "power_of_two"):
        await cell.allocator.sync(document_of(selection={"strategy": strategy}))
        share[strategy] = (await planned(cell, 200))["idle"] / 200
    assert 0.4 < share["random"] < 0.6
    assert 0.65 < share["power_of_two"] < 0.85


async def test_chance_is_the_same_for_the_same_attempt_and_another_for_the_next(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random", "slots_per_node": 500}))
    await classes(cell, 16)
    first = [await reserve(cell, "j", dry_run=True) for _ in range(3)]
    assert len(set(first)) == 1
    found = {first[0]}
    for attempt in range(1, 9):
        found.add(await reserve(cell, "j", attempt=attempt))
        await cell.allocator.release_job("j", attempt, owner="me")
    assert len(found) > 3


async def test_chance_gives_a_node_its_last_slots_and_no_more(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random", "slots_per_node": 3}))
    await classes(cell, 2)
    await cell.register("class-1-0", facts=facts_of("en", "zh", gpu_memory_gb=(1,)), load=1.0)
    two = JobRequest("zh", "en", slots=2)
    assert {await reserve(cell, name, two) for name in ("a", "b")} == {"class-1-0", "class-1-1"}
    assert await planned(cell, 8, two) == {"NoNode": 8}
    assert len(await planned(cell, 20)) == 2
    assert {await reserve(cell, name) for name in ("c", "d")} == {"class-1-0", "class-1-1"}
    assert await planned(cell, 8) == {"NoNode": 8}


async def test_whoever_one_call_draws_stays_in_the_class_that_it_has(cell: Cell) -> None:
    """Also where the only one of a class that is drawn has been filled by the same call."""
    await cell.allocator.sync(document_of(selection={"strategy": "random", "slots_per_node": 3}))
    await classes(cell, 1, 1, 1, 1)
    asks = [JobAsk(f"job-{number}", ZH_EN) for number in range(12)]
    await cell.allocator.reserve_many(asks, owner="me", lease_ms=LEASE_MS)
    assert (await read_state(cell.store)).ready == {
        f"class-{number}-0": 1024 * number + 2 * 3 for number in range(1, 5)
    }


async def test_by_chance_the_full_are_not_drawn(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random", "slots_per_node": 1}))
    await classes(cell, 12)
    for number in range(8):
        await reserve(cell, f"full-{number}")
    found = await planned(cell, 100)
    assert len(found) == 4
    assert set(found.values()) <= set(range(12, 42)), found


async def test_who_is_drawn_and_cannot_take_the_job_gives_way_to_the_next(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random"}))
    await classes(cell, 8)
    found = await planned(
        cell, 100, JobRequest("zh", "en", exclude=tuple(f"class-1-{place}" for place in (0, 2, 4, 6)))
    )
    assert len(found) == 4
    assert set(found.values()) <= set(range(12, 42)), found


async def test_who_takes_the_place_of_another_keeps_its_own_load(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random", "slots_per_node": 1}))
    for place in range(8):
        await cell.register(f"n{place}", "en", "zh", load=place / 10)
    others = JobRequest("zh", "en", exclude=("n0", "n2", "n4", "n6"))
    taken = {await reserve(cell, f"job-{number}", others) for number in range(4)}
    assert taken == {"n1", "n3", "n5", "n7"}
    ready = (await read_state(cell.store)).ready
    assert ready == pytest.approx({f"n{place}": 1024 + place / 10 + 2 * (place % 2) for place in range(8)})


async def test_by_chance_a_job_gets_no_node_that_it_excludes_and_one_call_knows_what_it_has_given(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random", "slots_per_node": 1}))
    await classes(cell, 8)
    excluded = tuple(f"class-1-{number}" for number in range(7))
    assert await planned(cell, 30, JobRequest("zh", "en", exclude=excluded)) == {"class-1-7": 30}
    asks = [JobAsk(f"job-{number}", ZH_EN) for number in range(9)]
    found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=LEASE_MS)
    names = [one.node_id for one in found if isinstance(one, Reservation)]
    assert len(names) == len(set(names)) == 8


# --- a session --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.0, 1.0])
async def test_a_session_comes_back_to_its_node_whatever_the_load_of_that(cell: Cell, load: float) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity", "slots_per_node": 1}))
    await classes(cell, 2)
    away = JobRequest("zh", "en", session="X", exclude=("class-1-0",))
    assert await reserve(cell, "first", away) == "class-1-1"
    await cell.allocator.finish_job("first", 1, owner="me")
    await cell.register("class-1-1", facts=facts_of("en", "zh", gpu_memory_gb=(1,)), load=load)
    assert await reserve(cell, "second", TALK) == "class-1-1"


async def test_a_session_comes_back_to_a_node_of_a_further_class(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity"}))
    await classes(cell, 1, 1)
    away = JobRequest("zh", "en", session="X", exclude=("class-1-0",))
    assert await reserve(cell, "first", away) == "class-2-0"
    await cell.allocator.finish_job("first", 1, owner="me")
    assert await reserve(cell, "second", TALK) == "class-2-0"


async def test_a_session_that_excludes_its_node_or_needs_more_than_that_has_gets_another(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity", "slots_per_node": 2}))
    await classes(cell, 2)
    first = await reserve(cell, "first", TALK)
    away = JobRequest("zh", "en", session="X", exclude=(first,))
    large = JobRequest("zh", "en", session="X", slots=2)
    assert (await planned(cell, 1, away))[first] == 0
    assert (await planned(cell, 1, large))[first] == 0
    assert await reserve(cell, "second", TALK) == first


async def test_jobs_without_a_session_go_to_the_least_loaded(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity", "slots_per_node": 2}))
    await classes(cell, 2)
    assert {await reserve(cell, name) for name in ("a", "b")} == {"class-1-0", "class-1-1"}
    assert await cell.store.command("HLEN", cell.store.key("affinities")) == 1


async def test_where_sessions_have_no_node_of_their_own_the_least_loaded_is_taken(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity"}))
    await classes(cell, 2)
    away = JobRequest("zh", "en", session="X", exclude=("class-1-0",))
    assert await reserve(cell, "first", away) == "class-1-1"
    await cell.allocator.finish_job("first", 1, owner="me")
    await cell.allocator.sync(document_of())
    assert await reserve(cell, "second", TALK) == "class-1-0"
    assert (await read_state(cell.store)).affinities == {"X": "class-1-1"}


async def test_sessions_that_begin_in_one_call_are_bounded_together(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_AFFINITIES=2) as cell:
        await cell.allocator.sync(document_of(selection={"strategy": "affinity"}))
        await classes(cell, 4)
        asks = [JobAsk(name, JobRequest("zh", "en", session=name)) for name in ("a", "b", "c")]
        await cell.allocator.reserve_many(asks, owner="me", lease_ms=LEASE_MS)
        assert set((await read_state(cell.store)).affinities) == {"a", "b"}


# --- behind the dead --------------------------------------------------------------------------------------------------


async def dead(cell: Cell, count: int) -> None:
    await asyncio.gather(*(cell.register(f"dead-{number:03}", "en", "zh", lease_ms=1) for number in range(count)))
    await cell.advance(10)


async def found_by(cell: Cell, calls: int) -> set[str]:
    """Which nodes some jobs get, each in a call of its own."""
    return {node for number in range(calls) for node in await planned_alone(cell, f"job-{number}")}


async def planned_alone(cell: Cell, job_id: str) -> list[str]:
    (found,) = await cell.allocator.reserve_many([JobAsk(job_id, ZH_EN)], owner="me", lease_ms=LEASE_MS, dry_run=True)
    return [found.node_id] if isinstance(found, Reservation) else []


@pytest.mark.parametrize("bound", ["MAX_LOOKED_CLASS", "MAX_LOOKED"])
async def test_the_only_living_one_is_found_behind_more_dead_than_are_looked_at(
    redis_url: str, namespace: str, bound: str
) -> None:
    async with limited_cell(redis_url, namespace, **{bound: 2}) as cell:
        await dead(cell, 70)
        await cell.register("alive", "en", "zh", load=0.9)
        for number in range(12):
            assert await planned_alone(cell, f"job-{number}") == ["alive"]


@pytest.mark.parametrize("lease_ms", [LEASE_MS // 2, 2 * LEASE_MS])
async def test_a_living_one_is_found_among_64_leases_wherever_it_stands(
    redis_url: str, namespace: str, lease_ms: int
) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await dead(cell, 3)
        await asyncio.gather(*(cell.register(f"other-{number}", "de", "fr") for number in range(63)))
        await cell.register("alive", "en", "zh", load=0.9, lease_ms=lease_ms)
        for number in range(8):
            assert await planned_alone(cell, f"job-{number}") == ["alive"]


async def test_among_more_leases_each_is_found_by_some_jobs(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await dead(cell, 3)
        await cell.register("first", "en", "zh", load=0.9, lease_ms=LEASE_MS // 2)
        await asyncio.gather(*(cell.register(f"other-{number}", "de", "fr") for number in range(63)))
        await cell.register("last", "en", "zh", load=0.8, lease_ms=2 * LEASE_MS)
        assert await found_by(cell, 16) == {"first", "last"}


@pytest.mark.parametrize("loads", [(0.9, 0.3, 0.6), (0.3, 0.9, 0.6), (0.9, 0.6, 0.3)])
async def test_the_least_loaded_of_the_leases_is_taken(
    redis_url: str, namespace: str, loads: tuple[float, ...]
) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await dead(cell, 3)
        for number, load in enumerate(loads):
            await cell.register(f"n{load}", "en", "zh", load=load, lease_ms=LEASE_MS + number)
        assert await found_by(cell, 1) == {"n0.3"}


async def test_reserved_slots_count_as_their_share_also_among_the_leases(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await cell.register("some", "en", "zh", load=0.1)
        await reserve(cell, "j")
        await dead(cell, 3)
        await cell.register("none", "en", "zh", load=0.3)
        assert await found_by(cell, 1) == {"some"}


async def test_a_class_that_can_be_looked_at_needs_no_leases(redis_url: str, namespace: str) -> None:
    """Nodes of a class with few dead are compared as usual; the one behind many dead comes when they are full."""
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=4) as cell:
        await dead(cell, 6)
        await cell.register("behind", "en", "zh", load=0.1)
        await cell.register("seen", facts=facts_of("en", "zh", gpu_memory_gb=(7,)), load=0.9)
        assert [await reserve(cell, f"job-{number}") for number in range(5)] == ["seen"] * 4 + ["behind"]
