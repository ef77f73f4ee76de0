"""Counters of a simulated fleet, bounded however long it runs."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable

from msgspec import Struct, field

_SAMPLES = 10_000
_KEYS = 32
_TEXT = 200


class BoundedCounter:
    """Counts by key, for keys that come from outside: what does not fit any more is counted as ``other``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, key: str) -> None:
        key = key[:_TEXT]
        self._counts[key if key in self._counts or len(self._counts) < _KEYS else "other"] += 1

    def total(self) -> int:
        return self._counts.total()

    def as_dict(self) -> dict[str, int]:
        """Counts by key, most frequent first."""
        return dict(self._counts.most_common())


class Latencies:
    """Times in ms: of the last 10,000 samples the quantiles, of all of them the count and the maximum."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._count = 0
        self._max = 0.0

    def add(self, ms: float) -> None:
        self._samples.append(ms)
        self._count += 1
        self._max = max(self._max, ms)

    def as_dict(self) -> dict[str, float | int | None]:
        ordered = sorted(self._samples)
        return {
            "count": self._count,
            "p50": _quantile(ordered, 0.5),
            "p95": _quantile(ordered, 0.95),
            "p99": _quantile(ordered, 0.99),
            "max": round(self._max, 2) if self._count else None,
        }


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 2)


class Problems(Struct):
    """What went wrong, for people."""

    last_problem: str = ""

    def problem(self, text: str) -> None:
        """Remember the latest thing that went wrong."""
        self.last_problem = text[:_TEXT]


class Tally(Problems):
    """What a fleet has done so far."""

    heartbeats: int = 0
    registrations: int = 0
    reconnects: int = 0
    drops: int = 0
    language_changes: int = 0
    statuses: int = 0
    connect_errors: BoundedCounter = field(default_factory=BoundedCounter)
    errors: BoundedCounter = field(default_factory=BoundedCounter)
    closes: BoundedCounter = field(default_factory=BoundedCounter)
    longest_absence_s: float = 0.0
    connect_ms: Latencies = field(default_factory=Latencies)
    register_ms: Latencies = field(default_factory=Latencies)
    change_ms: Latencies = field(default_factory=Latencies)


class Rate:
    """Events per second over the last seconds, from a counter that is looked at now and then."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()

    def look(self, now_s: float, count: int) -> float:
        self._seen.append((now_s, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - self._window_s:
            self._seen.popleft()
        elapsed = now_s - self._seen[0][0]
        return (count - self._seen[0][1]) / elapsed if elapsed > 0 else 0.0


def count_by(values: Iterable[str | None]) -> dict[str, int]:
    """How often each value occurs, most frequent first; ``None`` is left out."""
    return dict(Counter(value for value in values if value is not None).most_common())
