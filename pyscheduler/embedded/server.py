"""A process's hold on the embedded server of a state directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from types import TracebackType
from typing import Self

from pyscheduler.embedded.errors import EmbeddedServerError, StateDirInvalid, advice
from pyscheduler.embedded.place import Place, url_of
from pyscheduler.embedded.probe import Answer, probe
from pyscheduler.embedded.process import Child, configuration, find_server

START_DEADLINE_S = 30.0
"""How long an open waits for a server that starts, reads its data or is about to end."""

_POLL_S = 0.01


def find_running(state_dir: str | os.PathLike[str]) -> str | None:
    """The URL of the server that runs on a state directory, or ``None``. Creates nothing; blocks for 1 s at most.

    A server that is still reading its data counts as running.

    Raises:
        StateDirInvalid: the directory is closed to this user, so there is no telling.
    """
    place = Place(state_dir)
    try:
        address = place.address()
        answer = probe(address)
    except OSError as error:
        raise _unusable(place, error) from error
    return None if answer is Answer.NONE else url_of(address)


class EmbeddedServer:
    """A hold on the embedded server of a state directory. Made by :meth:`open`; an async context manager.

    Attributes:
        state_dir: the directory, absolute.
    """

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self._place = Place(state_dir)
        self.state_dir = self._place.state_dir
        self._address = b""
        self._child: Child | None = None
        self._closed = False
        self._busy = asyncio.Lock()

    @classmethod
    async def open(cls, state_dir: str | os.PathLike[str], *, deadline_s: float = START_DEADLINE_S) -> Self:
        """Attach to the server of ``state_dir``, or start it if none runs.

        Args:
            state_dir: made if it is not there, with its parents; ``~`` is expanded.
            deadline_s: seconds to wait until a server answers, more than 0.

        Raises:
            StateDirInvalid: the directory can't be used.
            EmbeddedServerError: no server program, a server that did not start (damaged data, full disk ...), or one
                that did not answer in time.
        """
        server = cls(state_dir)
        await server.ensure(deadline_s=deadline_s)
        return server

    @property
    def url(self) -> str:
        """``unix://`` URL of the server. :meth:`ensure` may change it where the state directory's path is very long."""
        return url_of(self._address)

    @property
    def owner(self) -> bool:
        """Whether this process started the server, so that the server ends with this process."""
        return self._child is not None and self._child.alive

    async def ensure(self, *, deadline_s: float = START_DEADLINE_S) -> bool:
        """Make sure that a server runs: for a process whose server has ended, with its owner or by itself.

        Costs one look at the socket where all is well. Raises what :meth:`open` raises.

        Args:
            deadline_s: seconds to wait until a server answers, more than 0.

        Returns:
            Whether this process owns the server now.
        """
        async with self._busy:
            if self._closed:
                raise EmbeddedServerError("this embedded server has been closed", "open the state directory again")
            before = self._child
            try:
                await self._reach(deadline_s)
            except BaseException:
                # Also when cancelled: nobody would be left to end what was begun here.
                if self._child is not before:
                    self._abandon()
                raise
            return self.owner

    async def close(self) -> None:
        """Let go. An owner ends the server, also for those who attached; others leave it alone. Can be repeated."""
        async with self._busy:
            self._closed = True
            child, self._child = self._child, None
            if child is not None and child.alive:
                await asyncio.to_thread(child.stop)
                self._place.tidy()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _reach(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        if self._child is not None and not self._child.alive:
            self._abandon()
        while True:
            # A look before the lock: a server whose lock file somebody has deleted is found all the same.
            answer = await self._look()
            if answer is Answer.READY:
                return
            if self._child is not None:
                if not self._child.alive:
                    raise self._failed(self._child)
            elif answer is Answer.NONE:
                self._start()
            if time.monotonic() >= deadline:
                raise self._late(answer, deadline_s)
            await asyncio.sleep(_POLL_S)

    async def _look(self) -> Answer:
        try:
            self._address = self._place.address()
            return await asyncio.to_thread(probe, self._address)
        except OSError as error:
            raise _unusable(self._place, error) from error

    def _start(self) -> None:
        """Start the server, unless somebody else has one or is about to."""
        program = find_server()
        with contextlib.ExitStack() as undo:
            try:
                self._place.prepare()
                lock = self._place.lock()
                if lock is None:
                    return
                undo.callback(os.close, lock)
                address = self._place.settle_address()
                log = self._place.open_log()
            except OSError as error:
                raise _unusable(self._place, error) from error
            undo.pop_all()
        self._child = Child(program, self._place.home, configuration(self._place.home, address), lock=lock, log=log)

    def _abandon(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _failed(self, child: Child) -> EmbeddedServerError:
        home = self._place.home
        said = self._place.log_since(child.log_start)
        if not said and self._place.full:
            # Not even that can be logged there.
            said = os.strerror(errno.ENOSPC)
        problem = f"the embedded server ({child.program}) did not start on {home}: {said or 'it said nothing'}"
        return EmbeddedServerError(problem, advice(said, home))

    def _late(self, answer: Answer, deadline_s: float) -> EmbeddedServerError:
        home = self._place.home
        if answer is Answer.LOADING:
            return EmbeddedServerError(
                f"the embedded server of {home} is still reading its data after {deadline_s:g} s",
                f"wait and try again; {home / 'log'} tells how far it is",
            )
        return EmbeddedServerError(
            f"{home / 'lock'} is held, but no server has answered at {os.fsdecode(self._address)} for {deadline_s:g} s",
            "it may be stopped, or about to end: find it with 'fuser' on the lock, end it, and try again",
        )


def _unusable(place: Place, error: OSError) -> StateDirInvalid:
    return StateDirInvalid(f"state directory {place.state_dir} can't be used: {error.strerror or error}")
