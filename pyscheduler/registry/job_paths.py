"""The paths of the operator door that are about jobs: who has which node, and what may be done about it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.responses import Response

from pyscheduler.core.jobs import JobAsk, JobRequest, JobStatus, Reservation
from pyscheduler.core.limits import (
    MAX_INSTANCE_ID_CHARS,
    MAX_JOB_ID_CHARS,
    MAX_JOB_PAGE,
    MAX_NODE_ID_CHARS,
    MAX_POOL_NAME_CHARS,
    MAX_TENANT_CHARS,
)
from pyscheduler.errors import InvalidInput, LimitExceeded, NoNode, OutcomeUnknown, PyschedulerError, StoreError
from pyscheduler.registry.http_bodies import BadBody, Client
from pyscheduler.registry.http_errors import RefusedRequest, body_of, code_of, status_of
from pyscheduler.registry.http_paths import Path, Query
from pyscheduler.registry.job_bodies import (
    EndBody,
    ExplainBody,
    ReassignBody,
    RenewBody,
    RequestBody,
    ReserveBody,
    ReserveManyBody,
)
from pyscheduler.registry.job_views import (
    AnswersView,
    AnswerView,
    JobExplanationView,
    JobPageView,
    JobStatusView,
    JobView,
    ReservationView,
)
from pyscheduler.registry.shared import Shared
from pyscheduler.registry.views import ErrorView

MAX_WAITING_REQUESTS: Final = 64
"""Requests that wait for a node at the same time: others must find the door open."""

_CANCEL_AGAIN_S: Final = 0.1
_CLIENT_GONE: Final = 499
_LOGGED_JOBS: Final = 8

# --- looking ---------------------------------------------------------------------------------------------------------


class JobsQuery(Query):
    limit: Annotated[int, Field(ge=1, le=MAX_JOB_PAGE, description="Jobs at most.")] = 100
    after: Annotated[str | None, Field(max_length=146, description="'next' of the page before.")] = None
    node: Annotated[str | None, Field(max_length=MAX_NODE_ID_CHARS, description="Only jobs of this node.")] = None
    pool: Annotated[
        str | None, Field(max_length=MAX_POOL_NAME_CHARS, description="Only jobs of nodes chosen in this pool.")
    ] = None
    tenant: Annotated[str | None, Field(max_length=MAX_TENANT_CHARS, description="Only jobs of this tenant.")] = None
    owner: Annotated[str | None, Field(max_length=MAX_INSTANCE_ID_CHARS, description="Only jobs of this owner.")] = None
    state: Annotated[str | None, Field(max_length=16, description="Only jobs in this state; live: with slots.")] = None


class JobQuery(Query):
    job_id: str

    @property
    def bounded_id(self) -> str:
        """The id, no longer than it takes for the allocator to say what is wrong with it."""
        return self.job_id[: MAX_JOB_ID_CHARS + 1]


async def _list_jobs(shared: Shared, query: JobsQuery) -> JobPageView:
    conditions: dict[str, Any] = query.model_dump(exclude={"limit"})
    page = await shared.allocator.jobs(limit=query.limit, **conditions)
    return JobPageView(
        version=page.version,
        total=page.total,
        limit=query.limit,
        next=page.next,
        jobs=tuple(JobView.of(one) for one in page.jobs),
    )


async def _job(shared: Shared, query: JobQuery) -> JobView:
    return JobView.of(await shared.allocator.job(query.bounded_id))


async def _explain_job(shared: Shared, _query: Query, body: ExplainBody, _client: Client) -> JobExplanationView:
    return JobExplanationView.of(await shared.allocator.explain_job(body.job_id, _request(body)))


# --- reserving -------------------------------------------------------------------------------------------------------


async def _reserve(
    shared: Shared, _query: Query, body: ReserveBody | ReserveManyBody, client: Client
) -> ReservationView | AnswersView | Response:
    if isinstance(body, ReserveManyBody):
        return await _reserve_many(shared, body, client)
    return await _reserve_one(shared, body, body.job_id, body.attempt, client)


async def _reassign(shared: Shared, query: JobQuery, body: ReassignBody, client: Client) -> ReservationView | Response:
    return await _reserve_one(shared, body, query.bounded_id, body.after + 1, client)


async def _reserve_one(
    shared: Shared, body: ReserveBody | ReassignBody, job_id: str, attempt: int, client: Client
) -> ReservationView | Response:
    if not body.plan:
        _may_change(shared)
    elif body.wait_ms:
        raise BadBody("wait_ms: a plan does not wait")
    request = _request(body)
    owned: dict[str, Any] = {"owner": body.owner, "lease_ms": body.lease_ms, "attempt": attempt}
    try:
        if body.wait_ms:
            wait = partial(shared.allocator.wait_for_slot, job_id, request, timeout_s=body.wait_ms / 1000, **owned)
            reservation = await _while_there(shared, client, wait)
        else:
            reservation = await shared.allocator.reserve(job_id, request, dry_run=body.plan, **owned)
    except PyschedulerError as error:
        _note_reservations(shared, client, body.owner, [JobAsk(job_id, request, attempt)], [error], plan=body.plan)
        raise
    if reservation is None:
        # Nobody reads this answer.
        return Response(status_code=_CLIENT_GONE)
    _note_reservations(shared, client, body.owner, [JobAsk(job_id, request, attempt)], [reservation], plan=body.plan)
    return ReservationView.of(reservation, plan=body.plan)


async def _reserve_many(shared: Shared, body: ReserveManyBody, client: Client) -> AnswersView:
    if not body.plan:
        _may_change(shared)
    asks = [JobAsk(job.job_id, _request(job, f"jobs.{place}: "), job.attempt) for place, job in enumerate(body.jobs)]
    outcomes = await shared.allocator.reserve_many(asks, owner=body.owner, lease_ms=body.lease_ms, dry_run=body.plan)
    _note_reservations(shared, client, body.owner, asks, outcomes, plan=body.plan)
    if isinstance(first := outcomes[0], StoreError) and all(isinstance(one, StoreError) for one in outcomes):
        raise first
    return AnswersView(answers=tuple(_answer(ask, one, body.plan) for ask, one in zip(asks, outcomes, strict=True)))


def _answer(ask: JobAsk, outcome: Reservation | PyschedulerError, plan: bool) -> AnswerView:
    if isinstance(outcome, PyschedulerError):
        return AnswerView(job_id=ask.job_id, status=status_of(outcome), error=body_of(outcome))
    return AnswerView(job_id=ask.job_id, status=200, reservation=ReservationView.of(outcome, plan=plan))


async def _while_there(
    shared: Shared, client: Client, wait: Callable[[], Awaitable[Reservation]]
) -> Reservation | None:
    """What comes of a wait; ``None`` if the client has gone first."""
    if shared.job_waits >= MAX_WAITING_REQUESTS:
        raise LimitExceeded(f"{MAX_WAITING_REQUESTS} requests wait for a node here already")
    shared.job_waits += 1
    shared.metrics.job_waits.set(shared.job_waits)
    found = asyncio.ensure_future(wait())
    others = [asyncio.ensure_future(client.gone()), asyncio.ensure_future(shared.stopping.wait())]
    try:
        await asyncio.wait({found, *others}, return_when=asyncio.FIRST_COMPLETED)
        if found.done():
            return found.result()
        if others[0].done():
            return None
        raise RefusedRequest(503, "stopping", "this process is stopping", "ask another process, or this one again")
    finally:
        shared.job_waits -= 1
        shared.metrics.job_waits.set(shared.job_waits)
        await _end([found, *others])


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()


# --- what owners say -------------------------------------------------------------------------------------------------


async def _renew_job(shared: Shared, query: JobQuery, body: RenewBody, client: Client) -> JobStatusView:
    return await _update(shared, "renew", query, body, client, lease_ms=body.lease_ms)


async def _start_job(shared: Shared, query: JobQuery, body: RenewBody, client: Client) -> JobStatusView:
    return await _update(shared, "start", query, body, client, lease_ms=body.lease_ms)


async def _finish_job(shared: Shared, query: JobQuery, body: EndBody, client: Client) -> JobStatusView:
    return await _update(shared, "finish", query, body, client, reason=body.reason)


async def _fail_job(shared: Shared, query: JobQuery, body: EndBody, client: Client) -> JobStatusView:
    return await _update(shared, "fail", query, body, client, reason=body.reason)


async def _release_job(shared: Shared, query: JobQuery, body: EndBody, client: Client) -> JobStatusView:
    return await _update(shared, "release", query, body, client, reason=body.reason)


async def _update(
    shared: Shared, operation: str, query: JobQuery, body: RenewBody | EndBody, client: Client, **more: Any
) -> JobStatusView:
    _may_change(shared)
    said = getattr(shared.allocator, f"{operation}_job")
    try:
        status: JobStatus = await said(query.bounded_id, body.attempt, owner=body.owner, **more)
    except PyschedulerError as error:
        shared.metrics.job_updates.labels(operation, code_of(error)).inc()
        if isinstance(error, OutcomeUnknown):
            _log(
                shared, client, operation, body.owner, job_id=query.bounded_id, attempt=body.attempt, outcome="unknown"
            )
        raise
    shared.metrics.job_updates.labels(operation, "ok").inc()
    _log(
        shared,
        client,
        operation,
        body.owner,
        job_id=status.job_id,
        attempt=status.attempt,
        state=str(status.state),
        reason=more.get("reason") or None,
    )
    return JobStatusView.of(status)


# --- what all of them share ------------------------------------------------------------------------------------------


def _may_change(shared: Shared) -> None:
    if not shared.job_changes:
        raise RefusedRequest(
            403,
            "changes_off",
            "this door changes nothing",
            "start the process with --operator-changes on, if only those reach the door who may change jobs",
        )


def _request(body: RequestBody, where: str = "") -> JobRequest:
    try:
        return body.request()
    except InvalidInput as error:
        raise BadBody(f"{where}{error}") from None


def _note_reservations(
    shared: Shared,
    client: Client,
    owner: str,
    asks: Sequence[JobAsk],
    outcomes: Sequence[Reservation | PyschedulerError],
    *,
    plan: bool,
) -> None:
    """Counts what came of some requests for a node, and logs what was changed."""
    reserved, unknown = [], []
    for ask, outcome in zip(asks, outcomes, strict=True):
        if isinstance(outcome, PyschedulerError):
            shared.metrics.job_reservations.labels(code_of(outcome)).inc()
            if isinstance(outcome, NoNode):
                shared.metrics.count_refusal(outcome.reasons)
            if isinstance(outcome, OutcomeUnknown):
                unknown.append(ask.job_id)
            continue
        word = "planned" if plan else "reserved" if outcome.fresh else "repeated"
        shared.metrics.job_reservations.labels(word).inc()
        if word == "reserved":
            reserved.append(outcome)
    if len(reserved) == 1:
        one = reserved[0]
        fields = {"job_id": one.job_id, "attempt": one.attempt, "node_id": one.node_id, "pool": one.pool}
        _log(shared, client, "reserve", owner, **fields, slots=one.slots)
    elif reserved:
        nodes = Counter(one.node_id for one in reserved)
        names = [one.job_id for one in reserved[:_LOGGED_JOBS]]
        _log(shared, client, "reserve", owner, jobs=len(reserved), nodes=len(nodes), first=names)
    if unknown and not plan:
        _log(shared, client, "reserve", owner, jobs=len(unknown), first=unknown[:_LOGGED_JOBS], outcome="unknown")


def _log(shared: Shared, client: Client, operation: str, owner: str, **fields: object) -> None:
    shared.log.info("job_changed", operation=operation, owner=owner, peer=client.peer, **fields)


_LOOK: Final = dict.fromkeys((422, 502, 503), ErrorView)
_SAY: Final = dict.fromkeys((403, 404, 409, 413, 415, 422, 502, 503), ErrorView)
_ASK: Final = dict.fromkeys((403, 409, 413, 415, 422, 502, 503), ErrorView)

JOB_PATHS: Final = (
    Path("/api/v1/jobs", "A page of the jobs that are known", _list_jobs, JobsQuery, JobPageView, _LOOK),
    Path(
        "/api/v1/jobs/{job_id}",
        "All that is known of a job",
        _job,
        JobQuery,
        JobView,
        dict.fromkeys((404, 422, 502, 503), ErrorView),
    ),
    Path(
        "/api/v1/jobs/reserve",
        "Finds a node for a job and reserves slots of it, in one step; or for several jobs",
        _reserve,
        Query,
        (ReservationView, AnswersView),
        _ASK,
        {"": ReserveBody, "jobs": ReserveManyBody},
    ),
    Path(
        "/api/v1/jobs/explain",
        "Which node a job would get now, and what is against each node",
        _explain_job,
        Query,
        JobExplanationView,
        dict.fromkeys((403, 413, 415, 422, 502, 503), ErrorView),
        {"": ExplainBody},
    ),
    *(
        Path(f"/api/v1/jobs/{{job_id}}/{word}", summary, call, JobQuery, JobStatusView, _SAY, {"": body})
        for word, summary, call, body in (
            ("renew", "Renews the lease of a reservation", _renew_job, RenewBody),
            ("start", "Says that the job runs, and renews its lease", _start_job, RenewBody),
            ("finish", "Says that the job is done", _finish_job, EndBody),
            ("fail", "Says that the attempt failed", _fail_job, EndBody),
            ("release", "Gives the slots back", _release_job, EndBody),
        )
    ),
    Path(
        "/api/v1/jobs/{job_id}/reassign",
        "The next attempt of a job, which takes the place of the one before it",
        _reassign,
        JobQuery,
        ReservationView,
        _ASK,
        {"": ReassignBody},
    ),
)
