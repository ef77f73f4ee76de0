"""Bare echo over each transport that could stand under the node door: python -m benchmarks.echo NAME.

Prints the port that it listens on, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import uvloop

MAX_BYTES = 1 << 20


async def _ours(bound: socket.socket) -> None:
    from pyscheduler.registry.node_socket import NodeSocket

    class Echo:
        def __init__(self, socket: NodeSocket) -> None:
            self._socket = socket

        def read(self, message: str | bytes) -> bool:
            assert isinstance(message, str)
            self._socket.send_now(message)
            return True

        def failed(self, code: int) -> None:
            pass

        def over(self) -> None:
            pass

    class Hall:
        def arrived(self, socket: NodeSocket) -> None:
            pass

        def opened(self, socket: NodeSocket) -> Echo:
            return Echo(socket)

        def gone(self, socket: NodeSocket) -> None:
            pass

    made = partial(NodeSocket, Hall(), path="/", max_frame_bytes=MAX_BYTES)
    server = await asyncio.get_running_loop().create_server(made, sock=bound, backlog=2048)
    await server.serve_forever()


async def _uvicorn(bound: socket.socket) -> None:
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    config = uvicorn.Config(
        app,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MAX_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        backlog=2048,
    )
    await uvicorn.Server(config).serve(sockets=[bound])


async def _aiohttp(bound: socket.socket) -> None:
    from aiohttp import web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False, max_msg_size=MAX_BYTES)
        await connection.prepare(request)
        async for message in connection:
            await connection.send_str(message.data)
        return connection

    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, bound, backlog=2048).start()
    await asyncio.Event().wait()


async def _websockets(bound: socket.socket) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    options: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": MAX_BYTES}
    async with serve(echo, sock=bound, **options) as server:
        await server.serve_forever()


async def _picows(bound: socket.socket) -> None:
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    class Echo(WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.TEXT:
                # As the others have it: the text as a str, and encoded again.
                transport.send(WSMsgType.TEXT, frame.get_payload_as_utf8_text().encode())

    server = await ws_create_server(lambda request: Echo(), sock=bound, backlog=2048)
    await server.serve_forever()


OURS = "the door's own, asyncio.Protocol"

TRANSPORTS: dict[str, tuple[str, Callable[[socket.socket], Awaitable[None]]]] = {
    OURS: ("httptools", _ours),
    "uvicorn, websockets-sansio": ("uvicorn", _uvicorn),
    "websockets": ("websockets", _websockets),
    "aiohttp": ("aiohttp", _aiohttp),
    "picows": ("picows", _picows),
}
"""Each transport: the package that it needs, and its server."""


def missing(name: str) -> str:
    """The package that is not installed; empty if it is."""
    package = TRANSPORTS[name][0]
    return "" if importlib.util.find_spec(package) else package


async def _serve(name: str) -> None:
    bound = socket.create_server(("127.0.0.1", 0), backlog=2048)
    bound.setblocking(False)
    print(bound.getsockname()[1], flush=True)
    await TRANSPORTS[name][1](bound)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    uvloop.run(_serve(sys.argv[1]))
