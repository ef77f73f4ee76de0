"""Steps of jobs in a random history: what is reserved, refused and ended is what the rules say."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from pyscheduler.core.jobs import JobRequest, JobState
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
from tests.histories.expected import facts_of_node, now_of, pool_of
from tests.histories.vocabulary import LANGUAGES
from tests.histories.watched import Watched
from tests.oracle import Job, slots_of

JOBS = ("j1", "j2", "j3", "j4", "j5")
CALLERS = ("me", "you")
SLOTS_PER_NODE = 4
LETTERS = {"finish": "f", "fail": "x", "release": "c"}


class JobSteps(Watched):
    """What owners of jobs do."""

    def able(self, request: JobRequest, old: Job | None) -> set[str]:
        """Nodes that can take the job now."""
        return {
            node
            for node in self.state.ready
            if request.src in facts_of_node(self.state, node).get("asr", ())
            and request.tgt in facts_of_node(self.state, node).get("semantic", ())
            and pool_of(self.state, node)
            and self.state.leases[node] > now_of(self.state)
            and slots_of(self.state, node) + request.slots <= SLOTS_PER_NODE
            and not (old and old.state != "c" and old.node == node)
        }

    def expected_refusal(self, job_id: str, attempt: int, caller: str) -> type[PyschedulerError] | None:
        """Of a caller who speaks for an attempt that is there."""
        old = self.state.jobs.get(job_id)
        if old is None:
            return NotFound
        if attempt != old.attempt:
            return StaleAttempt if attempt < old.attempt else FutureAttempt
        return None if caller == old.owner else NotOwner

    @rule(
        job_id=st.sampled_from(JOBS),
        src=st.sampled_from(LANGUAGES),
        tgt=st.sampled_from(LANGUAGES),
        slots=st.sampled_from([1, 1, 3]),
        ahead=st.sampled_from([-1, 0, 1, 1, 2]),
        caller=st.sampled_from(CALLERS),
        lease_ms=st.sampled_from([1_000, 10_000_000]),
    )
    def reserve(self, job_id: str, src: str, tgt: str, slots: int, ahead: int, caller: str, lease_ms: int) -> None:
        request = JobRequest(src, tgt, slots=slots, tenant="acme" if slots > 1 else "")
        old = self.state.jobs.get(job_id)
        attempt = max(old.attempt + ahead, 1) if old else 1
        refusal = self.expected_refusal(job_id, attempt, caller)
        if old and attempt == old.attempt + 1:
            refusal = JobEnded if old.state == "f" else None
        elif refusal is None and old and old.digest != request.digest:
            refusal = RequestChanged
        able = self.able(request, old if old and attempt > old.attempt else None)
        is_new = old is None or attempt == old.attempt + 1
        if refusal in (None, NotFound) and is_new and not able:
            refusal = NoNode
        call = self.allocator.reserve(job_id, request, owner=caller, lease_ms=lease_ms, attempt=attempt)
        if refusal not in (None, NotFound):
            with pytest.raises(refusal):
                self.run(call)
            self.step(changes=False)
            return
        found = self.run(call)
        self.step(changes=is_new)
        assert found.fresh is is_new
        job = self.state.jobs[job_id]
        assert (job.node, job.attempt, job.slots, job.pool) == (found.node_id, attempt, slots, found.pool)
        if is_new:
            assert found.node_id in able
            assert found.version == int(self.state.config["version"])
            assert found.pool == pool_of(self.state, found.node_id)
            assert self.state.due[job_id] == now_of(self.state) + lease_ms
            assert found.epoch == int(self.state.sessions[found.node_id].split(":")[0])

    @rule(
        job_id=st.sampled_from(JOBS),
        operation=st.sampled_from(["renew", "start", "finish", "fail", "release"]),
        ahead=st.sampled_from([-1, 0, 0, 0, 1]),
        caller=st.sampled_from(CALLERS),
    )
    def speak_of_a_job(self, job_id: str, operation: str, ahead: int, caller: str) -> None:
        old = self.state.jobs.get(job_id)
        attempt = max((old.attempt if old else 1) + ahead, 1)
        refusal = self.expected_refusal(job_id, attempt, caller)
        if refusal is None and old and not old.is_live and LETTERS.get(operation) != old.state:
            refusal = JobEnded
        lease = {"lease_ms": 20_000} if operation in ("renew", "start") else {}
        call = getattr(self.allocator, f"{operation}_job")(job_id, attempt, owner=caller, **lease)
        if refusal is not None:
            with pytest.raises(refusal):
                self.run(call)
            self.step(changes=False)
            return
        assert old is not None
        status = self.run(call)
        self.step(changes=old.is_live)
        if operation in ("renew", "start"):
            assert self.state.due[job_id] == now_of(self.state) + 20_000
        job = self.state.jobs[job_id]
        assert status.state is JobState.RUNNING if operation == "start" else True
        assert job.state == LETTERS.get(operation, "r" if operation == "start" else old.state)
        assert job.is_live is (operation in ("renew", "start"))
