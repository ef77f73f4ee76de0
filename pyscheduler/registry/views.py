"""What the operator door answers: models, so that its OpenAPI description is true.

They say what :mod:`pyscheduler.core.plain` makes of results, as the command line's ``--json`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from pyscheduler.core import plain, results


class View(BaseModel):
    """What all answers share."""

    # Built when they are first needed: a start need not wait for answers that nobody has asked for.
    model_config = ConfigDict(frozen=True, defer_build=True)


class ErrorBody(View):
    """What went wrong. Fields that do not apply are left out."""

    code: str = Field(description="Name of the error, such as not_found.")
    message: str
    next: str = Field(default="", description="What to do about it, where the message does not say.")
    attempt: int = Field(default=0, description="Attempt that the job is at.")
    state: str = Field(default="", description="State that it is in.")
    owner: str = Field(default="", description="Who owns the attempt.")
    reasons: Mapping[str, int] = Field(
        default_factory=dict, description="How many nodes fail each condition of the job; quota counts the job itself."
    )
    missing: tuple[str, ...] = Field(default=(), description="Capabilities that no node has at all.")
    version: int = Field(default=0, description="Config version of the answer.")


class ErrorView(View):
    error: ErrorBody


class HealthView(View):
    status: Literal["ok"]
    instance: str
    version: str
    uptime_s: float
    connections: int = Field(description="Node connections that are open in this process.")
    nodes: int = Field(description="Nodes that are registered through this process.")


class ReadyView(View):
    ready: bool
    reason: str = Field(description="Why not; empty when ready.")
    store_ms: float | None = Field(description="Round trip to the store, in ms.")


class HoldView(View):
    owner: str
    reason: str
    at: int


class NodeView(View):
    node_id: str
    status: str = Field(description="registering, ready, degraded, draining or offline.")
    pool: str | None
    pool_id: int | None
    node_class: int = Field(alias="class", description="Number of its capability class.")
    epoch: int
    instance: str = Field(description="Scheduler process that holds, or last held, its connection.")
    lease_ms: int = Field(description="What is left of its lease, in ms; negative: lapsed, not yet expired.")
    load: float
    languages: tuple[str, ...]
    services: tuple[str, ...]
    holds: tuple[HoldView, ...]

    @classmethod
    def of(cls, value: results.NodeState) -> Self:
        return cls.model_validate(plain.node(value))


class NodePageView(View):
    version: int
    total: int
    limit: int
    offset: int
    nodes: tuple[NodeView, ...]


class TransitionView(View):
    from_pool: str | None = Field(alias="from")
    to: str | None
    reason: str
    version: int
    at: int


class NodeDetailView(NodeView):
    version: int
    registered_at: int
    transition: TransitionView | None = Field(description="The last change of its pool or class.")
    facts: Mapping[str, Any]
    usage: Mapping[str, Any]
    record: Mapping[str, Any] = Field(description="What the node registered with.")

    @classmethod
    def of_detail(cls, value: results.NodeDetail) -> Self:
        return cls.model_validate(plain.node_detail(value))


class DecisionView(View):
    pool: str
    origin: str
    matches: bool
    chosen: bool
    failed: tuple[str, ...] = Field(description="Each constraint of the pool that the node does not meet.")


class ExplanationView(View):
    node: NodeDetailView
    reason: str
    version: int
    decisions: tuple[DecisionView, ...]

    @classmethod
    def of(cls, value: results.Explanation) -> Self:
        return cls.model_validate(
            {
                "node": plain.node_detail(value.node),
                "reason": value.reason,
                "version": value.version,
                "decisions": [plain.decision(one) for one in value.decisions],
            }
        )


class PoolView(View):
    id: int
    name: str
    origin: str = Field(description="declared or auto.")
    priority: int
    nodes: int
    ready: int
    languages: tuple[str, ...]


class PoolTableView(View):
    version: int
    document_version: int
    nodes: int
    unmatched_nodes: int
    unmatched_classes: int
    pools: tuple[PoolView, ...]

    @classmethod
    def of(cls, value: results.PoolTable) -> Self:
        return cls.model_validate(
            {
                "version": value.version,
                "document_version": value.document_version,
                "nodes": value.nodes,
                "unmatched_nodes": value.unmatched_nodes,
                "unmatched_classes": value.unmatched_classes,
                "pools": [plain.pool(one) for one in value.pools],
            }
        )


class ClassView(View):
    node_class: int = Field(alias="class")
    nodes: int
    ready: int
    facts: Mapping[str, Any]


class PairView(View):
    src: str
    tgt: str


class PoolDetailView(PoolView):
    version: int
    created_at: int
    rule: Mapping[str, Any]
    classes: tuple[ClassView, ...]
    ready_services: tuple[str, ...]
    ready_pairs: tuple[PairView, ...]

    @classmethod
    def of(cls, value: results.PoolDetail) -> Self:
        return cls.model_validate(plain.pool_detail(value))


class CandidateView(View):
    pool: str | None
    pool_id: int | None
    node_class: int = Field(alias="class")
    nodes: int
    ready: int
    languages: tuple[str, ...]


class CandidatesView(View):
    candidates: tuple[CandidateView, ...]

    @classmethod
    def of(cls, values: list[results.Candidate]) -> Self:
        return cls.model_validate({"candidates": [plain.candidate(one) for one in values]})


class ConfigView(View):
    version: int = Field(
        description="Version since which this document has been in force; 0: none yet, the defaults hold."
    )
    digest: str
    document: Mapping[str, Any]


class PoolChangeView(View):
    pool: str
    change: str


class HistoryEntryView(View):
    version: int
    at: int
    kind: str
    author: str
    reason: str
    changes: tuple[PoolChangeView, ...]
    has_document: bool

    @classmethod
    def of(cls, value: results.HistoryEntry) -> Self:
        return cls.model_validate(plain.history_entry(value))


class HistoryView(View):
    entries: tuple[HistoryEntryView, ...] = Field(description="Newest first.")


class EventView(View):
    """One event. Fields that do not apply are left out; further ones depend on the type, and are text."""

    model_config = ConfigDict(extra="allow")

    id: str
    at: int
    type: str
    version: int
    node_id: str | None = None
    pool: str | None = None
    from_pool: str | None = Field(default=None, alias="from")
    to: str | None = None
    reason: str | None = None

    @classmethod
    def of(cls, value: results.Event) -> Self:
        return cls.model_validate(plain.event(value))


class EventsView(View):
    events: tuple[EventView, ...] = Field(description="Oldest first.")
    next: str = Field(description="What to give as 'since' for the events after these.")


class InstanceView(View):
    instance: str
    lease_ms: int = Field(description="What is left of its lease, in ms.")
    info: Mapping[str, Any]


class InstancesView(View):
    instances: tuple[InstanceView, ...]
