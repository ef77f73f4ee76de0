"""Steps of nodes that have jobs, each with all that leads to it: what is drawn freely would seldom come to that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from pyscheduler import Facts, JobRequest, NodeReport
from tests.harness import LEASE_MS, STANDING_CLOCK, document_of
from tests.histories.jobs import CALLERS, LONG_MS, OPERATIONS
from tests.histories.machine import Histories
from tests.histories.vocabulary import ABLE, FACTS, NODES, OWNERS, requests, selections


class HistoriesWithJobs(Histories):
    """See :func:`machine`."""

    def _give_jobs(
        self, nodes: Mapping[str, Facts], selection: dict[str, Any], request: JobRequest, lease_ms: int
    ) -> None:
        self.sync(document_of(selection=selection), force=True, allow_empty=True, stale=False)
        for node_id, facts in nodes.items():
            self._connect(node_id, NodeReport.of(facts), True)
        self.reserve_in_one_call(request, lease_ms)

    @rule(
        node_ids=st.permutations(NODES),
        facts=st.sampled_from(FACTS) | st.just(ABLE),
        selection=selections,
        request=requests,
        operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=3),
        milliseconds=st.sampled_from([1, 1_000]),
    )
    def jobs_live_and_end(
        self,
        node_ids: list[str],
        facts: Facts,
        selection: dict[str, Any],
        request: JobRequest,
        operations: list[str],
        milliseconds: int,
    ) -> None:
        """With an attempt after the first, and with all those who may not speak of them."""
        self._give_jobs({node_ids[0]: ABLE, node_ids[1]: facts}, selection, request, LONG_MS)
        for job_id, job in sorted(self.state.jobs.items())[:2]:
            self._reserve(job_id, request, job.attempt + 1, CALLERS[0], LONG_MS)
        self.time_passes(milliseconds, upkeep=False)
        for job_id, job in list(self.state.jobs.items())[:3]:
            for operation in operations:
                self._speak(job_id, operation, job.attempt, job.owner)
        self.those_speak_who_may_not(request)

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
        self._give_jobs({node_id: ABLE}, selection, request, 500 if trouble in ("lapses", "outage") else LONG_MS)
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
