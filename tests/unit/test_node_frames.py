"""The short way of a text frame gives what the parser gives, however the bytes are cut."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from pyscheduler.registry.node_door import NodeSocketProtocol
from tests.peers import BINARY, CLOSE, CONTINUED, PING, TEXT, frame, upgrade

MAX_BYTES = 300


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.paused = self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


async def _received(pieces: list[bytes], *, short: bool) -> tuple[list[str | bytes], bytes, bool]:
    """What the application gets, what the peer gets, and whether the socket is closed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await done.wait()

    done = asyncio.Event()
    config = uvicorn.Config(app, ws_max_size=MAX_BYTES, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol = NodeSocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    pipe = Pipe()
    got: list[str | bytes] = []
    protocol.connection_made(pipe)
    protocol.data_received(upgrade())
    await asyncio.sleep(0)
    assert protocol.handshake_complete
    del pipe.written[:]
    protocol._frames_begin = short

    def deliver(message: str | bytes) -> bool:
        got.append(message)
        return len(got) % 3 > 0

    protocol.deliver = deliver
    for piece in pieces:
        if not pipe.closing:
            protocol.data_received(piece)
    while protocol.has_more and not pipe.closing:
        protocol.read_on()
    told = got, bytes(pipe.written), pipe.closing
    done.set()
    await asyncio.gather(*protocol.tasks)
    return told


PAYLOADS = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"x" * MAX_BYTES, b"x" * (MAX_BYTES + 1), b"\xff", b"\xc3"]),
)
FRAMES = st.one_of(
    PAYLOADS.map(lambda data: frame(TEXT, data)),
    PAYLOADS.map(lambda data: frame(TEXT, data)),
    PAYLOADS.map(lambda data: frame(TEXT, data, masked=False)),
    st.tuples(st.sampled_from([TEXT, BINARY, CONTINUED]), PAYLOADS, st.booleans()).map(
        lambda made: frame(made[0], made[1], last=made[2])
    ),
    st.just(frame(PING, b"?")),
    st.just(frame(TEXT, b"x", bits=0x40)),
    st.just(frame(TEXT, b"x", says=1 << 40)),
    st.just(frame(CLOSE, (1000).to_bytes(2, "big"))),
)


@example([frame(TEXT, b"\xff"), frame(PING, b"?")], [])
@example([frame(TEXT, b"\xff"), frame(PING, b"?"), frame(TEXT, b"", masked=False)], [])
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_a_frame_means_the_same_by_either_way(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    short = asyncio.run(_received(pieces, short=True))
    # Byte by byte: the parser forgets messages that one read has brought together with a fault.
    assert short == asyncio.run(_received([bytes([byte]) for byte in data], short=False))
