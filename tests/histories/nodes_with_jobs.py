"""Steps of nodes that have jobs, each with all that leads to it: what is drawn freely would seldom come to that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from pyscheduler import Facts, JobRequest, NodeReport
from tests.harness import LEASE_MS, STANDING_CLOCK, document_of
from tests.histories.jobs import CALLERS, JOBS, LONG_MS, OPERATIONS
from tests.histories.machine import Histories
from tests.histories.vocabulary import ABLE, ENGLISH, FACTS, NODES, OWNERS, loads, pools, requests, selections


class HistoriesWithJobs(Histories):
    """See :func:`machine`."""

    def _give_jobs(
        self, nodes: Mapping[str, NodeReport], selection: dict[str, Any], request: JobRequest, lease_ms: int
    ) -> None:
        self.sync(document_of(selection=selection), force=True, allow_empty=True, stale=False)
        for node_id, report in nodes.items():
            self._connect(node_id, report, True)
        self.reserve_in_one_call(request, lease_ms)

    @rule(
        node_ids=st.permutations(NODES),
        facts=st.sampled_from(FACTS) | st.just(ABLE),
        load=loads,
        selection=selections,
        request=requests,
        operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=3),
        milliseconds=st.sampled_from([1, 1_000]),
    )
    def jobs_live_and_end(
        self,
        node_ids: list[str],
        facts: Facts,
        load: float,
        selection: dict[str, Any],
        request: JobRequest,
        operations: list[str],
        milliseconds: int,
    ) -> None:
        """With an attempt after the first, and with all those who may not speak of them."""
        self._give_jobs(
            {node_ids[0]: NodeReport.of(ABLE, load=load), node_ids[1]: NodeReport.of(facts)},
            selection,
            request,
            LONG_MS,
        )
        for job_id, job in sorted(self.state.jobs.items())[:2]:
            self._reserve(job_id, request, job.attempt + 1, CALLERS[0], LONG_MS)
        self.time_passes(milliseconds, upkeep=False)
        for job_id, job in list(self.state.jobs.items())[:3]:
            for operation in operations:
                self._speak(job_id, operation, job.attempt, job.owner)
        self.those_speak_who_may_not(request)

    @rule(
        declared=st.lists(pools, max_size=2, unique_by=lambda one: one["name"]),
        selection=selections,
        there=st.lists(st.tuples(st.sampled_from(ENGLISH), loads), min_size=2, max_size=len(NODES)),
        tenant=st.sampled_from(["", "acme"]),
    )
    def jobs_choose_among_nodes(
        self, declared: list[dict[str, Any]], selection: dict[str, Any], there: list[tuple[Facts, float]], tenant: str
    ) -> None:
        """One after the other, of several pools and loads."""
        self.sync(document_of(*declared, selection=selection), force=True, allow_empty=True, stale=False)
        for node_id, (facts, load) in zip(NODES, there, strict=False):
            self._connect(node_id, NodeReport.of(facts, load=load), True)
        for job_id in JOBS:
            job = self.state.jobs.get(job_id)
            request = JobRequest("en", "en", tenant=tenant)
            self._reserve(job_id, request, job.attempt + 1 if job else 1, CALLERS[0], LONG_MS)

    @rule(node_id=st.sampled_from(NODES), selection=selections, request=requests)
    def jobs_come_when_leases_have_ended(self, node_id: str, selection: dict[str, Any], request: JobRequest) -> None:
        """Before upkeep takes the nodes away."""
        self._give_jobs({node_id: NodeReport.of(ABLE)}, selection, request, LONG_MS)
        self.time_passes(LEASE_MS, upkeep=False)
        for job_id in JOBS:
            job = self.state.jobs.get(job_id)
            self._reserve(job_id, request, job.attempt + 1 if job else 1, CALLERS[0], LONG_MS)
        self.reserve_in_one_call(request, LONG_MS)

    @rule(
        node_id=st.sampled_from(NODES),
        selection=selections,
        request=requests,
        trouble=st.sampled_from(["reconnects", "drained", "drained and back", "expires", "lapses", "closes", "outage"]),
        milliseconds=st.sampled_from([1, 1_000, 600_000]),
    )
    def a_node_with_jobs_is_in_trouble(
        self, node_id: str, selection: dict[str, Any], request: JobRequest, trouble: str, milliseconds: int
    ) -> None:
        self._give_jobs(
            {node_id: NodeReport.of(ABLE)}, selection, request, 500 if trouble in ("lapses", "outage") else LONG_MS
        )
        if trouble == "reconnects":
            self._connect(node_id, NodeReport.of(ABLE), True)
        elif trouble == "closes":
            self._close(self.tenures[-1], 0)
        elif trouble.startswith("drained"):
            self.hold(node_id, OWNERS[0], "x")
            if trouble == "drained and back":
                self.lift(node_id, OWNERS[0])
        if trouble == "outage":
            self.time_passes(LEASE_MS, upkeep=True)
            return
        alive = set(NODES) - ({node_id} if trouble == "expires" else set())
        step_ms = LEASE_MS if trouble == "expires" else milliseconds
        self.upkeep(step_ms, alive=alive, expire=200, scan=256, share=1.0)


def machine(redis_url: str, namespace: str, overrides: Mapping[str, str] | None = None) -> type[HistoriesWithJobs]:
    """A machine for one run: each history has a namespace of its own; ``steps`` counts those of all.

    Args:
        redis_url: the store.
        namespace: what the names of the namespaces begin with.
        overrides: Lua files to replace, to plant a fault.
    """
    members = {
        "redis_url": redis_url,
        "namespace": namespace,
        "overrides": {**STANDING_CLOCK, **(overrides or {})},
        "number": itertools.count(),
    }
    return type("HistoriesWithJobs", (HistoriesWithJobs,), members)
