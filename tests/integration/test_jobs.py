"""Jobs: a node is found and its slots are reserved in one step; what may become of that, and who may say so."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.jobs import JobAsk, JobRequest, JobState, Reservation
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import (
    FutureAttempt,
    InvalidInput,
    JobEnded,
    LimitExceeded,
    NoNode,
    NotFound,
    NotOwner,
    RequestChanged,
    StaleAttempt,
)
from tests.cells import limited_cell
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state

ZH_EN = JobRequest("zh", "en", services=("asr", "nmt", "tts"))
JOB_MS = 20_000
KEPT_MS = 600_000


async def reserve(cell: Cell, job_id: str, request: JobRequest = ZH_EN, **options: Any) -> Reservation:
    return await cell.allocator.reserve(job_id, request, **({"owner": "me", "lease_ms": JOB_MS} | options))


async def many(cell: Cell, count: int, request: JobRequest = ZH_EN, **options: Any) -> list[Any]:
    asks = [JobAsk(f"job-{number}", request) for number in range(count)]
    return await cell.allocator.reserve_many(asks, **({"owner": "me", "lease_ms": JOB_MS} | options))


async def reasons(cell: Cell, request: JobRequest = ZH_EN, **options: Any) -> dict[str, int]:
    """Why there is no node; the explanation, by the same code, says the same."""
    with pytest.raises(NoNode) as refused:
        await reserve(cell, "refused", request, **options)
    explained = await cell.allocator.explain_job("refused", request)
    assert explained.node_id is None
    assert (explained.reasons, explained.missing) == (refused.value.reasons, refused.value.missing)
    if "quota" not in explained.reasons:
        assert Counter(node.reason for node in explained.nodes) == explained.reasons
    return dict(refused.value.reasons)


async def ended(cell: Cell, job_id: str) -> list[tuple[str, str | None]]:
    events = await cell.allocator.events()
    return [
        (event.fields["state"], event.reason)
        for event in events
        if event.type == "job.ended" and event.fields["job_id"] == job_id
    ]


# --- which pool -------------------------------------------------------------------------------------------------------


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


# --- which node -------------------------------------------------------------------------------------------------------


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


# --- attempts and owners ----------------------------------------------------------------------------------------------


async def test_asked_again_it_gives_the_same_answer(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    first = await reserve(cell, "j")
    assert first.fresh
    again = await reserve(cell, "j")
    assert not again.fresh
    assert (again.node_id, again.epoch, again.version, again.lease_end_ms) == (
        first.node_id,
        first.epoch,
        first.version,
        first.lease_end_ms,
    )
    with pytest.raises(NotOwner, match="belongs to me"):
        await reserve(cell, "j", owner="you")
    with pytest.raises(RequestChanged):
        await reserve(cell, "j", JobRequest("zh", "en", slots=2))
    assert [one.fresh for one in await asyncio.gather(*(reserve(cell, "twice") for _ in range(2)))] == [True, False]


async def test_a_further_attempt_takes_the_place_of_the_one_before_on_another_node(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "zh")
    first = await reserve(cell, "j", JobRequest("zh", "en", slots=4))
    second = await cell.allocator.reassign("j", JobRequest("zh", "en", slots=4), after=1, owner="you", lease_ms=JOB_MS)
    assert (second.attempt, {first.node_id, second.node_id}) == (2, {"a", "b"})
    assert await ended(cell, "j") == [("failed", "reassigned")]
    for call in (
        cell.allocator.renew_job("j", 1, owner="me", lease_ms=JOB_MS),
        cell.allocator.finish_job("j", 1, owner="me"),
        reserve(cell, "j"),
    ):
        with pytest.raises(StaleAttempt) as stale:
            await call
        assert (stale.value.attempt, stale.value.state) == (2, "reserved")
    for future in (cell.allocator.start_job("j", 3, owner="you", lease_ms=1), reserve(cell, "j", attempt=4)):
        with pytest.raises(FutureAttempt, match="only at attempt 2"):
            await future


async def test_attempts_that_arrive_together_have_their_events_in_the_order_in_which_they_were_made(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "zh")
    await asyncio.gather(*(reserve(cell, "j", attempt=attempt) for attempt in (1, 2)))
    assert [
        (event.type, event.fields["attempt"], event.reason)
        for event in await cell.allocator.events()
        if event.type.startswith("job.")
    ] == [("job.reserved", "1", "new"), ("job.ended", "1", "reassigned"), ("job.reserved", "2", "reassigned")]


async def test_what_an_attempt_gives_back_others_of_the_same_call_may_have(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 2}))
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "zh", load=0.9)
    assert (await reserve(cell, "j")).node_id == "a"
    asks = [JobAsk("k", ZH_EN), JobAsk("j", ZH_EN, attempt=2), JobAsk("l", ZH_EN)]
    found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=JOB_MS)
    assert [one.node_id for one in found if isinstance(one, Reservation)] == ["a", "b", "a"]


async def test_a_further_attempt_that_finds_no_node_changes_nothing(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await reserve(cell, "j")
    before = await read_state(cell.store)
    with pytest.raises(NoNode, match="excluded 1"):
        await reserve(cell, "j", attempt=2)
    assert await read_state(cell.store) == before
    await cell.allocator.release_job("j", 1, owner="me")
    assert (await reserve(cell, "j", attempt=2)).node_id == "a", "it was given back: the node was not at fault"


async def test_what_an_owner_may_say(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    reserved = await reserve(cell, "j")
    await cell.advance(JOB_MS // 2)
    renewed = await cell.allocator.renew_job("j", 1, owner="me", lease_ms=JOB_MS)
    assert renewed.lease_end_ms > reserved.lease_end_ms
    for _ in range(2):
        assert (await cell.allocator.start_job("j", 1, owner="me", lease_ms=JOB_MS)).state is JobState.RUNNING
    with pytest.raises(NotOwner):
        await cell.allocator.release_job("j", 1, owner="you")
    for _ in range(2):
        assert (await cell.allocator.finish_job("j", 1, owner="me", reason="done")).state is JobState.FINISHED
    for late in (cell.allocator.fail_job("j", 1, owner="me"), cell.allocator.renew_job("j", 1, owner="me", lease_ms=1)):
        with pytest.raises(JobEnded, match="finished"):
            await late
    with pytest.raises(JobEnded):
        await reserve(cell, "j", attempt=2)
    assert (await reserve(cell, "j")).state is JobState.FINISHED
    assert [event for event in await cell.event_types() if event.startswith("job.")] == [
        "job.reserved",
        "job.started",
        "job.ended",
    ]
    with pytest.raises(NotFound):
        await cell.allocator.renew_job("unknown", 1, owner="me", lease_ms=1)


async def test_the_events_of_a_job_say_all_of_it(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    request = JobRequest("zh", "en", slots=2, tenant="acme")
    await reserve(cell, "j", request)
    await cell.allocator.start_job("j", 1, owner="me", lease_ms=JOB_MS)
    await cell.allocator.fail_job("j", 1, owner="me", reason="gpu lost")
    events = [event for event in await cell.allocator.events() if event.type.startswith("job.")]
    attempt = {"job_id": "j", "attempt": "1"}
    assert {(event.node_id, event.pool, event.version) for event in events} == {("a", "en-zh", 2)}
    assert [(event.type, event.reason, dict(event.fields)) for event in events] == [
        (
            "job.reserved",
            "new",
            {**attempt, "epoch": str(session.epoch), "slots": "2", "tenant": "acme", "owner": "me"},
        ),
        ("job.started", None, attempt),
        ("job.ended", "gpu lost", {**attempt, "slots": "2", "tenant": "acme", "state": "failed"}),
    ]


async def test_an_ended_job_is_forgotten_in_the_end(cell: Cell) -> None:
    await cell.register("a", "en", "zh", lease_ms=10 * KEPT_MS)
    await reserve(cell, "j")
    await cell.allocator.fail_job("j", 1, owner="me", reason="gpu lost")
    assert await ended(cell, "j") == [("failed", "gpu lost")]
    await cell.pass_time(KEPT_MS)
    await cell.reconcile()
    assert (await read_state(cell.store)).jobs == {}
    assert (await reserve(cell, "j")).fresh


async def test_jobs_are_bounded(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_JOBS=2) as cell:
        await cell.register("a", "en", "zh")
        found = await many(cell, 3)
        assert [type(one) for one in found] == [Reservation, Reservation, LimitExceeded]
        await reserve(cell, "job-0")


async def test_a_further_attempt_is_no_further_job(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_JOBS=2) as cell:
        for name in ("a", "b"):
            await cell.register(name, "en", "zh")
        await reserve(cell, "j")
        asks = [JobAsk("j", ZH_EN, attempt=2), JobAsk("k", ZH_EN)]
        found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=JOB_MS)
        assert [type(one) for one in found] == [Reservation, Reservation]


async def test_quotas_of_tenants(cell: Cell) -> None:
    tenants = [{"name": "two", "slots": 2}, {"name": "free", "slots": 0}]
    await cell.allocator.sync(document_of(selection={"slots_per_node": 50, "tenant_slots": 1}, tenants=tenants))
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "zh")
    for tenant, expected in (("two", 2), ("free", 5), ("other", 1), ("", 5)):
        asks = [JobAsk(f"{tenant}-{number}", JobRequest("zh", "en", tenant=tenant)) for number in range(5)]
        found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=JOB_MS)
        assert [type(one) for one in found] == [Reservation] * expected + [NoNode] * (5 - expected)
    assert (await reserve(cell, "large", JobRequest("zh", "en", slots=2))).fresh, "a public job has no quota"
    two = JobRequest("zh", "en", tenant="two")
    assert await reasons(cell, two) == {"quota": 1}
    assert (await reserve(cell, "two-0", two, attempt=2)).attempt == 2, "it gives back what it takes"
    await cell.allocator.finish_job("two-1", 1, owner="me")
    assert (await reserve(cell, "two-2", two)).fresh


async def test_a_public_job_counts_for_no_tenant(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    tenants = await cell.store.command("HGETALL", cell.store.key("tenants"))
    await reserve(cell, "j")
    assert await cell.store.command("HGETALL", cell.store.key("tenants")) == tenants
    await cell.allocator.finish_job("j", 1, owner="me")
    assert await cell.store.command("HGETALL", cell.store.key("tenants")) == tenants


async def test_a_dry_run_changes_nothing(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    before = await read_state(cell.store)
    planned = await reserve(cell, "j", dry_run=True)
    assert planned.node_id == "a"
    assert await read_state(cell.store) == before
    assert await cell.store.command("HLEN", cell.store.key("routes")) == 1
    explained = await cell.allocator.explain_job("j", ZH_EN)
    assert (explained.node_id, explained.nodes[0].reason) == ("a", "")


@pytest.mark.parametrize(
    "arguments",
    [
        {"src": "e"},
        {"tgt": ""},
        {"services": ["a b"]},
        {"services": [f"s{number}" for number in range(65)]},
        {"slots": 0},
        {"slots": -1},
        {"slots": True},
        {"slots": 65},
        {"tenant": "a b"},
        {"session": "x" * 129},
        {"labels": {"unique.id": "1"}},
        {"labels": {"a b": "1"}},
        {"scope": "best"},
        {"exclude": ["a b"]},
        {"exclude_pools": ["A"]},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        JobRequest(**({"src": "zh", "tgt": "en"} | arguments))


@pytest.mark.parametrize("job_id", ["", "a b", "x" * 10_000])
async def test_a_job_id_that_is_none_is_refused(cell: Cell, job_id: str) -> None:
    with pytest.raises(InvalidInput, match="no job id"):
        await reserve(cell, job_id)
    for attempt in (0, -1, 1_000_001, True):
        with pytest.raises(InvalidInput, match="attempt"):
            await reserve(cell, "j", attempt=attempt)
    with pytest.raises(InvalidInput):
        await cell.allocator.reserve_many([JobAsk("j", ZH_EN)] * 1025, owner="me", lease_ms=1)


# --- what becomes of them ---------------------------------------------------------------------------------------------


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


async def test_a_step_of_upkeep_ends_a_bounded_number_and_forgets_no_node_before_its_reservations(
    redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace, MAX_ENDS=5) as cell:
        for number in range(3):
            await cell.register(f"n{number}", "en", "zh")
        await many(cell, 12, lease_ms=10 * LEASE_MS)
        await cell.pass_time(LEASE_MS + 1)
        reports = [await cell.reconcile(brake_share=1.0) for _ in range(3)]
        assert [(report.expired, report.ended_jobs) for report in reports] == [(1, 4)] * 3


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


# --- waiting ----------------------------------------------------------------------------------------------------------


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
