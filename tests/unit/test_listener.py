"""The HTTP listener of both doors: what a peer cannot make it hold, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyscheduler.registry.http_bounds import MAX_HEAD_BYTES, MAX_HEADERS
from pyscheduler.registry.listener import CannotListen, Listener, bind
from tests.support import wait_until_async

QUICK_S = 0.2
LATE_S = 60.0
BIG = b"x" * 64_000_000
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def answer_big(scope: Any, receive: Any, send: Any) -> None:
    """An application with one answer, of more bytes than fit between us."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64000000")]})
    await send({"type": "http.response.body", "body": BIG})


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


Listen = Callable[..., Any]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    started: list[Listener] = []

    async def run(app: Any = answer, request_timeout_s: float = LATE_S) -> Listener:
        bound = bind("127.0.0.1", 0, flag="--port")
        listener = Listener(app, bound, max_connections=100, request_timeout_s=request_timeout_s)
        started.append(listener)
        await listener.start()
        return listener

    yield run
    await asyncio.gather(*(listener.stop() for listener in started))


async def _said(listener: Listener, *pieces: bytes) -> bytes:
    """What comes back until the connection ends; b"" if it was cut first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        async with asyncio.timeout(10):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await reader.read()
            except ConnectionError:
                return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(MAX_HEADERS)) + b"\r\n",
        HEAD + b"X: " + b"y" * MAX_HEAD_BYTES,
        b"GET /" + b"y" * MAX_HEAD_BYTES,
    ],
    ids=["many headers", "long header", "long path"],
)
async def test_a_head_that_is_too_large_is_refused(listen: Listen, head: bytes) -> None:
    said = await _said(await listen(), head)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b"more than 100 headers, or more than 64 KiB" in said


async def test_a_head_within_the_bounds_is_answered(listen: Listen) -> None:
    headers = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 600) for number in range(MAX_HEADERS - 2))
    said = await _said(await listen(), HEAD + headers + b"Connection: close\r\n\r\n")
    assert said.endswith(b"\r\n\r\nok")


async def test_headers_without_end_are_not_collected(listen: Listen) -> None:
    listener = await listen()
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(HEAD)

    async def send_on() -> None:
        for _ in range(8000):
            writer.write(b"X: " + b"y" * 8000 + b"\r\n")
            await writer.drain()

    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await send_on()
    writer.close()


@pytest.mark.parametrize(
    "said", [b"", b"GET / HT", HEAD, HEAD + b"Content-Length: 5\r\n\r\n"], ids=["nothing", "line", "head", "body"]
)
async def test_a_request_that_does_not_arrive_is_waited_for_in_bounds(listen: Listen, said: bytes) -> None:
    listener = await listen(request_timeout_s=QUICK_S)
    answered = await _said(listener, said)
    assert answered == b"" or answered.endswith(b"ok")
    await wait_until_async(lambda: not listener.connections, "nothing of it is left")


async def test_an_answer_that_nobody_takes_is_dropped(listen: Listen) -> None:
    listener = await listen(answer_big, request_timeout_s=QUICK_S)
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1024)
    writer.write(HEAD + b"\r\n")
    await wait_until_async(lambda: bool(listener.connections), "the request is there")
    await wait_until_async(lambda: not listener.connections, "its connection is cut")
    writer.close()


async def test_a_slow_but_steady_peer_is_served_again_and_again(listen: Listen) -> None:
    listener = await listen()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for _ in range(3):
        for piece in (b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"):
            writer.write(piece)
            await writer.drain()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_the_fault_of_the_host(host: str) -> None:
    with pytest.raises(CannotListen, match=r"choose another with --operator-host$"):
        bind(host, 0, flag="--operator-port")


def test_a_port_that_is_taken_is_the_fault_of_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"port {port}: Address already in use; choose another with --port$"):
            bind("127.0.0.1", port, flag="--port")
