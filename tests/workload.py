"""Work on one namespace from several allocators at once, and a record of what the store acknowledged of it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from pyscheduler import Allocator, NodeReport
from pyscheduler.core.results import Event, NodeStatus, Session
from pyscheduler.errors import OutcomeUnknown, PyschedulerError, SessionLost, StoreUnavailable, VersionConflict
from tests.harness import LEASE_MS, document_of, facts_of, pool
from tests.support import wait_until_async

_LANGUAGES: Final = (("en", "zh"), ("de", "en"), ("en", "fr", "ja"), ("ko", "zh"))
_NODES: Final = 40
"""Nodes of one allocator."""

_SHARED: Final = 5
"""Node ids that all allocators fight for."""


class Workload:
    """Allocators that register, heartbeat, change, release, sync, reconcile and follow, until the end of the block.

    Args:
        allocators: each does its own part of the work.
        seed: what replays the choices.

    Attributes:
        sessions: node id -> the session that was acknowledged last, of nodes that are one allocator's own.
        epochs: shared node id -> the highest epoch that was acknowledged.
        documents: document version -> canonical text, of acknowledged syncs.
        events: what a follower saw, from the first event on.
        done: how many calls were acknowledged, by kind.
        failed: what calls ended with that were not: unavailable or unknown outcomes.
    """

    def __init__(self, allocators: Sequence[Allocator], seed: int) -> None:
        print(f"workload seed {seed}")
        self.allocators = allocators
        self.sessions: dict[str, Session] = {}
        self.epochs: dict[str, int] = {}
        self.documents: dict[int, str] = {}
        self.events: list[Event] = []
        self.done: dict[str, int] = dict.fromkeys(("register", "heartbeat", "sync", "reconcile", "read"), 0)
        self.failed: list[PyschedulerError] = []
        self._random = random.Random(seed)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        work: list[Callable[[], Awaitable[None]]] = []
        for number, allocator in enumerate(self.allocators):
            nodes = _Nodes(self, allocator, f"a{number}")
            work += [nodes.register_or_change, nodes.heartbeat, nodes.take_over, self._reconciling(allocator)]
        work += [self._syncing(self.allocators[0]), self._reading(self.allocators[-1])]
        self._tasks = [asyncio.create_task(self._repeat(one)) for one in work]
        self._follower = asyncio.create_task(self._follow(self.allocators[-1]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        try:
            await asyncio.gather(*self._tasks)
            if error is None:
                newest = await self.allocators[0].newest_event_id()
                await wait_until_async(
                    lambda: (self.events and self.events[-1].id == newest) or self._follower_failed(),
                    "the follower has seen the newest event",
                )
        finally:
            if self._follower is not None:
                self._follower.cancel()
                with suppress(asyncio.CancelledError):
                    await self._follower

    def _follower_failed(self) -> bool:
        assert self._follower is not None
        return self._follower.done()

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await work()
            except StoreUnavailable as error:
                self.failed.append(error)
                await asyncio.sleep(0.05)
            await asyncio.sleep(0)

    async def _follow(self, allocator: Allocator) -> None:
        async for event in allocator.follow(since="-", block_ms=500):
            self.events.append(event)

    def total(self) -> int:
        """Calls acknowledged so far."""
        return sum(self.done.values())

    async def progress(self, calls: int = 30) -> None:
        """Wait until so many further calls are acknowledged."""
        goal = self.total() + calls
        await wait_until_async(lambda: self.total() >= goal, f"{calls} further calls are acknowledged", 30)

    def choice(self, options: Sequence[Any]) -> Any:
        return self._random.choice(options)

    def chance(self) -> float:
        return round(self._random.random(), 2)

    # --- an operator, upkeep, a reader -------------------------------------------------------------------------------

    def _syncing(self, allocator: Allocator) -> Callable[[], Awaitable[None]]:
        numbers = itertools.count()
        seen = 0

        async def sync() -> None:
            nonlocal seen
            number = next(numbers)
            document = document_of(
                pool("english", semantic={"contains": ["en"]}, priority=number % 7),
                pool(f"turn-{number}", semantic={"contains": ["ko"]}),
            )
            try:
                change = await allocator.sync(document, expect_version=seen, force=True, reason=f"turn {number}")
            except (VersionConflict, OutcomeUnknown):
                seen = (await allocator.document()).version
                return
            seen = change.document_version
            self.documents[seen] = document.canonical()
            self.done["sync"] += 1

        return sync

    def _reconciling(self, allocator: Allocator) -> Callable[[], Awaitable[None]]:
        async def reconcile() -> None:
            report = await allocator.reconcile(lease_ms=LEASE_MS, force=True)
            assert report.violations == 0, report
            self.done["reconcile"] += 1

        return reconcile

    def _reading(self, allocator: Allocator) -> Callable[[], Awaitable[None]]:
        async def read() -> None:
            report = await allocator.check()
            assert report.ok, report.violations
            self.done["read"] += 1

        return read

    # --- afterwards --------------------------------------------------------------------------------------------------

    async def assert_kept(self, allocator: Allocator) -> None:
        """Everything that was acknowledged is in the store, and the follower saw each event once, in order."""
        states = {state.node_id: state for state in await allocator.describe([*self.sessions, *self.epochs])}
        lost = {
            node_id: (session.epoch, states.get(node_id))
            for node_id, session in self.sessions.items()
            if node_id not in states or states[node_id].epoch != session.epoch
        }
        assert lost == {}, "acknowledged sessions are not in the store"
        back = {
            node_id: (epoch, states.get(node_id))
            for node_id, epoch in self.epochs.items()
            if node_id not in states or states[node_id].epoch < epoch
        }
        assert back == {}, "epochs went back"
        entries = {entry.version: entry for entry in await allocator.history(limit=1000)}
        assert {version for version in self.documents if version not in entries} == set(), "acknowledged syncs are lost"
        reasons = [entry.reason for entry in entries.values() if entry.reason]
        assert len(reasons) == len(set(reasons)), "a sync was executed twice"
        newest = max(self.documents)
        assert (await allocator.document(newest)).json == self.documents[newest]
        stored = await allocator.events(limit=10_000)
        while more := await allocator.events(since=stored[-1].id, limit=10_000):
            stored += more
        assert [event.id for event in self.events] == [event.id for event in stored], "the follower missed events"


class _Nodes:
    """The nodes of one allocator."""

    def __init__(self, workload: Workload, allocator: Allocator, name: str) -> None:
        self._workload = workload
        self._allocator = allocator
        self._name = name
        self._sockets = itertools.count()

    def _report(self) -> NodeReport:
        facts = facts_of(*self._workload.choice(_LANGUAGES))
        return NodeReport.of(facts, status=NodeStatus.READY, load=self._workload.chance(), record=None)

    def _own(self) -> list[str]:
        return [node_id for node_id in self._workload.sessions if node_id.startswith(self._name)]

    async def _register(self, node_id: str) -> Session:
        registered = await self._allocator.register(
            node_id,
            self._report(),
            session_id=f"{self._name}-socket-{next(self._sockets)}",
            instance=self._name,
            lease_ms=LEASE_MS,
        )
        self._workload.done["register"] += 1
        return registered.session

    async def register_or_change(self) -> None:
        work = self._workload
        node_id = f"{self._name}-n{work.choice(range(_NODES))}"
        # Until the answer is here it is in doubt what the store holds; a new session settles it.
        session = work.sessions.pop(node_id, None)
        if session is None or work.chance() < 0.2:
            work.sessions[node_id] = await self._register(node_id)
        elif work.chance() < 0.1:
            await self._allocator.release(session, grace_ms=LEASE_MS, reason="workload")
        else:
            with suppress(SessionLost):
                work.sessions[node_id] = (
                    await self._allocator.update(session, self._report(), lease_ms=LEASE_MS)
                ).session
                work.done["register"] += 1

    async def heartbeat(self) -> None:
        work = self._workload
        sessions = [work.sessions[node_id] for node_id in self._own()]
        answers = await asyncio.gather(
            *(self._allocator.heartbeat(one, lease_ms=LEASE_MS, load=work.chance()) for one in sessions),
            return_exceptions=True,
        )
        for session, answer in zip(sessions, answers, strict=True):
            if isinstance(answer, SessionLost):
                # Changed while the heartbeat was under way; of a session that is still the node's it would be a loss.
                assert work.sessions.get(session.node_id) != session, f"{session.node_id} lost its session"
            elif isinstance(answer, BaseException):
                raise answer
            else:
                work.done["heartbeat"] += 1

    async def take_over(self) -> None:
        work = self._workload
        node_id = f"shared-{work.choice(range(_SHARED))}"
        session = await self._register(node_id)
        work.epochs[node_id] = max(work.epochs.get(node_id, 0), session.epoch)
