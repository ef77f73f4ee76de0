"""Which pools a job is looked for in, and in which order; what a request rules out."""

from __future__ import annotations

from collections import Counter

import pytest

from pyscheduler.core.jobs import JobRequest
from pyscheduler.errors import (
    NoNode,
)
from tests.cells import limited_cell
from tests.harness import GRACE_MS, Cell, document_of, facts_of, pool
from tests.reserving import many, reasons, reserve


async def test_a_node_is_found_by_what_it_can_do_whatever_its_pool_is_called(cell: Cell) -> None:
    await cell.register("a", "de", "en", "zh")
    assert (await reserve(cell, "j")).pool == "de-en-zh"


async def test_an_empty_class_and_a_full_pool_hide_nothing_behind_them(cell: Cell) -> None:
    for number in range(12):
        session = (await cell.register(f"gone-{number}", facts=facts_of("en", "zh", gpu_memory_gb=(number,)))).session
        await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    await cell.register("small", "en", "zh")
    await cell.register("large", "de", "en", "zh")
    assert Counter(one.node_id for one in await many(cell, 8)) == {"small": 4, "large": 4}
    assert await reasons(cell) == {"no_slot": 2, "not_ready": 12}


async def test_pools_are_tried_in_the_order_that_is_documented(cell: Cell) -> None:
    declared = [pool("a", labels={"x": "1"}), pool("b", labels={"x": "2"}, priority=5), pool("own", labels={"x": "3"})]
    tenants = [{"name": "acme", "pool": "own"}, {"name": "strict", "pool": "own", "strict": True}]
    await cell.allocator.sync(document_of(*declared, selection={"slots_per_node": 1}, tenants=tenants))
    for name, label, more in (("a", "1", ()), ("b", "2", ("fr",)), ("own", "3", ("fr",))):
        await cell.register(name, facts=facts_of("de", "en", *more, "zh", labels={"x": label}))
    await cell.register("four", "de", "en", "es", "zh")
    await cell.register("three", "de", "en", "zh")
    await cell.register("two", "en", "zh")
    found = [one.node_id for one in await many(cell, 2, JobRequest("zh", "en", tenant="acme"))]
    found += [(await reserve(cell, f"further-{number}")).node_id for number in range(4)]
    assert found == ["own", "two", "b", "a", "three", "four"]
    assert await reasons(cell, JobRequest("zh", "en", tenant="strict")) == {"no_slot": 1, "tenant": 5}


async def test_pools_that_are_otherwise_alike_are_tried_by_their_names(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 1}))
    others = ["ja", "de", "pt", "fr", "ko", "es", "it", "nl"]
    for other in others:
        await cell.register(other, "en", "zh", other)
    pools = [one.pool for one in await many(cell, len(others))]
    assert pools == sorted(pools)
    assert len(set(pools)) == len(others)


async def test_a_strict_tenant_gets_no_node_of_another_pool(cell: Cell) -> None:
    tenants = [{"name": "strict", "pool": "own", "strict": True}, {"name": "acme", "pool": "own"}]
    own = pool("own", labels={"x": "1"})
    await cell.allocator.sync(document_of(own, selection={"slots_per_node": 1}, tenants=tenants))
    await cell.register("own", facts=facts_of("en", "zh", labels={"x": "1"}))
    await cell.register("other", "en", "zh")
    assert (await reserve(cell, "j1", JobRequest("zh", "en", tenant="strict"))).node_id == "own"
    assert await reasons(cell, JobRequest("zh", "en", tenant="strict")) == {"no_slot": 1, "tenant": 1}
    assert (await reserve(cell, "j2", JobRequest("zh", "en", tenant="acme"))).node_id == "other"


async def test_what_a_request_may_rule_out(cell: Cell) -> None:
    await cell.register("a", facts=facts_of("de", "en", "zh", labels={"zone": "eu"}, private=True))
    for request, expected in (
        (JobRequest("zh", "en", labels={"zone": "us"}, tenant="t"), {"labels": 1}),
        (JobRequest("zh", "en"), {"not_public": 1}),
        (JobRequest("zh", "en", scope="exact", tenant="t"), {"scope": 1}),
        (JobRequest("zh", "en", exclude=("a",), tenant="t"), {"excluded": 1}),
        (JobRequest("zh", "en", exclude_pools=("de-en-zh",), tenant="t"), {"pool_excluded": 1}),
        (JobRequest("zh", "en", slots=5, tenant="t"), {"no_slot": 1}),
        (JobRequest("zh", "fr", tenant="t"), {"no_pair": 1}),
        (JobRequest("zh", "en", services=("translate",), tenant="t"), {"no_pair": 1}),
    ):
        assert await reasons(cell, request) == expected
    await cell.allocator.hold("a", owner="ops", reason="repair")
    assert await reasons(cell, JobRequest("zh", "en", tenant="t")) == {"draining": 1}


async def test_a_document_says_which_nodes_are_eligible_and_a_request_may_say_otherwise(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"scope": "exact"}))
    await cell.register("more", "de", "en", "zh")
    assert await reasons(cell) == {"scope": 1}
    assert (await reserve(cell, "j1", JobRequest("zh", "en", scope="eligible"))).node_id == "more"
    await cell.register("exact", "en", "zh")
    assert (await reserve(cell, "j2")).node_id == "exact"


async def test_each_node_is_counted_for_its_own_reason(cell: Cell) -> None:
    await cell.allocator.sync(document_of(pool("zoned", labels={"zone": "eu"}), auto={"enabled": False}))
    for number in range(2):
        await cell.register(f"other-{number}", facts=facts_of("en", "zh", gpu_memory_gb=(number,)))
        zoned = facts_of("en", "zh", labels={"zone": "eu"}, gpu_memory_gb=(number,), private=True)
        await cell.register(f"private-{number}", facts=zoned)
        await cell.register(f"more-{number}", facts=facts_of("de", "en", "zh", gpu_memory_gb=(number,)))
    assert await reasons(cell) == {"no_pool": 4, "not_public": 2}
    assert await reasons(cell, JobRequest("zh", "en", scope="exact")) == {"no_pool": 2, "not_public": 2, "scope": 2}
    in_zone = JobRequest("zh", "en", labels={"zone": "us"})
    assert await reasons(cell, in_zone) == {"labels": 6}


async def test_what_nobody_has_is_named(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    with pytest.raises(NoNode, match="no node has asr:xx, service:magic") as refused:
        await reserve(cell, "j", JobRequest("xx", "en", services=("magic",)))
    assert refused.value.missing == ("asr:xx", "service:magic")


async def test_a_route_is_never_older_than_the_configuration_or_the_classes(cell: Cell) -> None:
    assert await reasons(cell) == {}
    first = await cell.register("a", "en", "zh")
    assert (await reserve(cell, "j1")).version == first.version
    await cell.allocator.sync(document_of(pool("english", semantic={"contains": ["en"]}, priority=1)))
    found = await reserve(cell, "j2")
    assert (found.pool, found.version) == ("english", await cell.allocator.version())
    await cell.register("b", facts=facts_of("en", "zh", gpu_memory_gb=(80,)))
    assert (await reserve(cell, "j3")).node_id == "b"
    await cell.allocator.sync(
        document_of(pool("english", semantic={"contains": ["en"]}), selection={"slots_per_node": 1})
    )
    assert await reasons(cell) == {"no_slot": 2}


async def test_routes_that_are_remembered_are_bounded(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_ROUTES=2) as cell:
        await cell.register("a", "de", "en", "fr", "zh")
        for src in ("de", "en", "fr", "zh"):
            await reserve(cell, f"from-{src}", JobRequest(src, "en"))
            assert await cell.store.command("HLEN", cell.store.key("routes")) <= 3


async def test_for_a_further_route_few_others_are_forgotten(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_ROUTES=6) as cell:
        await cell.register("a", "en", "zh")
        for number in range(20):
            with pytest.raises(NoNode):
                await reserve(cell, f"j{number}", JobRequest("zh", "en", labels={"x": str(number)}))
            known = await cell.store.command("HLEN", cell.store.key("routes")) - 1
            assert known == number + 1 if number < 6 else known in (5, 6)
            assert await cell.store.command("HEXISTS", cell.store.key("routes"), "") == 1
        before = await cell.store.command("HGETALL", cell.store.key("routes"))
        for _ in range(5):
            with pytest.raises(NoNode):
                await reserve(cell, "last", JobRequest("zh", "en", labels={"x": "19"}))
        assert await cell.store.command("HGETALL", cell.store.key("routes")) == before
