"""A TCP proxy that a test breaks: it stops forwarding without a word, or resets after so many bytes of a reply."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_PIECE = 1 << 16


class Proxy:
    """Listens on loopback and forwards to one target; an asynchronous context manager.

    Args:
        target: path of a Unix socket, or ``(host, port)``.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._reply_bytes_left: int | None = None
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None, "the proxy has not been started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def freeze(self) -> None:
        """From now on nothing is forwarded, in no direction, and nothing is closed."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def reset_after(self, reply_bytes: int | None) -> None:
        """Reset both sides once so many bytes more of replies have been forwarded; ``None``: no more."""
        self._reply_bytes_left = reply_bytes

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        far: asyncio.StreamWriter | None = None
        try:
            if isinstance(self._target, str):
                far_reader, far = await asyncio.open_unix_connection(self._target)
            else:
                far_reader, far = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far, reply=False))
                pumps.create_task(self._pump(far_reader, writer, reply=True))
        except* (OSError, _Ended, asyncio.CancelledError):
            pass  # the end of the test is one, too; asyncio's server would report a cancelled task as a failed one
        finally:
            self._links.discard(link)
            for side in (writer, far):
                if side is not None:
                    side.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool) -> None:
        while piece := await reader.read(_PIECE):
            await self._flows.wait()
            left = self._reply_bytes_left if reply else None
            writer.write(piece[:left])
            await writer.drain()
            if left is not None:
                self._reply_bytes_left = left - min(left, len(piece))
                if left <= len(piece):
                    break
        raise _Ended


class _Ended(Exception):
    """One side has ended: so does the other."""
