"""Read-only views of jobs: which there are, and what is known of one. Each is one look."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyscheduler.allocator.namespace import Namespace
from pyscheduler.allocator.replies import Reply
from pyscheduler.allocator.reservations import no_job
from pyscheduler.core import ids
from pyscheduler.core.ids import shown
from pyscheduler.core.jobs import Job, JobPage, JobState, StateFilter
from pyscheduler.core.limits import MAX_JOB_PAGE
from pyscheduler.errors import InvalidInput
from pyscheduler.scripts import calls

_PLACE = re.compile(r"([0-9]{1,15}):([@!]?[A-Za-z0-9._:-]{1,128})")
_STATES = ("live", *JobState)


class JobReading(Namespace):
    """The calls that look at jobs."""

    async def jobs(
        self,
        *,
        limit: int = MAX_JOB_PAGE,
        after: str | None = None,
        node: str | None = None,
        pool: str | None = None,
        tenant: str | None = None,
        owner: str | None = None,
        state: StateFilter | None = None,
    ) -> JobPage:
        """A page of the jobs that are known, each page in one look.

        They come in the order in which something is due for them: live ones when their lease ends, ended ones when they
        are forgotten. One that is renewed between two pages may come twice. At most 1,000 are looked at for one page,
        so one with conditions may hold few jobs, or none, and yet have a next one; the live jobs of one node are found
        at once.

        Args:
            limit: jobs at most, 1..1000.
            after: ``next`` of the page before.
            node: only jobs of this node.
            pool: only jobs whose node was chosen in this pool.
            tenant: only jobs of this tenant.
            owner: only jobs of this owner.
            state: only jobs in this state; ``live`` for those that hold slots.

        Raises:
            InvalidInput: something is out of its alphabet or bound; the message says what.
        """
        if type(limit) is not int or not 1 <= limit <= MAX_JOB_PAGE:
            raise InvalidInput(f"limit must be 1 to {MAX_JOB_PAGE}")
        place = _PLACE.fullmatch(after) if after is not None else None
        if after is not None and place is None:
            raise InvalidInput(f"{shown(after)} is no place in a list of jobs: give the 'next' of the page before")
        if state is not None and state not in _STATES:
            raise InvalidInput(f"{shown(state)} is no state of a job: it must be one of {', '.join(_STATES)}")
        call = calls.list_jobs(
            after_ms=int(place[1]) if place else 0,
            after=place[2] if place else "",
            limit=limit,
            node="" if node is None else ids.node_id(node),
            pool="" if pool is None else ids.pool_name(pool),
            tenant="" if tenant is None else ids.tenant(tenant),
            owner="" if owner is None else ids.owner(owner),
            state=state or "",
            ids=(),
        )
        return _page(await self._reply(call))

    async def job(self, job_id: str) -> Job:
        """All that is known of a job.

        Raises:
            NotFound: no such job.
            InvalidInput: the id is none.
        """
        found = await self.describe_jobs([job_id])
        if not found:
            raise no_job(job_id)
        return found[0]

    async def describe_jobs(self, job_ids: Sequence[str]) -> list[Job]:
        """The named jobs, at most 1,000, in one look; those that the store does not know are left out.

        Raises:
            InvalidInput: too many, or an id that is none.
        """
        if len(job_ids) > MAX_JOB_PAGE:
            raise InvalidInput(f"at most {MAX_JOB_PAGE} jobs can be described at once")
        if not job_ids:
            return []
        call = calls.list_jobs(
            after_ms=0,
            after="",
            limit=MAX_JOB_PAGE,
            node="",
            pool="",
            tenant="",
            owner="",
            state="",
            ids=[ids.job_id(job_id) for job_id in job_ids],
        )
        return list(_page(await self._reply(call)).jobs)


def _page(reply: Reply) -> JobPage:
    version, now_ms, total = reply.integer(), reply.integer(), reply.integer()
    next_ms, next_name = reply.integer(), reply.text()
    found = reply.many(lambda: _job(reply, now_ms))
    return JobPage(version, total, found, f"{next_ms}:{next_name}" if next_name else None)


def _job(reply: Reply, now_ms: int) -> Job:
    job_id, lease_end_ms = reply.text(), reply.integer()
    attempt, state, node_id, epoch = reply.integer(), JobState(reply.text()), reply.text(), reply.integer()
    pool, version, slots, tenant = reply.text(), reply.integer(), reply.integer(), reply.optional()
    return Job(
        job_id=job_id,
        attempt=attempt,
        state=state,
        node_id=node_id,
        epoch=epoch,
        pool=pool,
        version=version,
        slots=slots,
        tenant=tenant,
        owner=reply.text(),
        session=reply.optional(),
        lease_end_ms=lease_end_ms,
        lease_ms=lease_end_ms - now_ms,
        reason=reply.optional(),
    )
