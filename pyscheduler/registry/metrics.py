"""Metrics of one process, for Prometheus.

Every label takes its values from a fixed set. Node ids, pool names and versions are no labels: a fleet would make as
many time series, and the API under ``/api/v1`` answers such questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from pyscheduler.core.jobs import NO_NODE_REASONS
from pyscheduler.core.results import EVENT_TYPES

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ERROR_PREFIX: Final = '{"type":"error","code":"'
_REPLY_PREFIX: Final = '{"type":"'
_CALL_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process, in a registry of their own: two processes in one interpreter do not mix."""

    def __init__(self) -> None:
        # A second series per counter that says when it began would double the page for nothing anybody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pyscheduler_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"pyscheduler_{name}", text, labels, registry=registry)

        # The node door.
        self.connections = gauge("node_connections", "Node connections that are open in this process.")
        self.sessions = gauge("node_sessions", "Nodes that are registered through this process.")
        self.opened = counter("node_connections_opened", "Node connections by what became of them at first.", "outcome")
        self.closed = counter(
            "node_connections_closed", "Node connections that this process closed, by close code.", "code"
        )
        self.frames = counter("node_frames", "Messages from nodes, by the kind of frame.", "kind")
        self.sent = counter("node_replies", "Messages to nodes, by type.", "type")
        self.errors = counter("node_errors", "Error messages to nodes, by code.", "code")
        self.cloned_ids = counter(
            "cloned_id_takeovers", "Takeovers here of a node id that two nodes seem to share, since they alternate."
        )
        # The store.
        self.store_up = gauge("store_up", "1 while the store can be reached, else 0.")
        self.store_calls = counter("store_calls", "Store calls for nodes, by call and outcome.", "call", "outcome")
        self.store_seconds = Histogram(
            "pyscheduler_store_call_seconds",
            "Time of a store call for a node.",
            ["call"],
            registry=registry,
            buckets=_CALL_SECONDS,
        )
        # What every heartbeat counts, looked up once; texts are so many that even the lock of a counter tells.
        self._texts = 0
        self.count_heartbeat = self.store_calls.labels("heartbeat", "ok").inc
        self.observe_heartbeat = self.store_seconds.labels("heartbeat").observe
        # Background work.
        self.events = counter("events", "Events of the namespace that this process has seen, by type.", "type")
        self.events_lost = counter(
            "events_lost", "Times that this process had to read the state anew, having lost events."
        )
        self.reconciled = counter("reconcile_passes", "Reconcile passes of this process, by outcome.", "outcome")
        self.expired = counter("nodes_expired", "Nodes whose lease this process found lapsed.")
        self.braked = gauge("reconcile_braked", "1 while expiry is slowed down since too many leases lapsed at once.")
        self.violations = counter(
            "invariant_violations", "Violations of the stored state that reconcile passes have found."
        )
        self.recovered = counter("nodes_recovered", "Nodes that this process put back after the store had lost them.")
        # Jobs, at the operator door.
        self.job_reservations = counter(
            "job_reservations", "Jobs for which the operator door was asked for a node, by outcome.", "outcome"
        )
        self.job_refusals = counter(
            "job_refusals", "Jobs that got no node there, once for each condition that nodes failed.", "reason"
        )
        self.job_updates = counter(
            "job_updates", "What owners said of their jobs there, by operation and outcome.", "operation", "outcome"
        )
        self.job_waits = gauge("job_waits", "Requests that wait there for a node.")
        # The fleet, as of the last look.
        self.config_version = gauge("config_version", "Configuration version last seen.")
        self.nodes = gauge("nodes", "Live nodes of the namespace.")
        self.ready = gauge("nodes_ready", "Nodes of the namespace that may take work and are in a pool.")
        self.unmatched = gauge("nodes_unmatched", "Live nodes of the namespace that no pool takes.")
        self.pools = gauge("pools", "Pools of the namespace, by origin.", "origin")
        self.empty_pools = gauge("pools_empty", "Pools of the namespace without a live node.")
        # What every registration counts, looked up once each: to find a child takes longer than to count.
        self.count_accepted = self.opened.labels("accepted").inc
        self._call, self._call_seconds = cache(self.store_calls.labels), cache(self.store_seconds.labels)
        self._sent, self._event = cache(self.sent.labels), cache(self.events.labels)

    def count_text(self) -> None:
        """Count one text message from a node."""
        self._texts += 1

    def count_reply(self, text: str) -> None:
        """Count one message to a node, by the head of its text: it was just encoded, and is not decoded for this."""
        if text.startswith(_ERROR_PREFIX):
            self._sent("error").inc()
            self.errors.labels(_word(text, len(_ERROR_PREFIX))).inc()
        elif text.startswith(_REPLY_PREFIX):
            self._sent(_word(text, len(_REPLY_PREFIX))).inc()

    def count_call(self, call: str, outcome: str, seconds: float) -> None:
        """Count one store call for a node."""
        self._call(call, outcome).inc()
        self._call_seconds(call).observe(seconds)

    def count_event(self, kind: str) -> None:
        """Count one event of the namespace."""
        self._event(kind if kind in EVENT_TYPES else "other").inc()

    def count_refusal(self, reasons: Iterable[str]) -> None:
        """Count what nodes failed, for a job that got none."""
        for reason in reasons:
            self.job_refusals.labels(reason if reason in NO_NODE_REASONS else "other").inc()

    def set_fleet(
        self, *, version: int, nodes: int, ready: int, unmatched: int, empty: int, pools: Mapping[str, int]
    ) -> None:
        """Take over a look at the whole namespace. ``pools``: number of pools by origin."""
        self.config_version.set(version)
        self.nodes.set(nodes)
        self.ready.set(ready)
        self.unmatched.set(unmatched)
        self.empty_pools.set(empty)
        for origin in ("declared", "auto"):
            self.pools.labels(origin).set(pools.get(origin, 0))

    def expose(self) -> bytes:
        """All metrics in the text format."""
        self.frames.labels("text").inc(self._texts)
        self._texts = 0
        return generate_latest(self._registry)


def _word(text: str, start: int) -> str:
    end = text.find('"', start)
    return text[start:end] if start < end <= start + 40 else "other"
