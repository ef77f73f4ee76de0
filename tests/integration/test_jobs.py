"""Attempts of jobs and their owners: what may become of a reservation, who may say so, and the bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest, JobState, Reservation
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
from tests.harness import Cell, document_of
from tests.oracle import read_state
from tests.reserving import JOB_MS, KEPT_MS, ZH_EN, ended, many, reasons, reserve


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
