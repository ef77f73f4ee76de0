"""Sockets that do not behave: silent, half open, too many, or no WebSocket at all."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest
import websockets.exceptions
from websockets.datastructures import Headers

from pyscheduler.core.results import NodeStatus
from tests.doors import Serve, connect, epoch_of, eventually, with_status
from tests.fixtures.clients import HEAD
from tests.peers import TEXT, frame, upgrade
from tests.support import wait_until_async


async def test_a_connection_that_does_not_register_is_told_and_closed(serve: Serve) -> None:
    scheduler = await serve(register_timeout_ms=200)
    async with connect(scheduler.url) as node:
        error = await node.receive()
        assert error["code"] == "INVALID_MESSAGE"
        assert "node_register" in error["message"]
        assert await node.closed() == 4400


async def test_a_connection_that_never_becomes_a_websocket_is_dropped(serve: Serve) -> None:
    scheduler = await serve(register_timeout_ms=200)
    address = urlsplit(scheduler.url)
    for said in (b"", b"GET /ws/node HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(said)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(10):
                await reader.readexactly(1)
        writer.close()


async def test_a_silent_node_is_closed_and_released(serve: Serve) -> None:
    scheduler = await serve(silence_timeout_ms=300)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        assert await node.closed() == 4400
        state = await eventually(
            lambda: with_status(scheduler, node.node_id, NodeStatus.OFFLINE), "the node is released"
        )
        assert state.pool == "de-en"
    assert scheduler.logged("node.released")[-1]["reason"] == "silent"


async def test_a_node_that_says_nothing_for_a_lease_is_gone_until_it_says_something(serve: Serve) -> None:
    """Nobody must speak for it, though its connection looks alive: a dead node would take work until that is closed."""
    scheduler = await serve(lease_ms=600, reconcile_interval_ms=100, resync_interval_ms=100, silence_timeout_ms=60_000)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        epoch = await eventually(lambda: epoch_of(scheduler, node.node_id), "the node is there")
        await wait_until_async(lambda: scheduler.logged("node.expired"), "the node is expired")
        passes = scheduler.process.shared.metrics.reconciled.labels("done")._value
        seen = passes.get()
        await wait_until_async(lambda: passes.get() >= seen + 5, "all that runs in the background has run")
        assert await scheduler.state(node.node_id) is None
        assert not scheduler.logged("nodes_put_back")
        await node.heartbeat()
        assert await eventually(lambda: epoch_of(scheduler, node.node_id), "it is registered again") > epoch


async def test_a_half_open_connection_does_not_stay(serve: Serve) -> None:
    """The peer is gone without a word: nothing comes any more, and nobody answers the closing handshake."""
    scheduler = await serve(silence_timeout_ms=300)
    peer = await _half_open(scheduler.url)
    try:
        sockets = scheduler.process.shared.sockets
        await wait_until_async(lambda: sockets.registered == 1, "the node is registered")
        (connection,) = sockets
        assert connection.node_id is not None
        await wait_until_async(lambda: len(sockets) == 0, "the connection is given up")
        await eventually(
            lambda: with_status(scheduler, connection.node_id or "", NodeStatus.OFFLINE), "the node is released"
        )
    finally:
        peer.close()


async def test_a_node_that_does_not_read_is_cut(serve: Serve) -> None:
    scheduler = await serve(send_timeout_ms=300)
    peer = await _half_open(scheduler.url)
    try:
        sockets = scheduler.process.shared.sockets
        await wait_until_async(lambda: sockets.registered == 1, "the node is registered")
        # Each of these gets an answer that nobody takes, until the buffers between us are full: megabytes of answers.
        flood = frame(TEXT, json.dumps({"type": "job_ack", "job_id": "j" * 60}).encode()) * 1000
        loop = asyncio.get_running_loop()

        async def send_on() -> None:
            while True:
                await loop.sock_sendall(peer, flood)

        flooding = asyncio.create_task(send_on())
        await wait_until_async(lambda: len(sockets) == 0, "the connection is cut", deadline_s=60)
        with pytest.raises(OSError):
            await flooding
    finally:
        peer.close()
    assert scheduler.logged("connection_cut")


async def test_one_connection_too_many_is_closed_with_a_reason(serve: Serve) -> None:
    scheduler = await serve(max_connections=2)
    async with connect(scheduler.url) as first, connect(scheduler.url) as second:
        await first.register()
        async with connect(scheduler.url) as third:
            assert await third.closed() == 1013
        await second.register()
        await second.close()
        await wait_until_async(lambda: len(scheduler.process.shared.sockets) == 1, "there is room again")
        async with connect(scheduler.url) as fourth:
            await fourth.register()


async def test_the_door_speaks_the_node_protocol_and_nothing_else(serve: Serve) -> None:
    scheduler = await serve()
    base = scheduler.url.replace("ws://", "http://").removesuffix("/ws/node")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{base}/ws/node")).status_code == 426
        for path in ("/", "/health", "/metrics", "/api/v1/nodes", "/ws/node/", "/ws/nodes"):
            assert (await http.get(f"{base}{path}")).status_code == 404
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        async with connect(scheduler.url.removesuffix("/node")):
            pass
    assert refused.value.response.status_code == 404


async def _half_open(url: str) -> socket.socket:
    """A registered node on a bare socket that never reads and answers nothing."""
    address = urlsplit(url)
    peer = socket.create_connection((address.hostname, address.port))
    peer.sendall(upgrade())
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await loop.sock_recv(peer, 4096)
    assert answer.startswith(b"HTTP/1.1 101 ")
    await loop.sock_sendall(peer, frame(TEXT, json.dumps(HEAD.register()).encode()))
    return peer


async def test_an_open_socket_keeps_none_of_its_requests_headers(serve: Serve) -> None:
    """They would be a tenth of what a socket takes here, and a client may send eight kilobytes of them."""
    scheduler = await serve()
    async with connect(scheduler.url, additional_headers={"X-Seen": "yes"}) as node:
        await node.become_ready()
        gc.collect()
        kept = [one for one in gc.get_objects() if type(one) is Headers and "X-Seen" in one]
        assert len(kept) == 1  # the client's own
