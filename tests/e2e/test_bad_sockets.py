"""Broken frames and silent peers at the node door: they end their own connection only."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from tests.doors import connect
from tests.e2e.processes import ServeProcess
from tests.e2e.victim import GROWTH_MB, memory_mb, needs_proc, serves
from tests.fixtures.clients import HEAD
from tests.peers import CLOSE, CONTINUED, PING, TEXT, connected, frame
from tests.support import wait_until

pytestmark = needs_proc


REGISTER = json.dumps(HEAD.register()).encode()

BROKEN_FRAMES = {
    "not masked": (frame(TEXT, REGISTER, masked=False), 1002),
    "compressed, which was not negotiated": (frame(TEXT, REGISTER, bits=0x40), 1002),
    "unknown opcode": (frame(5, b"x"), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "ping in pieces": (frame(PING, b"x", last=False), 1002),
    "long close reason": (frame(CLOSE, b"\x03\xe8" + b"r" * 100_000), 1002),
    "close without a whole code": (frame(CLOSE, b"\x03"), 1002),
    "close with an unknown code": (frame(CLOSE, b"\x03\xe7"), 1002),
    "close reason that is not text": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "the middle first": (frame(CONTINUED, b"x"), 1002),
    "four exabytes announced": (frame(TEXT, b"x", says=2**62), 1009),
    "a negative length announced": (frame(TEXT, b"x", says=2**63 + 1), 1009),
    "a million empty pieces": (frame(TEXT, b"", last=False) + frame(CONTINUED, b"", last=False) * 1_000_000, 1009),
    "a million small pieces": (frame(TEXT, b"[", last=False) + frame(CONTINUED, b"[", last=False) * 1_000_000, 1009),
}


@pytest.mark.parametrize(("said", "code"), BROKEN_FRAMES.values(), ids=list(BROKEN_FRAMES))
async def test_broken_frames_end_their_connection_only(
    said: bytes, code: int, victim: ServeProcess, survives: None
) -> None:
    async with connected(victim.url) as peer:
        await peer.upgrade(b"Sec-WebSocket-Extensions: permessage-deflate")

        async def send_on() -> None:
            # In parts, so that the answer is read before the connection that it closes is reset.
            for start in range(0, len(said), 200_000):
                await peer.send(said[start : start + 200_000])

        sending = asyncio.create_task(send_on())
        async with asyncio.timeout(20):
            head = await peer.reader.readexactly(4)
        await asyncio.gather(sending, return_exceptions=True)
    assert head[0] == 0x80 | CLOSE
    assert int.from_bytes(head[2:4], "big") == code


async def test_a_registration_letter_by_letter_is_one(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url, upgraded=True) as peer:
        letters = [bytes([letter]) for letter in REGISTER]
        await peer.send(frame(TEXT, letters[0], last=False))
        for letter in letters[1:-1]:
            await peer.send(frame(CONTINUED, letter, last=False) + frame(PING, b""))
        await peer.send(frame(CONTINUED, letters[-1]))
        await peer.until(b"node_register_ack")


async def test_pongs_are_not_kept_for_a_peer_that_does_not_read(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url, upgraded=True) as peer:
        before = memory_mb(victim.pid)
        for _ in range(100):
            await peer.send(frame(PING, b"p" * 125) * 6000)
        # 75 MB of them; the buffers between us hold a few.
        assert memory_mb(victim.pid) - before < GROWTH_MB
        # When it reads at last, the newest is there.
        await peer.send(frame(PING, b"newest"))
        await peer.until(b"newest")


async def test_a_crowd_that_says_nothing_leaves_room_for_others(victim: ServeProcess, survives: None) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(connected(victim.url))
        await serves(victim.url)


async def test_heavy_frames_are_forgotten(victim: ServeProcess, survives: None) -> None:
    heavy = (
        b'{"type":"node_register","padding":"' + b"x" * 10_000_000 + b'"}',
        b"[" * 10_000_000,
        b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}",
    )
    async with connect(victim.url) as node:
        for _ in range(3):
            for text in heavy:
                await node.socket.send(text, text=True)
                assert (await node.receive())["code"] == "INVALID_MESSAGE"
        await node.become_ready()


async def test_a_peer_that_stops_sending_is_released(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url, upgraded=True) as peer:
        await peer.send(frame(TEXT, json.dumps(HEAD.register(node_id="half-closed")).encode()))
        await peer.until(b"node_register_ack")
        peer.writer.write_eof()
        await peer.rest()
    wait_until(
        lambda: [line for line in victim.logged("node.released") if line["node_id"] == "half-closed"], "it is released"
    )
