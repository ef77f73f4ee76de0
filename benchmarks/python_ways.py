"""The same change without Lua, as it is written in Python: optimistic (WATCH, MULTI, EXEC) and under a lock.

The change: a node gets other facts, and with them another class and pool. Reads: the configuration's version, the class
of the facts, the pool of that class, the node as it is. Writes: membership, readiness, lease, record, usage, and an
event; all under the configuration that was read. Meanwhile a writer of configurations gives every class another pool:
it reads the facts of every class, matches them, and writes the pools, the map of classes, the history and the events.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Self

import redis.asyncio
from redis.asyncio.lock import Lock
from redis.exceptions import WatchError

from benchmarks.population import (
    CLASSES,
    FOREVER_MS,
    POOLS,
    Population,
    document,
    node_id,
    profile,
    rule_code,
    usage_json,
)
from benchmarks.server import StoreServer
from benchmarks.suite import Bench, Group, Opened, Table
from pyscheduler import Allocator
from pyscheduler.core.report import NodeReport
from pyscheduler.core.results import NodeStatus, Session

NODES = 1_000
_CONFIG_EVERY_S = 0.1
_LOCK_POLL_S = 0.001
_MAX_TRIES = 1_000
_ALONE = 8
_CHANGES = 10

Client = Any
"""A client of redis.asyncio or its pipeline, whose own types say little."""


class Way(ABC):
    """One way to make the change; an instance is one writer with a connection of its own."""

    name: str
    retries = 0

    def __init__(self, server: StoreServer) -> None:
        self._server = server

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *raised: object) -> None: ...

    @abstractmethod
    async def move(self, number: int, to: int) -> None:
        """Give a node the facts of class ``to``."""

    @abstractmethod
    async def configure(self, turn: int) -> None:
        """Put another configuration in force."""


class Scripts(Way):
    """Ours: one script a change."""

    name = "pyscheduler"
    sessions: dict[int, Session]

    async def __aenter__(self) -> Self:
        self._allocator = await Allocator.open(self._server.url, namespace="ways")
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._allocator.aclose()

    async def move(self, number: int, to: int) -> None:
        described = profile(to)
        report = NodeReport(described.facts, described.record, NodeStatus.READY, 0.25, usage_json())
        done = await self._allocator.update(self.sessions[number], report, lease_ms=FOREVER_MS)
        self.sessions[number] = done.session

    async def configure(self, turn: int) -> None:
        await self._allocator.sync(document(turn=turn), force=True)


class _Redis(Way):
    """What both ways in Python share: keys, reads and writes."""

    async def __aenter__(self) -> Self:
        self._redis: Client = redis.asyncio.Redis.from_url(self._server.url, decode_responses=True)
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._redis.aclose()

    @staticmethod
    async def prepare(client: Client) -> None:
        """The namespace of the ways without Lua: classes, their pools, and the nodes."""
        async with client.pipeline(transaction=False) as fill:
            for number in range(CLASSES):
                fill.hset("{py}:class_index", profile(number).facts.json, number)
                fill.hset("{py}:classes", number, f"pool-{number % POOLS:02d}")
            fill.hset("{py}:config", mapping={"version": 1})
            for number in range(NODES):
                name = node_id(number)
                fill.hset(f"{{py}}:node:{name}", mapping={"class": number % CLASSES, "epoch": 1})
                fill.zadd("{py}:members", {name: number % CLASSES})
            await fill.execute()

    @staticmethod
    async def _read(client: Client, number: int, to: int) -> tuple[str, str, str]:
        version = await client.hget("{py}:config", "version")
        await client.hmget(f"{{py}}:node:{node_id(number)}", "epoch", "class", "status")
        node_class = await client.hget("{py}:class_index", profile(to).facts.json)
        return version, node_class, await client.hget("{py}:classes", node_class)

    @staticmethod
    def _write(pipe: Client, number: int, to: int, read: tuple[str, str, str]) -> None:
        name, (version, node_class, pool), now = node_id(number), read, int(time.time() * 1000)
        node = {"class": node_class, "pool": pool, "record": profile(to).record, "usage": usage_json(), "status": "r"}
        pipe.hset(f"{{py}}:node:{name}", mapping=node)
        pipe.zadd("{py}:members", {name: int(node_class)})
        pipe.zadd("{py}:ready", {name: int(node_class) * 2 + 0.25})
        pipe.zadd("{py}:leases", {name: now + FOREVER_MS})
        event = {"type": "node.assigned", "node_id": name, "to": pool, "version": version, "at": now}
        pipe.xadd("{py}:events", event, maxlen=100_000, approximate=True)

    @staticmethod
    async def _match(client: Client, turn: int) -> dict[str, str]:
        """The pool of every class under another configuration."""
        rules = {rule_code(number, turn=turn): f"pool-{number:02d}" for number in range(POOLS)}
        placed = {}
        for facts, number in (await client.hgetall("{py}:class_index")).items():
            spoken = json.loads(facts)["semantic"]
            placed[number] = next(rules[code] for code in spoken if code in rules)
        return placed

    @staticmethod
    def _write_config(pipe: Client, turn: int, placed: dict[str, str]) -> None:
        wanted = document(turn=turn)
        pipe.hincrby("{py}:config", "version", 1)
        pipe.hset("{py}:config", "document", wanted.canonical())
        pipe.hset("{py}:pools", mapping={pool.name: pool.model_dump_json() for pool in wanted.pools})
        pipe.hset("{py}:classes", mapping=placed)
        pipe.xadd("{py}:history", {"document": wanted.canonical()}, maxlen=1000)
        for number, pool in placed.items():
            event = {"type": "class.remapped", "class": number, "to": pool, "version": turn}
            pipe.xadd("{py}:events", event, maxlen=100_000, approximate=True)


class Watch(_Redis):
    """Optimistic: WATCH, read, MULTI, write, EXEC; again if somebody was faster."""

    name = "WATCH/MULTI/EXEC"

    async def _until_done(self, keys: list[str], step: Callable[[Client], Awaitable[None]]) -> None:
        async with self._redis.pipeline() as pipe:
            for _ in range(_MAX_TRIES):
                try:
                    await pipe.watch(*keys)
                    await step(pipe)
                    await pipe.execute()
                    return
                except WatchError:
                    self.retries += 1
        raise RuntimeError("somebody was always faster")

    async def move(self, number: int, to: int) -> None:
        async def step(pipe: Client) -> None:
            read = await self._read(pipe, number, to)
            pipe.multi()
            self._write(pipe, number, to, read)

        await self._until_done(["{py}:config", "{py}:classes", f"{{py}}:node:{node_id(number)}"], step)

    async def configure(self, turn: int) -> None:
        async def step(pipe: Client) -> None:
            placed = await self._match(pipe, turn)
            pipe.multi()
            self._write_config(pipe, turn, placed)

        await self._until_done(["{py}:config", "{py}:classes"], step)


class Locked(_Redis):
    """Pessimistic: one lock for the namespace, polled every millisecond."""

    name = "redis.lock.Lock"

    @asynccontextmanager
    async def _locked(self) -> Any:
        lock = Lock(self._redis, "{py}:lock", timeout=10, sleep=_LOCK_POLL_S)
        if not await lock.acquire(token=uuid.uuid4().hex):
            raise RuntimeError("the lock was not to be had")
        try:
            yield
        finally:
            await lock.release()

    async def move(self, number: int, to: int) -> None:
        async with self._locked(), self._redis.pipeline() as pipe:
            self._write(pipe, number, to, await self._read(self._redis, number, to))
            await pipe.execute()

    async def configure(self, turn: int) -> None:
        async with self._locked(), self._redis.pipeline() as pipe:
            self._write_config(pipe, turn, await self._match(self._redis, turn))
            await pipe.execute()


WAYS: tuple[type[Way], ...] = (Scripts, Watch, Locked)


@contextmanager
def _ways(bench: Bench) -> Opened:
    with bench.server() as server:
        population = Population(server, "ways")
        population.fill(0, NODES)
        numbers = range(NODES)
        tokens = population.tokens([node_id(number) for number in numbers])
        Scripts.sessions = {
            number: Session(node_id(number), int(token.split(":")[0]), token)
            for number, token in zip(numbers, tokens, strict=True)
        }
        asyncio.run(_prepare(server))

        def measure() -> None:
            for writers in bench.scale.writers:
                for way in WAYS:
                    asyncio.run(_compete(bench, server, way, writers))
            for way in WAYS:
                asyncio.run(_compete(bench, server, way, _ALONE, configured=False))
                asyncio.run(_configure_alone(bench, server, way))
            population.forget_events()

        yield measure


async def _prepare(server: StoreServer) -> None:
    client: Client = redis.asyncio.Redis.from_url(server.url, decode_responses=True)
    await _Redis.prepare(client)
    await client.aclose()


async def _compete(bench: Bench, server: StoreServer, way: type[Way], writers: int, *, configured: bool = True) -> None:
    """So many writers move nodes for a while; one changes the configuration ten times a second, or nobody does."""
    waits: list[float] = []
    ends = time.perf_counter() + bench.scale.seconds
    chance = random.Random(writers)

    async def write(one: Way, mine: list[int]) -> None:
        for step in itertools.count(1):
            number, started = chance.choice(mine), time.perf_counter()
            if started >= ends:
                return
            await one.move(number, (number + step) % CLASSES)
            waits.append(time.perf_counter() - started)

    async def configure(one: Way) -> None:
        for turn in itertools.count(1):
            if time.perf_counter() >= ends or not configured:
                return
            await one.configure(turn % POOLS)
            await asyncio.sleep(_CONFIG_EVERY_S)

    async with AsyncExitStack() as stack:
        ones = [await stack.enter_async_context(way(server)) for _ in range(writers + 1)]
        with server.measured() as usage:
            shares = [list(range(first, NODES, writers)) for first in range(writers)]
            await asyncio.gather(configure(ones[0]), *map(write, ones[1:], shares))
    moved = len(waits)
    bench.row(
        f"{way.name}, {writers} {'writer' if writers == 1 else 'writers'}{'' if configured else ', no changes'}",
        cpu_us=usage.cpu_s * 1e6 / moved,
        per_s=moved / usage.wall_s,
        p99_ms=sorted(waits)[int(moved * 0.99)] * 1000,
        retries=sum(one.retries for one in ones) / moved,
    )


async def _configure_alone(bench: Bench, server: StoreServer, way: type[Way]) -> None:
    async with way(server) as one:
        with server.measured() as usage:
            for turn in range(_CHANGES):
                await one.configure(turn % POOLS + 1)
    bench.row(f"{way.name}, a change by itself", cpu_us=usage.cpu_s * 1e6 / _CHANGES, per_s=_CHANGES / usage.wall_s)


_HOW_WAYS = (
    "A node gets other facts, and with them another class and pool, while a writer changes the configuration "
    "every 100 ms; 1, 8 and 32 writers in one Python process, each with a connection of its own. Ours is "
    "`Allocator.update`. The other two are the ways to do it in Python: `WATCH` and again if somebody was "
    "faster, and a lock. CPU is the server's for all that it did, per node moved: the changes of the "
    "configuration are in it. Without them, and what each of them takes by itself, stands below."
)

GROUPS = (Group("ways", (Table("ways", "The same without Lua", _HOW_WAYS),), _ways),)
