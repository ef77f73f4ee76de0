"""A small fleet that lives while a test breaks what is under it: schedulers, and nodes that beat and reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import WebSocketException

from pyscheduler import Allocator
from pyscheduler.core.results import Event, NodeState, NodeStatus
from pyscheduler.embedded import find_running
from pyscheduler.errors import StoreError
from tests.doors import Node, connect
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import State
from tests.harness import assert_invariants
from tests.support import wait_until_async

LEASE_MS = 3_000
GRACE_MS = 5_000
CALL_MS = 500
"""Time-out of a store call."""

DEADLINE_S = 40.0
BEAT_S = 0.25
RETRY_S = 0.1

FLAGS = (
    *("--lease-ms", str(LEASE_MS), "--reconnect-grace-ms", str(GRACE_MS), "--store-timeout-ms", str(CALL_MS)),
    *("--reconcile-interval-ms", "200", "--resync-interval-ms", "500", "--store-check-interval-ms", "100"),
    *("--instance-lease-ms", "900"),
)
"""Settings under which what takes minutes in earnest takes seconds."""

ENGLISH_CHINESE = State(languages=("en", "zh"))


class LiveNode:
    """A node that beats, and reconnects under its id when its socket closes, as the fleet's clients do.

    Args:
        node_id: its id.
        urls: node doors that it tries in turn; may be changed meanwhile.
        state: what it reports; may be changed meanwhile.

    Attributes:
        connections: sockets on which it was acknowledged.
        errors: codes of the errors that it was answered with.
        closes: codes with which its sockets were closed; 0 without one.
    """

    def __init__(self, node_id: str, urls: Sequence[str], state: State = ENGLISH_CHINESE) -> None:
        self.node_id = node_id
        self.urls = list(urls)
        self.state = state
        self.connections = 0
        self.errors: list[str] = []
        self.closes: list[int] = []
        self._life = asyncio.create_task(self._live(), name=node_id)

    async def stop(self) -> None:
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    async def _live(self) -> None:
        for turn in itertools.count():
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                async with connect(self.urls[turn % len(self.urls)], open_timeout=2) as node:
                    await self._serve(node)
            await asyncio.sleep(RETRY_S)

    async def _serve(self, node: Node) -> None:
        beating: asyncio.Task[None] | None = None
        await node.send(node.client.register(self.state, node_id=self.node_id))
        try:
            async for text in node.socket:
                message = json.loads(text)
                if message["type"] == "error":
                    self.errors.append(message["code"])
                elif message["type"] == "node_register_ack" and beating is None:
                    self.connections += 1
                    beating = asyncio.create_task(self._beat(node))
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            self.closes.append(node.socket.close_code or 0)

    async def _beat(self, node: Node) -> None:
        while True:
            await node.send(node.client.heartbeat(self.node_id, self.state))
            await asyncio.sleep(BEAT_S)


class Live:
    """Scheduler processes and nodes on one store; an asynchronous context manager that ends them all.

    When left in good order, it checks every invariant, and that no process has met a defect.

    Args:
        folder: for the logs.
        redis_url: the store; without it, the embedded server of ``state_dir``.
        state_dir: its directory.
        flags: further flags of each ``serve``.
    """

    def __init__(
        self, folder: Path, redis_url: str = "", *, state_dir: Path | None = None, flags: Sequence[str] = ()
    ) -> None:
        self._folder = folder
        self._url = redis_url
        self._state_dir = state_dir
        store = ("--redis-url", redis_url) if redis_url else ("--state-dir", str(state_dir))
        self._flags = (*FLAGS, *store, *flags)
        self._processes: list[ServeProcess] = []
        self.nodes: dict[str, LiveNode] = {}
        self._allocator: Allocator | None = None

    @property
    def url(self) -> str:
        """Where the store is."""
        if self._url:
            return self._url
        assert self._state_dir is not None
        found = find_running(self._state_dir)
        assert found is not None, "no embedded server runs"
        return found

    @property
    def allocator(self) -> Allocator:
        assert self._allocator is not None, "no process has been started"
        return self._allocator

    async def serve(self, name: str) -> ServeProcess:
        process = ServeProcess(self._folder, name, *self._flags)
        self._processes.append(process)
        await asyncio.to_thread(process.wait_listening)
        if self._allocator is None:
            self._allocator = await Allocator.open(self.url)
        return process

    async def reopen(self) -> None:
        """Open the store anew, where it is another server now."""
        await self.allocator.aclose()
        self._allocator = await Allocator.open(self.url)

    def node(self, node_id: str, *urls: str, state: State = ENGLISH_CHINESE) -> LiveNode:
        node = self.nodes[node_id] = LiveNode(node_id, urls, state)
        return node

    async def fleet(self, count: int, *urls: str) -> list[LiveNode]:
        """Nodes that are ready, each on one door after the other."""
        found = [self.node(f"n{number}", urls[number % len(urls)]) for number in range(count)]
        await self.wait_ready()
        return found

    async def states(self) -> dict[str, NodeState]:
        """What the store says of every node; nothing while it says nothing."""
        try:
            return {state.node_id: state for state in (await self.allocator.nodes()).nodes}
        except StoreError:
            return {}

    async def wait_ready(self, *node_ids: str) -> dict[str, NodeState]:
        """Wait until nodes, by default all, are ready and their beats arrive. Returns what the store says of all."""

        async def ready() -> dict[str, NodeState] | None:
            states = await self.states()
            for node_id in node_ids or self.nodes:
                state = states.get(node_id)
                if state is None or state.status is not NodeStatus.READY or state.lease_ms < LEASE_MS * 2 // 3:
                    return None
            return states

        found = await wait_until_async(ready, "every node is ready and heard of", DEADLINE_S)
        assert found is not None
        return found

    async def events(self, *types: str, **fields: str) -> list[Event]:
        """The events so far of these types, or of all, with these fields."""

        def has(event: Event) -> bool:
            known: dict[str, Any] = {**event.fields, "node_id": event.node_id, "reason": event.reason}
            return all(known.get(name) == value for name, value in fields.items())

        return [event for event in await self.allocator.events() if (not types or event.type in types) and has(event)]

    async def wait_event(self, kind: str, count: int = 1, **fields: str) -> Event:
        """Wait until that many events of a type are there; returns the last."""

        async def there() -> list[Event] | None:
            try:
                found = await self.events(kind, **fields)
            except StoreError:
                return None
            return found if len(found) >= count else None

        found = await wait_until_async(there, f"{count} times {kind} {fields}", DEADLINE_S)
        assert found
        return found[-1]

    async def wait_error(self, code: str = "SCHEDULER_DEPENDENCY_DOWN") -> None:
        """Wait until every node has been told."""
        await wait_until_async(
            lambda: all(code in node.errors for node in self.nodes.values()), f"every node is told {code}", DEADLINE_S
        )

    async def assert_nobody_left(self, *, reconnected: bool = False) -> None:
        """No node has left its pool since it came, nor its place among the live, nor (by default) its socket."""
        assert await self.events("node.expired") == []
        assigned: dict[str, int] = defaultdict(int)
        for event in await self.events("node.assigned"):
            assigned[event.node_id or ""] += 1
        assert assigned == dict.fromkeys(self.nodes, 1)
        if not reconnected:
            assert await self.events("node.released") == []
            assert {node.node_id: node.connections for node in self.nodes.values()} == dict.fromkeys(self.nodes, 1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await assert_invariants(self.url, "pyscheduler")
                for process in self._processes:
                    events = {line["event"] for line in process.lines()}
                    assert not {one for one in events if one == "background_task_ended" or one.endswith("_defect")}
        finally:
            await asyncio.gather(*(node.stop() for node in self.nodes.values()))
            if self._allocator is not None:
                await self._allocator.aclose()
            for process in self._processes:
                process.close()
