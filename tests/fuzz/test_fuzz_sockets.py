"""Fuzzing of the node door's socket: bytes of HTTP and WebSocket, against the real listener over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from pyscheduler import registry
from pyscheduler.core.codes import CloseCode
from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Scheduler, connect
from tests.fixtures.clients import REVISIONS, State
from tests.fuzz.guided import Arcs, Fuzzer, Input
from tests.fuzz.mutate import mutate, of_bytes, of_json
from tests.fuzz.test_fuzz_frames import check_message
from tests.peers import BINARY, CLOSE, CONTINUED, PING, PONG, TEXT, Peer, connected, frame, upgrade

NODE = "node-0A1B2C3D"
ANSWER_S = 20.0
"""The server ends a connection whose other side has ended long before that."""

PATIENCE_S = 0.1
"""How long an answer is waited for that may never come."""

LAST_WORD = frame(TEXT, b'{"type":"no-such-type"}')
"""Answered with an error, if what was said before has left the connection open."""

PROTOCOL_CODES = {1000, 1001, 1002, 1003, 1007, 1009}
"""Close codes that the WebSocket protocol itself gives a server; an internal error (1011) is not among them."""

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def seeds() -> list[Input]:
    """A life of some clients, and the parts of the protocol that a client library takes care of."""
    lives = []
    for client in REVISIONS[-3:]:
        said = (client.register(), client.heartbeat(NODE), client.heartbeat(NODE, State(languages=("fr",))))
        lives.append(tuple(frame(TEXT, json.dumps(message).encode()) for message in said))
    register = json.dumps(REVISIONS[-1].register()).encode()
    parts = (
        (frame(TEXT, register[:40], last=False), frame(PING, b"?"), frame(CONTINUED, register[40:])),
        (frame(BINARY, register), frame(PONG, b"late"), frame(TEXT, b"{}")),
        (frame(TEXT, register), frame(CLOSE, (1000).to_bytes(2, "big") + b"bye")),
        (frame(TEXT, b"\xc3", last=False), frame(CONTINUED, b"\xa9")),
        (frame(TEXT, register, masked=False),),
        (frame(TEXT, b"x", bits=0x40),),
        (frame(TEXT, b"x", says=1 << 40),),
    )
    plain = [
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"POST /ws/node HTTP/1.1\r\nContent-Length: 4\r\n\r\n", b"body"),
    ]
    return [
        *plain,
        (upgrade(b"Sec-WebSocket-Extensions: permessage-deflate"),),
        *((upgrade(), *life) for life in [*lives, *parts]),
    ]


def of_head(rng: random.Random, piece: bytes, other: bytes) -> bytes:
    """The payload of a frame changed, and its head made to fit; anything else by bytes."""
    if len(piece) < 6 or piece[:3] in (b"GET", b"POS"):
        return of_bytes(rng, piece, other)
    start = {126: 8, 127: 14}.get(piece[1] & 0x7F, 6)
    changed = of_json(rng, piece[start:], other)
    return frame(piece[0] & 0x0F, changed, last=bool(piece[0] & 0x80))


class Target:
    """Feeds one input to the door, and reads all that it answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.upgraded = 0
        self.answered = 0

    async def __call__(self, tried: Input) -> None:
        said = bytearray()
        async with connected(self._url) as peer:
            # Where it has hung up, its last words may be lost with the connection.
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(ANSWER_S):
                    for piece in tried[:1]:
                        await peer.send(piece)
                    # A client may say nothing before it has been let in; every other one does not wait.
                    if sum(map(len, tried)) % 2:
                        await self._read_until(peer, b"\r\n\r\n", said)
                    for piece in (*tried[1:], LAST_WORD):
                        await peer.send(piece)
                    self.answered += await self._read_until(peer, b"no-such-type", said)
                    with contextlib.suppress(OSError):  # not connected any more
                        peer.writer.write_eof()
                    said += await peer.reader.read(-1)
        self._check(bytes(said), closes=any(b"\x88" in piece for piece in tried[1:]))

    async def _read_until(self, peer: Peer, text: bytes, said: bytearray) -> bool:
        """Whether ``text`` came. What was sent may be half of something, for which the other half is waited for."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while text not in said:
                    came = await peer.reader.read(1 << 16)
                    if not came:
                        return False
                    said += came
        except TimeoutError:
            return False
        return True

    def _check(self, said: bytes, *, closes: bool) -> None:
        if not said:
            return
        status = STATUS.match(said)
        assert status, f"neither HTTP nor silence: {said[:80]!r}"
        code = int(status[1])
        assert code == 101 or 400 <= code < 500, f"HTTP {code}"
        if code == 101:
            self.upgraded += 1
            check_frames(said.partition(b"\r\n\r\n")[2], closes=closes)


def check_frames(said: bytes, *, closes: bool) -> None:
    """What comes back over a WebSocket: whole frames, unmasked, documented messages, documented close codes.

    Who ``closes`` by itself gets its own code back, as the protocol wants it.
    """
    while len(said) >= 2:
        opcode, length = said[0] & 0x0F, said[1]
        assert said[0] & 0xF0 == 0x80, "the server sends whole frames and uses no extension"
        assert length < 128, "the server does not mask"
        start = {126: 4, 127: 10}.get(length, 2)
        size = length if start == 2 else int.from_bytes(said[2:start], "big")
        payload, said = said[start : start + size], said[start + size :]
        if len(payload) < size:
            return  # cut off in the middle, as a connection that breaks may be
        match opcode:
            case 1:
                check_message(payload.decode())
            case 8:
                code = int.from_bytes(payload[:2], "big") if payload else 1000
                echoed = closes and payload[2:] != b"internal error"
                assert echoed or code in PROTOCOL_CODES | set(CloseCode), f"closed with {code} {payload[2:]!r}"
            case _:
                assert opcode in (PING, PONG), f"a frame of kind {opcode}"


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[Scheduler]:
    one = Scheduler(ServeSettings(**QUICK, state_dir=str(tmp_path / "state"), register_timeout_ms=2_000))
    await one.process.start()
    try:
        yield one
    finally:
        await one.process.stop()


async def fuzz(scheduler: Scheduler, seed: int, seconds: float) -> None:
    door = Path(registry.__file__).parent
    arcs = Arcs(*(door / f"{name}.py" for name in ("connection", "node_door", "node_socket", "upgrade", "sockets")))
    fuzzer = Fuzzer("sockets", seeds(), partial(mutate, structured=(of_head, of_head, of_bytes)), arcs, seed)
    target = Target(scheduler.url)
    try:
        await fuzzer.run_async(target, seconds)
    finally:
        print(fuzzer.summary(), f"{target.upgraded} upgraded, {target.answered} answered to the end")
    assert min(target.upgraded, target.answered) > 0, "no input has got as far as a message"
    async with connect(scheduler.url) as node:
        await node.become_ready(node_id="good")
    defects = [
        line for line in scheduler.lines if "defect" in line["event"] or line["event"] == "background_task_ended"
    ]
    assert not defects, json.dumps(defects[0], indent=1)
    report = await scheduler.allocator.check()
    assert report.ok, report.violations


async def test_whatever_a_socket_brings_the_door_stays_open(
    scheduler: Scheduler, fuzz_seed: int, fuzz_seconds: float
) -> None:
    await fuzz(scheduler, fuzz_seed, fuzz_seconds)


@pytest.mark.soak
async def test_sockets_for_as_long_as_told(scheduler: Scheduler, fuzz_seed: int, fuzz_seconds: float) -> None:
    await fuzz(scheduler, fuzz_seed, fuzz_seconds)
