"""Looking at jobs: pages of them, those that fit some conditions, and one."""

from __future__ import annotations

from typing import Any

import pytest

from pyscheduler.core.jobs import Job, JobAsk, JobPage, JobRequest, JobState
from pyscheduler.errors import InvalidInput, NotFound
from pyscheduler.scripts import calls
from tests.cells import limited_cell
from tests.harness import Cell, document_of

ZH_EN = JobRequest("zh", "en")
JOB_MS = 60_000
KEPT_MS = 600_000


async def reserve(
    cell: Cell, *names: str, request: JobRequest = ZH_EN, lease_ms: int = JOB_MS, owner: str = "me"
) -> None:
    for name in names:
        await cell.allocator.reserve(name, request, owner=owner, lease_ms=lease_ms)


async def ids(cell: Cell, **conditions: Any) -> list[str]:
    return [job.job_id for job in (await cell.allocator.jobs(**conditions)).jobs]


async def pages(cell: Cell, **conditions: Any) -> list[JobPage]:
    """Every page, from the first to the last."""
    found = [await cell.allocator.jobs(**conditions)]
    while found[-1].next is not None:
        found.append(await cell.allocator.jobs(**conditions, after=found[-1].next))
    return found


def listed(found: list[JobPage]) -> list[str]:
    return [job.job_id for page in found for job in page.jobs]


async def test_a_job_has_all_that_is_known_of_it(cell: Cell) -> None:
    registration = await cell.register("a", "en", "zh")
    wanted = JobRequest("zh", "en", tenant="acme", session="talk", slots=2)
    reserved = await cell.allocator.reserve("j", wanted, owner="me", lease_ms=JOB_MS)
    job = await cell.allocator.job("j")
    assert 0 < job.lease_ms <= JOB_MS
    assert job == Job(
        job_id="j",
        attempt=1,
        state=JobState.RESERVED,
        node_id="a",
        epoch=registration.session.epoch,
        pool="en-zh",
        version=registration.version,
        slots=2,
        tenant="acme",
        owner="me",
        session="talk",
        lease_end_ms=reserved.lease_end_ms,
        lease_ms=job.lease_ms,
        reason=None,
    )
    await cell.allocator.fail_job("j", 1, owner="me", reason="out of memory")
    failed = await cell.allocator.job("j")
    assert (failed.state, failed.reason) == (JobState.FAILED, "out of memory")
    assert JOB_MS < failed.lease_ms <= KEPT_MS
    await reserve(cell, "public")
    public = await cell.allocator.job("public")
    assert (public.tenant, public.session) == (None, None)


async def test_a_job_that_nobody_knows(cell: Cell) -> None:
    with pytest.raises(NotFound, match="no job j: it was never reserved, or has been forgotten"):
        await cell.allocator.job("j")
    await cell.register("a", "en", "zh")
    await reserve(cell, "j", "k")
    assert [job.job_id for job in await cell.allocator.describe_jobs(["k", "nobody", "j"])] == ["k", "j"]
    assert await cell.allocator.describe_jobs([]) == []
    assert (await cell.allocator.jobs()).total == 2


async def test_jobs_come_in_the_order_in_which_something_is_due(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await reserve(cell, "late", lease_ms=3 * KEPT_MS)
    await reserve(cell, "soon", "renewed", "over")
    await cell.allocator.renew_job("renewed", 1, owner="me", lease_ms=2 * KEPT_MS)
    await cell.allocator.finish_job("over", 1, owner="me")
    assert await ids(cell) == ["soon", "over", "renewed", "late"]
    assert await ids(cell, node="a", state="live") == ["soon", "renewed", "late"]


async def test_conditions(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 1}))
    for name, languages in (("a", ("en", "zh")), ("b", ("de", "en", "zh")), ("c", ("en", "fr", "zh"))):
        await cell.register(name, *languages)
    acme = JobRequest("zh", "en", tenant="acme")
    await reserve(cell, "one", request=acme)
    await reserve(cell, "two", owner="other")
    await reserve(cell, "three", request=JobRequest("fr", "en"))
    await cell.allocator.start_job("two", 1, owner="other", lease_ms=JOB_MS)
    await cell.allocator.release_job("three", 1, owner="me")
    for conditions, expected in (
        ({}, ["one", "two", "three"]),
        ({"node": "a"}, ["one"]),
        ({"node": "c"}, ["three"]),
        ({"node": "c", "state": "live"}, []),
        ({"node": "c", "state": "released"}, ["three"]),
        ({"node": "b", "state": "running"}, ["two"]),
        ({"node": "b", "state": "reserved"}, []),
        ({"node": "b", "state": "live", "owner": "me"}, []),
        ({"node": "nobody"}, []),
        ({"node": "nobody", "state": "live"}, []),
        ({"pool": "en-zh"}, ["one"]),
        ({"tenant": "acme"}, ["one"]),
        ({"tenant": "nobody"}, []),
        ({"owner": "other"}, ["two"]),
        ({"state": "live"}, ["one", "two"]),
        ({"state": JobState.RUNNING}, ["two"]),
        ({"state": "failed"}, []),
        ({"owner": "me", "state": "reserved", "pool": "en-zh", "tenant": "acme"}, ["one"]),
    ):
        assert await ids(cell, **conditions) == expected, conditions


async def test_jobs_of_a_node_in_each_state(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 9, "on_drain": "lose"}))
    await cell.register("a", "en", "zh", lease_ms=10 * KEPT_MS)
    await reserve(cell, "finished", "failed", "released", "lost", lease_ms=KEPT_MS)
    await reserve(cell, "lapsed", lease_ms=1)
    await cell.allocator.finish_job("finished", 1, owner="me")
    await cell.allocator.fail_job("failed", 1, owner="me")
    await cell.allocator.release_job("released", 1, owner="me")
    await cell.advance(5)  # the lease ends before the hold begins
    await cell.allocator.hold("a", owner="ops", reason="repair")
    await cell.pass_time(2)
    await cell.reconcile()
    await cell.allocator.lift("a", owner="ops", reason="repair")
    await reserve(cell, "reserved", "running")
    await cell.allocator.start_job("running", 1, owner="me", lease_ms=JOB_MS)
    assert {state: await ids(cell, node="a", state=state) for state in JobState} == {
        state: [state.value] for state in JobState
    }


async def many(cell: Cell, count: int) -> list[str]:
    """Jobs of equally long leases: what is due at one instant is in the order of its names."""
    await cell.allocator.sync(document_of(selection={"slots_per_node": 500}))
    await cell.register("a", "en", "zh")
    asks = [JobAsk(f"job-{number:03}", ZH_EN) for number in range(count)]
    await cell.allocator.reserve_many(asks, owner="me", lease_ms=JOB_MS)
    return [ask.job_id for ask in asks]


@pytest.mark.parametrize("conditions", [{}, {"node": "a", "state": "live"}], ids=["all", "of a node"])
@pytest.mark.parametrize("limit", [1, 7, 100, 230, 1000])
async def test_pages_have_every_job_once(cell: Cell, limit: int, conditions: dict[str, str]) -> None:
    names = await many(cell, 230)
    found = await pages(cell, limit=limit, **conditions)
    assert sorted(listed(found)) == names
    assert all(len(page.jobs) <= limit and page.total == 230 for page in found)
    # Whether it was the last one is seen by the next, but where all are known at once.
    assert len(found) == (-(-230 // limit) if conditions else 230 // limit + 1)


@pytest.mark.parametrize("conditions", [{}, {"node": "a", "state": "live"}], ids=["all", "of a node"])
@pytest.mark.parametrize("what", ["renewed", "ended and forgotten"])
async def test_a_page_goes_on_although_the_job_before_it_has_moved(
    cell: Cell, what: str, conditions: dict[str, str]
) -> None:
    names = await many(cell, 20)
    first = await cell.allocator.jobs(limit=5, **conditions)
    moved = first.jobs[-1].job_id
    if what == "renewed":
        await cell.allocator.renew_job(moved, 1, owner="me", lease_ms=2 * JOB_MS)
    else:
        await cell.allocator.finish_job(moved, 1, owner="me")
        await cell.store.command("ZADD", cell.store.key("due"), 1, moved)
        await cell.advance(5)
        await cell.reconcile()
    rest, after = [], first.next
    while after is not None:
        page = await cell.allocator.jobs(limit=5, after=after, **conditions)
        rest += [job.job_id for job in page.jobs]
        after = page.next
    assert set(rest) | {job.job_id for job in first.jobs} == set(names)


async def test_what_is_due_beside_jobs_is_in_no_page(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "affinity"}))
    first = await cell.register("a", "en", "zh")
    await reserve(cell, "j", request=JobRequest("zh", "en", session="talk"), lease_ms=2 * KEPT_MS)
    await cell.allocator.hold("a", owner="ops", reason="repair")
    due = await cell.store.command("ZRANGE", cell.store.key("due"), 0, -1)
    assert sorted(due) == ["", "!a", "@talk", "j"]
    assert first.session.epoch
    assert listed(await pages(cell, limit=1)) == ["j"]


async def test_a_page_looks_at_so_much_and_no_more(redis_url: str, namespace: str) -> None:
    """It may be empty, and have one after it."""
    async with limited_cell(redis_url, namespace, MAX_JOB_PAGE=200) as cell:
        names = await many(cell, 450)
        found = await pages(cell, limit=200, owner="nobody")
        assert [len(page.jobs) for page in found] == [0, 0, 0]
        await cell.allocator.finish_job(names[-1], 1, owner="me")
        found = await pages(cell, limit=200, state="finished")
        assert [len(page.jobs) for page in found] == [0, 0, 1]


async def test_nothing_comes_behind_the_entry_that_is_last_of_all(cell: Cell) -> None:
    await many(cell, 99)
    assert [len(page.jobs) for page in await pages(cell, limit=200)] == [99]


async def test_the_entry_that_is_last_of_all_ends_what_is_looked_at(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_JOB_PAGE=200) as cell:
        await many(cell, 199)
        reply = await cell.store.run(
            calls.list_jobs(
                after_ms=0, after="", limit=200, node="", pool="", tenant="", owner="nobody", state="", ids=()
            )
        )
        assert reply[3:] == ["199", "0", "", "0"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": 0}, "limit must be 1 to 1000"),
        ({"limit": 1001}, "limit must be 1 to 1000"),
        ({"limit": True}, "limit must be 1 to 1000"),
        ({"after": "yesterday"}, "'yesterday' is no place in a list of jobs: give the 'next' of the page before"),
        ({"after": "1:a b"}, "no place"),
        ({"after": f"{10**15}:a"}, "no place"),
        ({"after": "1:" + "a" * 200}, "no place"),
        ({"node": "a b"}, "no node id"),
        ({"pool": "EN"}, "no pool name"),
        ({"tenant": ""}, "no tenant"),
        ({"owner": "a/b"}, "no owner"),
        ({"state": "dead"}, "'dead' is no state of a job: it must be one of live, reserved, running, finished"),
    ],
)
async def test_what_is_no_condition(cell: Cell, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        await cell.allocator.jobs(**given)


async def test_ids_that_are_none(cell: Cell) -> None:
    for wrong in ("", "a b", "j" * 129):
        with pytest.raises(InvalidInput, match="no job id"):
            await cell.allocator.job(wrong)
    with pytest.raises(InvalidInput, match="at most 1000 jobs"):
        await cell.allocator.describe_jobs(["j"] * 1001)
