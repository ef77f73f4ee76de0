"""Coalescing of heartbeats: those that arrive while others are under way leave together in one ``touch_nodes``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from pyscheduler.core.limits import MAX_TOUCH_BATCH, MAX_WAITING_HEARTBEATS
from pyscheduler.core.results import Session
from pyscheduler.errors import (
    LimitExceeded,
    OutcomeUnknown,
    PyschedulerError,
    SessionLost,
    StoreError,
    StoreUnavailable,
)
from pyscheduler.scripts import calls


@dataclass(slots=True)
class _Heartbeat:
    session: Session
    lease_ms: int
    load: str
    usage: str
    future: asyncio.Future[int]


class Heartbeats:
    """Collects heartbeats and sends them in batches; a lone one leaves at once.

    Args:
        run: runs a script and returns its reply.
    """

    def __init__(self, run: Callable[[calls.Call], Awaitable[list[str]]]) -> None:
        self._run = run
        self._waiting: deque[_Heartbeat] = deque()
        self._sender: asyncio.Task[None] | None = None

    def add(self, session: Session, lease_ms: int, load: str, usage: str) -> asyncio.Future[int]:
        """A future of the config version. It fails with SessionLost, or with what the store failed with."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= MAX_WAITING_HEARTBEATS:
            future.set_exception(LimitExceeded(f"{MAX_WAITING_HEARTBEATS} heartbeats already wait for the store"))
            return future
        self._waiting.append(_Heartbeat(session, lease_ms, load, usage, future))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="pyscheduler-heartbeats")
        return future

    async def aclose(self) -> None:
        """Ends the sending; heartbeats that wait end with StoreUnavailable, those under way with OutcomeUnknown."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        _fail(self._waiting, StoreUnavailable("the store is closed"))
        self._waiting.clear()

    async def _send_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft()]
            # One batch has one lease; a process has one too, so this rarely splits.
            while self._waiting and len(batch) < MAX_TOUCH_BATCH and self._waiting[0].lease_ms == batch[0].lease_ms:
                batch.append(self._waiting.popleft())
            try:
                await self._send(batch)
            except PyschedulerError as error:
                _fail(batch, error)
            except asyncio.CancelledError:
                _fail(batch, OutcomeUnknown("the store was closed: the heartbeat may have been executed"))
                raise
            except BaseException as error:
                _fail(batch, StoreError(f"heartbeats failed: {error!r}"))
                raise

    async def _send(self, batch: list[_Heartbeat]) -> None:
        nodes: list[str] = []
        for heartbeat in batch:
            nodes += (heartbeat.session.node_id, heartbeat.session.token, heartbeat.load, heartbeat.usage)
        reply = await self._run(calls.touch_nodes(lease_ms=batch[0].lease_ms, nodes=nodes))
        version = int(reply[1])
        for heartbeat, letter in zip(batch, reply[2], strict=True):
            if heartbeat.future.done():
                continue
            if letter == "A":
                heartbeat.future.set_result(version)
            else:
                heartbeat.future.set_exception(SessionLost(heartbeat.session.node_id, unknown=letter == "U"))


def _fail(heartbeats: Iterable[_Heartbeat], error: PyschedulerError) -> None:
    for heartbeat in heartbeats:
        if not heartbeat.future.done():
            heartbeat.future.set_exception(error)
