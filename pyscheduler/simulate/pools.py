"""The pools of a simulated fleet that has jobs, at one moment."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pyscheduler.simulate.node import SimulatedNode
from pyscheduler.simulate.workplace import Workplace


class PoolLook(Struct):
    """One pool, as the fleet knows it: nodes and jobs of others are not in it.

    Attributes:
        nodes, ready: registered nodes, and those that are ready.
        slots: slots of the ready nodes.
        used: slots that the stream's jobs have, on ready nodes or not.
    """

    nodes: int = 0
    ready: int = 0
    slots: int = 0
    used: int = 0
    load_sum: float = 0.0

    @property
    def load(self) -> float:
        """What its nodes last reported, on average, 0..1."""
        return self.load_sum / self.nodes if self.nodes else 0.0

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "nodes": self.nodes,
            "ready": self.ready,
            "slots": self.slots,
            "used": self.used,
            "load": round(self.load, 3),
        }


class PoolsLook(Struct, frozen=True):
    """All of them, by name. ``elsewhere``: slots that the jobs have on nodes without a pool, or of other fleets."""

    pools: dict[str, PoolLook]
    elsewhere: int


def look_at_pools(nodes: Iterable[SimulatedNode], workplace: Workplace) -> PoolsLook:
    """The pools now, in the order of their names, so that a row stays where it is."""
    pools: dict[str, PoolLook] = {}
    for node in nodes:
        if not node.registered or node.pool is None:
            continue
        pool = pools.setdefault(node.pool, PoolLook())
        pool.nodes += 1
        pool.used += workplace.jobs(node.node_id)
        pool.load_sum += node.load
        if node.status == "ready":
            pool.ready += 1
            pool.slots += workplace.slots.of(node.pool)
    elsewhere = workplace.everywhere() - sum(pool.used for pool in pools.values())
    return PoolsLook(dict(sorted(pools.items())), elsewhere)
