"""How a simulated stream of jobs ended."""

from __future__ import annotations

from msgspec import Struct

from pyscheduler.simulate.job_options import JobOptions
from pyscheduler.simulate.job_tally import JobTally
from pyscheduler.simulate.pools import PoolsLook


class JobsSummary(Struct, frozen=True):
    """All that a stream counted, and the pools as they were before its last jobs were given back.

    Attributes:
        owner: the name under which it reserved.
        elapsed_s: for how long jobs came.
        stopped: why they stopped coming before the end; empty if they did not.
    """

    options: JobOptions
    owner: str
    elapsed_s: float
    tally: JobTally
    pools: PoolsLook
    stopped: str

    @property
    def ok(self) -> bool:
        """Nothing is left reserved, and the door answered."""
        tally = self.tally
        return not self.stopped and tally.left == 0 and (tally.answered or tally.arrived == 0)

    def document(self) -> dict[str, object]:
        """As plain JSON values; times in seconds, latencies in ms."""
        return {
            "ok": self.ok,
            "stopped": self.stopped,
            "owner": self.owner,
            "operator_urls": list(self.options.doors),
            "duration_s": round(self.elapsed_s, 3),
            "reserved_per_s": self._per_s(self.tally.reserved),
            "refused_per_s": self._per_s(self.tally.refused.total()),
            **self.tally.document(),
            "pools": {name: pool.document() for name, pool in self.pools.pools.items()},
            "elsewhere": self.pools.elsewhere,
        }

    def _per_s(self, count: int) -> float:
        return round(count / self.elapsed_s, 2) if self.elapsed_s > 0 else 0.0
