"""A fleet of simulated nodes, started, watched and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from pyscheduler.core.urls import masked_url
from pyscheduler.errors import InvalidInput
from pyscheduler.simulate.job_options import JobOptions
from pyscheduler.simulate.job_summary import JobsSummary
from pyscheduler.simulate.jobs import JobStream
from pyscheduler.simulate.node import SimulatedNode
from pyscheduler.simulate.options import FleetOptions
from pyscheduler.simulate.pools import PoolsLook, look_at_pools
from pyscheduler.simulate.tally import Tally, count_by
from pyscheduler.simulate.workplace import Workplace

# Half-open connections that a listener's backlog (often 128) takes without dropping any.
_OPENING_AT_ONCE = 64
_SPARE_FILES = 64
# How long a node may take, beyond its reconnect pause, until it counts as lost.
SETTLE_S = 5.0
# With no node ever registered after this long, nothing is there to simulate against.
START_PATIENCE_S = 30.0
_TICK_S = 0.1
_END_TIMEOUT_S = 8.0


class Snapshot(Struct, frozen=True):
    """A fleet at one moment. ``lost``: nodes without a registration for longer than a reconnect takes."""

    elapsed_s: float
    nodes: int
    connected: int
    registered: int
    lost: int
    pools: dict[str, int]
    statuses: dict[str, int]


class Summary(Struct, frozen=True):
    """How a simulation ended: the last look at the fleet before its sockets were closed, and all it counted.

    ``ok`` is false if a node could not be kept registered, or if something is wrong with the jobs; ``gave_up`` is true
    if no node ever was registered.
    """

    options: FleetOptions
    last: Snapshot
    tally: Tally
    gave_up: bool
    jobs: JobsSummary | None = None

    @property
    def ok(self) -> bool:
        return self.last.lost == 0 and not self.gave_up and (self.jobs is None or self.jobs.ok)

    def document(self) -> dict[str, object]:
        """The summary as plain JSON values; times in seconds, latencies in ms."""
        tally, last = self.tally, self.last
        return {
            "ok": self.ok,
            "gave_up": self.gave_up,
            "seed": self.options.seed,
            "urls": [masked_url(url) for url in self.options.urls],
            "duration_s": round(last.elapsed_s, 3),
            "nodes": last.nodes,
            "connected": last.connected,
            "registered": last.registered,
            "lost": last.lost,
            "pools": last.pools,
            "statuses": last.statuses,
            "heartbeats": tally.heartbeats,
            "heartbeats_per_s": round(tally.heartbeats / last.elapsed_s, 2) if last.elapsed_s > 0 else 0.0,
            "registrations": tally.registrations,
            "reconnects": tally.reconnects,
            "drops": tally.drops,
            "language_changes": tally.language_changes,
            "node_statuses": tally.statuses,
            "longest_absence_s": round(tally.longest_absence_s, 3),
            "errors": tally.errors.as_dict(),
            "closes": tally.closes.as_dict(),
            "connect_errors": tally.connect_errors.as_dict(),
            "latency_ms": {
                "connect": tally.connect_ms.as_dict(),
                "register": tally.register_ms.as_dict(),
                "language_change": tally.change_ms.as_dict(),
            },
            "jobs": None if self.jobs is None else self.jobs.document(),
        }


class Fleet:
    """The nodes of one simulation, and the jobs beside them. Make it inside a running event loop.

    Args:
        options: the nodes.
        jobs: the jobs; ``None``: none come.
    """

    def __init__(self, options: FleetOptions, jobs: JobOptions | None = None) -> None:
        self.options = options
        self.workplace = Workplace() if jobs is not None else None
        self.jobs = JobStream(options, jobs, self.workplace) if jobs is not None and self.workplace else None
        self.tally = Tally()
        self._started_s = asyncio.get_running_loop().time()
        gate = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._nodes = [
            SimulatedNode(options, index, self.tally, gate, self.workplace) for index in range(options.nodes)
        ]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the fleet was started."""
        return asyncio.get_running_loop().time() - self._started_s

    def look(self, *, ended: bool = False) -> Snapshot:
        """The fleet now. With ``ended`` a node that never registered is lost even if the run was short."""
        now_s = asyncio.get_running_loop().time()
        allowance_s = self.options.reconnect_s + SETTLE_S
        lost = 0
        for node in self._nodes:
            if node.away_since_s is None:
                continue
            if now_s - node.away_since_s > allowance_s or (ended and not node.ever_registered):
                lost += 1
        return Snapshot(
            elapsed_s=now_s - self._started_s,
            nodes=len(self._nodes),
            connected=sum(node.connected for node in self._nodes),
            registered=sum(node.registered for node in self._nodes),
            lost=lost,
            pools=count_by(node.pool for node in self._nodes if node.registered),
            statuses=count_by(node.status for node in self._nodes if node.registered),
        )

    def look_at_pools(self) -> PoolsLook:
        """The pools now, with the jobs in them."""
        return look_at_pools(self._nodes, self.workplace or Workplace())

    def cut(self) -> None:
        """Drop every socket at once and without a close frame, as a switch that fails does. The nodes come back."""
        for node in self._nodes:
            node.cut()

    def _is_over(self, now_s: float) -> bool:
        return self.options.duration_s is not None and now_s - self._started_s >= self.options.duration_s

    async def run(self, stop: asyncio.Event, on_tick: Callable[[Fleet], None] | None = None) -> Summary:
        """Run until the duration is over, ``stop`` is set, or nothing ever registered within 30 s.

        Args:
            on_tick: called about ten times a second, to draw.

        Raises:
            InvalidInput: this process may not open as many files as the fleet needs.
        """
        allow_files(len(self._nodes) + _SPARE_FILES)
        loop = asyncio.get_running_loop()
        self._started_s = loop.time()
        tasks = [asyncio.create_task(node.run()) for node in self._nodes]
        first_end = asyncio.create_task(_first_end(tasks))
        gave_up = False
        try:
            while not stop.is_set() and not self._is_over(loop.time()):
                if loop.time() - self._started_s > START_PATIENCE_S and self.tally.registrations == 0:
                    gave_up = True
                    break
                if first_end.done():
                    first_end.result()
                if on_tick is not None:
                    on_tick(self)
                if self.jobs is not None:
                    self._tend(self.jobs)
                    if self.jobs.stopped:
                        break
                await _wait(stop, self._tick_s())
            last, pools = self.look(ended=True), self.look_at_pools()
        finally:
            if self.jobs is not None:
                await self.jobs.end()
            first_end.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_END_TIMEOUT_S)
        jobs = None
        if self.jobs is not None:
            self.jobs.raise_fault()
            jobs = self.jobs.summary(pools)
        return Summary(self.options, last, self.tally, gave_up, jobs)

    def _tend(self, jobs: JobStream) -> None:
        jobs.raise_fault()
        # Jobs that find a fleet that is still registering would say nothing of it.
        if not jobs.started and (self.elapsed_s > SETTLE_S or all(node.status == "ready" for node in self._nodes)):
            jobs.start()

    def _tick_s(self) -> float:
        if self.options.duration_s is None:
            return _TICK_S
        left_s = self._started_s + self.options.duration_s - asyncio.get_running_loop().time()
        return min(_TICK_S, max(left_s, 0.0))


async def _first_end(tasks: list[asyncio.Task[None]]) -> None:
    # A node runs until it is cancelled, so the first one to end has met a fault of the simulator itself: raise it.
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


def allow_files(needed: int) -> None:
    """Raise this process's limit of open files to what the fleet needs, if it may.

    Raises:
        InvalidInput: the hard limit is lower.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InvalidInput(
            f"--nodes: this many nodes need {needed} open files and this process may have {hard}: "
            "raise the limit (ulimit -Hn) or simulate fewer nodes"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
