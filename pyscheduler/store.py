"""The connection to Redis: one pipelined socket, owned by one task. The only module that imports redis.

Callers hold futures. Calls that arrive while others are under way leave together in one write; a lone call leaves at
once. Cancelling a caller never touches the socket. Nothing is repeated behind a caller's back: a call whose reply was
lost is an unknown outcome, and is reported as one (redis-py would, by default, run it a second time).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import redis.exceptions as rx
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pyscheduler.core.urls import masked_url
from pyscheduler.errors import (
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    PyschedulerError,
    StoreError,
    StoreUnavailable,
)
from pyscheduler.keys import KEY_NAMES, key
from pyscheduler.keys import namespace as valid_namespace
from pyscheduler.scripts import Script, load_scripts
from pyscheduler.scripts.calls import Call

Reply = Any
"""A string, an integer, None, or a list of these."""

_FIRST_WITH_SHEBANG = (7, 0)
_OLDEST = (6, 2)
_CREDENTIALS = re.compile(
    r"NOAUTH|WRONGPASS|invalid username-password pair|invalid password|Authentication required", re.I
)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Bounds of one connection.

    Args:
        timeout_s: seconds until a call without a reply is an unknown outcome, more than 0.
        connect_timeout_s: seconds to connect, more than 0.
        batch: calls that leave in one write at most, from 1.
        queue: calls that wait at most; more are refused with LimitExceeded.
    """

    timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    batch: int = 128
    queue: int = 10_000


@dataclass(slots=True)
class _Waiting:
    command: tuple[str, ...]
    future: asyncio.Future[Reply]
    script: Script | None = None


class Store:
    """Runs scripts and commands on one namespace. Made by :meth:`open`."""

    def __init__(self, url: str, namespace: str, options: StoreOptions, scripts: Mapping[str, Script]) -> None:
        self.url = url
        self.namespace = namespace
        self._options = options
        self._scripts = scripts
        self._keys = {name: key(namespace, name) for name in KEY_NAMES}
        self._pool = _connection_pool(url, options)
        self._connection: AbstractConnection | None = None
        self._shebang = True
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._owner: asyncio.Task[None] | None = None
        self.engine = ""

    @classmethod
    async def open(
        cls, url: str, namespace: str, options: StoreOptions, script_overrides: Mapping[str, str] | None = None
    ) -> Store:
        """Connects and checks the engine.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            namespace: name of the namespace.
            options: bounds of the connection.
            script_overrides: see :func:`pyscheduler.scripts.load_scripts`.

        Raises:
            InvalidInput: the URL or the namespace is malformed.
            StoreUnavailable: no connection.
            StoreError: the engine is too old.
        """
        store = cls(url, valid_namespace(namespace), options, load_scripts(script_overrides))
        store._owner = asyncio.create_task(store._own_connection(), name="pyscheduler-store")
        try:
            await store.command("PING")
        except BaseException:
            await store.aclose()
            raise
        return store

    async def aclose(self) -> None:
        """Closes the connection; calls that still wait end with StoreUnavailable."""
        self._closed = True
        self._wake.set()
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        self._fail_all(StoreUnavailable("the store is closed"))
        await self._disconnect()

    def key(self, name: str) -> str:
        """The Redis key called ``name`` of this namespace."""
        return self._keys[name]

    async def run(self, call: Call) -> list[str]:
        """Runs a script and returns its reply, which begins with a status word.

        Raises:
            InvalidInput: the script refused an argument.
            StoreUnavailable: not executed. Its subclass OutcomeUnknown: perhaps executed.
            StoreError: the store's content is not what it must be.
            LimitExceeded: too many calls wait.
        """
        script = self._scripts[call.script]
        names = script.header.keys
        reply = await self._submit((str(len(names)), *(self._keys[name] for name in names), *call.argv), script)
        return cast("list[str]", reply)

    async def command(self, *command: str | int) -> Reply:
        """Runs one Redis command that does not block. Raises what :meth:`run` raises."""
        return await self._submit(tuple(str(part) for part in command), None)

    async def follow(self, name: str, since: str, block_ms: int, count: int) -> AsyncIterator[list[Reply]]:
        """Yields batches of new entries of a stream, empty ones too, on a connection of its own until the caller stops.

        Args:
            name: name of the stream's key.
            since: id after which to begin, or ``$`` for what comes from now on.
            block_ms: longest wait for one batch.
            count: entries of one batch at most.

        Raises:
            StoreUnavailable: the connection failed.
        """
        connection = self._make_connection()
        try:
            last = since
            while True:
                try:
                    async with asyncio.timeout(self._options.connect_timeout_s):
                        await connection.connect()  # type: ignore[no-untyped-call]
                    async with asyncio.timeout(block_ms / 1000 + self._options.timeout_s):
                        if last == "$":
                            # An id, not '$' again and again: nothing between two reads may be missed.
                            await connection.send_command("XREVRANGE", self._keys[name], "+", "-", "COUNT", "1")
                            newest = await connection.read_response()
                            last = newest[0][0] if newest else "0-0"
                        await connection.send_command(
                            "XREAD", "COUNT", str(count), "BLOCK", str(block_ms), "STREAMS", self._keys[name], last
                        )
                        reply = await connection.read_response()
                except Exception as error:
                    raise self._translate(error, sent=True) from error
                batch = reply[0][1] if reply else []
                if batch:
                    last = batch[-1][0]
                yield batch
        finally:
            await connection.disconnect(nowait=True)

    # --- the queue ---------------------------------------------------------------------------------------------------

    def _submit(self, command: tuple[str, ...], script: Script | None) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the store is closed"))
        elif not all(encodable(part) for part in command):
            # Found only when a whole batch is written, it would be the failure of all who are in it.
            future.set_exception(InvalidInput("text with a lone surrogate is not Unicode and cannot be stored"))
        elif len(self._waiting) >= self._options.queue:
            future.set_exception(LimitExceeded(f"{self._options.queue} calls already wait for the store: slow down"))
        else:
            self._waiting.append(_Waiting(command, future, script))
            self._wake.set()
        return future

    def _fail_all(self, error: PyschedulerError) -> None:
        while self._waiting:
            _fail(self._waiting.popleft(), error)

    async def _own_connection(self) -> None:
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and not self._closed:
                try:
                    connection = await self._connected()
                except Exception as error:
                    self._fail_all(self._translate(error, sent=False))
                    continue
                batch: list[_Waiting] = []
                while self._waiting and len(batch) < self._options.batch:
                    waiting = self._waiting.popleft()
                    if not waiting.future.cancelled():
                        batch.append(waiting)
                try:
                    await self._exchange(connection, batch)
                except BaseException as error:
                    # Replies and calls would no longer belong together on this socket.
                    await self._disconnect()
                    stopped = isinstance(error, asyncio.CancelledError)
                    failure = OutcomeUnknown("the store was closed") if stopped else self._translate(error, sent=True)
                    for waiting in batch:
                        _fail(waiting, failure)
                    if stopped or not isinstance(error, Exception):
                        raise

    async def _exchange(self, connection: AbstractConnection, batch: Sequence[_Waiting]) -> None:
        """Sends a batch and hands out its replies."""
        replies = await self._round_trip(connection, [self._wire(waiting) for waiting in batch])
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, rx.NoScriptError)]
        if missing:
            # The server restarted or its scripts were flushed. A call that was refused for that has not been executed.
            # EVAL runs and loads in one step, so that no flush can come in between.
            repeated = await self._round_trip(connection, [self._wire(batch[index], load=True) for index in missing])
            for index, reply in zip(missing, repeated, strict=True):
                replies[index] = reply
        for waiting, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                error = self._translate(reply, sent=False)
                if "WRONGTYPE" in str(reply):
                    error = StoreError(await self._name_wrong_types(connection))
                _fail(waiting, error)
            elif not waiting.future.done():
                waiting.future.set_result(reply)

    async def _round_trip(self, connection: AbstractConnection, commands: Sequence[tuple[str, ...]]) -> list[Reply]:
        replies: list[Reply] = []
        async with asyncio.timeout(self._options.timeout_s):
            await connection.send_packed_command(connection.pack_commands(commands))
            for _ in commands:
                try:
                    replies.append(await connection.read_response(disconnect_on_error=False))
                except (rx.ResponseError, rx.BusyLoadingError) as error:
                    replies.append(error)
        return replies

    def _wire(self, waiting: _Waiting, *, load: bool = False) -> tuple[str, ...]:
        script = waiting.script
        if script is None:
            return waiting.command
        if load:
            return ("EVAL", script.source if self._shebang else script.plain_source, *waiting.command)
        return ("EVALSHA", script.sha if self._shebang else script.plain_sha, *waiting.command)

    # --- the socket --------------------------------------------------------------------------------------------------

    def _make_connection(self) -> AbstractConnection:
        return cast("AbstractConnection", self._pool.make_connection())  # type: ignore[no-untyped-call]

    async def _connected(self) -> AbstractConnection:
        if self._connection is not None and await _is_idle(self._connection):
            return self._connection
        await self._disconnect()
        connection = self._make_connection()
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                (info,) = await self._round_trip(connection, [("INFO", "server")])
            if isinstance(info, Exception):
                raise info
            self._take_engine(str(info))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        return connection

    def _take_engine(self, info: str) -> None:
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        number = fields.get("redis_version", "0")
        version = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
        self.engine = f"valkey {fields['valkey_version']}" if "valkey_version" in fields else f"redis {number}"
        if version < _OLDEST:
            raise StoreError(f"{self.engine} is too old: Redis 6.2 or newer, or Valkey, is needed")
        self._shebang = version >= _FIRST_WITH_SHEBANG

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _name_wrong_types(self, connection: AbstractConnection) -> str:
        expected = {name: kind for script in self._scripts.values() for name, kind in _types(script)}
        found = await self._round_trip(connection, [("TYPE", self._keys[name]) for name in KEY_NAMES])
        wrong = [
            f"{self._keys[name]} is a {kind}, not a {expected[name]}"
            for name, kind in zip(KEY_NAMES, found, strict=True)
            if kind not in (expected[name], "none")
        ]
        advice = "something else writes to this namespace: rename or delete the key, or choose another --namespace"
        return f"{'; '.join(wrong) or 'a key has a wrong type'}; {advice}"

    def _translate(self, error: BaseException, *, sent: bool) -> PyschedulerError:
        """What the caller gets for what redis-py or the server said. ``sent``: the call may have been executed."""
        where = masked_url(self.url)
        text = str(error)
        if isinstance(error, PyschedulerError):
            return error
        if isinstance(error, rx.AuthenticationError | rx.AuthorizationError) or _CREDENTIALS.search(text):
            return StoreUnavailable(
                f"{where} refused the credentials: check user and password of the Redis URL ({text})"
            )
        if "PYSCHED_BADARG" in text:
            return InvalidInput(text.split("PYSCHED_BADARG", 1)[1].strip())
        if "PYSCHED_CORRUPT" in text:
            return StoreError(text.split("PYSCHED_CORRUPT", 1)[1].strip())
        if isinstance(error, rx.ReadOnlyError) or "READONLY" in text:
            return StoreUnavailable(f"{where} is a read-only replica: give the URL of the primary")
        if (
            isinstance(error, rx.OutOfMemoryError)
            or "OOM command not allowed" in text
            or "used memory > 'maxmemory'" in text
        ):
            return StoreUnavailable(f"{where} is out of memory: raise its maxmemory or free some; nothing was changed")
        if isinstance(error, rx.BusyLoadingError) or "LOADING" in text:
            return StoreUnavailable(f"{where} is still loading its data: try again shortly")
        if "NOPERM" in text or isinstance(error, rx.NoPermissionError):
            return StoreError(f"{where}: this user lacks a permission that the scripts need ({text})")
        if isinstance(error, rx.TimeoutError | TimeoutError):
            if sent:
                return OutcomeUnknown(f"{where} did not answer in time: the call may have been executed")
            return StoreUnavailable(f"{where} cannot be reached: timed out")
        if isinstance(error, rx.ResponseError):
            return (
                StoreUnavailable(f"{where}: {text}")
                if _refused_for_now(text, error)
                else StoreError(f"{where}: {text}")
            )
        if isinstance(error, rx.ConnectionError | OSError):
            if sent:
                return OutcomeUnknown(f"the connection to {where} broke: the call may have been executed ({text})")
            return StoreUnavailable(f"{where} cannot be reached: {text}")
        return StoreError(f"{where}: {type(error).__name__}: {text}")


async def _is_idle(connection: AbstractConnection) -> bool:
    """Whether the socket can take a call. Between calls it has nothing to say: what can be read is its end."""
    try:
        return connection.is_connected and not await connection.can_read()
    except rx.RedisError:
        return False


def _refused_for_now(text: str, error: BaseException) -> bool:
    if isinstance(error, rx.TryAgainError | rx.ClusterDownError | rx.MasterDownError):
        return True
    return text.startswith(("BUSY", "MISCONF", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"))


def _types(script: Script) -> list[tuple[str, str]]:
    return list(zip(script.header.keys, script.header.key_types, strict=True))


def encodable(text: str) -> bool:
    """Whether text can be sent: a lone surrogate has no place in UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(waiting: _Waiting, error: PyschedulerError) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)


def _connection_pool(url: str, options: StoreOptions) -> ConnectionPool:
    scheme = urlsplit(url).scheme
    if scheme not in ("redis", "rediss", "unix"):
        raise InvalidInput(f"{masked_url(url)!r} is no Redis URL: it must begin with redis://, rediss:// or unix://")
    try:
        return ConnectionPool.from_url(
            url,
            decode_responses=True,
            # Something else's bytes in our keys must not fail the calls that share the batch. What we send is checked.
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
        raise InvalidInput(f"{masked_url(url)!r} is no Redis URL: {error}") from error
