"""Jobs: selection of a node and reservation of its slots, as one step; and what follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from pyscheduler.allocator.events import Events
from pyscheduler.allocator.namespace import unexpected
from pyscheduler.allocator.reservations import JobUpdates, Reservations, reasons_of
from pyscheduler.core import ids
from pyscheduler.core.ids import shown
from pyscheduler.core.jobs import JobAsk, JobExplanation, JobRequest, JobStatus, NodeVerdict, Reservation
from pyscheduler.core.limits import MAX_ATTEMPT, MAX_EVENT_REASON_BYTES, MAX_JOBS_OF_A_CALL
from pyscheduler.core.results import Event
from pyscheduler.errors import InvalidInput, NoNode, PyschedulerError
from pyscheduler.scripts import calls
from pyscheduler.store import Store

_HELPFUL = frozenset(
    ("job.ended", "node.registered", "node.assigned", "node.status", "class.remapped", "pool.created", "config.bumped")
)
"""Events after which a node may be found where there was none."""


class Jobs(Events):
    """The calls that reserve slots of nodes."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._reservations = Reservations(self._run)
        self._job_updates = JobUpdates(self._run)

    async def aclose(self) -> None:
        """Closes the connection; calls that still wait end with StoreUnavailable."""
        await self._reservations.aclose()
        await self._job_updates.aclose()
        await super().aclose()

    async def reserve(
        self,
        job_id: str,
        request: JobRequest,
        *,
        owner: str,
        lease_ms: int,
        attempt: int = 1,
        dry_run: bool = False,
    ) -> Reservation:
        """Finds a node for a job and reserves slots of it, in one step with configuration and assignment.

        Asked again for the same attempt it gives the same answer. An attempt that is one more than the last takes that
        one's place, in the same step; the node of the last one is left out, unless it was given back. Calls that come
        together leave together.

        Args:
            job_id: 1..128 characters of ``A-Z a-z 0-9 . _ : -``.
            request: what the job needs.
            owner: who asks, and alone may speak for the attempt, 1..64 of the same characters.
            lease_ms: how long the reservation holds without a word from its owner, 1..86,400,000 ms.
            attempt: number of the attempt, 1..1,000,000.
            dry_run: say what would be reserved, and change nothing.

        Raises:
            NoNode: no node can take the job now; says why.
            StaleAttempt: a newer attempt is there.
            FutureAttempt: attempts between this one and the last are missing.
            NotOwner: another owner reserved under this attempt.
            RequestChanged: this attempt was made with another request.
            JobEnded: the job is finished, and has no further attempt.
            LimitExceeded: too many jobs.
            InvalidInput: an id or a number is out of its alphabet or bound; the message says what.
        """
        ids.job_id(job_id)
        call = calls.reserve_slots(
            mode="plan" if dry_run else "reserve",
            job_id=job_id,
            attempt=_attempt(attempt),
            owner=ids.owner(owner),
            lease_ms=lease_ms,
            digest=request.digest,
            **request.arguments(),
        )
        return await self._reservations.outcome(call)

    async def reassign(self, job_id: str, request: JobRequest, *, after: int, owner: str, lease_ms: int) -> Reservation:
        """The next attempt of a job whose attempt ``after`` has failed, or must be taken from its node.

        Args:
            job_id: as :meth:`reserve`, as ``request``, ``owner`` and ``lease_ms``.
            after: the attempt before it, 1..999,999.

        Raises: as :meth:`reserve`.
        """
        return await self.reserve(job_id, request, owner=owner, lease_ms=lease_ms, attempt=after + 1)

    async def reserve_many(
        self, asks: Sequence[JobAsk], *, owner: str, lease_ms: int, dry_run: bool = False
    ) -> list[Reservation | PyschedulerError]:
        """:meth:`reserve` for many jobs at once, in order: each has an answer of its own, or the error it would raise.

        Args:
            asks: at most 1,024.
            owner: as there.
            lease_ms: as there.
            dry_run: as there.

        Raises:
            InvalidInput: too many jobs.
        """
        if len(asks) > MAX_JOBS_OF_A_CALL:
            raise InvalidInput(f"{len(asks)} jobs: at most {MAX_JOBS_OF_A_CALL} are taken at once")
        outcomes = await asyncio.gather(
            *(
                self.reserve(
                    ask.job_id, ask.request, owner=owner, lease_ms=lease_ms, attempt=ask.attempt, dry_run=dry_run
                )
                for ask in asks
            ),
            return_exceptions=True,
        )
        found: list[Reservation | PyschedulerError] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, PyschedulerError):
                raise outcome
            found.append(outcome)
        return found

    async def renew_job(self, job_id: str, attempt: int, *, owner: str, lease_ms: int) -> JobStatus:
        """Renews the lease of a reservation.

        Args:
            job_id: the job.
            attempt: number of the attempt, 1..1,000,000.
            owner: who reserved it.
            lease_ms: how long it holds from now on without a word from its owner, 1..86,400,000 ms.

        Raises:
            NotFound: no such job.
            StaleAttempt, FutureAttempt: the job is at another attempt.
            NotOwner: somebody else reserved.
            JobEnded: the attempt has ended.
        """
        return await self._update("renew", job_id, attempt, owner, lease_ms, "")

    async def start_job(self, job_id: str, attempt: int, *, owner: str, lease_ms: int) -> JobStatus:
        """Says that the job runs, and renews its lease. Arguments and what is raised: as :meth:`renew_job`."""
        return await self._update("start", job_id, attempt, owner, lease_ms, "")

    async def finish_job(self, job_id: str, attempt: int, *, owner: str, reason: str = "") -> JobStatus:
        """Says that the job is done; its slots are free.

        Args:
            job_id: as :meth:`renew_job`, as ``attempt`` and ``owner``.
            reason: why, for the event; what is beyond 128 bytes is cut off.

        Raises: as :meth:`renew_job`.
        """
        return await self._update("finish", job_id, attempt, owner, 1, reason)

    async def fail_job(self, job_id: str, attempt: int, *, owner: str, reason: str = "") -> JobStatus:
        """Says that the attempt failed; its slots are free, and the next attempt goes elsewhere.

        Arguments and what is raised: as :meth:`finish_job`.
        """
        return await self._update("fail", job_id, attempt, owner, 1, reason)

    async def release_job(self, job_id: str, attempt: int, *, owner: str, reason: str = "") -> JobStatus:
        """Gives the slots back; the node was not at fault. Arguments and what is raised: as :meth:`finish_job`."""
        return await self._update("release", job_id, attempt, owner, 1, reason)

    async def _update(
        self, operation: str, job_id: str, attempt: int, owner: str, lease_ms: int, reason: str
    ) -> JobStatus:
        call = calls.update_jobs(
            operation=operation,
            job_id=ids.job_id(job_id),
            attempt=_attempt(attempt),
            owner=ids.owner(owner),
            lease_ms=lease_ms,
            reason=reason.encode("utf-8", "replace")[:MAX_EVENT_REASON_BYTES].decode("utf-8", "ignore"),
        )
        return await self._job_updates.outcome(call)

    async def explain_job(self, job_id: str, request: JobRequest) -> JobExplanation:
        """Which node a job would get now, and what is against each node, by the code that reserves. Changes nothing.

        Args:
            job_id: the job: where chance decides, its id does.
            request: what it needs.
        """
        reply = await self._reply(calls.explain_job(job_id=ids.job_id(job_id), **request.arguments()))
        if reply.status != "OK":
            raise unexpected(reply)
        version, node_id, pool = reply.integer(), reply.optional(), reply.optional()
        reasons, missing = reasons_of(reply.text()), tuple(reply.text().split())
        nodes = reply.many(lambda: NodeVerdict(reply.text(), reply.optional(), reply.text()))
        return JobExplanation(version, node_id, pool, reasons, missing, nodes)

    async def wait_for_slot(
        self,
        job_id: str,
        request: JobRequest,
        *,
        owner: str,
        lease_ms: int,
        timeout_s: float,
        attempt: int = 1,
        on_refusal: Callable[[NoNode], None] | None = None,
    ) -> Reservation:
        """:meth:`reserve`, which waits until there is a node: for an event after which there may be one.

        A caller that is cancelled leaves nothing behind but what a reservation that was under way holds until its lease
        ends.

        Args:
            job_id: as there.
            request: as there.
            owner: as there.
            lease_ms: as there.
            timeout_s: longest wait for an event, in seconds, above 0; a call that is under way then is not cut off.
            attempt: as there.
            on_refusal: is told each time that there is none, with the reasons.

        Raises:
            NoNode: there was none in all that time, and nothing has been reserved; the latest reasons.
            Further ones as :meth:`reserve` and :meth:`follow`.
        """
        if not timeout_s > 0:
            raise InvalidInput(f"timeout_s must be above 0, not {shown(timeout_s)}")
        end = asyncio.get_running_loop().time() + timeout_s
        seen = await self.newest_event_id()
        follower = self.follow(since=seen)
        try:
            while True:
                try:
                    # The time-out does not cut this off: nobody would know of what it has reserved.
                    return await self.reserve(job_id, request, owner=owner, lease_ms=lease_ms, attempt=attempt)
                except NoNode as error:
                    refused = error
                    if on_refusal is not None:
                        on_refusal(error)
                # What happened before the attempt began cannot help any more.
                if not await _helps(follower, seen, end):
                    raise refused
                seen = await self.newest_event_id()
        finally:
            await follower.aclose()  # type: ignore[attr-defined]  # it is a generator


async def _helps(follower: AsyncIterator[Event], seen: str, end: float) -> bool:
    """Waits for an event later than ``seen`` after which there may be a node; whether it comes before ``end``."""
    try:
        async with asyncio.timeout_at(end):
            async for event in follower:
                if asyncio.get_running_loop().time() >= end:
                    return False
                if event.type in _HELPFUL and _order(event.id) > _order(seen):
                    return True
    except TimeoutError:
        pass
    return False


def _order(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


def _attempt(value: int) -> int:
    if type(value) is not int or not 1 <= value <= MAX_ATTEMPT:
        raise InvalidInput(f"attempt must be a whole number from 1 to {MAX_ATTEMPT}, not {shown(value)}")
    return value
