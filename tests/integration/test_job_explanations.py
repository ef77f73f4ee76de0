"""An explanation of a job says what a reservation would come to, and why."""

from __future__ import annotations

import pytest

from pyscheduler.core.jobs import JobRequest
from pyscheduler.errors import NoNode
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.reserving import ZH_EN, reserve


@pytest.mark.parametrize("strategy", ["random", "power_of_two", "least_loaded"])
async def test_it_names_the_node_that_the_first_attempt_of_the_job_would_get(cell: Cell, strategy: str) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": strategy}))
    for number in range(7):
        await cell.register(f"n{number}", "en", "zh")
    for number in range(12):
        explained = await cell.allocator.explain_job(f"j{number}", ZH_EN)
        assert explained.node_id == (await reserve(cell, f"j{number}")).node_id


async def test_it_names_the_node_of_the_session(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity"}))
    await cell.register("a", "en", "zh")
    talk = JobRequest("zh", "en", session="talk")
    await reserve(cell, "j1", talk)
    await cell.register("b", "en", "zh")
    assert (await cell.allocator.explain_job("j2", talk)).node_id == "a"
    assert (await cell.allocator.explain_job("j2", ZH_EN)).node_id == "b"


async def test_it_knows_the_slots_of_a_pool_that_has_its_own(cell: Cell) -> None:
    english = pool("english", semantic={"contains": ["en"]})
    await cell.allocator.sync(document_of({**english, "selection": {"slots_per_node": 1}}))
    await cell.register("a", "en", "zh")
    assert (await cell.allocator.explain_job("j", ZH_EN)).pool == "english"
    await reserve(cell, "j")
    explained = await cell.allocator.explain_job("j2", ZH_EN)
    assert (explained.node_id, explained.pool, explained.reasons) == (None, None, {"no_slot": 1})


@pytest.mark.parametrize("tenant", ["acme", "X"])
async def test_it_counts_the_slots_that_the_tenant_has(cell: Cell, tenant: str) -> None:
    await cell.allocator.sync(document_of(selection={"tenant_slots": 1}))
    await cell.register("a", "en", "zh")
    request = JobRequest("zh", "en", tenant=tenant)
    assert (await cell.allocator.explain_job("j", request)).node_id == "a"
    await cell.allocator.reserve("j", request, owner="me", lease_ms=LEASE_MS)
    assert (await cell.allocator.explain_job("j2", request)).reasons == {"quota": 1}
    with pytest.raises(NoNode, match="quota"):
        await cell.allocator.reserve("j2", request, owner="me", lease_ms=LEASE_MS)


async def test_it_lists_so_many_nodes(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_EXAMINED=3) as cell:
        for number in range(6):
            await cell.register(f"n{number}", facts=facts_of("de", "fr", gpu_memory_gb=(number // 2,)))
        assert [one.reason for one in (await cell.allocator.explain_job("j", ZH_EN)).nodes] == ["no_pair"] * 3


async def test_it_counts_what_is_against_nodes_in_the_order_of_the_words(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, CHUNK=2) as cell:
        await cell.register("other", "de", "fr")
        for number in range(9):
            await cell.register(f"n{number}", "en", "zh")
        for number in range(5):
            await cell.allocator.hold(f"n{number}", owner="ops", reason="test")
        full = JobRequest("zh", "en", slots=4, exclude=tuple(f"n{number}" for number in range(8)))
        await reserve(cell, "j", full)
        wanted = JobRequest("zh", "en", exclude=("n7",))
        assert list((await cell.allocator.explain_job("k", wanted)).reasons.items()) == [
            ("draining", 5),
            ("excluded", 1),
            ("no_pair", 1),
            ("no_slot", 1),
            ("passed_over", 2),
        ]


async def test_nothing_is_against_a_node_whose_last_slot_it_is(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await reserve(cell, "j", JobRequest("zh", "en", slots=3))
    explained = await cell.allocator.explain_job("k", ZH_EN)
    assert (explained.node_id, [one.reason for one in explained.nodes]) == ("a", [""])
