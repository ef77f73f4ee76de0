"""Following a stream, on a socket of its own, wherever the stream goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import redis.exceptions as rx

from pyscheduler.core.urls import Address
from pyscheduler.store.failures import UNREACHABLE, translate
from pyscheduler.store.link import Link, Reply, StoreOptions
from pyscheduler.store.route import Route, address_in, pause_s


async def follow(
    route: Route, options: StoreOptions, url: str, key: str, since: str, block_ms: int, count: int
) -> AsyncIterator[list[Reply]]:
    """Yields batches of new entries, empty ones too, until the caller stops.

    Args:
        route: the way to the server.
        options: bounds of a connection, and of how long a refused reading is repeated.
        url: URL of the store, for what is raised.
        key: the stream's key.
        since: id after which to begin, or ``$`` for what comes from now on.
        block_ms: longest wait for one batch.
        count: entries of one batch at most.

    Raises:
        StoreUnavailable: the connection failed.
    """
    stream = _Stream(route)
    last, refusals, give_up_at = since, 0, 0.0
    try:
        while True:
            command = ["XREAD", "COUNT", str(count), "BLOCK", str(block_ms), "STREAMS", key, last]
            if last == "$":
                # An id, not '$' again and again: nothing between two reads may be missed.
                command = ["XREVRANGE", key, "+", "-", "COUNT", "1"]
            refused: Exception
            try:
                reply = await stream.read(command, block_ms / 1000)
            except Exception as error:
                if not route.refuses_for_now(stream.link, error):
                    raise translate(error, url, sent=stream.link is not None) from error
                refused = error
            else:
                refusals, give_up_at = 0, 0.0
                if last == "$":
                    last = reply[0][0] if reply else "0-0"
                    continue
                batch = reply[0][1] if reply else []
                last = batch[-1][0] if batch else last
                yield batch
                continue
            give_up_at = give_up_at or time.monotonic() + options.timeout_s
            if time.monotonic() >= give_up_at:
                raise translate(refused, url, sent=False) from refused
            await stream.go_after(refused)
            refusals += 1
            await asyncio.sleep(pause_s(refusals))
    finally:
        await stream.close()


class _Stream:
    """Where the stream is read.

    Attributes:
        link: the socket; ``None`` before the first reading, and after the server has sent us away.
    """

    def __init__(self, route: Route) -> None:
        self.link: Link | None = None
        self._route = route
        self._ask_at: Address | None = None
        """The server that the slot is on its way to, if the stream has arrived there."""

    async def read(self, command: list[str], blocks_s: float) -> Reply:
        """One reading. What the server says against it is raised."""
        if self.link is None and self._ask_at is not None:
            try:
                self.link = await self._route.connect_to(self._ask_at)
            except UNREACHABLE:
                self._ask_at = None
        if self.link is None:
            self.link = await self._route.connect()
        # Harmless where the slot has arrived meanwhile.
        asking = [("ASKING",)] if self._ask_at is not None else []
        reply = (await self.link.round_trip([*asking, tuple(command)], blocks_s=blocks_s))[-1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def go_after(self, refused: BaseException) -> None:
        """Leaves a server that refused, for the one that it pointed to if it did."""
        link = self.link
        if link is None or isinstance(refused, rx.TryAgainError):
            return
        await self.close()
        self._ask_at = None
        if not isinstance(refused, rx.AskError) or link.address is None:
            return
        if isinstance(refused, rx.MovedError):
            self._route.moved(address_in(refused, link.address))
        else:
            self._ask_at = address_in(refused, link.address)

    async def close(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            await link.close()
