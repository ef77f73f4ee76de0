"""Steps of jobs in a random history: what is reserved, refused and ended is what the rules say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pyscheduler.core.jobs import JobAsk, JobRequest, JobState, JobStatus, Reservation
from pyscheduler.core.results import ReconcileReport
from pyscheduler.errors import (
    FutureAttempt,
    JobEnded,
    NoNode,
    NotFound,
    NotOwner,
    PyschedulerError,
    RequestChanged,
    StaleAttempt,
)
from tests.histories.expected import epoch_of, now_of, pool_of
from tests.histories.expected_jobs import KEPT_MS, able, choices, ends, forgotten, over_quota, reasons, selection_of
from tests.histories.vocabulary import requests
from tests.histories.watched import Watched
from tests.oracle import Job, State, slots_of

JOBS = ("j1", "j2", "j3", "j4", "j5")
CALLERS = ("me", "you")
OPERATIONS = ("renew", "start", "finish", "fail", "release")
LETTERS = {"finish": "f", "fail": "x", "release": "c"}
LONG_MS = 10_000_000
leases = st.sampled_from([1_000, LONG_MS])


class JobSteps(Watched):
    """What owners of jobs do, and what becomes of reservations."""

    def expected_refusal(self, job_id: str, attempt: int, caller: str) -> type[PyschedulerError] | None:
        """Of a caller who speaks for an attempt that is there."""
        old = self.state.jobs.get(job_id)
        if old is None:
            return NotFound
        if attempt != old.attempt:
            return StaleAttempt if attempt < old.attempt else FutureAttempt
        return None if caller == old.owner else NotOwner

    def _reserve(self, job_id: str, request: JobRequest, attempt: int, caller: str, lease_ms: int) -> None:
        old = self.state.jobs.get(job_id)
        is_new = old is None or attempt == old.attempt + 1
        options: dict[str, Any] = {"owner": caller, "lease_ms": lease_ms, "attempt": attempt}
        refusal = None if old is None else self.expected_refusal(job_id, attempt, caller)
        left: set[str] = set()
        if is_new:
            is_over = bool(old and old.state == "f")
            left = choices(self.state, request, old)
            refusal = JobEnded if is_over else None if left else NoNode
            if not is_over:
                self._look_at_a_plan(job_id, request, left, old, options)
        elif refusal is None and old and old.digest != request.digest:
            refusal = RequestChanged
        call = self.allocator.reserve(job_id, request, **options)
        if refusal is not None:
            with pytest.raises(refusal):
                self.run(call)
            self.step(changes=False)
            return
        found = self.run(call)
        self.step(changes=is_new, jobs=(job_id,))
        assert found.fresh is is_new
        job = self.state.jobs[job_id]
        assert (job.node, job.attempt, job.slots, job.pool) == (found.node_id, attempt, request.slots, found.pool)
        if is_new:
            assert found.node_id in left
            self._is_reserved(found, request, lease_ms)
            if selection_of(self.state)["strategy"] == "affinity" and request.session:
                assert self.state.affinities[request.session] == found.node_id

    def _look_at_a_plan(
        self, job_id: str, request: JobRequest, left: set[str], old: Job | None, options: dict[str, Any]
    ) -> None:
        """What would be reserved, and what is against the others, is said and changes nothing."""
        try:
            planned: Reservation | NoNode = self.run(self.allocator.reserve(job_id, request, dry_run=True, **options))
        except NoNode as refused:
            planned = refused
        explained = self.run(self.allocator.explain_job(job_id, request))
        self.step(changes=False)
        if isinstance(planned, Reservation):
            assert planned.node_id in left
        else:
            assert not left
            assert planned.reasons == reasons(self.state, request, old)
        if old is None:
            assert explained.node_id == (planned.node_id if isinstance(planned, Reservation) else None)
            if over_quota(self.state, request, None):
                assert explained.reasons == {"quota": 1}
            else:
                assert {node.node_id for node in explained.nodes} == set(self.state.members)
                fit = {node.node_id for node in explained.nodes if not node.reason}
                assert fit == able(self.state, request, None)

    def _is_reserved(self, found: Reservation, request: JobRequest, lease_ms: int) -> None:
        state, job = self.state, self.state.jobs[found.job_id]
        assert found.version == int(state.config["version"]) == job.version
        assert found.pool == pool_of(state, found.node_id)
        assert state.due[found.job_id] == now_of(state) + lease_ms == found.lease_end_ms
        assert found.epoch == epoch_of(state, found.node_id) == job.epoch
        assert (job.tenant, job.session, job.state) == (request.tenant, request.session, "v")
        if selection_of(state)["strategy"] == "affinity" and request.session:
            # Of a call for several jobs the latest decides.
            assert state.affinities[request.session] in self.state.reserved
            assert state.due[f"@{request.session}"] == now_of(state) + KEPT_MS

    @rule(
        job_id=st.sampled_from(JOBS),
        request=requests,
        ahead=st.sampled_from([-1, 0, 1, 1, 2]),
        caller=st.sampled_from(CALLERS),
        lease_ms=leases,
    )
    def reserve(self, job_id: str, request: JobRequest, ahead: int, caller: str, lease_ms: int) -> None:
        old = self.state.jobs.get(job_id)
        self._reserve(job_id, request, max(old.attempt + ahead, 1) if old else 1, caller, lease_ms)

    @precondition(lambda self: selection_of(self.state)["strategy"] == "affinity")
    @rule(lease_ms=leases)
    def talk_on(self, lease_ms: int) -> None:
        """A session asks, and asks again: it stays where it is, though that is not the least loaded node any more."""
        for job_id in [name for name in JOBS if name not in self.state.jobs][:2]:
            self._reserve(job_id, JobRequest("en", "en", session="talk"), 1, "me", lease_ms)

    @rule(request=requests, lease_ms=leases)
    def reserve_in_one_call(self, request: JobRequest, lease_ms: int) -> None:
        """For all jobs that have nothing: one takes what the next one cannot have."""
        jobs = self.state.jobs
        idle = [job_id for job_id in JOBS if job_id not in jobs or jobs[job_id].state in "xcel"]
        asks = [JobAsk(job_id, request, jobs[job_id].attempt + 1 if job_id in jobs else 1) for job_id in idle]
        before = self.state
        found = self.run(self.allocator.reserve_many(asks, owner="me", lease_ms=lease_ms))
        self.step(jobs=idle)
        if request.tenant and any(isinstance(one, Reservation) for one in found):
            bound = int(self.state.tenant_rules[""].split()[0])
            assert not bound or self.state.tenants[request.tenant] <= bound
        took = {one.node_id for one in found if isinstance(one, Reservation)}
        assert all(slots_of(self.state, node) <= selection_of(self.state)["slots_per_node"] for node in took)
        for ask, one in zip(asks, found, strict=True):
            old = before.jobs.get(ask.job_id)
            if isinstance(one, Reservation):
                assert one.node_id in able(before, request, old)
                self._is_reserved(one, request, lease_ms)
            else:
                assert isinstance(one, NoNode)
                # The others have taken nothing back since.
                assert over_quota(self.state, request, None) or not able(self.state, request, old)

    @rule(job_id=st.sampled_from(JOBS), request=requests)
    def two_attempts_in_one_call(self, job_id: str, request: JobRequest) -> None:
        old = self.state.jobs.get(job_id)
        first = old.attempt + 1 if old else 1
        asks = [JobAsk(job_id, request, attempt) for attempt in (first, first + 1)]
        found = self.run(self.allocator.reserve_many(asks, owner="me", lease_ms=LONG_MS))
        self.step(jobs=(job_id,))
        made = [one.attempt for one in found if isinstance(one, Reservation)]
        assert made == list(range(first, first + len(made)))
        assert not made or self.state.jobs[job_id].attempt == made[-1]

    @rule(
        job_id=st.sampled_from(JOBS),
        operation=st.sampled_from(OPERATIONS),
        ahead=st.sampled_from([-1, 0, 0, 0, 1]),
        caller=st.sampled_from(CALLERS),
    )
    def speak_of_a_job(self, job_id: str, operation: str, ahead: int, caller: str) -> None:
        old = self.state.jobs.get(job_id)
        self._speak(job_id, operation, max((old.attempt if old else 1) + ahead, 1), caller)

    @precondition(lambda self: self.state.reserved)
    @rule(data=st.data(), operation=st.sampled_from(OPERATIONS))
    def owner_speaks(self, data: st.DataObject, operation: str) -> None:
        live = sorted(name for name, job in self.state.jobs.items() if job.is_live)
        job_id = data.draw(st.sampled_from(live))
        self._speak(job_id, operation, self.state.jobs[job_id].attempt, self.state.jobs[job_id].owner)

    @precondition(lambda self: self.state.jobs)
    @rule(request=requests)
    def those_speak_who_may_not(self, request: JobRequest) -> None:
        """Of every job: strangers, late attempts and attempts to come, whatever they say and ask."""
        for job_id, job in self.state.jobs.items():
            (stranger,) = set(CALLERS) - {job.owner}
            others = {(job.attempt, stranger): NotOwner, (job.attempt + 1, job.owner): FutureAttempt}
            if job.attempt > 1:
                others[job.attempt - 1, job.owner] = StaleAttempt
            for (attempt, caller), refusal in others.items():
                for operation in OPERATIONS:
                    with pytest.raises(refusal):
                        self.run(self._said(job_id, operation, attempt, caller))
                if refusal is not FutureAttempt:
                    self._reserve(job_id, request, attempt, caller, LONG_MS)
            self._reserve(job_id, request, job.attempt + 2, job.owner, LONG_MS)
            self._reserve(job_id, request, job.attempt, job.owner, LONG_MS)
            if job.state == LETTERS["finish"]:
                self._reserve(job_id, request, job.attempt + 1, job.owner, LONG_MS)
            if not job.is_live:
                for operation in OPERATIONS:
                    if LETTERS.get(operation) != job.state:
                        with pytest.raises(JobEnded):
                            self.run(self._said(job_id, operation, job.attempt, job.owner))
        self.step(changes=False)

    def _said(self, job_id: str, operation: str, attempt: int, caller: str) -> Coroutine[Any, Any, JobStatus]:
        lease = {"lease_ms": 20_000} if operation in ("renew", "start") else {}
        call: Callable[..., Coroutine[Any, Any, JobStatus]] = getattr(self.allocator, f"{operation}_job")
        return call(job_id, attempt, owner=caller, **lease)

    def _speak(self, job_id: str, operation: str, attempt: int, caller: str) -> None:
        old = self.state.jobs.get(job_id)
        refusal = self.expected_refusal(job_id, attempt, caller)
        if refusal is None and old and not old.is_live and LETTERS.get(operation) != old.state:
            refusal = JobEnded
        call = self._said(job_id, operation, attempt, caller)
        if refusal is not None:
            with pytest.raises(refusal):
                self.run(call)
            self.step(changes=False)
            return
        assert old is not None
        before = self.state
        status = self.run(call)
        self.step(changes=old.is_live, jobs=(job_id,))
        new = self.state.events[len(before.events) :]
        assert [event["type"] for event in new] == self._expected_events(old, operation)
        job = self.state.jobs[job_id]
        assert status.state is JobState.RUNNING if operation == "start" else True
        assert job.state == LETTERS.get(operation, "r" if operation == "start" else old.state)
        assert job.is_live is (operation in ("renew", "start"))
        kept_ms = 20_000 if job.is_live else KEPT_MS
        assert self.state.due[job_id] == (now_of(self.state) + kept_ms if old.is_live else before.due[job_id])
        assert status.lease_end_ms == self.state.due[job_id]

    def _expected_events(self, old: Job, operation: str) -> list[str]:
        if operation in LETTERS:
            return ["job.ended"] if old.is_live else []
        return ["job.started"] if operation == "start" and old.state == "v" else []

    @precondition(lambda self: self.state.reserved)
    @rule(data=st.data())
    def all_ends_in_one_call(self, data: st.DataObject) -> None:
        """Of one job; the first to arrive says how."""
        job_id = data.draw(st.sampled_from(sorted(name for name, job in self.state.jobs.items() if job.is_live)))
        job = self.state.jobs[job_id]
        operations = data.draw(st.permutations(sorted(LETTERS)))

        async def end() -> list[JobStatus | BaseException]:
            calls = (self._said(job_id, one, job.attempt, job.owner) for one in operations)
            return await asyncio.gather(*calls, return_exceptions=True)

        first, *others = self.run(end())
        self.step(jobs=(job_id,))
        assert self.state.jobs[job_id].state == LETTERS[operations[0]]
        assert not isinstance(first, Exception)
        assert all(isinstance(one, JobEnded) for one in others)

    def _is_marked(self, node_id: str) -> None:
        """Upkeep will ask the document what becomes of a node's reservations."""
        if node_id in self.state.reserved:
            assert self.state.due[f"!{node_id}"] == now_of(self.state)

    def _reservations_ended(self, before: State, report: ReconcileReport) -> None:
        """What a step of upkeep does with reservations."""
        after = self.state
        ended = {} if report.suspended_ms else ends(before, after)
        gone = set() if report.suspended_ms else forgotten(before)
        assert report.ended_jobs == len(ended)
        for job_id, job in before.jobs.items():
            if job_id in gone:
                assert job_id not in after.jobs
            elif job_id in ended:
                assert (after.jobs[job_id].state, after.jobs[job_id].reason) in ended[job_id]
                assert after.due[job_id] == now_of(before) + KEPT_MS
            else:
                assert (after.jobs[job_id], after.due[job_id]) == (job, before.due[job_id])
        assert set(before.due) - set(after.due) == gone
        assert {f"@{session}" for session in before.affinities.keys() - after.affinities.keys()} == {
            name for name in gone if name.startswith("@")
        }
