"""Many node sockets in one process, with as little work as can be: frames are made once, and masked with zeros."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

_DEADLINE_S = 180.0
_READ = 1 << 16
_CONNECTING = 400
"""Connections that may be on their way at once: fewer than a listener's backlog holds."""

_TEXT = 0x81
_CLOSE = 0x88
_PONG = 0x8A
PING = b"\x89\x84\0\0\0\0read"
PONG = b"read"
"""What comes back for it."""


def frame(text: str) -> bytes:
    """A client's text frame. Masked, as it must be, with zeros, which change nothing."""
    data = text.encode()
    if len(data) < 126:
        head = struct.pack("!BB", _TEXT, 0x80 | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", _TEXT, 0x80 | 126, len(data))
    else:
        head = struct.pack("!BBQ", _TEXT, 0x80 | 127, len(data))
    return head + b"\0\0\0\0" + data


class Socket:
    """One WebSocket of a swarm.

    Attributes:
        number: its place in the swarm.
        open: whether the handshake is done.
    """

    __slots__ = ("_left", "_received", "connection", "number", "open", "selector")

    def __init__(self, number: int, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        self.number, self.connection, self.selector = number, connection, selector
        self.open = False
        self._left = b""
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        """Send frames; what the socket does not take now goes out later."""
        self._left += data
        self.flush()

    def flush(self) -> None:
        if self._left:
            try:
                sent = self.connection.send(self._left)
            except BlockingIOError:
                sent = 0
            self._left = self._left[sent:]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._left else 0)
        if self.selector.get_key(self.connection).events != events:
            self.selector.modify(self.connection, events, self)

    def read(self) -> Iterator[bytes]:
        """The texts that have come."""
        try:
            data = self.connection.recv(_READ)
        except BlockingIOError:
            return
        if not data:
            raise RuntimeError(f"connection {self.number} was closed by the server")
        received = self._received
        received += data
        if not self.open:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            if not received.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"no WebSocket: {bytes(received[:100])!r}")
            del received[: end + 4]
            self.open = True
            yield b""
        while len(received) >= 2:
            length, start = received[1], 2
            if length == 126:
                length, start = int.from_bytes(received[2:4], "big"), 4
            elif length == 127:
                length, start = int.from_bytes(received[2:10], "big"), 10
            if len(received) < start + length:
                return
            kind, text = received[0], bytes(received[start : start + length])
            del received[: start + length]
            if kind == _CLOSE:
                raise RuntimeError(f"connection {self.number} was closed: {text[2:]!r}")
            if kind in (_TEXT, _PONG):
                yield text


class Swarm:
    """Connections to one door. A context manager.

    Args:
        url: ``ws://`` URL of the door.
        count: how many connections.
    """

    def __init__(self, url: str, count: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._hello = (
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self.count = count
        self.sockets: list[Socket] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *raised: object) -> None:
        for one in self.sockets:
            one.connection.close()
        self._selector.close()

    def connect(self, on_text: Callable[[Socket, bytes], None] | None = None) -> None:
        """Open every connection; ``on_text`` gets each one as it opens, with an empty text, and then what comes."""
        opened = 0

        def begin() -> None:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(self._address)
            one = Socket(len(self.sockets), connection, self._selector)
            self.sockets.append(one)
            self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, one)
            one._left = self._hello

        def came(one: Socket, text: bytes) -> None:
            nonlocal opened
            if not text:
                opened += 1
                if len(self.sockets) < self.count:
                    begin()
            if on_text is not None:
                on_text(one, text)

        for _ in range(min(_CONNECTING, self.count)):
            begin()
        self.run(came, lambda: opened >= self.count)

    def run(self, on_text: Callable[[Socket, bytes], None], done: Callable[[], bool]) -> None:
        """Read what comes until ``done``."""
        deadline = time.monotonic() + _DEADLINE_S
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not done within {_DEADLINE_S:g} s")
            for key, events in self._selector.select(0.5):
                one: Socket = key.data
                if events & selectors.EVENT_WRITE:
                    one.flush()
                if events & selectors.EVENT_READ:
                    for text in one.read():
                        on_text(one, text)

    def ask(self, frames: Sequence[bytes], *answers: bytes) -> None:
        """Send each connection its frames, and wait until each has got an answer that begins in one of these ways."""
        answered = 0

        def came(one: Socket, text: bytes) -> None:
            nonlocal answered
            answered += text.startswith(answers)

        for one, data in zip(self.sockets, frames, strict=True):
            one.send(data)
        self.run(came, lambda: answered >= self.count)

    def echo(self, message: bytes, seconds: float) -> int:
        """Every connection sends a frame, waits for a text, sends the next one ...; how many answers came."""
        answers, ends = 0, time.perf_counter() + seconds

        def came(one: Socket, text: bytes) -> None:
            nonlocal answers
            answers += 1
            one.send(message)

        for one in self.sockets:
            one.send(message)
        self.run(came, lambda: time.perf_counter() >= ends)
        return answers
