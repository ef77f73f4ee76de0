"""One listening socket with a uvicorn server on it that leaves signals, logging and the process's end to others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from pyscheduler.errors import PyschedulerError
from pyscheduler.registry.http_bounds import REQUEST_TIMEOUT_S, BoundedHttpProtocol

BACKLOG = 2048
"""Connections that may wait to be accepted."""


class CannotListen(PyschedulerError):
    """The address or the port cannot be used."""


def bind(host: str, port: int, *, flag: str) -> socket.socket:
    """A socket bound to an address, not yet listening for anybody.

    Args:
        host: name or address; of a name's addresses an IPv4 one is preferred, since nodes rewrite ``localhost`` so.
        port: 0..65535; 0 picks a free one.
        flag: the port's setting, such as ``--port``; errors name it, or the one of the host.

    Raises:
        CannotListen: the name is unknown, the address is not this machine's, or the port is taken or not permitted.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        bound = socket.create_server(
            address[:2] if family == socket.AF_INET else address,
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6(),
        )
    except (OSError, UnicodeError, IndexError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is not None and number in errno.errorcode:
            reason = os.strerror(number)  # the message has the address, which is told already
        else:
            number, reason = errno.EADDRNOTAVAIL, getattr(error, "strerror", None) or str(error)
        if number == errno.EADDRNOTAVAIL:
            flag = flag.replace("port", "host")
        raise CannotListen(f"cannot listen on {host}, port {port}: {reason}; choose another with {flag}") from error
    bound.setblocking(False)
    return bound


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Listener:
    """Serves an ASGI application on a bound socket.

    Args:
        app: the application.
        bound: see :func:`bind`; the listener closes it.
        request_timeout_s: how long a request may take to arrive whole, and its answer to be taken, in seconds.
        max_connections: connections at most, from 1; a request on a further one is answered with 503.
    """

    def __init__(
        self, app: Any, bound: socket.socket, *, max_connections: int, request_timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        self.port: int = bound.getsockname()[1]
        self._socket = bound
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="none",
                http=partial(BoundedHttpProtocol, request_timeout_s=request_timeout_s),  # type: ignore[arg-type]
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=1,
                limit_concurrency=max_connections,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> set[Any]:
        """The protocol objects of every open connection."""
        return self._server.server_state.connections

    async def start(self) -> None:
        """Begin to accept. Returns when connections are accepted.

        Raises:
            CannotListen: the server did not start.
        """
        self._task = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name=f"pyscheduler-port-{self.port}"
        )
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise CannotListen(f"the server on port {self.port} ended at once") from self._task.exception()

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections stay."""
        for server in getattr(self._server, "servers", []):
            server.close()
        self._socket.close()

    async def stop(self) -> None:
        """Close everything. Connections that are left are cut if they stay for a second."""
        self.stop_accepting()
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
