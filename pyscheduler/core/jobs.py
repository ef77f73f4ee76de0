"""Jobs: what they ask of a node, and what they get of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypedDict

from msgspec import Struct

from pyscheduler.core import ids
from pyscheduler.core.canonical import canonical_json, short_digest
from pyscheduler.core.facts import UNIQUE_LABEL_PREFIX
from pyscheduler.core.ids import shown
from pyscheduler.core.languages import language
from pyscheduler.core.limits import MAX_JOB_SLOTS, MAX_REQUEST_NAMES
from pyscheduler.errors import InvalidInput


class JobState(StrEnum):
    """What has become of an attempt. The first two hold slots."""

    RESERVED = "reserved"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    RELEASED = "released"
    LAPSED = "lapsed"
    LOST = "lost"


NO_NODE_REASONS = (
    "no_pair",
    "labels",
    "not_public",
    "scope",
    "no_pool",
    "tenant",
    "pool_excluded",
    "excluded",
    "draining",
    "not_ready",
    "lapsed",
    "no_slot",
    "passed_over",
    "not_looked_at",
    "quota",
)
"""What can be against a node for a job; ``quota`` is against the job itself."""

LIVE_STATES = (JobState.RESERVED, JobState.RUNNING)
"""The states that hold slots."""

StateFilter = JobState | Literal["live"]
"""A state, or ``live``: any of those that hold slots."""


class RequestArguments(TypedDict):
    """A request as the scripts get it."""

    slots: int
    tenant: str
    session: str
    src: str
    tgt: str
    services: str
    labels: str
    scope: str
    exclude: str
    exclude_pools: str


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job needs, in normal form whatever order and case it is given in.

    Args:
        src: source language.
        tgt: target language.
        services: service types that must be ready on the node, at most 64.
        tenant: whose job it is; empty for a public job, which a node may have said that it does not take.
        session: jobs of one session go to one node where the pool's strategy is affinity; empty for none.
        slots: slots of the node that it takes, 1..64.
        labels: labels that the node must have.
        scope: ``eligible`` (any node that can serve it), ``exact`` (only those of exactly its languages), or empty: as
            the document says.
        exclude: nodes that it must not get, at most 64.
        exclude_pools: pools whose nodes it must not get, at most 64.

    Attributes:
        digest: what a repeated call is known by.

    Raises:
        InvalidInput: something is out of its alphabet or bound; the message says what.
    """

    src: str
    tgt: str
    services: tuple[str, ...] = ()
    tenant: str = ""
    session: str = ""
    slots: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    scope: str = ""
    exclude: tuple[str, ...] = ()
    exclude_pools: tuple[str, ...] = ()
    digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "src", language(self.src))
        put(self, "tgt", language(self.tgt))
        put(self, "services", _names("services", {ids.service_type(name) for name in self.services}))
        put(self, "tenant", self.tenant and ids.tenant(self.tenant))
        put(self, "session", self.session and ids.session(self.session))
        if type(self.slots) is not int or not 1 <= self.slots <= MAX_JOB_SLOTS:
            raise InvalidInput(f"slots must be a whole number from 1 to {MAX_JOB_SLOTS}, not {shown(self.slots)}")
        labels = ids.labels(self.labels)
        if unmatched := [key for key in labels if key.startswith(UNIQUE_LABEL_PREFIX)]:
            raise InvalidInput(f"label {shown(unmatched[0])}: labels that begin with unique. are not looked at")
        put(self, "labels", MappingProxyType(labels))
        if self.scope not in ("", "eligible", "exact"):
            raise InvalidInput(f"scope must be eligible, exact or empty, not {shown(self.scope)}")
        put(self, "exclude", _names("exclude", {ids.node_id(name) for name in self.exclude}))
        put(self, "exclude_pools", _names("exclude_pools", {ids.pool_name(name) for name in self.exclude_pools}))
        put(self, "digest", short_digest(canonical_json(self.arguments())))

    def arguments(self) -> RequestArguments:
        """As the scripts get it."""
        return {
            "slots": self.slots,
            "tenant": self.tenant,
            "session": self.session,
            "src": self.src,
            "tgt": self.tgt,
            "services": ",".join(self.services),
            "labels": canonical_json(dict(self.labels)) if self.labels else "",
            "scope": self.scope,
            "exclude": " ".join(self.exclude),
            "exclude_pools": " ".join(self.exclude_pools),
        }


def _names(what: str, names: set[str]) -> tuple[str, ...]:
    if len(names) > MAX_REQUEST_NAMES:
        raise InvalidInput(f"{what}: {len(names)} given, at most {MAX_REQUEST_NAMES} are allowed")
    return tuple(sorted(names))


class JobAsk(Struct, frozen=True):
    """One job of :meth:`pyscheduler.Allocator.reserve_many`."""

    job_id: str
    request: JobRequest
    attempt: int = 1


class Attempt(Struct, frozen=True):
    """An attempt of a job, and the node that it has, or had.

    Attributes:
        epoch: epoch of the node when its slots were reserved.
        pool: pool in which the node was chosen.
        version: config version under which it was.
        lease_end_ms: when its lease ends, in ms of Redis time; of an ended one until when it is remembered.
    """

    job_id: str
    attempt: int
    state: JobState
    node_id: str
    epoch: int
    pool: str
    version: int
    slots: int
    lease_end_ms: int


class Reservation(Attempt, frozen=True):
    """Answer to a request for a node.

    Attributes:
        fresh: whether this very call reserved it; false for the answer to a call that was repeated.
    """

    fresh: bool


class JobStatus(Struct, frozen=True):
    """Answer to an update of a job."""

    job_id: str
    attempt: int
    state: JobState
    lease_end_ms: int


class Job(Attempt, frozen=True):
    """All that is known of a job: its latest attempt.

    Attributes:
        tenant: ``None`` for a public job.
        session: ``None`` for none.
        lease_ms: what is left until its lease ends, in ms.
        reason: why it ended; ``None`` while it has not.
    """

    tenant: str | None
    owner: str
    session: str | None
    lease_ms: int
    reason: str | None


class JobPage(Struct, frozen=True):
    """A page of jobs, in the order in which something is due for them.

    Attributes:
        total: all jobs that are known, whatever was asked for.
        next: where the next page begins; ``None`` if there is none.
    """

    version: int
    total: int
    jobs: tuple[Job, ...]
    next: str | None


class NodeVerdict(Struct, frozen=True):
    """What is against a node for a job; an empty ``reason`` if nothing is."""

    node_id: str
    pool: str | None
    reason: str


class JobExplanation(Struct, frozen=True):
    """Which node a job would get, and what is against each other one.

    Attributes:
        node_id: the node; ``None`` if it would get none.
        reasons: how many nodes fail each condition. ``quota`` counts the job itself.
        missing: capabilities that no node has.
        nodes: at most 1,000.
    """

    version: int
    node_id: str | None
    pool: str | None
    reasons: Mapping[str, int]
    missing: tuple[str, ...]
    nodes: tuple[NodeVerdict, ...]
