"""How connections end: with what came before read, within a time, whatever the peer does, and with nothing left."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from pyscheduler.core.results import NodeStatus
from pyscheduler.registry import node_door, node_socket
from pyscheduler.registry.node_door import NodeDoor
from tests.doors import Scheduler, Serve, connect, eventually, with_status
from tests.fixtures.clients import HEAD
from tests.peers import CLOSE, PING, TEXT, Peer, connected, frame, upgrade
from tests.support import wait_until_async

NORMAL = frame(CLOSE, (1000).to_bytes(2, "big"))


def _register(node_id: str) -> bytes:
    return frame(TEXT, json.dumps(HEAD.register(node_id=node_id)).encode())


def _door(scheduler: Scheduler) -> NodeDoor:
    door = scheduler.process._node_door
    assert door is not None
    return door


async def _nobody_left(scheduler: Scheduler) -> None:
    door = _door(scheduler)
    await wait_until_async(lambda: not (door._sockets or door._no_websockets or door._leaving), "nothing is left")
    assert len(scheduler.process.shared.sockets) == 0


def _closed(scheduler: Scheduler, code: int) -> float:
    return float(scheduler.process.shared.metrics.closed.labels(str(code))._value.get())


def _opened(scheduler: Scheduler, outcome: str) -> float:
    return float(scheduler.process.shared.metrics.opened.labels(outcome)._value.get())


def _reset(peer: Peer) -> None:
    """Break the connection off: what was sent and not taken is lost on both sides."""
    bare: socket.socket = peer.writer.get_extra_info("socket")
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


@pytest.mark.parametrize(
    ("last", "code"),
    [(NORMAL, 1000), (frame(5, b""), 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"", says=1 << 40), 1009)],
    ids=["close", "opcode", "UTF-8", "size"],
)
async def test_what_came_before_the_end_is_done(serve: Serve, last: bytes, code: int) -> None:
    """All in one piece, the request, too: nothing of it waits for an answer."""
    scheduler = await serve()
    async with connected(scheduler.url) as peer:
        await peer.send(upgrade() + _register("last-words") + _register("other") + last + _register("too-late"))
        said = await peer.rest()
    assert said.startswith(b"HTTP/1.1 101 ")
    assert said.index(b"node_register_ack") < said.index(b"NODE_ID_CONFLICT")
    await eventually(lambda: with_status(scheduler, "last-words", NodeStatus.OFFLINE), "the node is released")
    assert await scheduler.state("too-late") is None
    assert _closed(scheduler, code) == (0 if last == NORMAL else 1)
    await _nobody_left(scheduler)


@pytest.mark.parametrize("says", [b"", b"x", frame(TEXT, b"{}"), frame(PING, b"?")], ids=["", "part", "text", "ping"])
async def test_who_is_turned_away_and_does_not_leave_is_cut(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(node_socket, "MAX_CLOSING_S", 0.2)
    scheduler = await serve(max_connections=1)
    async with connect(scheduler.url), connected(scheduler.url, upgraded=True) as peer:
        await peer.send(says)
        assert b"\x03\xf5at most 1 connections" in await peer.rest()
        assert len(scheduler.process.shared.sockets) == 1
        assert (_opened(scheduler, "accepted"), _opened(scheduler, "too_many"), _closed(scheduler, 1013)) == (1, 1, 1)
    await _nobody_left(scheduler)


async def test_who_does_not_answer_the_close_of_its_session_is_cut(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_socket, "MAX_CLOSING_S", 0.2)
    scheduler = await serve(register_timeout_ms=100)
    async with connected(scheduler.url, upgraded=True) as peer:
        assert b"\x11\x30" in await peer.rest()
        await _nobody_left(scheduler)
        assert _closed(scheduler, 4400) == 1


@pytest.mark.parametrize("farewell", [NORMAL, b""], ids=["close", "end of the stream"])
async def test_who_says_farewell_and_reads_nothing_is_cut(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, farewell: bytes
) -> None:
    """The answers before it fill everything between the two, so that the answer to it can never be taken."""
    monkeypatch.setattr(node_socket, "MAX_CLOSING_S", 0.2)
    scheduler = await serve()
    async with connected(scheduler.url, upgraded=True) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (socket_,) = _door(scheduler)._sockets
        while socket_._drained is None:
            await peer.send(frame(PING, b"p" * 125) * 500)
        await peer.send(farewell)
        peer.writer.write_eof()
        await _nobody_left(scheduler)


PHASES: dict[str, Callable[[Peer], Awaitable[None]]] = {}


def phase(does: Callable[[Peer], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
    PHASES[does.__name__] = does
    return does


@phase
async def says_nothing(peer: Peer) -> None:
    pass


@phase
async def is_in_its_request(peer: Peer) -> None:
    await peer.send(upgrade()[:50])


@phase
async def is_refused(peer: Peer) -> None:
    await peer.send(b"GET / HTTP/1.1\r\n\r\n")


@phase
async def is_open(peer: Peer) -> None:
    await peer.upgrade()


@phase
async def is_registered(peer: Peer) -> None:
    await peer.send(upgrade() + _register("here"))
    await peer.until(b"node_register_ack")


@phase
async def is_in_a_frame(peer: Peer) -> None:
    await peer.upgrade()
    await peer.send(frame(TEXT, b"{", says=1000))


@phase
async def is_in_a_head(peer: Peer) -> None:
    await peer.upgrade()
    await peer.send(b"\x81")


@phase
async def is_between_fragments(peer: Peer) -> None:
    await peer.upgrade()
    await peer.send(frame(TEXT, b"{", last=False))


@phase
async def has_too_much_to_say(peer: Peer) -> None:
    await peer.upgrade()
    await peer.send(frame(TEXT, b"{}") * 900)


@phase
async def has_closed(peer: Peer) -> None:
    await peer.upgrade()
    await peer.send(NORMAL)


@phase
async def has_sent_all(peer: Peer) -> None:
    await peer.upgrade()
    peer.writer.write_eof()


@pytest.mark.parametrize("ends", ["reset", "left", "stopped"])
async def test_in_every_phase_a_connection_can_end(serve: Serve, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """The peers go without a word, or the process stops and they stay as they are."""
    monkeypatch.setattr(node_door, "_LAST_CLOSES_S", 60.0)  # none of them has to be cut
    scheduler = await serve()
    async with AsyncExitStack() as stack:
        peers = {}
        for name, does in PHASES.items():
            peers[name] = await stack.enter_async_context(connected(scheduler.url))
            await does(peers[name])
        if ends == "stopped":
            async with asyncio.timeout(5):
                await scheduler.process.stop()
            for name in ("is_open", "is_registered", "is_in_a_frame", "is_between_fragments"):
                assert b"\x03\xf4" in await peers[name].rest(), name
        else:
            for peer in peers.values():
                _reset(peer) if ends == "reset" else peer.writer.close()
        await _nobody_left(scheduler)
    assert _opened(scheduler, "accepted") == len(PHASES) - 3


async def test_a_stop_does_not_wait_for_who_reads_nothing(serve: Serve) -> None:
    scheduler = await serve(max_connections=1, shutdown_timeout_ms=300)
    async with connected(scheduler.url, upgraded=True) as peer, connected(scheduler.url, upgraded=True):
        (connection,) = scheduler.process.shared.sockets
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while connection._transport._drained is None:  # type: ignore[attr-defined]
            await peer.send(frame(PING, b"p" * 125) * 500)
        async with asyncio.timeout(5):
            await scheduler.process.stop()
        await _nobody_left(scheduler)


async def test_who_is_left_when_the_door_closes_is_told_why(serve: Serve) -> None:
    """Such a one has not read what it was sent before, so that its session could not close it."""
    scheduler = await serve()
    async with connected(scheduler.url) as peer:
        await peer.send(upgrade() + _register("left"))
        await peer.until(b"node_status")
        await _door(scheduler).stop()
        assert (await peer.rest()).endswith(frame(CLOSE, b"\x03\xf4", masked=False))
        assert _closed(scheduler, 1012) == 1
    await eventually(lambda: with_status(scheduler, "left", NodeStatus.OFFLINE), "the node is released")
    await _nobody_left(scheduler)
