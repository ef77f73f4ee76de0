"""Watches whether the store can be reached, and puts back what it has lost.

The sockets are the truth about which nodes are here. After an outage, and now and then, every node that holds a socket
is compared with the store: one that the store does not know is registered again under its epoch, one that another
process holds now is closed, and one of which something changed is told. For a node that has said nothing for a lease
nobody speaks: its own next message registers it again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from pyscheduler.errors import PyschedulerError, StoreError
from pyscheduler.registry.connection import Connection
from pyscheduler.registry.shared import Shared
from pyscheduler.registry.watcher import tell_states


class Recovery:
    """The store's health as this process sees it, and the comparison of its sockets with the store.

    Args:
        shared: what connections share.
        check_interval_ms: time between two checks whether the store answers, in ms.
        compare_interval_ms: time between two comparisons without a cause, in ms.
        concurrency: nodes put back at the same time, from 1.
        on_down: called at each check that fails; may mend the store (start the embedded server again).
    """

    def __init__(
        self,
        shared: Shared,
        *,
        check_interval_ms: int,
        compare_interval_ms: int,
        concurrency: int,
        on_down: Callable[[], Awaitable[None]],
    ) -> None:
        self._shared = shared
        self._check_s = check_interval_ms / 1000
        self._compare_s = compare_interval_ms / 1000
        self._places = asyncio.Semaphore(concurrency)
        self._on_down = on_down
        self._wake = asyncio.Event()
        self._compare_due = False
        self._lost: set[str] = set()
        self._next_compare = time.monotonic() + self._compare_s * random.random()
        self._down_since: float | None = None

    @property
    def store_is_up(self) -> bool:
        """Whether the last check reached the store."""
        return self._down_since is None

    def compare_soon(self) -> None:
        """Compare every node with the store as soon as it answers."""
        self._compare_due = True
        self._wake.set()

    def put_back_soon(self, node_id: str) -> None:
        """The store has dropped a node whose socket is here."""
        self._lost.add(node_id)
        self._wake.set()

    async def run(self) -> None:
        """Check and compare, for ever."""
        while True:
            try:
                await self._check()
                if self.store_is_up:
                    await self._put_back_lost()
                    if self._compare_due or time.monotonic() >= self._next_compare:
                        await self._compare()
            except PyschedulerError as error:
                self._shared.log.debug("recovery_interrupted", error=str(error))
            except Exception as error:
                self._shared.log.error("recovery_defect", exc_info=error)
                await asyncio.sleep(self._check_s)
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._check_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()
        if not self.store_is_up:
            # Nothing can be done about it before the store answers; it is not asked more often for that.
            await asyncio.sleep(self._check_s)

    async def _check(self) -> None:
        try:
            await self._shared.allocator.ping()
        except StoreError as error:
            self._shared.metrics.store_up.set(0)
            if self._down_since is None:
                self._down_since = time.monotonic()
                self._shared.log.error("store_down", error=str(error), nodes=self._shared.sockets.registered)
            self._compare_due = True
            await self._on_down()
            return
        except PyschedulerError as error:
            # Too many calls wait: that says nothing about the store.
            self._shared.log.debug("store_not_checked", error=str(error))
            return
        self._shared.metrics.store_up.set(1)
        if self._down_since is not None:
            away_ms = round((time.monotonic() - self._down_since) * 1000)
            self._down_since = None
            self._shared.log.warning("store_back", away_ms=away_ms, nodes=self._shared.sockets.registered)

    async def _put_back_lost(self) -> None:
        lost, self._lost = self._lost, set()
        holders = (self._shared.sockets.holder(node_id) for node_id in lost)
        await self._put_back([one for one in holders if one is not None and not one.is_silent], "expired by the store")

    async def _compare(self) -> None:
        """Compare every node of this process with the store."""
        self._compare_due = False
        try:
            lost = await tell_states(self._shared, self._shared.sockets.holders())
        except Exception:
            self._compare_due = True
            raise
        # Also those whose first registration an outage has kept waiting.
        waiting = [one for one in self._shared.sockets if one.waits_for_store]
        await self._put_back(waiting, "registration had to wait")
        await self._put_back([one for one in lost if not one.is_silent], "not in the store")
        self._next_compare = time.monotonic() + self._compare_s * random.uniform(0.8, 1.2)

    async def _put_back(self, connections: list[Connection], reason: str) -> None:
        if not connections:
            return
        started = time.monotonic()
        results = await asyncio.gather(*(self._put_back_one(connection) for connection in connections))
        done = sum(results)
        self._shared.metrics.recovered.inc(done)
        took_ms = round((time.monotonic() - started) * 1000)
        self._shared.log.warning(
            "nodes_put_back", nodes=done, failed=len(results) - done, reason=reason, took_ms=took_ms
        )

    async def _put_back_one(self, connection: Connection) -> bool:
        async with self._places:
            try:
                return await connection.put_back()
            except Exception as error:
                self._shared.log.error("put_back_defect", node_id=connection.node_id, exc_info=error)
                return False
