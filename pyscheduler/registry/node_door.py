"""The node door: a WebSocket endpoint that speaks the node protocol and nothing else.

A thin adapter between uvicorn and :class:`~pyscheduler.registry.connection.Connection`. It keeps the bounds of the
transport: number of connections, size of a message, time until a connection has become a WebSocket.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from pyscheduler.core.codes import CloseCode
from pyscheduler.registry.connection import Connection, Shared, now_ms

NODE_PATH: Final = "/ws/node"

MAX_FRAGMENTS: Final = 4096
"""Fragments that a message may come in."""

_ABORT: Final = "pyscheduler.abort"
_TICK_SLICE: Final = 500
_INTERNAL_ERROR: Final = 1011

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class NodeSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which also lets the application drop the socket, and bounds what a peer makes it hold.

    Closing waits until the peer has read everything. One that has stopped reading would keep its socket for minutes.
    """

    _pongs = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            # uvicorn leaves a request that cannot be read without an answer.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_cont(self, event: Frame) -> None:
        # The size of a message is bounded by its bytes; a fragment costs memory even if it has none.
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.transport.is_closing():
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        # A peer that sends pings and does not read would fill the memory with pongs: it is owed the newest only.
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := b"".join(self.conn.data_to_send()):  # of all pings of one read, at the first of them
            self._pongs = pongs

    def resume_writing(self) -> None:
        super().resume_writing()
        pongs, self._pongs = self._pongs, b""
        if pongs and not self.close_sent and not self.transport.is_closing():
            self.transport.write(pongs)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][_ABORT] = {"call": self.transport.abort}


class _Transport:
    __slots__ = ("_abort", "_send")

    def __init__(self, scope: Message, send: Send) -> None:
        self._send = send
        self._abort: Callable[[], None] | None = scope.get("extensions", {}).get(_ABORT, {}).get("call")

    async def send(self, text: str) -> None:
        await self._say({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str) -> None:
        await self._say({"type": "websocket.close", "code": int(code), "reason": reason})

    async def _say(self, message: Message) -> None:
        try:
            await self._send(message)
        except RuntimeError as error:
            # uvicorn has closed the socket over a later frame, and calls this answer to an earlier one unexpected.
            raise ConnectionAbortedError("the socket is closed already") from error

    def abort(self) -> None:
        if self._abort is not None:
            self._abort()


class NodeDoor:
    """The ASGI application of the node door.

    Args:
        shared: what connections share.
        max_connections: node connections at most, from 1.
        max_message_bytes: size beyond which a message is answered with an error, in bytes.
        handshake_timeout_ms: how long a connection may take to become a WebSocket, in ms.
        tick_ms: time between two looks at the deadlines, in ms.
    """

    def __init__(
        self, shared: Shared, *, max_connections: int, max_message_bytes: int, handshake_timeout_ms: int, tick_ms: int
    ) -> None:
        self._shared = shared
        self._max_connections = max_connections
        self._max_message_bytes = max_message_bytes
        self._handshake_timeout_ms = handshake_timeout_ms
        self._tick_ms = tick_ms
        self._first_seen_ms: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.stopping = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._plain_http(scope, send)
        elif scope["type"] == "websocket":
            if scope["path"] != NODE_PATH:
                await _refuse(send, "websocket.http.response", 404, f"no such path: nodes connect to {NODE_PATH}")
            else:
                await self._node(scope, receive, send)

    async def keep_time(self, connections: Callable[[], set[Any]]) -> None:
        """Look at every socket's deadlines, for ever: one timer for all of them.

        Args:
            connections: the transport's open connections, for those that never become a WebSocket.
        """
        while True:
            await asyncio.sleep(self._tick_ms / 1000)
            for number, connection in enumerate(self._shared.sockets):
                if number % _TICK_SLICE == _TICK_SLICE - 1:
                    await asyncio.sleep(0)
                try:
                    connection.tick(now_ms())
                except Exception as error:
                    self._shared.log.error("tick_defect", node_id=connection.node_id, exc_info=error)
            self._drop_idlers(connections())

    def _drop_idlers(self, connections: set[Any]) -> None:
        now = now_ms()
        for protocol in tuple(connections):
            if isinstance(protocol, WebSocketsSansIOProtocol) and protocol.handshake_complete:
                continue
            seen = self._first_seen_ms.setdefault(protocol, now)
            if now - seen >= self._handshake_timeout_ms and protocol.transport is not None:
                self._shared.metrics.opened.labels("no_handshake").inc()
                protocol.transport.abort()

    async def _plain_http(self, scope: Message, send: Send) -> None:
        if scope["path"] == NODE_PATH:
            await _refuse(send, "http.response", 426, "this is a WebSocket endpoint", (b"upgrade", b"websocket"))
        else:
            await _refuse(send, "http.response", 404, f"no such path: nodes connect to {NODE_PATH}")

    async def _node(self, scope: Message, receive: Receive, send: Send) -> None:
        shared = self._shared
        await receive()  # websocket.connect
        full = len(shared.sockets) >= self._max_connections
        if self.stopping or full:
            await self._turn_away(send)
            return
        shared.metrics.opened.labels("accepted").inc()
        transport = _Transport(scope, send)
        connection = Connection(shared, transport, _peer(scope))
        # In the table before the first await, so that the bound on connections is exact.
        shared.sockets.add(connection)
        try:
            await send({"type": "websocket.accept"})
            await self._read(connection, receive)
        except OSError:
            pass  # the socket went away in the middle of something
        except Exception as error:
            shared.log.error("connection_defect", node_id=connection.node_id, peer=connection.peer, exc_info=error)
            await _close_quietly(transport)
        finally:
            try:
                await connection.on_closed()
            finally:
                shared.sockets.remove(connection)

    async def _turn_away(self, send: Send) -> None:
        code, reason = CloseCode.TRY_AGAIN_LATER, f"at most {self._max_connections} connections"
        if self.stopping:
            code, reason = CloseCode.SERVER_RESTART, "server restart"
        metrics = self._shared.metrics
        metrics.opened.labels("stopping" if self.stopping else "too_many").inc()
        metrics.closed.labels(str(int(code))).inc()
        try:
            # Accepted first: a client gets a close code only on an open WebSocket.
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        except (OSError, RuntimeError):
            return  # as in _Transport

    async def _read(self, connection: Connection, receive: Receive) -> None:
        frames = self._shared.metrics.frames
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            data = message.get("bytes")
            size = _size(text, self._max_message_bytes) if text is not None else len(data or b"")
            if size > self._max_message_bytes:
                frames.labels("oversize").inc()
                await connection.on_oversize(size)
            elif text is not None:
                frames.labels("text").inc()
                await connection.on_text(text)
            else:
                frames.labels("binary").inc()
                await connection.on_binary()


def _size(text: str, bound: int) -> int:
    """Bytes of ``text`` in UTF-8, exactly where that decides whether it is within ``bound``."""
    characters = len(text)
    if characters > bound or text.isascii() or characters * 4 <= bound:
        return characters
    return len(text.encode("utf-8", "surrogatepass"))


def _peer(scope: Message) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"


async def _close_quietly(transport: _Transport) -> None:
    try:
        await transport.close(_INTERNAL_ERROR, "internal error")
    except (OSError, RuntimeError):
        return


async def _refuse(send: Send, kind: str, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    fixed = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    try:
        await send({"type": f"{kind}.start", "status": status, "headers": [*fixed, *headers]})
        await send({"type": f"{kind}.body", "body": body})
    except OSError:
        return
