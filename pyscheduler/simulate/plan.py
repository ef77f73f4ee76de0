"""What a simulated node will do, drawn from the seed before it does anything.

Every node has a random generator of its own, seeded by the fleet's seed and the node's number, so that what a node
chooses depends on no other node and on no timing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from pyscheduler.simulate.options import FleetOptions

# GPU use of a node without work.
_IDLE_PERCENT = 4


class Churn(StrEnum):
    """What can happen to a node. The two drops differ in what the scheduler sees.

    ``close`` is a deliberate stop (a close frame without a status code), ``cut`` a process killed or a cable pulled
    (the connection ends with no close frame).
    """

    LANGUAGES = "languages"
    CLOSE = "close"
    CUT = "cut"


class ChurnEvent(Struct, frozen=True):
    """One event: after ``wait_s`` since the event before, do ``what``; ``languages`` is set for a language change."""

    wait_s: float
    what: Churn
    languages: tuple[str, ...] = ()


class NodePlan:
    """The choices of node number ``index``.

    Churn is a Poisson process: a rate of 0.01 makes each node do something every 100 s on average, and a fleet of 200
    nodes two things a second. Half of the events are language changes (the next heartbeat carries the new set), a
    quarter are closes, a quarter are cuts. With a single language set there is nothing to change to, and every event
    is a close or a cut.
    """

    def __init__(self, options: FleetOptions, index: int) -> None:
        self._options = options
        self._index = index
        # Two streams: what a heartbeat draws must not shift what churn draws, since their interleaving is timing.
        self._churn = random.Random(f"{options.seed}:{index}:churn")
        self._usage = random.Random(f"{options.seed}:{index}:usage")
        self._order = random.Random(f"{options.seed}:{index}:order")
        self._gpu_percent = self._usage.uniform(5, 60)
        self.languages = options.languages[index % len(options.languages)]
        self.node_id = f"{options.id_prefix}{index + 1:0{len(str(options.nodes))}d}" if options.id_prefix else None

    def url(self, attempt: int) -> str:
        """Where attempt number ``attempt`` (from 0) connects to."""
        return self._options.urls[(self._index + attempt) % len(self._options.urls)]

    def churn(self) -> Iterator[ChurnEvent]:
        """The node's churn, without end; nothing at a rate of 0."""
        rate = self._options.churn
        languages = self.languages
        while rate > 0:
            wait_s = self._churn.expovariate(rate)
            draw = self._churn.random()
            others = [candidate for candidate in self._options.languages if candidate != languages]
            if others and draw < 0.5:
                languages = self._churn.choice(others)
                yield ChurnEvent(wait_s, Churn.LANGUAGES, languages)
            else:
                yield ChurnEvent(wait_s, self._churn.choice((Churn.CLOSE, Churn.CUT)))

    def heartbeat_first(self) -> bool:
        """Whether the heartbeat of a reconnect leaves before its registration: the fleet's clients do either."""
        return self._order.random() < 0.5

    def usage(self) -> dict[str, object]:
        """The resource usage that the next heartbeat carries: GPU use as a bounded random walk."""
        self._gpu_percent = min(100.0, max(0.0, self._gpu_percent + self._usage.gauss(0, 8)))
        usage: dict[str, object] = {
            "cpu_percent": round(self._usage.uniform(2, 60), 1),
            "gpu_percent": round(self._gpu_percent, 1),
            "gpu_mem_percent": round(self._usage.uniform(20, 90), 1),
            "mem_percent": round(self._usage.uniform(20, 80), 1),
            "running_jobs": 0,
        }
        if self._gpu_percent > 95:
            usage["gpu_queue_length"] = self._usage.randint(1, 4)
        return usage

    def usage_at_work(self, jobs: int, busy: float) -> dict[str, object]:
        """The resource usage of a node that has jobs: GPU use follows them, give or take a little.

        Args:
            jobs: how many run.
            busy: how much of the node they take; 1: all of it.
        """
        usage = self.usage()
        usage.pop("gpu_queue_length", None)
        percent = _IDLE_PERCENT + (100 - _IDLE_PERCENT) * busy + self._usage.gauss(0, 1)
        return {**usage, "gpu_percent": round(min(100.0, max(0.0, percent)), 1), "running_jobs": jobs}
