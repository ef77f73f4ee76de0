"""A stream of jobs beside a simulated fleet: each gets a node at the operator door, runs there, and ends."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from pyscheduler.simulate.job_options import MAX_JOBS_UNDER_WAY, JobOptions
from pyscheduler.simulate.job_plan import JobPlan, PlannedJob
from pyscheduler.simulate.job_summary import JobsSummary
from pyscheduler.simulate.job_tally import JobTally, nearest
from pyscheduler.simulate.operator_client import Answer, OperatorClient
from pyscheduler.simulate.options import FleetOptions
from pyscheduler.simulate.pools import PoolsLook
from pyscheduler.simulate.slots import SlotRules
from pyscheduler.simulate.workplace import Workplace

MAX_ATTEMPTS = 2
"""Attempts of a job: where the first fails, lapses or is lost, another node gets it."""

PATIENCE_S = 30.0
"""With no answer about any job after this long, there is no door to ask."""

# As many as the door takes in one request.
_BATCH = 128
_REQUESTS_FOR_NODES = 4
_REMEMBERED_SESSIONS = 1_000
_LOOK_AT_DOCUMENT_S = 5.0
_END_TIMEOUT_S = 10.0
_ROUNDS_AT_END = 3
_PAGE = 1_000
_END_REASON = "simulation ended"


class RunningJob(Struct):
    """A job that is under way.

    Attributes:
        arrived_s: when it came, event loop time.
        attempt: the one that it is at.
        node_id: where that attempt is; ``None`` before it has a node.
        state: reserved or running; ``None`` before it has a node.
    """

    plan: PlannedJob
    job_id: str
    arrived_s: float
    attempt: int = 1
    node_id: str | None = None
    state: str | None = None

    def request(self) -> dict[str, object]:
        """What it asks for, as the door takes it."""
        wanted: dict[str, object] = {"src": self.plan.src, "tgt": self.plan.tgt}
        if self.plan.tenant:
            wanted["tenant"] = self.plan.tenant
        if self.plan.session:
            wanted["session"] = self.plan.session
        return wanted


class JobStream:
    """The jobs of one simulation. Make it inside a running event loop.

    What it reserves is its own: its owner and its ids have a random part, so that nobody else's jobs are touched.

    Args:
        fleet: the nodes that it is for.
        options: the stream.
        workplace: where the jobs are; the nodes look there how busy they are.

    Attributes:
        under_way: jobs that have come and have not ended.
        stopped: why no more jobs come: the door refuses them all; empty while they come.
    """

    def __init__(self, fleet: FleetOptions, options: JobOptions, workplace: Workplace) -> None:
        self.options = options
        self.tally = JobTally()
        self.under_way: dict[str, RunningJob] = {}
        self.stopped = ""
        self.owner = f"simulate-{secrets.token_hex(6)}"
        self._plan = JobPlan(fleet, options)
        self._workplace = workplace
        self._door = OperatorClient(options.doors)
        self._waiting: deque[RunningJob] = deque()
        self._somebody_waits = asyncio.Event()
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_s: float | None = None
        self._ended_s: float | None = None
        self._session_nodes: OrderedDict[str, str] = OrderedDict()

    @property
    def started(self) -> bool:
        """Whether jobs have begun to come."""
        return self._started_s is not None

    @property
    def elapsed_s(self) -> float:
        """For how long they have been coming, or had been when the end came."""
        if self._started_s is None:
            return 0.0
        return (self._ended_s or asyncio.get_running_loop().time()) - self._started_s

    def start(self) -> None:
        """Let jobs come."""
        self._started_s = asyncio.get_running_loop().time()
        self._tasks.update(asyncio.create_task(self._ask_for_nodes()) for _ in range(_REQUESTS_FOR_NODES))
        self._tasks.add(asyncio.create_task(self._look_at_document()))
        self._tasks.add(asyncio.create_task(self._arrive()))

    def raise_fault(self) -> None:
        """Raise what a task of the stream ended with, if it met a fault of the simulator itself."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            if not task.cancelled():
                task.result()

    async def end(self) -> None:
        """Let no more jobs come, give back what is reserved, and see that nothing is left.

        Takes about ten seconds at most if the door answers; else what is left lapses with its leases.
        """
        if not self.started:
            self.tally.left = 0
            return
        self._ended_s = asyncio.get_running_loop().time()
        self._ending.set()
        self._somebody_waits.set()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                # A request for nodes that is under way may yet begin a job.
                while running := [task for task in self._tasks if not task.done()]:
                    await asyncio.wait(running)
        except TimeoutError:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        self.tally.unasked = len(self._waiting)
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                self.tally.left = await self._sweep()
        except TimeoutError:
            self.tally.left = None
        self._door.close()

    def summary(self, pools: PoolsLook) -> JobsSummary:
        """How it ended. ``pools``: as they were before the end."""
        return JobsSummary(self.options, self.owner, self.elapsed_s, self.tally, pools, self.stopped)

    # --- coming ------------------------------------------------------------------------------------------------------

    async def _arrive(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for planned in self._plan.jobs():
            due_s += planned.wait_s
            if await self._pause(due_s - loop.time()) or self.stopped:
                return
            self.tally.arrived += 1
            self.tally.odd += planned.odd
            if len(self.under_way) >= MAX_JOBS_UNDER_WAY:
                self.tally.skipped += 1
                continue
            job = RunningJob(planned, f"{self.owner}-{planned.number}", due_s)
            self.under_way[job.job_id] = job
            self._waiting.append(job)
            self._somebody_waits.set()

    async def _ask_for_nodes(self) -> None:
        while True:
            await self._somebody_waits.wait()
            if self._ending.is_set() or self.stopped:
                return
            # What has come while a request was under way goes with the next one.
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if not self._waiting:
                self._somebody_waits.clear()
            if batch:
                await self._reserve(batch)

    async def _reserve(self, batch: list[RunningJob]) -> None:
        wanted = [{"job_id": job.job_id, **job.request()} for job in batch]
        answer = await self._door.post("/api/v1/jobs/reserve", {"jobs": wanted, **self._owned})
        if answer.status == 200:
            for job, one in zip(batch, _answers(answer, len(batch)), strict=True):
                if self._has_node(job, one):
                    self._begin(job)
        elif answer.code == "changes_off":
            self._stop(f"{answer.message}: {answer.document.get('next', answer.code)}")
        elif not self.tally.answered and self.elapsed_s > PATIENCE_S:
            self._stop(f"no answer from an operator door: {answer.message}")
        for job in batch:
            if job.state is None:
                if answer.status != 200:
                    self._error(answer)
                self.under_way.pop(job.job_id, None)

    def _stop(self, why: str) -> None:
        self.stopped = why
        self._somebody_waits.set()

    def _has_node(self, job: RunningJob, answer: Answer) -> bool:
        """Takes over what came of a request for a node."""
        if answer.status == 200:
            job.node_id, job.state = str(answer.document.get("node_id")), "reserved"
            if job.attempt == 1:
                self.tally.reserved += 1
                self.tally.reserve_ms.add((asyncio.get_running_loop().time() - job.arrived_s) * 1000)
            else:
                self.tally.reassigned += 1
            self._note_session(job)
            return True
        if answer.code == "no_node":
            reasons = answer.document.get("reasons")
            self.tally.refused.add(nearest(reasons if isinstance(reasons, dict) else {}))
        else:
            self._error(answer)
        return False

    def _note_session(self, job: RunningJob) -> None:
        session, node_id = job.plan.session, job.node_id
        if not session or node_id is None:
            return
        before = self._session_nodes.pop(session, None)
        self._session_nodes[session] = node_id
        if before is not None:
            self.tally.session_kept += before == node_id
            self.tally.session_moved += before != node_id
        if len(self._session_nodes) > _REMEMBERED_SESSIONS:
            self._session_nodes.popitem(last=False)

    # --- running -----------------------------------------------------------------------------------------------------

    def _begin(self, job: RunningJob) -> None:
        self._tasks.add(asyncio.create_task(self._live(job)))

    async def _live(self, job: RunningJob) -> None:
        while not await self._attempt(job):
            if self._ending.is_set() or job.attempt >= MAX_ATTEMPTS or not await self._reassign(job):
                self.tally.given_up += not self._ending.is_set()
                break
        del self.under_way[job.job_id]

    async def _attempt(self, job: RunningJob) -> bool:
        """Runs an attempt that has a node; whether it was the last one that the job needs."""
        node_id = job.node_id or ""
        self._workplace.take(node_id, job.job_id, job.plan.weight)
        try:
            word, reason = await self._run(job)
            return word != "" and await self._say_end(job, word, reason)
        finally:
            self._workplace.leave(node_id, job.job_id)

    async def _run(self, job: RunningJob) -> tuple[str, str]:
        """Runs an attempt; how it is to end, and why. The word is empty if it has ended already."""
        loop = asyncio.get_running_loop()
        fails = job.attempt == 1 and job.plan.fails_after_s is not None
        over_s = loop.time() + (job.plan.fails_after_s or 0.0 if fails else job.plan.seconds)
        while not self._ending.is_set():
            if not await self._say_that_it_runs(job):
                return "", ""
            renew_s = loop.time() + self.options.lease_s / 3
            if not await self._pause(min(over_s, renew_s) - loop.time()) and loop.time() >= over_s:
                return ("fail", "simulated failure") if fails else ("finish", "")
        return "release", _END_REASON

    async def _say_that_it_runs(self, job: RunningJob) -> bool:
        """Starts an attempt, or renews one that has started; false if it has ended."""
        word = "renew" if job.state == "running" else "start"
        answer = await self._door.post(self._path(job, word), {"attempt": job.attempt, **self._owned})
        if answer.status == 200:
            job.state = "running"
            self.tally.started += word == "start"
            self.tally.renewed += word == "renew"
            return True
        if answer.code == "job_ended":
            self._ended(answer)
            return False
        self._error(answer)
        # Where nobody knows, the next time says it, or that the lease has ended meanwhile.
        return answer.status in (0, 502, 503)

    async def _say_end(self, job: RunningJob, word: str, reason: str) -> bool:
        body = {"attempt": job.attempt, "owner": self.owner, "reason": reason}
        answer = await self._door.post(self._path(job, word), body)
        if answer.status == 200:
            self.tally.finished += word == "finish"
            self.tally.failed += word == "fail"
            self.tally.released += word == "release"
        elif answer.code == "job_ended":
            self._ended(answer)
            return False
        else:
            self._error(answer)
        return word != "fail"

    async def _reassign(self, job: RunningJob) -> bool:
        job.state = job.node_id = None
        body = {**job.request(), "after": job.attempt, **self._owned}
        answer = await self._door.post(self._path(job, "reassign"), body)
        job.attempt += 1
        return self._has_node(job, answer)

    def _ended(self, answer: Answer) -> None:
        state = answer.document.get("state")
        if state == "lost":
            self.tally.lost += 1
        elif state == "lapsed":
            self.tally.lapsed += 1
        else:
            self._error(answer)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _sweep(self) -> int | None:
        """Releases what is still reserved under the stream's name, and says how much of it is left then.

        That is what was reserved by a request that nobody answered, and what could not be released.
        """
        for _ in range(_ROUNDS_AT_END):
            found = await self._live_ones()
            if not found:
                return None if found is None else 0
            await asyncio.gather(*(self._give_back(job) for job in found))
        left = await self._live_ones()
        return None if left is None else len(left)

    async def _live_ones(self) -> list[Mapping[str, Any]] | None:
        found: list[Mapping[str, Any]] = []
        after = ""
        while True:
            path = f"/api/v1/jobs?owner={self.owner}&state=live&limit={_PAGE}{after}"
            answer = await self._door.get(path)
            if answer.status != 200:
                self._error(answer)
                return None
            found += [one for one in _list(answer, "jobs") if isinstance(one, dict)]
            following = answer.document.get("next")
            if not following:
                return found
            after = f"&after={quote(str(following), safe='')}"

    async def _give_back(self, job: Mapping[str, Any]) -> None:
        body = {"attempt": job.get("attempt"), "owner": self.owner, "reason": _END_REASON}
        answer = await self._door.post(f"/api/v1/jobs/{quote(str(job.get('job_id')), safe='')}/release", body)
        self.tally.released += answer.status == 200

    # --- what all of them share --------------------------------------------------------------------------------------

    async def _pause(self, seconds: float) -> bool:
        """Waits; true as soon as the end has come."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._ending.wait()
        except TimeoutError:
            pass
        return self._ending.is_set()

    async def _look_at_document(self) -> None:
        while True:
            answer = await self._door.get("/api/v1/config")
            if answer.status == 200:
                self._workplace.slots = SlotRules.of_document(answer.document.get("document"))
            if await self._pause(_LOOK_AT_DOCUMENT_S):
                return

    @property
    def _owned(self) -> dict[str, object]:
        return {"owner": self.owner, "lease_ms": round(self.options.lease_s * 1000)}

    def _path(self, job: RunningJob, word: str) -> str:
        return f"/api/v1/jobs/{job.job_id}/{word}"

    def _error(self, answer: Answer) -> None:
        self.tally.errors.add(answer.code)
        self.tally.problem(f"{answer.code}: {answer.message}")


def _answers(answer: Answer, count: int) -> list[Answer]:
    """What a door says of each of ``count`` jobs; where it says nothing of one, that is its answer."""
    said = _list(answer, "answers")[:count]
    return [_answer_of(one) for one in [*said, *[None] * (count - len(said))]]


def _answer_of(said: object) -> Answer:
    one = said if isinstance(said, dict) else {}
    error, reservation = one.get("error"), one.get("reservation")
    if isinstance(error, dict):
        status = one.get("status")
        return Answer(status if type(status) is int and status != 200 else 500, error, str(error.get("code")))
    if isinstance(reservation, dict):
        return Answer(200, reservation)
    return Answer(500, {}, "not answered")


def _list(answer: Answer, name: str) -> list[object]:
    value = answer.document.get(name)
    return value if isinstance(value, list) else []
