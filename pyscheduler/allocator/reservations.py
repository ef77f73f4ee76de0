"""Reservations, and updates of them, that come together leave in one call of their script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyscheduler.allocator.coalescing import Coalescer, Result
from pyscheduler.allocator.namespace import unexpected
from pyscheduler.allocator.replies import Reply
from pyscheduler.core.jobs import JobState, JobStatus, Reservation
from pyscheduler.core.limits import MAX_JOB_BATCH, MAX_WAITING_JOBS
from pyscheduler.errors import (
    FutureAttempt,
    JobEnded,
    LimitExceeded,
    NoNode,
    NotFound,
    NotOwner,
    PyschedulerError,
    RequestChanged,
    StaleAttempt,
)
from pyscheduler.scripts.calls import Call


class _OfJobs(Coalescer[Call, Result]):
    """Calls for one job each; the job's id is their second argument."""

    max_batch = MAX_JOB_BATCH
    max_waiting = MAX_WAITING_JOBS

    def joins(self, batch: Sequence[Call], item: Call) -> bool:
        return True

    async def send(self, batch: Sequence[Call]) -> list[Result | PyschedulerError]:
        reply = Reply(await self._run(Call.joined(batch)))
        outcomes = []
        for call in batch:
            outcomes.append(self.outcome_of(call, reply))
            reply.next_row()
        return outcomes

    def outcome_of(self, call: Call, reply: Reply) -> Result | PyschedulerError:
        raise NotImplementedError


class Reservations(_OfJobs[Reservation]):
    """Calls of ``reserve_slots``."""

    what: ClassVar[str] = "reservations"

    def outcome_of(self, call: Call, reply: Reply) -> Reservation | PyschedulerError:
        job_id = call.argv[1]
        match reply.status:
            case "OK":
                fresh, attempt, state = reply.text() == "1", reply.integer(), JobState(reply.text())
                node_id, epoch, pool = reply.text(), reply.integer(), reply.text()
                version, slots, lease_end_ms = reply.integer(), reply.integer(), reply.integer()
                return Reservation(job_id, attempt, state, node_id, epoch, pool, version, slots, lease_end_ms, fresh)
            case "NONE":
                version = reply.integer()
                return NoNode(job_id, reasons_of(reply.text()), reply.text().split(), version)
            case "CHANGED":
                return RequestChanged(job_id, reply.integer())
            case "JOBS_FULL":
                return LimitExceeded(f"{reply.text()} jobs are remembered already")
        return _refusal(job_id, reply)


class JobUpdates(_OfJobs[JobStatus]):
    """Calls of ``update_jobs``."""

    what: ClassVar[str] = "updates of jobs"

    def outcome_of(self, call: Call, reply: Reply) -> JobStatus | PyschedulerError:
        job_id = call.argv[1]
        match reply.status:
            case "OK":
                return JobStatus(job_id, int(call.argv[2]), JobState(reply.text()), reply.integer())
            case "UNKNOWN":
                return no_job(job_id)
        return _refusal(job_id, reply)


def _refusal(job_id: str, reply: Reply) -> PyschedulerError:
    match reply.status:
        case "STALE":
            return StaleAttempt(job_id, reply.integer(), reply.text())
        case "FUTURE":
            return FutureAttempt(job_id, reply.integer())
        case "OWNER":
            return NotOwner(job_id, reply.text())
        case "ENDED":
            return JobEnded(job_id, reply.text(), reply.text())
    return unexpected(reply)


def no_job(job_id: str) -> NotFound:
    """That nothing is known of a job."""
    return NotFound(f"no job {job_id}: it was never reserved, or has been forgotten: see 'pyscheduler job list'")


def reasons_of(text: str) -> dict[str, int]:
    """``name count``, joined with spaces."""
    words = text.split()
    return {name: int(count) for name, count in zip(words[::2], words[1::2], strict=True)}
