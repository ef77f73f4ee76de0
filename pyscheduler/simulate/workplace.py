"""Which jobs run on which nodes of a simulation: what its jobs and its nodes know of each other."""

from __future__ import annotations

from pyscheduler.simulate.slots import SlotRules


class Workplace:
    """Where jobs are.

    Attributes:
        slots: how many slots a node has.
    """

    def __init__(self) -> None:
        self.slots = SlotRules()
        self._weights: dict[str, dict[str, float]] = {}

    def take(self, node_id: str, job_id: str, weight: float) -> None:
        """A job is on a node now; ``weight``: how busy it makes it, in slots."""
        self._weights.setdefault(node_id, {})[job_id] = weight

    def leave(self, node_id: str, job_id: str) -> None:
        """It is there no more."""
        jobs = self._weights.get(node_id, {})
        jobs.pop(job_id, None)
        if not jobs:
            self._weights.pop(node_id, None)

    def jobs(self, node_id: str | None) -> int:
        """How many jobs a node has."""
        return len(self._weights.get(node_id or "", ()))

    def everywhere(self) -> int:
        """How many jobs all nodes have, those of other fleets too."""
        return sum(len(jobs) for jobs in self._weights.values())

    def busy(self, node_id: str | None, pool: str | None) -> float:
        """How much of a node in a pool its jobs take; 1: all of it."""
        return sum(self._weights.get(node_id or "", {}).values()) / self.slots.of(pool)
