"""The other end of a connection to a door, byte by byte: what no client library would send."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
"""Kinds of frames."""


def frame(
    opcode: int, payload: bytes, *, last: bool = True, masked: bool = True, bits: int = 0, says: int = -1
) -> bytes:
    """A frame, with a mask of zeros; ``says``: the length that its head announces."""
    size = len(payload) if says < 0 else says
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if last else 0) | bits | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65_536:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


def upgrade(*headers: bytes) -> bytes:
    key = base64.b64encode(os.urandom(16))
    fixed = (b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
    lines = (b"GET /ws/node HTTP/1.1", *fixed, b"Sec-WebSocket-Key: " + key, *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Peer:
    """The other end of a connection, that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def upgrade(self, *headers: bytes) -> None:
        self.writer.write(upgrade(*headers))
        assert (await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

    async def until(self, text: bytes) -> None:
        """Read until ``text`` has come."""
        kept = b""
        async with asyncio.timeout(20):
            while text not in kept:
                came = await self.reader.read(1 << 16)
                assert came, f"the connection ended before {text!r}"
                kept = kept[-len(text) :] + came

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything until the server has closed; what a cut connection had brought is lost with it."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def connected(url: str, *, upgraded: bool = False) -> AsyncIterator[Peer]:
    """A bare connection to a door; ``upgraded``: to a WebSocket."""
    address = urlsplit(url)
    peer = Peer(*await asyncio.open_connection(address.hostname, address.port))
    try:
        if upgraded:
            await peer.upgrade()
        yield peer
    finally:
        peer.writer.close()
