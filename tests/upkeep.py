"""What tests of upkeep share: a fleet, the events of a kind, and where the store knows a node."""

from __future__ import annotations

from tests.harness import LEASE_MS, Cell
from tests.oracle import State, read_state

MINUTE_MS = 60_000


async def fleet(cell: Cell, count: int, **options: object) -> None:
    for number in range(count):
        await cell.register(f"n{number:03}", "en", "zh", **options)


async def events_of(cell: Cell, kind: str) -> list[dict[str, str]]:
    return [event for event in (await read_state(cell.store)).events if event["type"] == kind]


def traces(state: State, node_id: str) -> list[str]:
    """Keys that know a node."""
    keys = ("members", "ready", "leases", "sessions", "nodes", "usage", "holds")
    return [key for key in keys if node_id in getattr(state, key)]


async def tick(cell: Cell, milliseconds: int) -> int:
    """Time passes in short steps with a reconcile in each; returns how many nodes it expired."""
    expired = 0
    while milliseconds > 0:
        step = min(milliseconds, LEASE_MS // 4)
        milliseconds -= step
        await cell.advance(step)
        expired += (await cell.reconcile()).expired
    return expired


async def remembered(cell: Cell) -> set[str]:
    """The instances that have an entry, lapsed or not."""
    return set(await cell.store.command("HKEYS", cell.store.key("instances"))) - {""}
