"""One pipelined connection to the server that holds a namespace, owned by one task.

Callers hold futures. Calls that arrive while others are under way leave together in one write; a lone call leaves at
once. Cancelling a caller never touches the socket. Nothing is repeated behind a caller's back but what the server
refused, which has not been executed: a call whose reply was lost is an unknown outcome, and is reported as one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

import redis.exceptions as rx
from msgspec import Struct

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
from pyscheduler.store.failures import UNREACHABLE, says_moved_away, translate
from pyscheduler.store.follow import follow
from pyscheduler.store.link import Link, Reply, StoreOptions
from pyscheduler.store.route import address_in, pause_s, route_of


class _Waiting(Struct):
    command: tuple[str, ...]
    future: asyncio.Future[Reply]
    script: Script | None = None
    give_up_at: float = 0.0
    """Until when it is repeated, once it has been refused."""


_Refused = list[tuple[_Waiting, Exception]]


class Store:
    """Runs scripts and commands on one namespace. Made by :meth:`open`."""

    def __init__(self, url: str, namespace: str, options: StoreOptions, scripts: Mapping[str, Script]) -> None:
        self.url = url
        self.namespace = namespace
        self._options = options
        self._scripts = scripts
        self._keys = {name: key(namespace, name) for name in KEY_NAMES}
        self._route = route_of(url, self._keys["config"], options)
        self._link: Link | None = None
        self._asked: Link | None = None
        self._refusals = 0
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
            url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.
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
        async for batch in follow(self._route, self._options, self.url, self._keys[name], since, block_ms, count):
            yield batch

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
                await self._exchange_batch()
                if self._refusals:
                    await asyncio.sleep(pause_s(self._refusals))

    async def _exchange_batch(self) -> None:
        """Takes calls from the queue, and sees to it that each gets its reply, its failure, or its place back."""
        try:
            link = await self._linked()
        except Exception as error:
            if self._route.refuses_for_now(None, error):
                waiting = [(one, error) for one in self._waiting]
                self._waiting.clear()
                self._put_back(waiting)
            else:
                self._fail_all(self._translate(error, sent=False))
                self._refusals = 0
            return
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._options.batch:
            one = self._waiting.popleft()
            if not one.future.cancelled():
                batch.append(one)
        try:
            refused = await self._exchange(link, batch)
            if refused:
                await self._settle(link, refused)
            else:
                self._refusals = 0
        except BaseException as error:
            # Replies and calls would no longer belong together on this socket.
            self._refusals = 0
            await self._disconnect()
            stopped = isinstance(error, asyncio.CancelledError)
            failure = OutcomeUnknown("the store was closed") if stopped else self._translate(error, sent=True)
            for one in batch:
                _fail(one, failure)
            if stopped or not isinstance(error, Exception):
                raise

    async def _exchange(
        self, link: Link, calls: Sequence[_Waiting], *, load: bool = False, asking: bool = False
    ) -> _Refused:
        """Sends calls and hands out their replies. Returns the calls that got an error instead, with it."""
        commands = [self._wire(link, one, load=load) for one in calls]
        if asking:
            replies = (await link.round_trip([part for one in commands for part in (("ASKING",), one)]))[1::2]
        else:
            replies = await link.round_trip(commands)
        refused: _Refused = []
        for one, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                refused.append((one, reply))
            elif not one.future.done():
                one.future.set_result(reply)
        missing = [one for one, error in refused if isinstance(error, rx.NoScriptError)] if refused else []
        if not missing or load:
            return refused
        # The server is another, it restarted, or its scripts were flushed. A call that was refused for that has not
        # been executed. EVAL runs and loads in one step, so that no flush can come in between.
        others = [(one, error) for one, error in refused if not isinstance(error, rx.NoScriptError)]
        return others + await self._exchange(link, missing, load=True, asking=asking)

    def _wire(self, link: Link, one: _Waiting, *, load: bool) -> tuple[str, ...]:
        script = one.script
        if script is None:
            return one.command
        if load:
            return ("EVAL", script.source if link.shebang else script.plain_source, *one.command)
        return ("EVALSHA", script.sha if link.shebang else script.plain_sha, *one.command)

    # --- what a server refused ---------------------------------------------------------------------------------------

    async def _settle(self, link: Link, refused: _Refused) -> None:
        """Repeats what another server, or this one a little later, would take; the rest fails."""
        asks: _Refused = [(one, error) for one, error in refused if type(error) is rx.AskError]
        if asks and link.address is not None:
            others = [(one, error) for one, error in refused if type(error) is not rx.AskError]
            refused = others + await self._ask_elsewhere(link, asks)
        again: _Refused = []
        relink = False
        for one, error in refused:
            relink = relink or says_moved_away(error)
            if self._route.refuses_for_now(link, error):
                again.append((one, error))
                if isinstance(error, rx.MovedError) and link.address is not None:
                    self._route.moved(address_in(error, link.address))
            elif "WRONGTYPE" in str(error):
                _fail(one, StoreError(await self._name_wrong_types(link)))
            else:
                _fail(one, self._translate(error, sent=False))
        if relink:
            await self._disconnect()
        if again:
            self._put_back(again)
        else:
            self._refusals = 0

    async def _ask_elsewhere(self, link: Link, asks: _Refused) -> _Refused:
        """Sends calls to the server that a slot is on its way to. Returns those that are not done with, either."""
        assert link.address is not None
        address = address_in(cast("rx.AskError", asks[0][1]), link.address)
        if self._asked is None or self._asked.address != address or not await self._asked.is_idle():
            asked, self._asked = self._asked, None
            if asked is not None:
                await asked.close()
            try:
                self._asked = await self._route.connect_to(address)
            except UNREACHABLE:
                return asks
        return await self._exchange(self._asked, [one for one, _ in asks], asking=True)

    def _put_back(self, refused: _Refused) -> None:
        """Puts calls at the head of the queue again, as long as each has time."""
        now = time.monotonic()
        kept = []
        for one, error in refused:
            one.give_up_at = one.give_up_at or now + self._options.timeout_s
            if now >= one.give_up_at:
                _fail(one, self._translate(error, sent=False))
            elif not one.future.done():
                kept.append(one)
        self._waiting.extendleft(reversed(kept))
        self._refusals += 1

    # --- the socket --------------------------------------------------------------------------------------------------

    async def _linked(self) -> Link:
        if self._link is not None and await self._link.is_idle():
            return self._link
        await self._disconnect()
        self._link = await self._route.connect()
        self.engine = self._link.engine
        return self._link

    async def _disconnect(self) -> None:
        links, self._link, self._asked = (self._link, self._asked), None, None
        for link in links:
            if link is not None:
                await link.close()

    async def _name_wrong_types(self, link: Link) -> str:
        expected = {name: kind for script in self._scripts.values() for name, kind in _types(script)}
        found = await link.round_trip([("TYPE", self._keys[name]) for name in KEY_NAMES])
        wrong = [
            f"{self._keys[name]} is a {kind}, not a {expected[name]}"
            for name, kind in zip(KEY_NAMES, found, strict=True)
            if kind not in (expected[name], "none")
        ]
        advice = "something else writes to this namespace: rename or delete the key, or choose another --namespace"
        return f"{'; '.join(wrong) or 'a key has a wrong type'}; {advice}"

    def _translate(self, error: BaseException, *, sent: bool) -> PyschedulerError:
        return translate(error, self.url, sent=sent)


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
