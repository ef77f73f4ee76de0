"""Load on a store: commands packed beforehand, sent over many connections, so that little but the server works."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONNECTIONS = 50
PIPELINE = 16

_DEADLINE_S = 120.0
_READ = 1 << 18


def pack(*parts: str | int | bytes) -> bytes:
    """One command as it goes over the wire."""
    packed = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        packed.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(packed)


@dataclass(frozen=True, slots=True)
class Answer:
    """What each command of a load is answered with.

    Args:
        lines: lines of one reply, as RESP counts them.
        mark: bytes that stand in one reply exactly once if the command did what it should.
    """

    lines: int
    mark: bytes


class _Connection:
    def __init__(self, address: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(address)
        self.socket.setblocking(False)
        self.left = b""
        self.lines = self.marks = 0
        self.received = bytearray()

    def send(self) -> bool:
        """Send what is left; whether some still is."""
        while self.left:
            try:
                self.left = self.left[self.socket.send(self.left) :]
            except BlockingIOError:
                return True
        return False


def drive(
    address: bytes,
    commands: Sequence[bytes],
    answer: Answer,
    *,
    connections: int = CONNECTIONS,
    pipeline: int = PIPELINE,
) -> float:
    """Send the commands, each connection waiting for the answers to a pipeline before it sends the next.

    Args:
        address: Unix socket of the server.
        commands: see :func:`pack`.
        answer: what each is to be answered with.
        connections: how many.
        pipeline: commands that go out together.

    Returns:
        The seconds that it took.

    Raises:
        RuntimeError: an answer was another one.
    """
    batches = [commands[first : first + pipeline] for first in range(0, len(commands), pipeline)]
    waiting = iter([(b"".join(batch), len(batch)) for batch in batches])
    selector = selectors.DefaultSelector()
    sockets = [_Connection(address) for _ in range(min(connections, len(batches)))]
    try:
        for connection in sockets:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        started = time.perf_counter()
        busy = sum(_next(selector, connection, waiting, answer) for connection in sockets)
        while busy:
            if time.perf_counter() - started > _DEADLINE_S:
                raise RuntimeError(f"the server has not answered within {_DEADLINE_S:g} s")
            for key, events in selector.select(1.0):
                connection = key.data
                if events & selectors.EVENT_WRITE and not connection.send():
                    selector.modify(connection.socket, selectors.EVENT_READ, connection)
                if events & selectors.EVENT_READ and _received(connection, answer):
                    busy -= not _next(selector, connection, waiting, answer)
        return time.perf_counter() - started
    finally:
        selector.close()
        for connection in sockets:
            connection.socket.close()


def _next(
    selector: selectors.BaseSelector, connection: _Connection, waiting: Iterable[tuple[bytes, int]], answer: Answer
) -> bool:
    """Begin the next pipeline, if there is one."""
    for connection.left, count in waiting:
        connection.lines, connection.marks = count * answer.lines, count
        connection.received.clear()
        if connection.send():
            selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
        return True
    return False


def _received(connection: _Connection, answer: Answer) -> bool:
    """Read what is there; whether the pipeline is answered."""
    data = connection.socket.recv(_READ)
    if not data:
        raise RuntimeError("the server closed a connection")
    received = connection.received
    received += data
    if received[:1] == b"-" or (b"\r\n-" in data):
        raise RuntimeError(f"the server refused a command: {bytes(received[:200])!r}")
    if received.count(b"\r\n") < connection.lines:
        return False
    if received.count(answer.mark) != connection.marks:
        raise RuntimeError(f"an answer was not {answer.mark[:40]!r}: {bytes(received[:200])!r}")
    return True
