"""The node door: a WebSocket endpoint that speaks the node protocol and nothing else.

It takes connections in, within bounds on their number, on the time until they have become WebSockets and on the size of
a message, and gives each a :class:`~pyscheduler.registry.connection.Connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial
from typing import Final

from pyscheduler.core.codes import CloseCode
from pyscheduler.registry.connection import Connection
from pyscheduler.registry.listener import BACKLOG
from pyscheduler.registry.metrics import Metrics
from pyscheduler.registry.node_socket import NodeSocket
from pyscheduler.registry.shared import Shared, now_ms

NODE_PATH: Final = "/ws/node"

_TICK_SLICE: Final = 500
_LAST_CLOSES_S: Final = 1.0


class NodeDoor:
    """Takes nodes in on a bound socket.

    Args:
        shared: what connections share.
        bound: see :func:`~pyscheduler.registry.listener.bind`; the door closes it.
        max_connections: node connections at most, from 1.
        max_message_bytes: size beyond which a message is answered with an error, in bytes.
        max_frame_bytes: size beyond which a message closes its connection, in bytes.
        handshake_timeout_ms: how long a connection may take to become a WebSocket, in ms.
        tick_ms: time between two looks at the deadlines, in ms.
    """

    def __init__(
        self,
        shared: Shared,
        bound: socket.socket,
        *,
        max_connections: int,
        max_message_bytes: int,
        max_frame_bytes: int,
        handshake_timeout_ms: int,
        tick_ms: int,
    ) -> None:
        self.port: int = bound.getsockname()[1]
        self._stopping = False
        self._shared = shared
        self._bound = bound
        self._max_connections = max_connections
        self._max_message_bytes = max_message_bytes
        self._max_frame_bytes = max_frame_bytes
        self._handshake_timeout_ms = handshake_timeout_ms
        self._tick_ms = tick_ms
        self._server: asyncio.Server | None = None
        self._sockets: set[NodeSocket] = set()
        self._nobody_left = asyncio.Event()
        self._nobody_left.set()
        self._no_websockets: dict[NodeSocket, int] = {}
        """Connections that have not become WebSockets, the longest there first, and when they came, in ms."""
        self._leaving: set[asyncio.Task[None]] = set()

    # --- the listening socket ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to accept. Returns when connections are accepted."""
        made = partial(NodeSocket, self, path=NODE_PATH, max_frame_bytes=self._max_frame_bytes)
        self._server = await asyncio.get_running_loop().create_server(made, sock=self._bound, backlog=BACKLOG)

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections stay, and those that become WebSockets now are turned away."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        self._bound.close()

    async def stop(self) -> None:
        """Close everything. Connections that are left are closed with code 1012, and cut if they stay for a second."""
        self.stop_accepting()
        for one in tuple(self._sockets):
            one.shut_down()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_CLOSES_S):
                await self._nobody_left.wait()
        for one in tuple(self._sockets):
            one.abort()
        if self._leaving:
            await asyncio.wait(self._leaving)

    # --- connections -------------------------------------------------------------------------------------------------

    def arrived(self, socket: NodeSocket) -> None:
        """A connection was made; it is no WebSocket yet."""
        self._sockets.add(socket)
        self._nobody_left.clear()
        self._no_websockets[socket] = now_ms()

    def gone(self, socket: NodeSocket) -> None:
        """The connection is no more."""
        self._sockets.discard(socket)
        self._no_websockets.pop(socket, None)
        if not self._sockets:
            self._nobody_left.set()

    def opened(self, socket: NodeSocket) -> Visit | None:
        """It is a WebSocket now. ``None``: it is turned away, and has been told so."""
        self._no_websockets.pop(socket, None)
        shared = self._shared
        if self._stopping or len(shared.sockets) >= self._max_connections:
            self._turn_away(socket)
            return None
        shared.metrics.count_accepted()
        connection = Connection(shared, socket, socket.peer, socket.read_on)
        shared.sockets.add(connection)
        return Visit(self, connection, shared.metrics, self._max_message_bytes)

    def _turn_away(self, socket: NodeSocket) -> None:
        code, reason = CloseCode.TRY_AGAIN_LATER, f"at most {self._max_connections} connections"
        if self._stopping:
            code, reason = CloseCode.SERVER_RESTART, "server restart"
        metrics = self._shared.metrics
        metrics.opened.labels("stopping" if self._stopping else "too_many").inc()
        metrics.closed.labels(str(int(code))).inc()
        socket.close_now(code, reason)

    def left(self, visit: Visit) -> None:
        """A node's socket is over: what was read of it is still done, and the node is released."""
        task = asyncio.create_task(self._see_off(visit.connection), name="pyscheduler-connection")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _see_off(self, connection: Connection) -> None:
        try:
            await connection.on_closed()
        except Exception as error:
            connection.fail(error)
        finally:
            self._shared.sockets.remove(connection)

    # --- deadlines ---------------------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """Look at every socket's deadlines, for ever: one timer for all of them."""
        while True:
            await asyncio.sleep(self._tick_ms / 1000)
            for number, connection in enumerate(self._shared.sockets):
                if number % _TICK_SLICE == _TICK_SLICE - 1:
                    await asyncio.sleep(0)
                try:
                    connection.tick(now_ms())
                except Exception as error:
                    self._shared.log.error("tick_defect", node_id=connection.node_id, exc_info=error)
            self._drop_idlers()

    def _drop_idlers(self) -> None:
        since = now_ms() - self._handshake_timeout_ms
        while self._no_websockets:
            socket, came_ms = next(iter(self._no_websockets.items()))
            if came_ms > since:
                break
            del self._no_websockets[socket]
            self._shared.metrics.opened.labels("no_handshake").inc()
            socket.abort()


class Visit:
    """A node at the door: hands its messages to its connection.

    Args:
        door: the door.
        connection: the connection.
        metrics: counters.
        max_message_bytes: size beyond which a message is answered with an error, in bytes.
    """

    __slots__ = ("_door", "_max_message_bytes", "_metrics", "connection")

    def __init__(self, door: NodeDoor, connection: Connection, metrics: Metrics, max_message_bytes: int) -> None:
        self.connection = connection
        self._door = door
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes

    def read(self, message: str | bytes) -> bool:
        """A message came. Returns whether the next one may."""
        connection, metrics, bound = self.connection, self._metrics, self._max_message_bytes
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

    def failed(self, code: int) -> None:
        """The socket was closed with ``code`` without the connection's doing."""
        self._metrics.closed.labels(str(int(code))).inc()

    def over(self) -> None:
        """Nothing goes out any more, and nothing comes."""
        self._door.left(self)


def _size(text: str, bound: int) -> int:
    """Bytes of ``text`` in UTF-8, exactly where that decides whether it is within ``bound``."""
    characters = len(text)
    if characters > bound or text.isascii() or characters * 4 <= bound:
        return characters
    return len(text.encode("utf-8", "surrogatepass"))
