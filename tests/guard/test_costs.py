"""What each call costs, in counts that no machine changes: commands inside the store, round trips, bytes, closures.

A change of one of these figures must be meant. A failure prints the line that would have to stand in the table.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tree_sitter import Node

from pyscheduler import Allocator
from pyscheduler.core.jobs import JobAsk, JobRequest
from pyscheduler.core.report import NodeReport
from pyscheduler.core.results import NodeStatus, ReconcileLimits, Registration, Session
from pyscheduler.scripts import load_scripts
from pyscheduler.store import Store, StoreOptions
from pyscheduler.store.link import Link
from tests.harness import GRACE_MS, LEASE_MS, document_of, facts_of, pool
from tools.syntax import parse

LONG_LEASE_MS = 86_400_000
USAGE = '{"cpu_percent":12.5,"gpu_percent":40}'


@dataclass(frozen=True)
class Cost:
    """What one call costs.

    Args:
        commands: what the store executes for it, in order of the names.
        sent: bytes that are sent to the store; node ids have 10.
        round_trips: times that the caller waits for the store.
    """

    commands: str
    sent: int
    round_trips: int = 1


COSTS = {
    "heartbeat, one node": Cost("evalsha hlen hmget*2 time zadd zcard*2", 347),
    "heartbeat, 128 nodes": Cost("evalsha hlen hmget*2 time zadd zcard*2", 8476),
    "heartbeat, 128 nodes, load and usage": Cost("evalsha hlen hmget*3 hset time zadd*2 zcard*2", 14236),
    "heartbeat, 128 nodes, load alone": Cost("evalsha hlen hmget*4 hset time zadd*2 zcard*2", 9244),
    "heartbeat, 1,000 nodes": Cost("evalsha*8 hlen*8 hmget*16 time*8 zadd*8 zcard*16", 66272, round_trips=8),
    "register, known class, declared pool": Cost(
        "evalsha hlen hmget*8 hset*3 time xadd*2 xlen zadd*3 zcard*3 zmscore",
        928,
    ),
    "register, 64 nodes of known classes": Cost(
        "evalsha hlen hmget*8 hset*3 time xadd*128 xlen zadd*3 zcard*3 zmscore",
        18506,
    ),
    "register, known class, auto pool": Cost(
        "evalsha hlen hmget*8 hset*3 time xadd*2 xlen zadd*3 zcard*3 zmscore",
        928,
    ),
    "register, new class, declared pool": Cost(
        "evalsha hget hgetall hlen*3 hmget*6 hset*7 time xadd*2 xlen zadd*10 zcard*4 zmscore",
        928,
    ),
    "register, new class, new auto pool": Cost(
        "evalsha exists hgetall hlen*3 hmget*6 hset*9 time xadd*5 xinfo xlen zadd*10 zcard*4 zcount zmscore "
        "zrangebylex",
        928,
    ),
    "register again, same session": Cost("evalsha hlen hmget*8 hset*3 time xlen zadd*2 zcard*3 zmscore", 928),
    "register, live id taken over": Cost("evalsha hlen hmget*8 hset*3 time xadd xlen zadd*2 zcard*3 zmscore", 925),
    "update, status alone": Cost("evalsha hlen hmget*8 hset*3 time xadd xlen zadd zcard*3 zmscore zrem", 935),
    "update, another known class": Cost("evalsha hlen hmget*8 hset*3 time xadd xlen zadd*3 zcard*3 zmscore", 935),
    "release": Cost("evalsha hget*2 hmget hset time xadd xlen zadd zrem zscore*2", 340),
    "hold": Cost("evalsha hget*5 hlen hmget hset time xadd xlen zcard zrem zscore", 420),
    "lift of a hold": Cost("evalsha hdel hget*5 hmget time xadd xlen zadd zcard zscore", 421),
    "sync, 2 pools added, 1 removed, 2 of 3 classes remapped": Cost(
        commands="evalsha exists hdel hgetall*3 hmget*2 hset*4 time xadd*7 xinfo xlen zcard*2 zcount*2",
        sent=1170,
        round_trips=1,
    ),
    "sync, unchanged": Cost("evalsha hgetall*2 hmget time xlen zcard*2", 1170),
    "plan of a sync": Cost(
        commands="evalsha exists hgetall*3 hmget*2 time xinfo xlen zcard*2 zcount", sent=1169, round_trips=1
    ),
    "reconcile, nothing to do, 10 nodes": Cost(
        "evalsha hgetall*3 hlen*7 hmget*4 hset time xlen zcard*4 zcount*2 zmscore zrange",
        864,
    ),
    "reconcile, 1 of 10 nodes expires": Cost(
        "evalsha hdel*3 hgetall*3 hlen*7 hmget*7 hset time xadd*2 xlen zcard*4 zcount*2 zmscore*2 "
        "zrange zrangebyscore*2 zrem*3",
        864,
    ),
    "reconcile, 10 of 10 nodes expire, and their class": Cost(
        "evalsha hdel*6 hgetall*3 hlen*7 hmget*7 hset time xadd*11 xlen zcard*4 zcount*2 zmscore*2 "
        "zrange zrangebyscore*2 zrem*4",
        864,
    ),
    "lease of an instance": Cost("evalsha hexists hlen hmget hset time", 176),
    "list of the pools": Cost("evalsha hgetall*2 hmget zcard zcount*2", 281),
    "page of 10 nodes": Cost("evalsha hget*43 hmget time zcard zrangebyscore zscore*10", 440),
    "explanation of a node": Cost("evalsha hget*10 hgetall hmget time zscore", 471),
    "search for a pool": Cost("evalsha hget*3 hmget zcount*2 zrangebylex*2", 330),
    "reservation of a known kind": Cost(
        commands="evalsha hget hlen*2 hmget*5 hset*2 time xadd xlen zadd*2 zmscore*2 zrangebyscore*2",
        sent=833,
        round_trips=1,
    ),
    "reservation of a new kind": Cost(
        commands="evalsha hget*4 hlen*3 hmget*5 hset*3 time xadd xlen zadd*2 zmscore*2 zrangebylex*3 zrangebyscore*2",
        sent=833,
        round_trips=1,
    ),
    "update of a job": Cost("evalsha hdel hget hlen*2 hmget*2 hset time xadd xlen zadd*2 zcard zmscore", 356),
    "reservation of 128 jobs": Cost(
        commands="evalsha*4 hget*128 hlen*8 hmget*20 hset*8 time*4 xadd*128 xlen*4 zadd*8 zmscore*26 zrangebyscore*23",
        sent=21440,
        round_trips=4,
    ),
    "page of 10 jobs": Cost("evalsha hlen hmget*2 time zrange", 254),
    "live jobs of a node": Cost("evalsha hget hlen hmget*2 time zmscore", 269),
    "one job": Cost("evalsha hlen hmget*2 time zmscore", 268),
    "explanation of a job": Cost(
        commands="evalsha hget*3 hgetall hlen hmget*4 time zcard zcount zmscore*5 zrangebylex*2 zrangebyscore*4",
        sent=564,
        round_trips=1,
    ),
    "reservation without a node": Cost(
        commands="evalsha hlen*2 hmget*5 time xlen zcard zcount zmscore*3 zrangebyscore*2", sent=833, round_trips=1
    ),
}

CLOSURES = {
    "update_jobs": 41,
    "reserve_slots": 78,
    "explain_job": 51,
    "bump_config_version": 70,
    "check": 59,
    "explain_node": 60,
    "find_pools": 31,
    "hold_node": 19,
    "list_jobs": 19,
    "list_nodes": 27,
    "list_pools": 13,
    "open_namespace": 12,
    "reconcile": 53,
    "release_node": 15,
    "renew_instance": 10,
    "touch_nodes": 20,
    "upsert_node_to_pool": 39,
}
"""Functions that a script makes each time it is called: all that it has, those of its includes among them."""


@dataclass
class Place:
    """A namespace as it ships, the clock of the server in it, with every script loaded."""

    allocator: Allocator
    store: Store
    trips: list[int]
    """One entry for each round trip so far: its number of commands."""

    async def register(self, number: int, *languages: str, **options: Any) -> Registration:
        return await self.allocator.register(
            f"node-{number:05d}",
            self.report(*languages, **options),
            session_id=f"socket-of-{number:05d}",
            instance="test",
            lease_ms=LONG_LEASE_MS,
        )

    @staticmethod
    def report(*languages: str, status: NodeStatus = NodeStatus.READY, gpu_gb: int = 24) -> NodeReport:
        facts = facts_of(*languages, gpu_memory_gb=(gpu_gb,))
        return NodeReport.of(facts, status=status, record={"platform": "linux"}, load=0.5)

    async def fleet(self, count: int) -> list[Session]:
        """That many nodes of one class in the pool ``english``."""
        return [one.session for one in await asyncio.gather(*(self.register(n, "en") for n in range(count)))]

    async def lapse(self, node_id: str) -> None:
        """A node's lease ends, and reconcile has not been away."""
        now = int((await self.store.command("TIME"))[0]) * 1000
        await self.store.command("HSET", self.store.key("config"), "ticked_at", now, "suspended_until", 0)
        await self.store.command("ZADD", self.store.key("leases"), 1, node_id)


@pytest.fixture
async def place(redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    trips: list[int] = []
    round_trip = Link.round_trip

    async def counted(link: Link, commands: Sequence[tuple[str, ...]], **options: Any) -> list[Any]:
        trips.append(len(commands))
        return await round_trip(link, commands, **options)

    monkeypatch.setattr(Link, "round_trip", counted)
    store = await Store.open(redis_url, namespace, StoreOptions())
    allocator = Allocator(store)
    plain = store.engine.startswith("redis 6")
    for script in load_scripts().values():
        await store.command("SCRIPT", "LOAD", script.plain_source if plain else script.source)
    try:
        await allocator.sync(document_of(pool("english", semantic={"contains": ["en"]})))
        yield Place(allocator, store, trips)
    finally:
        await allocator.aclose()


Work = Callable[[], Awaitable[object]]
Prepare = Callable[[Place], Awaitable[Work]]

CASES: dict[str, Prepare] = {}
"""Each case prepares a namespace and returns the one call that is counted."""


def case(name: str) -> Callable[[Prepare], Prepare]:
    def add(prepare: Prepare) -> Prepare:
        CASES[name] = prepare
        return prepare

    return add


def beats(place: Place, sessions: Sequence[Session], **options: Any) -> Work:
    async def work() -> None:
        await asyncio.gather(*(place.allocator.heartbeat(one, lease_ms=LEASE_MS, **options) for one in sessions))

    return work


@case("heartbeat, one node")
async def _(place: Place) -> Work:
    return beats(place, await place.fleet(1))


@case("heartbeat, 128 nodes")
async def _(place: Place) -> Work:
    return beats(place, await place.fleet(128))


@case("heartbeat, 128 nodes, load and usage")
async def _(place: Place) -> Work:
    return beats(place, await place.fleet(128), load=0.25, usage=USAGE)


@case("heartbeat, 128 nodes, load alone")
async def _(place: Place) -> Work:
    return beats(place, await place.fleet(128), load=0.25)


@case("heartbeat, 1,000 nodes")
async def _(place: Place) -> Work:
    return beats(place, await place.fleet(1000))


@case("register, known class, declared pool")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.register(1, "en")


@case("register, 64 nodes of known classes")
async def _(place: Place) -> Work:
    await place.fleet(1)
    await place.register(1, "de")

    async def work() -> None:
        await asyncio.gather(*(place.register(number, "de" if number % 2 else "en") for number in range(2, 66)))

    return work


@case("register, known class, auto pool")
async def _(place: Place) -> Work:
    await place.register(0, "de")
    return lambda: place.register(1, "de")


@case("register, new class, declared pool")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.register(1, "en", gpu_gb=12)


@case("register, new class, new auto pool")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.register(1, "de")


@case("register again, same session")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.register(0, "en")


@case("register, live id taken over")
async def _(place: Place) -> Work:
    await place.fleet(1)
    report = place.report("en")
    return lambda: place.allocator.register(
        "node-00000", report, session_id="socket-of-other", instance="test", lease_ms=LEASE_MS
    )


@case("update, status alone")
async def _(place: Place) -> Work:
    (session,) = await place.fleet(1)
    return lambda: place.allocator.update(session, place.report("en", status=NodeStatus.DEGRADED), lease_ms=LEASE_MS)


@case("update, another known class")
async def _(place: Place) -> Work:
    (session,) = await place.fleet(1)
    await place.register(1, "en", gpu_gb=12)
    return lambda: place.allocator.update(session, place.report("en", gpu_gb=12), lease_ms=LEASE_MS)


@case("release")
async def _(place: Place) -> Work:
    (session,) = await place.fleet(1)
    return lambda: place.allocator.release(session, grace_ms=GRACE_MS, reason="socket_closed")


@case("hold")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.allocator.hold("node-00000", owner="ops", reason="test")


@case("lift of a hold")
async def _(place: Place) -> Work:
    await place.fleet(1)
    await place.allocator.hold("node-00000", owner="ops", reason="test")
    return lambda: place.allocator.lift("node-00000", owner="ops", reason="test")


CHANGED = document_of(pool("english-2", semantic={"contains": ["en"]}), pool("german", semantic={"contains": ["de"]}))


@case("sync, 2 pools added, 1 removed, 2 of 3 classes remapped")
async def _(place: Place) -> Work:
    await place.register(0, "en")
    await place.register(1, "en", gpu_gb=12)
    await place.register(2, "fr")
    return lambda: place.allocator.sync(CHANGED)


@case("sync, unchanged")
async def _(place: Place) -> Work:
    await place.fleet(1)
    await place.allocator.sync(CHANGED)
    return lambda: place.allocator.sync(CHANGED)


@case("plan of a sync")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.allocator.sync(CHANGED, dry_run=True)


def step(place: Place) -> Work:
    limits = ReconcileLimits(brake_share=1.0)
    return lambda: place.allocator.reconcile(lease_ms=LEASE_MS, force=True, limits=limits)


@case("reconcile, nothing to do, 10 nodes")
async def _(place: Place) -> Work:
    await place.fleet(10)
    return step(place)


@case("reconcile, 1 of 10 nodes expires")
async def _(place: Place) -> Work:
    await place.fleet(10)
    await place.lapse("node-00003")
    return step(place)


@case("reconcile, 10 of 10 nodes expire, and their class")
async def _(place: Place) -> Work:
    await place.fleet(10)
    for number in range(10):
        await place.lapse(f"node-{number:05d}")
    return step(place)


@case("lease of an instance")
async def _(place: Place) -> Work:
    return lambda: place.allocator.renew_instance("test", lease_ms=LEASE_MS, info={"pid": 1})


@case("list of the pools")
async def _(place: Place) -> Work:
    await place.fleet(10)
    return place.allocator.pools


@case("page of 10 nodes")
async def _(place: Place) -> Work:
    await place.fleet(10)
    return place.allocator.nodes


@case("explanation of a node")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.allocator.explain("node-00000")


@case("search for a pool")
async def _(place: Place) -> Work:
    await place.fleet(1)
    return lambda: place.allocator.find("en", "en")


def jobs(place: Place, count: int, prefix: str = "job") -> Work:
    asks = [JobAsk(f"{prefix}-{number:04}", JobRequest("en", "en", services=("asr",))) for number in range(count)]
    return lambda: place.allocator.reserve_many(asks, owner="test", lease_ms=LEASE_MS)


@case("reservation of a known kind")
async def _(place: Place) -> Work:
    await place.fleet(10)
    await jobs(place, 1)()
    return jobs(place, 1, "one")


@case("reservation of a new kind")
async def _(place: Place) -> Work:
    await place.fleet(10)
    return jobs(place, 1)


@case("reservation of 128 jobs")
async def _(place: Place) -> Work:
    await place.fleet(64)
    await jobs(place, 1)()
    return jobs(place, 128, "one")


@case("reservation without a node")
async def _(place: Place) -> Work:
    await place.fleet(1)
    await jobs(place, 4)()
    return jobs(place, 1, "one")


@case("update of a job")
async def _(place: Place) -> Work:
    await place.fleet(10)
    await jobs(place, 1)()
    return lambda: place.allocator.finish_job("job-0000", 1, owner="test")


@case("page of 10 jobs")
async def _(place: Place) -> Work:
    await place.fleet(10)
    await jobs(place, 10)()
    return place.allocator.jobs


@case("live jobs of a node")
async def _(place: Place) -> Work:
    await place.fleet(1)
    await jobs(place, 4)()
    return lambda: place.allocator.jobs(node="node-00000", state="live")


@case("one job")
async def _(place: Place) -> Work:
    await place.fleet(1)
    await jobs(place, 1)()
    return lambda: place.allocator.job("job-0000")


@case("explanation of a job")
async def _(place: Place) -> Work:
    await place.fleet(10)
    return lambda: place.allocator.explain_job("job", JobRequest("en", "en"))


async def executed(store: Store) -> dict[str, int]:
    """How often the server has executed each command, whoever sent it."""
    lines = str(await store.command("INFO", "commandstats")).splitlines()
    # Without the subcommand, which Redis 6.2 does not name.
    found = [re.match(r"cmdstat_([^:|]+)[^:]*:calls=(\d+)", line) for line in lines]
    counts = Counter[str]()
    for one in found:
        if one:
            counts[one[1]] += int(one[2])
    return {name: count for name, count in counts.items() if name != "info"}


async def received_bytes(store: Store) -> int:
    found = re.search(r"total_net_input_bytes:(\d+)", str(await store.command("INFO", "stats")))
    assert found
    return int(found[1])


def spelled(counts: dict[str, int]) -> str:
    return " ".join(name if count == 1 else f"{name}*{count}" for name, count in sorted(counts.items()) if count)


@pytest.mark.parametrize("name", CASES)
async def test_a_call_costs_what_the_table_says(place: Place, name: str) -> None:
    work, store = await CASES[name](place), place.store
    asking = -await received_bytes(store) + await received_bytes(store)
    commands, sent, round_trips = await executed(store), await received_bytes(store), len(place.trips)
    await work()
    round_trips = len(place.trips) - round_trips
    sent = await received_bytes(store) - sent - asking
    added = {command: count - commands.get(command, 0) for command, count in (await executed(store)).items()}
    found = Cost(spelled(added), sent, round_trips)
    assert found == COSTS.get(name), f'"{name}": {found!r},'


def test_the_table_has_no_case_that_is_not_there() -> None:
    assert COSTS.keys() == CASES.keys()
    assert CLOSURES.keys() == load_scripts().keys()


@pytest.mark.parametrize("name", load_scripts())
def test_functions_that_a_call_makes(name: str) -> None:
    """Each takes time at every call. Those inside another function are made when that is called."""

    def made(node: Node) -> int:
        is_function = node.type in ("function_declaration", "function_definition")
        return 1 if is_function else sum(made(child) for child in node.children)

    found = made(parse(load_scripts()[name].source.partition("\n")[2], "lua"))
    assert found == CLOSURES.get(name), f'"{name}": {found},'
