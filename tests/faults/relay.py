"""A TCP relay that takes its time: what a long line does to those at its ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK = 64 * 1024
_IN_FLIGHT = 1024


class Relay:
    """Passes bytes on after a delay, in both directions and in order. An asynchronous context manager.

    Args:
        listening: a socket that is bound; closed with the relay.
        connect: opens the connection behind one that comes in.
        delay_s: how long each piece is on its way, in each direction.
    """

    def __init__(self, listening: socket.socket, connect: Callable[[], Awaitable[Streams]], delay_s: float) -> None:
        self._listening, self._connect, self._delay_s = listening, connect, delay_s
        self._pipes: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, sock=self._listening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pipe = asyncio.create_task(self._pass_on(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)

        async def read() -> None:
            data = b"-"
            while data:
                with contextlib.suppress(OSError):
                    data = await source.read(_CHUNK)
                await pieces.put((loop.time() + self._delay_s, data))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    return
                sink.write(data)
                await sink.drain()
        except OSError:
            return
        finally:
            reading.cancel()
            sink.close()
