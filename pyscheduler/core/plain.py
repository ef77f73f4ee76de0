"""Results of the allocator as plain JSON values: the names that ``--json`` and the operator door promise.

Fields keep the names of :mod:`pyscheduler.core.results` and :mod:`pyscheduler.core.jobs` but for a few that are a word
of Python there (``class``, ``from``), and ``at``, which is a time in ms since the epoch wherever it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyscheduler.core import jobs, results

Document = dict[str, object]


def hold(value: results.Hold) -> Document:
    return {"owner": value.owner, "reason": value.reason, "at": value.at_ms}


def hold_result(value: results.HoldResult) -> Document:
    return {
        "node_id": value.node_id,
        "changed": value.changed,
        "live": value.live,
        "holds": [hold(one) for one in value.holds],
    }


def node(value: results.NodeState) -> Document:
    return {
        "node_id": value.node_id,
        "status": str(value.status),
        "pool": value.pool,
        "pool_id": value.pool_id,
        "class": value.node_class,
        "epoch": value.epoch,
        "instance": value.instance,
        "lease_ms": value.lease_ms,
        "load": value.load,
        "languages": list(value.languages),
        "services": list(value.services),
        "holds": [hold(one) for one in value.holds],
    }


def node_detail(value: results.NodeDetail) -> Document:
    return {
        **node(value.state),
        "version": value.state.version,
        "registered_at": value.registered_at_ms,
        "transition": transition(value.transition),
        "facts": dict(value.facts),
        "usage": dict(value.usage),
        "record": dict(value.record),
    }


def transition(value: results.Transition | None) -> Document | None:
    if value is None:
        return None
    return {
        "from": value.from_pool,
        "to": value.to_pool,
        "reason": value.reason,
        "version": value.version,
        "at": value.at_ms,
    }


def pool(value: results.PoolSummary) -> Document:
    return {
        "id": value.id,
        "name": value.name,
        "origin": value.origin,
        "priority": value.priority,
        "nodes": value.nodes,
        "ready": value.ready,
        "languages": list(value.languages),
    }


def pool_detail(value: results.PoolDetail) -> Document:
    return {
        **pool(value.summary),
        "version": value.version,
        "created_at": value.created_at_ms,
        "rule": dict(value.rule),
        "classes": [
            {"class": one.node_class, "nodes": one.nodes, "ready": one.ready, "facts": dict(one.facts)}
            for one in value.classes
        ],
        "ready_services": list(value.ready_services),
        "ready_pairs": [{"src": src, "tgt": tgt} for src, tgt in value.ready_pairs],
    }


def decision(value: results.PoolDecision) -> Document:
    return {
        "pool": value.pool,
        "origin": value.origin,
        "matches": value.matches,
        "chosen": value.chosen,
        "failed": list(value.failed),
    }


def candidate(value: results.Candidate) -> Document:
    return {
        "pool": value.pool,
        "pool_id": value.pool_id,
        "class": value.node_class,
        "nodes": value.nodes,
        "ready": value.ready,
        "languages": list(value.languages),
    }


def pool_changes(values: Sequence[results.PoolChange]) -> list[Document]:
    return [{"pool": one.pool, "change": one.change} for one in values]


def config_change(value: results.ConfigChange) -> Document:
    return {
        "version_before": value.version_before,
        "version_after": value.version_after,
        "document_version": value.document_version,
        "dry_run": value.dry_run,
        "changes": pool_changes(value.changes),
        "moves": [
            {"class": one.node_class, "from": one.from_pool, "to": one.to_pool, "nodes": one.nodes}
            for one in value.moves
        ],
        "unassigned_nodes": value.unassigned_nodes,
    }


def history_entry(value: results.HistoryEntry) -> Document:
    return {
        "version": value.version,
        "at": value.at_ms,
        "kind": value.kind,
        "author": value.author,
        "reason": value.reason,
        "changes": pool_changes(value.changes),
        "has_document": value.has_document,
    }


def reconcile_report(value: results.ReconcileReport) -> Document:
    return {
        "version": value.version,
        "skipped": value.skipped,
        "expired": value.expired,
        "released": value.released,
        "placed_classes": value.placed_classes,
        "dropped_classes": value.dropped_classes,
        "created_pools": list(value.created_pools),
        "removed_pools": list(value.removed_pools),
        "lapsed": value.lapsed,
        "braked": value.braked,
        "suspended_ms": value.suspended_ms,
        "violations": value.violations,
        "ended_jobs": value.ended_jobs,
    }


def event(value: results.Event) -> Document:
    """One event; what does not apply is left out. What only some types have is text, as the stream holds it."""
    document: Document = {"id": value.id, "at": value.at_ms, "type": value.type, "version": value.version}
    named = {
        "node_id": value.node_id,
        "pool": value.pool,
        "from": value.from_,
        "to": value.to,
        "reason": value.reason,
    }
    document.update((key, text) for key, text in named.items() if text is not None)
    document.update((key, text) for key, text in value.fields.items() if key not in document)
    return document


def check_report(value: results.CheckReport) -> Document:
    return {
        "ok": value.ok,
        "violations": [{"invariant": one.invariant, "detail": one.detail} for one in value.violations],
        "nodes": value.nodes,
        "pools": value.pools,
        "version": value.version,
    }


def _attempt(value: jobs.Attempt) -> Document:
    return {
        "job_id": value.job_id,
        "attempt": value.attempt,
        "state": str(value.state),
        "node_id": value.node_id,
        "epoch": value.epoch,
        "pool": value.pool,
        "version": value.version,
        "slots": value.slots,
    }


def job(value: jobs.Job) -> Document:
    return {
        **_attempt(value),
        "tenant": value.tenant,
        "owner": value.owner,
        "session": value.session,
        "lease_end_at": value.lease_end_ms,
        "lease_ms": value.lease_ms,
        "reason": value.reason,
    }


def reservation(value: jobs.Reservation, *, plan: bool) -> Document:
    return {**_attempt(value), "lease_end_at": value.lease_end_ms, "fresh": value.fresh, "plan": plan}


def job_status(value: jobs.JobStatus) -> Document:
    return {
        "job_id": value.job_id,
        "attempt": value.attempt,
        "state": str(value.state),
        "lease_end_at": value.lease_end_ms,
    }


def job_explanation(value: jobs.JobExplanation) -> Document:
    return {
        "version": value.version,
        "node_id": value.node_id,
        "pool": value.pool,
        "reasons": dict(value.reasons),
        "missing": list(value.missing),
        "nodes": [{"node_id": one.node_id, "pool": one.pool, "reason": one.reason or None} for one in value.nodes],
    }
