"""A job as one client alone would find it: at which attempt it is, whose that is, what has become of it, and where.

What upkeep has done with an attempt, and what an attempt got whose answer never came, is asked of the event stream, as
the changes of pools are asked of the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pyscheduler.core.results import Event
from tests.concurrency.history import NEVER, Operation
from tests.concurrency.node_model import BRIEF_NS

UPDATES = {"renew_job", "start_job", "finish_job", "fail_job", "release_job"}
ENDS = {"finish_job": "finished", "fail_job": "failed", "release_job": "released"}
KINDS = UPDATES | {"reserve"}
"""Kinds of operation that name a job."""

UPKEEP_ENDS = ("lease_lapsed", "node_expired", "new_epoch", "drained")
"""Reasons for which upkeep ends an attempt."""

LIVE = ("reserved", "running")


class JobState(NamedTuple):
    """State.

    Args:
        attempt: the newest; 0 before the first.
        state: of the attempt.
        owner: who reserved.
        node: where it is, or was ...
        epoch: ... under which epoch of the node ...
        pool: ... and in which pool.
        request: canonical JSON.
        brief: its lease may have lapsed, so that upkeep may end it ...
        lapsed_ns: ... and has lapsed for sure at this time of the history.
    """

    attempt: int = 0
    state: str = ""
    owner: str = ""
    node: str = ""
    epoch: int = 0
    pool: str = ""
    request: str = ""
    brief: bool = False
    lapsed_ns: int = NEVER

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    def leased(self, operation: Operation) -> JobState:
        """The state with the lease that the operation gives."""
        brief = bool(operation.args.get("brief"))
        known = brief and not operation.is_open
        return self._replace(brief=brief, lapsed_ns=operation.completed_ns + BRIEF_NS if known else NEVER)


def attempts_of(events: Iterable[Event]) -> dict[str, dict[str, str]]:
    """What the events say of each attempt, by job and attempt: where it began, and how it ended if upkeep ended it."""
    found: dict[str, dict[str, str]] = {}
    for event in events:
        if event.type == "job.reserved":
            place = {"node": event.node_id or "", "pool": event.pool or ""}
            found[_key(event)] = {**place, "epoch": event.fields["epoch"], "owner": event.fields["owner"]}
        elif event.type == "job.ended" and event.fields["state"] in ("lapsed", "lost"):
            found.setdefault(_key(event), {}).update(end=event.fields["state"], why=event.reason or "")
    return found


def _key(event: Event) -> str:
    return f"{event.fields['job_id']} {event.fields['attempt']}"


class JobModel:
    """
    Args:
        job_id: which job. Operations on others are not for this model.
        attempts: see :func:`attempts_of`.
    """

    initial = JobState()

    def __init__(self, job_id: str, attempts: Mapping[str, Mapping[str, str]]) -> None:
        self.job_id = job_id
        self._attempts = attempts

    def reads(self, operation: Operation) -> bool:
        if operation.kind == "reconcile":
            return bool(operation.result and operation.result.get("ended_jobs", 0) == 0)
        repeated = bool(operation.result and operation.result.get("fresh") is False)
        return operation.kind == "read_jobs" or repeated or bool(operation.error)

    def step(self, state: JobState, operation: Operation) -> Iterator[JobState]:
        if operation.kind == "reserve":
            yield from self._reserve(state, operation)
        elif operation.kind in UPDATES:
            yield from self._update(state, operation)
        elif operation.kind == "reconcile":
            yield from self._reconcile(state, operation)
        elif self._is_shown(state, (operation.result or {})["jobs"].get(self.job_id)):
            yield state

    def _reserve(self, state: JobState, operation: Operation) -> Iterator[JobState]:
        args, result = operation.args, operation.result
        attempt = args["attempt"]
        refused = _by_attempt(state, attempt)
        if state.attempt and attempt == state.attempt + 1:
            refused = _ended(state) if state.state == "finished" else None
        elif state.attempt == attempt:
            refused = _not_owner(state, args)
            if refused is None and args["request"] != state.request:
                refused = {"error": "RequestChanged", "attempt": attempt}
            if refused is None:
                if result is None or result == {**_answer(state), "fresh": False, "version": result.get("version")}:
                    yield state
                return
        if refused is not None:
            if result in (None, refused):
                yield state
        elif result is None:
            begun = self._attempts.get(f"{self.job_id} {attempt}", {})
            if begun.get("owner") == args["owner"]:
                yield _begun(operation, begun["node"], int(begun["epoch"]), begun["pool"])
        elif result.get("error") == "NoNode":
            yield state
        elif result.get("fresh") and not (state.node == result["node"] and state.state != "released"):
            after = _begun(operation, result["node"], result["epoch"], result["pool"])
            if result == {**_answer(after), "fresh": True, "version": result["version"]}:
                yield after

    def _update(self, state: JobState, operation: Operation) -> Iterator[JobState]:
        args, result = operation.args, operation.result
        to = ENDS.get(operation.kind)
        refused: dict[str, Any] | None = {"error": "NotFound"}
        if state.attempt:
            refused = _by_attempt(state, args["attempt"]) or _not_owner(state, args)
            if refused is None and not state.is_live and state.state != to:
                refused = _ended(state)
        if refused is not None:
            if result in (None, refused):
                yield state
            return
        after = state
        if state.is_live:
            after = state._replace(state=to, brief=False, lapsed_ns=NEVER) if to else state.leased(operation)
            if operation.kind == "start_job":
                after = after._replace(state="running")
        if result in (None, {"state": after.state}):
            yield after

    def _reconcile(self, state: JobState, operation: Operation) -> Iterator[JobState]:
        end = self.end_of(state).get("end") if state.is_live else None
        if end == "lost" or (end == "lapsed" and state.brief):
            yield state._replace(state=end, brief=False, lapsed_ns=NEVER)
        if not (state.is_live and state.brief and operation.invoked_ns >= state.lapsed_ns):
            yield state

    def end_of(self, state: JobState) -> Mapping[str, str]:
        """What the events say of the attempt."""
        return self._attempts.get(f"{self.job_id} {state.attempt}", {})

    def _is_shown(self, state: JobState, seen: Mapping[str, Any] | None) -> bool:
        return seen == ({**_answer(state), "owner": state.owner} if state.attempt else None)


def _begun(operation: Operation, node: str, epoch: int, pool: str) -> JobState:
    args = operation.args
    state = JobState(args["attempt"], "reserved", args["owner"], node, epoch, pool, args["request"])
    return state.leased(operation)


def _answer(state: JobState) -> dict[str, Any]:
    shown = {"attempt": state.attempt, "state": state.state}
    return {**shown, "node": state.node, "epoch": state.epoch, "pool": state.pool}


def _by_attempt(state: JobState, attempt: int) -> dict[str, Any] | None:
    if not state.attempt or attempt == state.attempt:
        return None
    if attempt < state.attempt:
        return {"error": "StaleAttempt", "attempt": state.attempt, "state": state.state}
    return {"error": "FutureAttempt", "attempt": state.attempt}


def _not_owner(state: JobState, args: Mapping[str, Any]) -> dict[str, Any] | None:
    return None if args["owner"] == state.owner else {"error": "NotOwner", "owner": state.owner}


def _ended(state: JobState) -> dict[str, Any]:
    return {"error": "JobEnded", "state": state.state}
