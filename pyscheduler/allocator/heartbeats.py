"""Heartbeats that come together leave in one ``touch_nodes``."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from pyscheduler.allocator.coalescing import Coalescer
from pyscheduler.core.limits import MAX_TOUCH_BATCH, MAX_WAITING_HEARTBEATS
from pyscheduler.core.results import Session
from pyscheduler.errors import PyschedulerError, SessionLost
from pyscheduler.scripts import calls


class Heartbeat(Struct):
    """One heartbeat; ``usage`` as ``touch_nodes`` takes it: load and JSON object, the load alone, or empty."""

    session: Session
    lease_ms: int
    usage: str


class Heartbeats(Coalescer[Heartbeat, int]):
    """Heartbeats of a namespace; the result of each is the config version."""

    what = "heartbeats"
    max_batch = MAX_TOUCH_BATCH
    max_waiting = MAX_WAITING_HEARTBEATS

    def joins(self, batch: Sequence[Heartbeat], item: Heartbeat) -> bool:
        """One call has one lease. A process has one too, so this rarely splits."""
        return item.lease_ms == batch[0].lease_ms

    async def send(self, batch: Sequence[Heartbeat]) -> list[int | PyschedulerError]:
        nodes: list[str] = []
        for heartbeat in batch:
            nodes += (heartbeat.session.node_id, heartbeat.session.token, heartbeat.usage)
        _, version, letters = await self._run(calls.touch_nodes(lease_ms=batch[0].lease_ms, nodes=nodes))
        return [
            int(version) if letter == "A" else SessionLost(heartbeat.session.node_id, unknown=letter == "U")
            for heartbeat, letter in zip(batch, letters, strict=True)
        ]
