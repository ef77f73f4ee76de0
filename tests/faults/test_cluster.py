"""A Cluster under load: the slot of the namespace moves from server to server, key by key, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pyscheduler import Allocator
from pyscheduler.errors import OutcomeUnknown, StoreError, StoreUnavailable
from pyscheduler.keys import KEY_NAMES, key
from pyscheduler.scripts.loader import lua_directory
from pyscheduler.store import StoreOptions
from tests.clusters import Cluster, TcpServer, free_port, slot_of
from tests.harness import Cell, assert_invariants
from tests.support import wait_until, wait_until_async
from tests.workload import Workload

PATIENT = StoreOptions(timeout_s=60)
"""For calls that are refused as long as a move is under way, which takes longer on a busy machine."""


@pytest.fixture(scope="module")
def cluster(program: Path) -> Iterator[Cluster]:
    cluster = Cluster(3, program)
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.fixture
def name() -> str:
    """A namespace of the test's own."""
    return f"test-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def allocators(cluster: Cluster, name: str, **options: Any) -> AsyncIterator[list[Allocator]]:
    """An allocator for each node, which is all that it is told of the Cluster."""
    opened: list[Allocator] = []
    try:
        for node in cluster.nodes:
            opened.append(await Allocator.open(node.tcp_url, namespace=name, **{"options": PATIENT, **options}))
        yield opened
    finally:
        for one in opened:
            await one.aclose()


class Move:
    """The move of a namespace's slot to another node, in steps."""

    def __init__(self, cluster: Cluster, name: str, chance: random.Random | None = None) -> None:
        self.cluster = cluster
        self.slot = slot_of(name)
        self.source = cluster.owner(name)
        others = [node for node in cluster.nodes if node is not self.source]
        self.target = chance.choice(others) if chance else others[0]

    def begin(self) -> None:
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.cluster.id_of(self.source))
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.cluster.id_of(self.target))

    def keys(self) -> list[str]:
        """Those that have not gone yet."""
        return list(self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 100))

    def take(self, *keys: str) -> None:
        """Keys go to the target: at every moment each is on one of the two nodes."""
        assert self.source.ask("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys) == "OK"

    def end(self) -> None:
        """The target owns the slot, and the others learn of it."""
        others = [node for node in self.cluster.nodes if node not in (self.target, self.source)]
        for node in (self.target, self.source, *others):
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self.cluster.id_of(self.target))

    def refused(self) -> int:
        """Calls that either node has sent away so far."""
        return sum(
            int(value.split("=")[1])
            for node in (self.source, self.target)
            for field, value in node.info("errorstats").items()
            if field in ("errorstat_TRYAGAIN", "errorstat_ASK", "errorstat_MOVED")
        )

    def wait_refused(self) -> None:
        before = self.refused()
        wait_until(lambda: self.refused() > before, "a call has met the slot that is on its way", 30)


async def move_under_load(work: Workload, cluster: Cluster, name: str, chance: random.Random) -> None:
    """Moves the slot once, a few keys at a time, and calls meet it in each state."""
    move = await asyncio.to_thread(Move, cluster, name, chance)
    await asyncio.to_thread(move.begin)
    await work.progress()  # nothing has gone yet, and the source serves all
    left = await asyncio.to_thread(move.keys)
    assert sorted(left) == sorted(key(name, one) for one in KEY_NAMES)
    chance.shuffle(left)
    while left:
        step, left = left[:4], left[4:]
        chunk = step[: chance.randint(1, 4)]
        left = step[len(chunk) :] + left
        await asyncio.to_thread(move.take, *chunk)
        await asyncio.to_thread(move.wait_refused)
    await work.progress()  # all have gone, and the target serves all of them that ask for it
    await asyncio.to_thread(move.end)
    await work.progress()


@pytest.mark.parametrize("moves", [2, pytest.param(20, marks=pytest.mark.faults)])
async def test_nothing_is_lost_while_the_slot_moves_to_and_fro_under_load(
    cluster: Cluster, name: str, moves: int
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    async with allocators(cluster, name) as opened:
        async with Workload(opened, seed) as work:
            await work.progress(200)
            for _ in range(moves):
                await move_under_load(work, cluster, name, chance)
        assert work.failed == []
        assert all(work.done.values()), work.done
        await assert_invariants(cluster.url, name)
        await work.assert_kept(opened[0])
    print(f"{moves} moves, {work.done}, {len(work.events)} events")


async def test_a_slot_that_is_moved_at_one_blow_loses_nothing(cluster: Cluster, name: str) -> None:
    source = await asyncio.to_thread(cluster.owner, name)
    if not source.knows("CLUSTER|MIGRATESLOTS"):
        pytest.skip(f"{source.info('server')['redis_version']} moves slots key by key only")
    move = Move(cluster, name)
    slot, target = move.slot, cluster.id_of(move.target)
    async with allocators(cluster, name) as opened:
        async with Workload(opened, random.randrange(10**6)) as work:
            await work.progress(200)
            source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target)
            await wait_until_async(lambda: cluster.owner(name) is move.target, "the slot has moved")
            await work.progress(200)
        assert work.failed == []
        await assert_invariants(cluster.url, name)
        await work.assert_kept(opened[0])


async def test_a_follower_that_waits_goes_after_its_stream(cluster: Cluster, name: str) -> None:
    async with allocators(cluster, name) as opened:
        cell = Cell(opened[0], opened[0]._store)
        await cell.register("n1", "en", "zh")
        seen: list[str] = []

        async def follow() -> None:
            async for event in opened[1].follow(since="-", block_ms=3_600_000):
                seen.append(event.id)

        follower = asyncio.create_task(follow())
        try:
            for node_id in ("n2", "n3"):
                await wait_until_async(_caught_up(cell, seen), "the follower has read all and waits for more")
                move = Move(cluster, name)
                move.begin()
                move.take(*move.keys())
                move.end()
                await cell.register(node_id, "en", "zh")
            await wait_until_async(_caught_up(cell, seen), "the follower has read what came after the move")
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        assert seen == [event.id for event in await opened[0].events()]


def _caught_up(cell: Cell, seen: list[str]) -> Callable[[], Awaitable[bool]]:
    async def caught_up() -> bool:
        return seen[-1:] == [await cell.allocator.newest_event_id()]

    return caught_up


async def test_what_meets_a_slot_that_stays_half_way_is_refused_in_time_and_not_executed(
    cluster: Cluster, name: str
) -> None:
    hasty = StoreOptions(timeout_s=0.5)
    async with allocators(cluster, name) as patient, allocators(cluster, name, options=hasty) as opened:
        cell = Cell(opened[0], opened[0]._store)
        await cell.register("n1", "en", "zh")
        move = Move(cluster, name)
        move.begin()
        move.take(key(name, "sessions"), key(name, "nodes"))
        refused = [cell.register(f"n{number}", "de", "en") for number in range(2, 5)]
        for answer in await asyncio.gather(*refused, return_exceptions=True):
            assert isinstance(answer, StoreUnavailable), answer
            assert not isinstance(answer, OutcomeUnknown)
            assert "does not serve the namespace at the moment (TRYAGAIN" in str(answer)
        waits = asyncio.create_task(Cell(patient[0], patient[0]._store).register("n9", "en", "zh"))
        await asyncio.to_thread(move.wait_refused)
        move.take(*move.keys())
        move.end()
        await waits
        assert [state.node_id for state in (await cell.allocator.nodes()).nodes] == ["n1", "n9"]
    await assert_invariants(cluster.url, name)


# --- why every key is declared ---------------------------------------------------------------------------------------


def hold_node(*, looks_first: bool) -> dict[str, str]:
    """hold_node.lua as it would be if it did not declare the event stream, and made its name up."""
    text = (lua_directory() / "hold_node.lua").read_text(encoding="utf-8")
    changes = [
        ("--   9 events    stream\n", ""),
        ("#KEYS ~= 9", "#KEYS ~= 8"),
        ("takes 9 keys", "takes 8 keys"),
        ("KEYS[9]\n", "(string.gsub(KEYS[1], 'config$', 'events'))\n"),
    ]
    if not looks_first:
        changes.append(("redis.call('XLEN', EVENTS)\n", ""))
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return {"hold_node.lua": text}


@pytest.mark.parametrize("looks_first", [True, False])
async def test_a_script_that_touched_a_key_without_declaring_it_would_fail_in_the_middle(
    cluster: Cluster, name: str, looks_first: bool
) -> None:
    async with (
        allocators(cluster, name) as honest,
        allocators(cluster, name, script_overrides=hold_node(looks_first=looks_first)) as opened,
    ):
        cell = Cell(opened[0], opened[0]._store)
        await cell.register("n1", "en", "zh")
        await cell.allocator.hold("n1", owner="a", reason="while all keys are together it does its work")
        move = Move(cluster, name)
        move.begin()
        move.take(key(name, "events"))
        with pytest.raises(StoreError, match="ttempted to access a non local key"):
            await cell.allocator.hold("n1", owner="b", reason="planted")
        waits = asyncio.create_task(honest[0].hold("n1", owner="c", reason="declares all, and is asked to wait"))
        await asyncio.to_thread(move.wait_refused)
        move.take(*move.keys())
        move.end()
        assert (await waits).changed
        owners = {hold.owner for hold in (await cell.allocator.node("n1")).state.holds}
    if looks_first:
        # What reads each key before the first write is stopped before it.
        assert owners == {"a", "c"}
        await assert_invariants(cluster.url, name)
    else:
        # The hold is there, its event is not.
        assert owners == {"a", "b", "c"}
        with pytest.raises(AssertionError, match="8: the replayed holds differ"):
            await assert_invariants(cluster.url, name)


# --- the way to the Cluster ------------------------------------------------------------------------------------------


async def test_any_node_may_be_named_and_a_dead_one_too(cluster: Cluster, name: str) -> None:
    seeds = ["127.0.0.1:1", *(f"127.0.0.1:{node.port}" for node in cluster.nodes)]
    for count in range(2, len(seeds) + 1):
        url = f"redis://{','.join(seeds[:count])}/0"
        async with await Allocator.open(url, namespace=name) as allocator:
            await Cell(allocator, allocator._store).register(f"n{count}", "en", "zh")
    await assert_invariants(cluster.url, name)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await Allocator.open("redis://127.0.0.1:1,127.0.0.1:2/0", namespace=name)


async def test_hosts_that_are_silent_hold_nobody_up_for_ever(cluster: Cluster, name: str) -> None:
    hasty = StoreOptions(timeout_s=0.4, connect_timeout_s=0.3)
    with ExitStack() as stack:
        # They take a connection, and never say a word on it.
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        hosts = [*(f"127.0.0.1:{one.getsockname()[1]}" for one in silent), f"127.0.0.1:{cluster.nodes[0].port}"]

        async def opened() -> bool:
            try:
                allocator = await Allocator.open(f"redis://{','.join(hosts)}/0", namespace=name, options=hasty)
            except StoreUnavailable:
                return False
            await allocator.aclose()
            return True

        await wait_until_async(opened, "a process gets past the silent hosts", 30)


async def test_servers_that_are_no_cluster_are_not_taken_for_one(make_server: Callable[..., Any]) -> None:
    # Each process would write to the one that it reached first.
    port = free_port()
    make_server(port=str(port), bind="127.0.0.1")
    with pytest.raises(StoreError, match="must be nodes of one Cluster"):
        await Allocator.open(f"redis://127.0.0.1:{port},127.0.0.1:1/0")


async def test_a_unix_socket_leads_only_to_its_own_node(cluster: Cluster, name: str) -> None:
    owner = cluster.owner(name)
    for node in cluster.nodes:
        if node is owner:
            async with await Allocator.open(node.url, namespace=name) as allocator:
                assert (await allocator.pools()).nodes == 0
        else:
            with pytest.raises(StoreError, match=r"give a redis:// URL"):
                await Allocator.open(node.url, namespace=name)


@pytest.mark.faults
async def test_a_replica_takes_the_place_of_a_node_that_died(name: str, program: Path) -> None:
    # Of six, one for each master, so that the one which owns the slot has a replica.
    cluster = Cluster(3, program, replicas=3, settings={"cluster-node-timeout": "2000"})
    try:
        await asyncio.to_thread(cluster.start)
        options = StoreOptions(timeout_s=2)
        seed = next(node for node in cluster.masters if node is not cluster.owner(name))
        async with await Allocator.open(seed.tcp_url, namespace=name, options=options) as allocator:
            cell = Cell(allocator, allocator._store)
            await cell.register("n1", "en", "zh")
            owner = cluster.owner(name)
            await wait_until_async(lambda: _has_all(owner), "the replica has every write")
            await asyncio.to_thread(owner.kill)

            async def registered() -> bool:
                try:
                    await cell.register("n2", "en", "zh")
                except StoreUnavailable:
                    return False
                return True

            await wait_until_async(registered, "the replica is the owner and takes writes", 60)
            assert {state.node_id for state in (await allocator.nodes()).nodes} == {"n1", "n2"}
            await assert_invariants(cluster.nodes[-1].tcp_url, name)
    finally:
        cluster.close()


def _has_all(owner: TcpServer) -> bool:
    replicas = [line for field, line in owner.info("replication").items() if field.startswith("slave")]
    offset = owner.info("replication")["master_repl_offset"]
    return any(f"offset={offset}," in line for line in replicas)
