"""One socket to one server: a batch of commands out, their replies in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.exceptions as rx
from hiredis import pack_command
from msgspec import Struct
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pyscheduler.core.urls import Address, masked_url
from pyscheduler.errors import InvalidInput, StoreError

Reply = Any
"""A string, an integer, None, or a list of these."""

_FIRST_WITH_SHEBANG = (7, 0)
_OLDEST = (6, 2)


class StoreOptions(Struct, frozen=True):
    """Bounds of one connection.

    Args:
        timeout_s: seconds until a call without a reply is an unknown outcome, more than 0. Also how long a call is
            repeated that the servers of a Cluster or Sentinels refuse.
        connect_timeout_s: seconds to connect to one server, more than 0.
        batch: calls that leave in one write at most, from 1.
        queue: calls that wait at most; more are refused with LimitExceeded.
    """

    timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    batch: int = 128
    queue: int = 10_000


class Link:
    """A connected socket. Made by :meth:`Dialer.open`.

    Attributes:
        address: host and port; ``None`` for a Unix socket.
        engine: what the server is, such as ``valkey 9.1.0``; empty before :meth:`look`.
        shebang: whether it reads the first line of a script.
        cluster: whether it is a node of a Cluster.
    """

    def __init__(self, connection: AbstractConnection, address: Address | None, timeout_s: float) -> None:
        self.address = address
        self.engine = ""
        self.shebang = True
        self.cluster = False
        self._connection = connection
        self._timeout_s = timeout_s

    async def round_trip(self, commands: Sequence[tuple[str, ...]], *, blocks_s: float = 0) -> list[Reply]:
        """Sends commands and reads their replies; an error is the reply of its command, and is not raised.

        Args:
            commands: in this order.
            blocks_s: how long they may wait on purpose, in seconds.

        Raises:
            TimeoutError: a reply is missing. Like any other exception, it leaves the socket of no further use.
        """
        replies: list[Reply] = []
        async with asyncio.timeout(self._timeout_s + blocks_s):
            # By hiredis: the connection's own packing is in Python, and takes ten times as long.
            packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # stub: of one
            await self._connection.send_packed_command(packed)
            for _ in commands:
                try:
                    replies.append(await self._connection.read_response(disconnect_on_error=False))
                except (rx.ResponseError, rx.BusyLoadingError) as error:
                    replies.append(error)
        return replies

    async def ask(self, *command: str) -> Reply:
        """The reply to one command. An error is raised."""
        (reply,) = await self.round_trip([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def look(self) -> None:
        """Learns what the server is.

        Raises:
            StoreError: it is too old.
        """
        fields = fields_of(await self.ask("INFO", "server"))
        number = fields.get("redis_version", "0")
        version = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
        self.engine = f"valkey {fields['valkey_version']}" if "valkey_version" in fields else f"redis {number}"
        if version < _OLDEST:
            raise StoreError(f"{self.engine} is too old: Redis 6.2 or newer, or Valkey, is needed")
        self.shebang = version >= _FIRST_WITH_SHEBANG
        self.cluster = "cluster" in (fields.get("redis_mode"), fields.get("server_mode"))

    async def is_idle(self) -> bool:
        """Whether the socket can take a call. Between calls it has nothing to say: what can be read is its end."""
        try:
            return self._connection.is_connected and not await self._connection.can_read()
        except rx.RedisError:
            return False

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)


def fields_of(info: str) -> dict[str, str]:
    """The fields of an INFO reply."""
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


class Dialer:
    """Opens sockets to servers that share user, password and options.

    Args:
        url: of one server.
        shown: what an error shows instead.
        options: bounds.

    Raises:
        InvalidInput: redis-py does not take the URL.
    """

    def __init__(self, url: str, shown: str, options: StoreOptions) -> None:
        self._options = options
        scheme = url.partition(":")[0]
        try:
            self._pool = ConnectionPool.from_url(
                url,
                decode_responses=True,
                # Something else's bytes in our keys must not fail the calls that share the batch. What we send is
                # checked.
                encoding_errors="replace",
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                # Time-outs are ours: with one of its own, redis-py's send can swallow a cancellation on Python 3.11.
                socket_timeout=None,
                socket_connect_timeout=options.connect_timeout_s,
                health_check_interval=0,
                client_name="pyscheduler",
                **({} if scheme == "unix" else {"socket_keepalive": True}),
            )
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{masked_url(shown)!r} is no Redis URL: {error}") from error

    async def open(self, address: Address | None, *, look: bool = True) -> Link:
        """Connects.

        Args:
            address: which server; ``None`` for the Unix socket of the URL.
            look: whether to learn what it is.

        Raises:
            StoreError: it is too old.
            Exception: anything else that redis-py raises for a server that cannot be used.
        """
        place = {} if address is None else {"host": address[0], "port": address[1]}
        connection = self._pool.connection_class(**{**self._pool.connection_kwargs, **place})
        link = Link(connection, address, self._options.timeout_s)
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                if look:
                    await link.look()
        except BaseException:
            await link.close()
            raise
        return link
