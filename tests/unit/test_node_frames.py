"""What a socket makes of frames is what the parser of ``websockets`` makes of them, however the bytes are cut."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from pyscheduler.registry.node_socket import NodeSocket
from tests.peers import BINARY, CLOSE, CONTINUED, PING, TEXT, frame, upgrade

MAX_BYTES = 300

Told = tuple[list[str | bytes], bytes, bool]
"""The messages, what the peer gets, and whether the connection is closed."""


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


class Hall:
    """A door and the one who reads behind it, who wants a pause after every so many messages."""

    def __init__(self, *, every: int = 3) -> None:
        self.got: list[str | bytes] = []
        self.every = every
        self.ends = 0
        self.failures: list[int] = []
        self.full = False

    def arrived(self, socket: NodeSocket) -> None:
        pass

    def opened(self, socket: NodeSocket) -> Hall:
        return self

    def gone(self, socket: NodeSocket) -> None:
        pass

    def read(self, message: str | bytes) -> bool:
        self.got.append(message)
        assert not self.full
        self.full = bool(self.every) and len(self.got) % self.every == 0
        return not self.full

    def failed(self, code: int) -> None:
        assert self.ends == 0
        self.failures.append(code)

    def over(self) -> None:
        self.ends += 1


async def _by_the_socket(pieces: list[bytes]) -> Told:
    hall, pipe = Hall(), Pipe()
    socket = NodeSocket(hall, path="/ws/node", max_frame_bytes=MAX_BYTES)
    socket.connection_made(pipe)
    socket.data_received(upgrade())
    assert pipe.written.startswith(b"HTTP/1.1 101 ")
    del pipe.written[:]
    for piece in pieces:
        if not pipe.closing:
            socket.data_received(piece)
        while (hall.full or pipe.paused) and not pipe.closing:
            await asyncio.sleep(0)
            if hall.full:
                hall.full = False
                socket.read_on()
    told = hall.got, bytes(pipe.written), pipe.closing
    socket.connection_lost(None)
    assert hall.ends == 1
    assert len(hall.failures) <= 1
    return told


def _by_the_parser(data: bytes) -> Told:
    parser = Protocol(Side.SERVER, max_size=MAX_BYTES)
    got: list[str | bytes] = []
    parts: list[bytes] = []
    text = closed = False
    for byte in data:
        parser.receive_data(bytes([byte]))
        for event in parser.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                text = event.opcode is Opcode.TEXT
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                parts.append(bytes(event.data))
                if event.fin:
                    whole, parts = b"".join(parts), []
                    try:
                        got.append(whole.decode() if text else whole)
                    except UnicodeDecodeError:
                        parser.fail(1007)
                        closed = True
            closed = closed or event.opcode is Opcode.CLOSE
        closed = closed or parser.parser_exc is not None
        if closed:
            break
    return got, b"".join(parser.data_to_send()), closed


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
@example([*[frame(TEXT, b"x")] * 3, frame(TEXT, b"\xff"), frame(TEXT, b"y")], [])
@example([*[frame(TEXT, b"x")] * 200, frame(PING, b"?"), frame(CLOSE, b"")], [300])
@example([frame(TEXT, b"", last=False), *[frame(CONTINUED, b"x", last=False)] * 200, frame(CONTINUED, b"y")], [5])
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_frames_mean_what_the_parser_says(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    assert asyncio.run(_by_the_socket(pieces)) == _by_the_parser(data)


async def test_a_flood_of_frames_leaves_others_their_turn() -> None:
    """Each turn reads a few of them, and nothing more comes in meanwhile."""
    hall, pipe = Hall(every=0), Pipe()
    socket = NodeSocket(hall, path="/ws/node", max_frame_bytes=MAX_BYTES)
    socket.connection_made(pipe)
    socket.data_received(upgrade() + frame(TEXT, b"x") * 1000 + frame(TEXT, b"y")[:-1])
    turns = 0
    while pipe.paused:
        assert len(hall.got) <= 50 * (turns + 1)
        turns += 1
        await asyncio.sleep(0)
    socket.data_received(b"y")
    assert (hall.got, turns > 1000 // 50) == (["x"] * 1000 + ["y"], True)
    socket.connection_lost(None)


async def test_a_flood_of_pings_leaves_others_their_turn() -> None:
    hall, pipe = Hall(), Pipe()
    socket = NodeSocket(hall, path="/ws/node", max_frame_bytes=MAX_BYTES)
    socket.connection_made(pipe)
    socket.data_received(upgrade())
    del pipe.written[:]
    socket.data_received(frame(PING, b"") * 1000)
    assert pipe.paused
    assert len(pipe.written) < 500
    socket.connection_lost(None)
    pipe.close()
    await asyncio.sleep(0)
    assert len(pipe.written) < 500  # nobody is there any more
    assert not socket._unread


@pytest.mark.parametrize(
    ("said", "code"), [(frame(TEXT, b"\xff"), 1007), (frame(5, b""), 1002), (frame(BINARY, b"", says=1 << 40), 1009)]
)
async def test_the_reader_is_told_of_a_fault_after_what_came_before_it(said: bytes, code: int) -> None:
    hall, pipe = Hall(), Pipe()
    socket = NodeSocket(hall, path="/ws/node", max_frame_bytes=MAX_BYTES)
    socket.connection_made(pipe)
    socket.data_received(upgrade() + frame(TEXT, b"x") * 3 + said + frame(TEXT, b"y"))
    assert (hall.got, hall.failures, hall.ends) == (["x"] * 3, [], 0)
    socket.read_on()
    assert (hall.got, hall.failures, hall.ends) == (["x"] * 3, [code], 1)
    socket.connection_lost(None)
    assert hall.ends == 1


async def test_a_closing_socket_takes_what_came_before_its_peers_answer() -> None:
    """The reader had wanted no more, so the answer was behind messages that are read by nobody now."""
    hall, pipe = Hall(), Pipe()
    socket = NodeSocket(hall, path="/ws/node", max_frame_bytes=MAX_BYTES)
    socket.connection_made(pipe)
    socket.data_received(upgrade() + frame(TEXT, b"x") * 100 + frame(TEXT, b"", last=False) + frame(CLOSE, b"")[:3])
    await socket.close(1012, "")
    assert (pipe.paused, hall.ends) == (True, 1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert (pipe.paused, pipe.closing) == (False, False)
    socket.data_received(frame(CLOSE, b"")[3:])
    assert (pipe.closing, hall.got, hall.failures) == (True, ["x"] * 3, [])
    assert pipe.written.count(b"\x88") == 1
    socket.connection_lost(None)
