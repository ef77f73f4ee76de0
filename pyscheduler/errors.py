"""One exception tree for the whole package.

Every error that leaves the public API is a :class:`PyschedulerError`; redis-py's own exceptions never escape.
Each class carries the exit code that the command line answers with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct


class PyschedulerError(Exception):
    """Base of everything this package raises. ``exit_code`` is what a command line exits with."""

    exit_code = 1


class Problem(Struct, frozen=True):
    """One thing wrong with an input.

    Args:
        where: path in the input, such as ``pools[3].match.gpu``; empty for the input as a whole.
        message: what is wrong and what to do about it.
        line: line in the source text, from 1; ``None`` where the source has no lines.
    """

    where: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = ", ".join(part for part in (f"line {self.line}" if self.line else "", self.where) if part)
        return f"{place}: {self.message}" if place else self.message


class InvalidInput(PyschedulerError):
    """The caller's input breaks a rule; nothing was sent to the store."""

    exit_code = 2


class DocumentInvalid(InvalidInput):
    """A configuration document breaks rules; ``problems`` lists every one of them, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NotFound(PyschedulerError):
    """No such node, pool or version."""


class Conflict(PyschedulerError):
    """The store holds something else than the caller expected; nothing was changed."""

    exit_code = 3


class VersionConflict(Conflict):
    """The document version is not the expected one.

    Attributes:
        expected: document version that the caller had seen.
        actual: document version that is in force.
    """

    def __init__(self, expected: int, actual: int) -> None:
        self.expected, self.actual = expected, actual
        super().__init__(
            f"expected document version {expected}, but {actual} is in force: "
            "look at it with 'pyscheduler pool history'"
        )


class NodeIdConflict(Conflict):
    """Policy ``refuse``: another live session holds this node id."""

    def __init__(self, node_id: str, instance: str) -> None:
        self.node_id, self.instance = node_id, instance
        super().__init__(f"node id {node_id} is held by a live session on instance {instance}")


class HoldConflict(Conflict):
    """The hold belongs to another owner, who alone can lift it."""


class GuardRefused(PyschedulerError):
    """A safety guard refused a configuration change; nothing was changed."""

    exit_code = 4


class LimitExceeded(PyschedulerError):
    """A documented bound is reached (classes, holds, instances, queue); nothing was changed."""


class AdmissionChanged(PyschedulerError):
    """The admission policy is no longer the one the caller checked under.

    Attributes:
        policy_json: the policy in force, canonical JSON; check under it and register again.
    """

    def __init__(self, policy_json: str) -> None:
        self.policy_json = policy_json
        super().__init__("the admission policy changed: check the node under the current one and register again")


class SessionLost(PyschedulerError):
    """The store no longer holds this session.

    Attributes:
        unknown: true if the store does not know the node, or knows less of this session than the caller shows (it
            expired, or the newest writes were lost): register again under the same epoch. False if this session is
            over: it was released, or a newer one is there.
    """

    def __init__(self, node_id: str, *, unknown: bool) -> None:
        self.node_id, self.unknown = node_id, unknown
        super().__init__(
            f"the store has lost node {node_id} or its latest state"
            if unknown
            else f"the session of node {node_id} has been superseded"
        )


class NoNode(PyschedulerError):
    """No node can take the job now; nothing was changed.

    Attributes:
        reasons: how many nodes fail each condition: ``no_pair``, ``labels``, ``not_public``, ``scope``, ``no_pool``,
            ``tenant``, ``pool_excluded``, ``excluded``, ``draining``, ``not_ready``, ``lapsed``, ``no_slot``,
            ``passed_over`` (able, yet not among those that were looked at), ``not_looked_at`` (beyond the
            thousand nodes that the refusals of one call are counted for); ``quota`` counts the job itself.
        missing: capabilities that no node has at all, such as ``asr:xx``.
        version: config version of the answer.
    """

    exit_code = 4

    def __init__(self, job_id: str, reasons: Mapping[str, int], missing: Sequence[str], version: int) -> None:
        self.job_id, self.reasons, self.missing, self.version = job_id, reasons, tuple(missing), version
        told = ", ".join(f"{name} {count}" for name, count in reasons.items()) or "there are no nodes"
        unknown = f"; no node has {', '.join(missing)}" if missing else ""
        super().__init__(f"no node for job {job_id}: {told}{unknown}")


class StaleAttempt(Conflict):
    """A newer attempt of the job is there; nothing was changed.

    Attributes:
        attempt: the newest attempt.
        state: its state.
    """

    def __init__(self, job_id: str, attempt: int, state: str) -> None:
        self.job_id, self.attempt, self.state = job_id, attempt, state
        super().__init__(f"job {job_id} is at attempt {attempt}, which is {state}")


class FutureAttempt(Conflict):
    """The attempt does not follow the one that is there; nothing was changed. ``attempt`` is that one."""

    def __init__(self, job_id: str, attempt: int) -> None:
        self.job_id, self.attempt = job_id, attempt
        super().__init__(f"job {job_id} is only at attempt {attempt}")


class NotOwner(Conflict):
    """Another owner has reserved for the job; nothing was changed."""

    def __init__(self, job_id: str, owner: str) -> None:
        self.job_id, self.owner = job_id, owner
        super().__init__(f"job {job_id} belongs to {owner}")


class RequestChanged(Conflict):
    """The attempt was made with another request; a changed one needs a further attempt."""

    def __init__(self, job_id: str, attempt: int) -> None:
        self.job_id, self.attempt = job_id, attempt
        super().__init__(
            f"attempt {attempt} of job {job_id} asked for something else: a changed request is a new attempt"
        )


class JobEnded(Conflict):
    """The attempt has ended otherwise; nothing was changed.

    Attributes:
        state: how it ended.
        reason: why.
    """

    def __init__(self, job_id: str, state: str, reason: str) -> None:
        self.job_id, self.state, self.reason = job_id, state, reason
        super().__init__(f"job {job_id} is {state} ({reason})")


class EventsLost(PyschedulerError):
    """Events after the given id have been trimmed: read the state anew, then follow from the newest id."""


class StoreError(PyschedulerError):
    """The store answered, but cannot be used as it is (wrong type at a key, newer schema, not permitted)."""


class StoreUnavailable(StoreError):
    """The store could not be reached or does not take the call now; the call was **not** executed.

    Attributes:
        next_step: what to do about it, where the store answered and said why it refuses; else empty.
    """

    exit_code = 5

    def __init__(self, problem: str, next_step: str = "") -> None:
        self.next_step = next_step
        super().__init__(problem)


class OutcomeUnknown(StoreUnavailable):
    """The connection broke or timed out after the call was sent: it may or may not have been executed.

    Every writer is safe to repeat.
    """
