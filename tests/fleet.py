"""A fleet as its users see it: nodes on sockets, scheduler processes, an operator. What the regression tests speak to.

:class:`NewWay` is this package: the allocator, with the session machine between it and each node's messages.
``tests/old_way.py`` has the system that it replaces, over the same store, so that a test can be seen to fail there.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from pyscheduler import Allocator, JobRequest
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.core.session import Action, NodeSession, ReadAdmission, Register, Release, SessionPolicy, Touch, Update
from pyscheduler.errors import NoNode, PyschedulerError
from pyscheduler.scripts.calls import Call
from pyscheduler.store import Reply, Store, StoreOptions
from tests.fixtures.clients import HEAD, State
from tests.harness import GRACE_MS, LEASE_MS, SETTABLE_CLOCK, Cell, document_of
from tests.oracle import read_state

T = TypeVar("T")
Probe = Callable[[], Awaitable[None]]
SLOTS = 4
"""Slots of each node."""

JOB_LEASE_MS = 20_000
Pools = Mapping[str, frozenset[str]]
"""Pool name -> ids of the nodes in it that are connected."""


# --- somebody else acts between any two commands ---------------------------------------------------------------------


class Meanwhile:
    """What somebody else does before and after every single command of a fleet. What it does is not itself watched."""

    def __init__(self) -> None:
        self._probe: Probe | None = None
        self.times = 0

    @contextmanager
    def set(self, probe: Probe) -> Iterator[None]:
        before, self._probe = self.times, probe
        try:
            yield
        finally:
            self._probe = None
        given(self.times > before, "a command was sent")

    async def around(self, command: Callable[[], Awaitable[T]]) -> T:
        await self._act()
        reply = await command()
        await self._act()
        return reply

    async def _act(self) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            return
        self.times += 1
        try:
            await probe()
        finally:
            self._probe = probe


class WatchedStore(Store):
    """A store with a :class:`Meanwhile` around every command and script that it is given."""

    meanwhile = Meanwhile()

    async def run(self, call: Call) -> list[str]:
        return await self.meanwhile.around(lambda: super(WatchedStore, self).run(call))

    async def command(self, *command: str | int) -> Reply:
        return await self.meanwhile.around(lambda: super(WatchedStore, self).command(*command))


class AssumptionFails(Exception):
    """A test cannot show what it is for. No AssertionError, which would pass for the failure that is expected."""


def given(condition: bool, assumption: str) -> None:
    """Ends the test if what it takes for granted is not so."""
    if not condition:
        raise AssumptionFails(assumption)


# --- the interface ---------------------------------------------------------------------------------------------------


class Socket(ABC):
    """The connection of one node to one scheduler process."""

    @abstractmethod
    async def register(self, node_id: str, *languages: str, gpu_gb: int = 24) -> None: ...

    @abstractmethod
    async def heartbeat(self, *languages: str, claiming: str = "") -> None:
        """A heartbeat that lists ``languages``, or says nothing of languages if none are given.

        ``claiming``: the node id that the message carries; by default the node's own.
        """

    @abstractmethod
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where a job is: a node, and the pool that it was found in."""

    node_id: str
    pool: str


class Instance(ABC):
    """One scheduler process."""

    @abstractmethod
    def accept(self) -> Socket:
        """A node connects."""

    async def node(self, node_id: str, *languages: str, gpu_gb: int = 24) -> Socket:
        """A node that has connected, registered and sent its first heartbeat."""
        socket = self.accept()
        await socket.register(node_id, *languages, gpu_gb=gpu_gb)
        await socket.heartbeat(*languages)
        return socket

    @abstractmethod
    async def reserve(self, job_id: str, source: str, target: str) -> Place | None:
        """Finds a node for a job and takes a slot of it, for ``JOB_LEASE_MS``; ``None`` if there is none."""

    @abstractmethod
    async def finish(self, job_id: str) -> None:
        """The job is done. May be said again, also by another process."""

    async def free_slots(self, source: str, target: str) -> int:
        """How many jobs find a slot now. They keep it."""
        for number in range(10 * SLOTS):
            if await self.reserve(f"last-{number}", source, target) is None:
                return number
        return 10 * SLOTS


class Fleet(ABC):
    """Scheduler processes on one store, and the operator's view of them. An asynchronous context manager."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.redis_url, self.namespace = redis_url, namespace
        self._meanwhile = Meanwhile()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.store = await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    @abstractmethod
    async def start(self, name: str) -> Instance:
        """Another scheduler process starts."""

    @abstractmethod
    async def sync(self, *pools: dict[str, Any]) -> None:
        """The operator makes these the configuration. Returns when every process goes by it."""

    @abstractmethod
    async def upkeep(self) -> None:
        """Every process does its background work once."""

    @abstractmethod
    async def pass_time(self, milliseconds: int) -> None:
        """Time passes; the processes run on, the nodes are silent."""

    @abstractmethod
    async def pools(self) -> Pools:
        """Who is where, in one look."""

    @abstractmethod
    async def pool_numbers(self) -> Mapping[str, int]: ...

    @abstractmethod
    async def configuration(self) -> tuple[int, tuple[str, ...]]:
        """The version of the configuration, and the pools that it declares."""

    @abstractmethod
    async def able_to_serve(self, source: str, target: str) -> int:
        """Nodes that a job from one language into another could go to."""

    @abstractmethod
    async def place_of(self, job_id: str) -> Place | None:
        """Where the store says that a job is; ``None`` if it has no slot."""

    async def pool_of(self, node_id: str) -> str:
        return " and ".join(name for name, nodes in (await self.pools()).items() if node_id in nodes)

    async def traces(self, node_id: str) -> list[str]:
        """The keys that know a node. Streams do not count, they are history."""
        look = {"hash": "HEXISTS", "set": "SISMEMBER", "zset": "ZSCORE"}
        found = []
        for key in await self._keys():
            kind = await self.store.command("TYPE", key)
            if node_id in key.split(":") or (kind in look and await self.store.command(look[kind], key, node_id)):
                found.append(key)
        return found

    async def age_keys(self, milliseconds: int) -> None:
        """Lets time pass for whatever has a time to live."""
        for key in await self._keys():
            left = await self.store.command("PTTL", key)
            if left >= 0:
                await self.store.command("PEXPIRE", key, left - milliseconds)

    async def _keys(self) -> list[str]:
        return sorted(await self.store.command("KEYS", f"{{{self.namespace}}}:*"))

    def meanwhile(self, probe: Probe) -> Any:
        """While the context lasts, ``probe`` runs before and after every command that a process sends to the store."""
        return self._meanwhile.set(probe)

    async def connect(self) -> Store:
        """A connection of its own, closed with the fleet."""
        store = await WatchedStore.open(self.redis_url, self.namespace, StoreOptions(), SETTABLE_CLOCK)
        assert isinstance(store, WatchedStore)
        store.meanwhile = self._meanwhile
        self._open.push_async_callback(store.aclose)
        return store


# --- this package ----------------------------------------------------------------------------------------------------


class NewWay(Fleet):
    """The allocator, behind the session machine that reads the nodes' messages."""

    _cell: Cell

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._cell = Cell(await self.allocator(), self.store)
        await self._cell.allocator.check()  # creates the namespace
        self.now_ms = 0
        self._policy = SessionPolicy(clock=lambda: int(time.time()), new_node_id=lambda: "node-00000001")
        return self

    async def start(self, name: str) -> Instance:
        return _NewInstance(self, name, await self.allocator())

    async def allocator(self) -> Allocator:
        allocator = Allocator(await self.connect())
        self._open.push_async_callback(allocator.aclose)
        return allocator

    async def sync(self, *pools: dict[str, Any]) -> None:
        await self._cell.allocator.sync(document_of(*pools))

    async def upkeep(self) -> None:
        await self._cell.reconcile()

    async def pass_time(self, milliseconds: int) -> None:
        await self.age_keys(milliseconds)
        await self._cell.pass_time(milliseconds)
        self.now_ms += milliseconds

    async def pools(self) -> Pools:
        members: defaultdict[str, set[str]] = defaultdict(set)
        for node in (await self._cell.allocator.nodes()).nodes:
            if node.pool is not None and node.status is not NodeStatus.OFFLINE:
                members[node.pool].add(node.node_id)
        return {name: frozenset(nodes) for name, nodes in members.items()}

    async def pool_numbers(self) -> Mapping[str, int]:
        return {pool.name: pool.id for pool in (await self._cell.allocator.pools()).pools}

    async def configuration(self) -> tuple[int, tuple[str, ...]]:
        stored = await self._cell.allocator.document()
        return stored.version, tuple(pool["name"] for pool in json.loads(stored.json or '{"pools":[]}')["pools"])

    async def able_to_serve(self, source: str, target: str) -> int:
        return sum(candidate.ready for candidate in await self._cell.allocator.find(source, target))

    async def place_of(self, job_id: str) -> Place | None:
        job = (await read_state(self.store)).jobs.get(job_id)
        return Place(job.node, job.pool) if job and job.is_live else None


class _NewInstance(Instance):
    def __init__(self, fleet: NewWay, name: str, allocator: Allocator) -> None:
        self.fleet, self.name, self.allocator = fleet, name, allocator
        self._accepted = 0

    def accept(self) -> Socket:
        self._accepted += 1
        return _NewSocket(self, f"{self.name}:{self._accepted}")

    async def reserve(self, job_id: str, source: str, target: str) -> Place | None:
        try:
            found = await self.allocator.reserve(
                job_id, JobRequest(source, target), owner="jobs", lease_ms=JOB_LEASE_MS
            )
        except NoNode:
            return None
        return Place(found.node_id, found.pool)

    async def finish(self, job_id: str) -> None:
        await self.allocator.finish_job(job_id, 1, owner="jobs")


class _NewSocket(Socket):
    def __init__(self, instance: _NewInstance, session_id: str) -> None:
        self._instance = instance
        self._machine = NodeSession(session_id, instance.fleet._policy, instance.fleet.now_ms)
        self._node_id = ""
        self._gpu_gb = 0
        self._held: Session | None = None

    async def register(self, node_id: str, *languages: str, gpu_gb: int = 24) -> None:
        self._node_id, self._gpu_gb = node_id, gpu_gb
        await self._say(HEAD.register(self._state(languages), node_id=node_id))

    async def heartbeat(self, *languages: str, claiming: str = "") -> None:
        message = HEAD.heartbeat(claiming or self._node_id, self._state(languages))
        if not languages:
            del message["language_capabilities"]
        await self._say(message)

    async def close(self) -> None:
        await self._do(self._machine.on_close(self._instance.fleet.now_ms))

    def _state(self, languages: tuple[str, ...]) -> State:
        return State(languages=languages, gpus=({"name": "Example RTX", "memory_gb": self._gpu_gb},))

    async def _say(self, message: dict[str, Any]) -> None:
        await self._do(self._machine.on_text(json.dumps(message), self._instance.fleet.now_ms))

    async def _do(self, actions: list[Action]) -> None:
        machine, now = self._machine, self._instance.fleet.now_ms
        allocator = self._instance.allocator
        for action in actions:
            match action:
                case ReadAdmission():
                    await self._do(machine.on_admission(await allocator.admission(), now))
                case Register():
                    await self._registered(
                        allocator.register(
                            action.node_id,
                            action.report,
                            session_id=machine.session_id,
                            instance=self._instance.name,
                            lease_ms=LEASE_MS,
                            epoch=action.epoch,
                            admission_digest=action.admission_digest,
                        )
                    )
                case Update():
                    assert self._held is not None
                    await self._registered(allocator.update(self._held, action.report, lease_ms=LEASE_MS))
                case Touch():
                    assert self._held is not None
                    try:
                        version = await allocator.heartbeat(self._held, lease_ms=LEASE_MS, load=action.load)
                    except PyschedulerError as error:
                        await self._do(machine.on_touch_failed(error, now))
                    else:
                        await self._do(machine.on_touched(version, now))
                case Release():
                    assert self._held is not None
                    await allocator.release(self._held, grace_ms=GRACE_MS, reason=action.reason)
                case _:
                    pass  # what is sent to the node and logged is no matter here

    async def _registered(self, call: Awaitable[Registration]) -> None:
        now = self._instance.fleet.now_ms
        try:
            registration = await call
        except PyschedulerError as error:
            await self._do(self._machine.on_refused(error, now))
        else:
            self._held = registration.session
            await self._do(self._machine.on_registered(registration, now))
