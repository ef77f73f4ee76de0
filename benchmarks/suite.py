"""What a suite is made of: groups that are measured in rounds, in turns, and what they found."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.floor import Floor
from benchmarks.server import StoreServer


class Skipped(Exception):
    """A group can't be measured here; the message says why, and what to install."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        sizes: fleets of the growth curves, smallest first.
        work: nodes that one measurement registers, moves ...
        batches: heartbeat calls of one measurement.
        expiring: nodes that lapse at once.
        sockets: node connections of the door.
        beats: heartbeats of each.
        storm: nodes that register at once.
        seconds: length of what is measured by time.
        writers: numbers of concurrent writers.
        floor: floor operations of one measurement.
        starts: process starts of one round.
    """

    sizes: tuple[int, ...]
    work: int
    batches: int
    expiring: int
    sockets: int
    beats: int
    storm: int
    seconds: float
    writers: tuple[int, ...]
    floor: int
    starts: int


FULL = Scale((1_000, 10_000, 100_000), 2_000, 600, 10_000, 2_000, 15, 9_500, 1.5, (1, 8, 32), 40_000, 3)
QUICK = Scale((300, 1_000), 300, 60, 500, 100, 5, 200, 0.3, (1, 8), 8_000, 1)
LARGE = 1_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """What a metric of a row should be.

    Attributes:
        bound: the value.
        at_most: whether lower is better.
    """

    bound: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


PACE_US = 5.0
"""CPU of a floor operation on the machine for which those targets were set that are times and rates."""

TIMES = {"blocked_ms", "worst_ms", "stall_ms", "p99_ms", "all_s", "wall_ms"}
RATES = {"per_cpu_s"}


@dataclass
class Results:
    """Every value of every round; and, by strategy, the jobs of each node, fullest first.

    Attributes:
        floor_us: CPU of one floor operation now, in microseconds.
        values: by table and row, metric -> a value for each time that it was measured.
        paces: by table and row, the floor at each of these times.
    """

    floor_us: float = 0.0
    values: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    paces: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    targets: dict[tuple[str, str, str], Target] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    spreads: dict[str, list[int]] = field(default_factory=dict)

    def add(self, group: str, row: str, metrics: dict[str, float]) -> None:
        self.paces.setdefault((group, row), []).append(self.floor_us)
        found = self.values.setdefault((group, row), {})
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)

    def forget(self, group: str, row: str) -> None:
        """What was measured to warm up."""
        del self.values[(group, row)], self.paces[(group, row)]

    def median(self, group: str, row: str, metric: str) -> float | None:
        found = self.values.get((group, row), {}).get(metric)
        return statistics.median(found) if found else None

    def at_pace(self, group: str, row: str, metric: str) -> float | None:
        """What a time or a rate that has a target would be where the floor takes ``PACE_US``; else ``None``."""
        found, paces = self.values.get((group, row), {}).get(metric), self.paces.get((group, row), [])
        if not found or metric not in TIMES | RATES or (group, row, metric) not in self.targets:
            return None
        slower = [floor / PACE_US for floor in paces]
        return statistics.median(
            value / by if metric in TIMES else value * by for value, by in zip(found, slower, strict=True)
        )

    def rows(self, group: str) -> list[str]:
        return [row for name, row in self.values if name == group]

    def verdict(self, group: str, row: str, metric: str) -> bool | None:
        target, value = self.targets.get((group, row, metric)), self.median(group, row, metric)
        return None if target is None or value is None else target.met(value)


@dataclass
class Bench:
    """What a group gets to measure with.

    Attributes:
        scale: how much.
        program: the server program to measure; ``None`` for the embedded one.
        folder: for files.
        results: where the values go.
        floor: the floor.
        table: the table that rows go to.
    """

    scale: Scale
    program: Path | None
    folder: Path
    results: Results
    floor: Floor
    table: str = ""

    @property
    def floor_us(self) -> float:
        """CPU of one floor operation now, in microseconds; measured anew before each group and each size of a fleet."""
        return self.results.floor_us

    def server(self, **settings: str) -> StoreServer:
        return StoreServer(self.program, {name.replace("_", "-"): value for name, value in settings.items()})

    def take_floor(self) -> None:
        self.results.floor_us, usage = self.floor.measure()
        calls = usage.script_calls
        self.results.add(
            "floor",
            "floor operation",
            {"cpu_us": self.floor_us, "held_us": usage.blocked_us, "per_s": calls / usage.wall_s},
        )

    def row(self, row: str, **metrics: float) -> None:
        """Note one measurement. ``cpu_us`` is also given as a multiple of the floor."""
        if "cpu_us" in metrics:
            metrics = {"floors": metrics["cpu_us"] / self.floor_us, **metrics}
        self.results.add(self.table, row, metrics)

    def target(self, row: str, metric: str, bound: float, *, at_most: bool = True) -> None:
        self.results.targets[(self.table, row, metric)] = Target(bound, at_most)


Measure = Callable[[], None]
"""One round of a group."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that are shown together.

    Attributes:
        name: of the table, among the results.
        title: its heading.
        how: what is measured, and how; for the page.
    """

    name: str
    title: str
    how: str


@dataclass(frozen=True, slots=True)
class Group:
    """Tables that share their servers.

    Attributes:
        name: for ``--only``.
        tables: one or more.
        open: starts what it needs; ends it when the context ends. Raises :class:`Skipped`.
    """

    name: str
    tables: tuple[Table, ...]
    open: Callable[[Bench], AbstractContextManager[Measure]]


Opened = Iterator[Measure]
