"""The node door: a WebSocket endpoint that speaks the node protocol and nothing else.

A thin adapter between uvicorn and :class:`~pyscheduler.registry.connection.Connection`. It keeps the bounds of the
transport: number of connections, size of a message, time until a connection has become a WebSocket.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, apply_mask  # type: ignore[attr-defined]
from websockets.http11 import Request
from websockets.protocol import State

from pyscheduler.core.codes import CloseCode
from pyscheduler.registry.connection import Connection
from pyscheduler.registry.shared import Shared, now_ms

NODE_PATH: Final = "/ws/node"

MAX_FRAGMENTS: Final = 4096
"""Fragments that a message may come in."""

_PROTOCOL: Final = "pyscheduler.protocol"
_WHOLE_TEXT: Final = 0x81
_NOT_UTF_8: Final = 1007
_MESSAGES_A_TURN: Final = 32
_TICK_SLICE: Final = 500

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class NodeSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, with a shorter way for messages, and with bounds on what a peer makes it hold.

    Its application gets messages from ``deliver``, called for each one, in place of an event in a queue for a task.
    A text frame that is whole is taken from the bytes directly; all others, and every fault, are left to the parser.
    The application can also drop the socket: closing waits until the peer has read everything, so that one that has
    stopped reading would keep its socket for minutes.
    """

    _pongs = b""
    _head = b""
    """Beginning of a frame, too short to tell its length."""
    _owed = 0
    """Bytes of a frame that the parser has a part of."""
    _frames_begin = True
    deliver: Callable[[str | bytes], bool] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inbox: list[str | bytes] = []
        """What has come and is not delivered, the next one first: at most what one read of the socket brought."""

    def data_received(self, data: bytes) -> None:
        if self.handshake_complete and self._frames_begin:
            self._take(self._head + data if self._head else data)
            return
        # A client that sends frames before it has its answer: the parser alone knows how far it is in them.
        self._frames_begin = not self.handshake_initiated
        self._parse(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            # uvicorn leaves a request that cannot be read without an answer.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        super().data_received(data)

    def _take(self, data: bytes) -> None:
        """Frames, from the end of one or the middle of one whose rest the parser is owed."""
        self._head = b""
        at, end = min(self._owed, len(data)), len(data)
        if at:
            self._owed -= at
            self._parse(data[:at])
        while at < end:
            if self.close_sent or self.conn.state is not State.OPEN:
                self._owed = 0
                self._parse(data[at:])
                return
            begin, after = _payload(data, at)
            if begin == 0:
                self._head = data[at:]
                return
            whole = after <= end and data[at] == _WHOLE_TEXT and data[at + 1] & 0x80 and not self.frames
            if whole and after - begin <= self.config.ws_max_size:
                self.frames = [apply_mask(data[begin:after], data[begin - 4 : begin])]
                self.curr_msg_data_type = "text"
                self.send_receive_event_to_app()
            else:
                self._owed = max(0, after - end)
                self._parse(data[at:after])
            at = after

    def send_receive_event_to_app(self) -> None:
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        message: str | bytes = data
        if self.curr_msg_data_type == "text":
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self.conn.send_close(_NOT_UTF_8)
                self.handle_parser_exception()
                return
        self._inbox.append(message)
        if not self.read_paused:
            self.read_on()

    def read_on(self) -> None:
        """Deliver what has come, until the application wants no more for now; the socket is not read meanwhile."""
        if self.close_sent:
            self._inbox.clear()
            return
        taken, deliver = 0, self.deliver
        wants = deliver is not None
        while deliver is not None and wants and taken < min(_MESSAGES_A_TURN, len(self._inbox)):
            wants = deliver(self._inbox[taken])
            taken += 1
        del self._inbox[:taken]
        if wants and self._inbox:
            self.loop.call_soon(self.read_on)  # others' turn
        if self.transport.is_closing():
            return
        paused, self.read_paused = self.read_paused, not wants or bool(self._inbox)
        if self.read_paused and not paused:
            self.transport.pause_reading()
        elif paused and not self.read_paused:
            self.transport.resume_reading()

    @property
    def has_more(self) -> bool:
        """Whether messages have come that are not delivered."""
        return bool(self._inbox)

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
        if self.close_sent:
            self._forget_answers()
        elif self.writable.is_set():
            super().handle_ping()
        elif pongs := b"".join(self.conn.data_to_send()):  # of all pings of one read, at the first of them
            self._pongs = pongs

    def handle_parser_exception(self) -> None:
        if self.close_sent:
            self._forget_answers()
        super().handle_parser_exception()

    def _forget_answers(self) -> None:
        """The close frame is the last that a peer gets."""
        self.conn.data_to_send()

    def resume_writing(self) -> None:
        super().resume_writing()
        pongs, self._pongs = self._pongs, b""
        if pongs and not self.close_sent and not self.transport.is_closing():
            self.transport.write(pongs)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][_PROTOCOL] = {"is": self}


class _Transport:
    __slots__ = ("_send", "protocol")

    def __init__(self, scope: Message, send: Send) -> None:
        self._send = send
        self.protocol: NodeSocketProtocol = scope["extensions"][_PROTOCOL]["is"]

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
        self.protocol.transport.abort()


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
        connection = Connection(shared, transport, _peer(scope), transport.protocol.read_on)
        # In the table before the first await, so that the bound on connections is exact.
        shared.sockets.add(connection)
        try:
            await send({"type": "websocket.accept"})
            protocol = transport.protocol
            # The request is of no more use; its headers would stay as long as the socket: the parser has them, too.
            protocol.request.headers.clear()
            del protocol.request, protocol.response
            scope["headers"] = []
            protocol.deliver = partial(self._came, connection)
            protocol.read_on()
            await receive()  # websocket.disconnect: messages come by the shorter way
            while protocol.has_more:
                await connection.rest()
                await asyncio.sleep(0)
        except OSError:
            pass  # the socket went away in the middle of something
        except Exception as error:
            connection.fail(error)
        finally:
            try:
                await connection.on_closed()
            finally:
                transport.protocol.deliver = None
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

    def _came(self, connection: Connection, message: str | bytes) -> bool:
        """A message came. Returns whether the next one may."""
        bound, metrics = self._max_message_bytes, self._shared.metrics
        try:
            size = _size(message, bound) if isinstance(message, str) else len(message)
            if size > bound:
                metrics.frames.labels("oversize").inc()
                return connection.on_oversize(size)
            if isinstance(message, str):
                metrics.count_text()
                return connection.on_text(message)
            metrics.frames.labels("binary").inc()
            return connection.on_binary()
        except Exception as error:
            connection.fail(error)
            return False


def _payload(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at ``at`` begins and ends; (0, 0) if its length is still to come."""
    if len(data) - at < 2:
        return 0, 0
    length, begin = data[at + 1] & 0x7F, at + 2
    if length >= 126:
        more = 2 if length == 126 else 8
        if len(data) - begin < more:
            return 0, 0
        length = int.from_bytes(data[begin : begin + more], "big")
        begin += more
    begin += 4 if data[at + 1] & 0x80 else 0
    return begin, begin + length


def _size(text: str, bound: int) -> int:
    """Bytes of ``text`` in UTF-8, exactly where that decides whether it is within ``bound``."""
    characters = len(text)
    if characters > bound or text.isascii() or characters * 4 <= bound:
        return characters
    return len(text.encode("utf-8", "surrogatepass"))


def _peer(scope: Message) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"


async def _refuse(send: Send, kind: str, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    fixed = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    try:
        await send({"type": f"{kind}.start", "status": status, "headers": [*fixed, *headers]})
        await send({"type": f"{kind}.body", "body": body})
    except OSError:
        return
