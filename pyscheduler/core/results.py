"""Frozen results of the allocator's calls: what the store said, with names and units."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field


class NodeStatus(StrEnum):
    """Lifecycle of a node. ``draining`` and ``offline`` are derived by the store, never reported by a node."""

    REGISTERING = "registering"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    OFFLINE = "offline"


class Session(Struct, frozen=True):
    """One connection's tenure of a node id: what a caller shows to act for the node."""

    node_id: str
    epoch: int
    token: str


class Registration(Struct, frozen=True):
    """Answer to register and update. ``pool`` is ``None`` while nothing matches; ``reason`` then says why."""

    session: Session
    node_class: int
    pool: str | None
    pool_id: int | None
    version: int
    status: NodeStatus
    reason: str
    cloned_id: bool = False


class Hold(Struct, frozen=True):
    """A reason, with an owner, why a node takes no new work."""

    owner: str
    reason: str
    at_ms: int


class HoldResult(Struct, frozen=True):
    node_id: str
    changed: bool
    holds: tuple[Hold, ...]
    live: bool


class Transition(Struct, frozen=True):
    """The last time a node's pool or class changed."""

    from_pool: str | None
    to_pool: str | None
    reason: str
    version: int
    at_ms: int


class NodeState(Struct, frozen=True):
    """One live node. ``lease_ms`` is what is left of its lease, in ms (negative: lapsed, not yet expired)."""

    node_id: str
    status: NodeStatus
    pool: str | None
    pool_id: int | None
    node_class: int
    epoch: int
    instance: str
    lease_ms: int
    load: float
    languages: tuple[str, ...]
    services: tuple[str, ...]
    holds: tuple[Hold, ...]
    version: int


class NodePage(Struct, frozen=True):
    version: int
    total: int
    nodes: tuple[NodeState, ...]


class NodeDetail(Struct, frozen=True):
    """All the store knows of a node.

    ``facts``, ``record`` and ``usage`` are decoded JSON objects. ``registered_at_ms`` is when the session began, by the
    store's clock: the session's epoch.
    """

    state: NodeState
    facts: Mapping[str, object]
    record: Mapping[str, object]
    usage: Mapping[str, object]
    transition: Transition | None
    registered_at_ms: int


class PoolDecision(Struct, frozen=True):
    """One pool seen from one node: ``failed`` names each constraint that the node does not meet."""

    pool: str
    origin: str
    matches: bool
    chosen: bool
    failed: tuple[str, ...]


class Explanation(Struct, frozen=True):
    node: NodeDetail
    reason: str
    version: int
    decisions: tuple[PoolDecision, ...]


class PoolSummary(Struct, frozen=True):
    id: int
    name: str
    origin: str
    nodes: int
    ready: int
    languages: tuple[str, ...]
    priority: int


class PoolTable(Struct, frozen=True):
    """Every pool in one look; ``unmatched_*`` count the nodes and classes that no pool takes."""

    version: int
    document_version: int
    pools: tuple[PoolSummary, ...]
    nodes: int
    unmatched_nodes: int
    unmatched_classes: int


class ClassSummary(Struct, frozen=True):
    node_class: int
    nodes: int
    ready: int
    facts: Mapping[str, object]


class PoolDetail(Struct, frozen=True):
    summary: PoolSummary
    version: int
    rule: Mapping[str, object]
    created_at_ms: int
    classes: tuple[ClassSummary, ...]
    ready_services: tuple[str, ...]
    ready_pairs: tuple[tuple[str, str], ...]


class Candidate(Struct, frozen=True):
    """A class that can serve a language pair. ``pool`` is ``None`` for an unmatched class."""

    pool: str | None
    pool_id: int | None
    node_class: int
    nodes: int
    ready: int
    languages: tuple[str, ...]


class PoolChange(Struct, frozen=True):
    pool: str
    change: str  # added, changed, removed


class ClassMove(Struct, frozen=True):
    node_class: int
    from_pool: str | None
    to_pool: str | None
    nodes: int


class ConfigChange(Struct, frozen=True):
    """What a sync did, or in a dry run would do. ``unassigned_nodes``: live nodes without a pool afterwards."""

    version_before: int
    version_after: int
    document_version: int
    dry_run: bool
    changes: tuple[PoolChange, ...]
    moves: tuple[ClassMove, ...]
    unassigned_nodes: int


class StoredDocument(Struct, frozen=True):
    """A configuration document as stored. ``json`` is its canonical form; empty before the first sync."""

    version: int
    json: str


class HistoryEntry(Struct, frozen=True):
    version: int
    at_ms: int
    kind: str  # created, document, auto_pool_created, auto_pool_removed, rollback
    author: str
    reason: str
    changes: tuple[PoolChange, ...]
    has_document: bool


class ReconcileLimits(Struct, frozen=True):
    """Bounds of one reconcile call.

    Args:
        expire: nodes expired or released at most, 1..1000; a step that leaves some to the next does little else.
        scan: classes looked at at most, 1..1000, and nodes; less one for each node that is expired or released.
        brake_share: share of the fleet, 0..1, beyond which lapsed leases are not expired at full speed.
        brake_floor: number of lapsed leases below which the brake never acts.
        brake_expire: nodes expired or released at most in a call while the brake is on.
        min_interval_ms: a call within this time of the last one is skipped unless forced.
    """

    expire: int = 32
    scan: int = 64
    brake_share: float = 0.3
    brake_floor: int = 20
    brake_expire: int = 5
    min_interval_ms: int = 0


class ReconcileReport(Struct, frozen=True):
    """What a step of upkeep did.

    Attributes:
        released: nodes that got the reconnect grace, because their scheduler instance has gone.
        ended_jobs: reservations that lapsed, or were lost with their nodes.
        more_due: a further step should come soon: this one had no room for all reservations that end.
        suspended_ms: expiry is suspended for that long, since reconcile had itself been away.
    """

    skipped: bool
    expired: int
    released: int
    placed_classes: int
    dropped_classes: int
    created_pools: tuple[str, ...]
    removed_pools: tuple[str, ...]
    lapsed: int
    braked: bool
    suspended_ms: int
    violations: int
    version: int
    ended_jobs: int = 0
    more_due: bool = False


class InstanceInfo(Struct, frozen=True):
    instance: str
    lease_ms: int
    info: Mapping[str, object] = field(default_factory=dict)


EVENT_TYPES = (
    "node.registered",
    "node.assigned",
    "node.released",
    "node.expired",
    "node.status",
    "pool.created",
    "pool.removed",
    "config.bumped",
    "class.remapped",
    "job.reserved",
    "job.started",
    "job.ended",
    "reconcile.ran",
    "reconcile.braked",
)
"""Every type of event that the scripts write."""


class Event(Struct, frozen=True):
    """One entry of the event stream. ``fields`` holds what else the script wrote, as strings."""

    id: str
    at_ms: int
    type: str
    version: int
    node_id: str | None = None
    pool: str | None = None
    from_: str | None = None
    to: str | None = None
    reason: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


class Violation(Struct, frozen=True):
    invariant: int
    detail: str


class CheckReport(Struct, frozen=True):
    ok: bool
    violations: tuple[Violation, ...]
    nodes: int
    pools: int
    version: int
