"""A primary behind Sentinels: it is found again after each change of place, and what a failover loses is known."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from pyscheduler import Allocator
from pyscheduler.core.results import NodeState
from pyscheduler.errors import StoreUnavailable, VersionConflict
from pyscheduler.store import StoreOptions
from tests.clusters import SentinelGroup, TcpServer
from tests.doors import Node, connect
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import State
from tests.harness import Cell, assert_invariants, document_of, pool
from tests.support import wait_until, wait_until_async

NAMESPACE = "cell"
ENGLISH_CHINESE = State(languages=("en", "zh"))
GERMAN_ENGLISH = State(languages=("de", "en"))
LEASE_MS = 6_000
"""Of the serve processes: what is left of a released node is to end within the test."""

MAX_NODES = 2000
"""Nodes that one writer registers at most."""


@pytest.fixture
def group(program: Path) -> Iterator[SentinelGroup]:
    """A group in which nobody fails over by itself."""
    group = SentinelGroup(program=program)
    try:
        yield group.start()
    finally:
        group.close()


# --- the way to the primary ------------------------------------------------------------------------------------------


async def test_a_call_that_the_former_primary_refuses_is_run_by_the_new_one(group: SentinelGroup) -> None:
    async with await Allocator.open(group.url, namespace=NAMESPACE) as allocator:
        cell = Cell(allocator, allocator._store)
        await cell.register("n1", "en", "zh")
        await asyncio.to_thread(wait_until, lambda: caught_up(group), "the replica has every write")
        # By hand, and without Sentinel's closing of connections: ours goes on to the former primary.
        group.replica.ask("REPLICAOF", "NO", "ONE")
        group.primary.ask("REPLICAOF", "127.0.0.1", group.replica.port)
        calls = [asyncio.create_task(cell.register(f"n{number}", "de", "en")) for number in range(2, 6)]
        calls.append(asyncio.create_task(cell.allocator.newest_event_id()))
        await wait_until_async(lambda: allocator._store._refusals > 0, "a call has met the former primary")
        # The Sentinels still name it: it says of itself that it is no primary, and is not taken for one.
        for sentinel in group.sentinels:
            sentinel.ask("SENTINEL", "REMOVE", group.SERVICE)
            sentinel.ask("SENTINEL", "MONITOR", group.SERVICE, "127.0.0.1", group.replica.port, 2)
        await asyncio.gather(*calls)
        assert len((await allocator.nodes()).nodes) == 5
        assert {event.node_id for event in await allocator.events() if event.type == "node.registered"} == {
            f"n{number}" for number in range(1, 6)
        }
    await assert_invariants(group.replica.tcp_url, NAMESPACE)


async def test_without_a_primary_calls_are_refused_in_time(group: SentinelGroup) -> None:
    hasty = StoreOptions(timeout_s=0.5)
    async with await Allocator.open(group.url, namespace=NAMESPACE, options=hasty) as allocator:
        cell = Cell(allocator, allocator._store)
        await cell.register("n1", "en", "zh")
        group.primary.ask("REPLICAOF", "127.0.0.1", group.replica.port)
        with pytest.raises(StoreUnavailable, match="has no primary at the moment"):
            await cell.register("n2", "en", "zh")
        group.primary.ask("REPLICAOF", "NO", "ONE")
        await cell.register("n3", "en", "zh")
        assert {state.node_id for state in (await allocator.nodes()).nodes} == {"n1", "n3"}
        # A Sentinel that is gone is passed over.
        group.sentinels[0].kill()
        await allocator._store._disconnect()
        await cell.register("n4", "en", "zh")
    with pytest.raises(StoreUnavailable, match="knows no service other"):
        await Allocator.open(group.url.replace("/cell/", "/other/"), namespace=NAMESPACE, options=hasty)
    for sentinel in group.sentinels[1:]:
        sentinel.kill()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await Allocator.open(group.url, namespace=NAMESPACE, options=hasty)


def caught_up(group: SentinelGroup) -> bool:
    """Whether the replica has every write."""
    offset = group.primary.info("replication")["master_repl_offset"]
    return group.replica.info("replication").get("slave_repl_offset") == offset


# --- a failover that loses the last writes ---------------------------------------------------------------------------


class Writer:
    """Registers node after node, whatever happens, and keeps when each was acknowledged.

    Attributes:
        acknowledged: node id -> when the call began, and when it was acknowledged.
    """

    def __init__(self, allocator: Allocator, name: str) -> None:
        self.acknowledged: dict[str, tuple[float, float]] = {}
        self.unavailable = 0
        self._cell = Cell(allocator, allocator._store)
        self._name = name
        self._stopping = False

    async def run(self) -> None:
        for number in range(MAX_NODES):
            if self._stopping:
                return
            node_id = f"{self._name}-{number}"
            began = time.monotonic()
            try:
                await self._cell.register(node_id, "en", "zh", lease_ms=3_600_000)
            except StoreUnavailable:
                self.unavailable += 1
            else:
                self.acknowledged[node_id] = (began, time.monotonic())
            # A breath, so that thousands of nodes are not all that a slow machine does.
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopping = True

    async def progress(self, nodes: int = 20) -> None:
        goal = len(self.acknowledged) + nodes
        await wait_until_async(lambda: len(self.acknowledged) >= goal, f"{nodes} more nodes are registered", 60)


@asynccontextmanager
async def writers(url: str, count: int) -> AsyncIterator[list[Writer]]:
    async with AsyncExitStack() as stack:
        made = [
            Writer(await stack.enter_async_context(await Allocator.open(url, namespace=NAMESPACE)), f"w{number}")
            for number in range(count)
        ]
        tasks = [asyncio.create_task(one.run()) for one in made]
        try:
            yield made
        finally:
            for one in made:
                one.stop()
            await asyncio.gather(*tasks)


@asynccontextmanager
async def serving(group: SentinelGroup, folder: Path, count: int) -> AsyncIterator[list[ServeProcess]]:
    flags = ["--redis-url", group.url, "--namespace", NAMESPACE, "--lease-ms", str(LEASE_MS)]
    flags += ["--store-check-interval-ms", "100", "--resync-interval-ms", "1000", "--reconcile-interval-ms", "500"]
    processes = [ServeProcess(folder, f"serve-{number}", *flags) for number in range(count)]
    try:
        for process in processes:
            await asyncio.to_thread(process.wait_listening)
        yield processes
    finally:
        for process in processes:
            process.close()


class Beating:
    """Nodes on sockets that send heartbeats as the fleet's do, only more often."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.nodes: dict[str, tuple[Node, State]] = {}
        self._stack = stack

    async def connect(self, process: ServeProcess, node_id: str, state: State = ENGLISH_CHINESE) -> Node:
        node = await self._stack.enter_async_context(connect(process.url))
        await node.become_ready(state, node_id=node_id)
        self.nodes[node_id] = (node, state)
        return node

    async def run(self) -> None:
        while True:
            for node, state in list(self.nodes.values()):
                await node.heartbeat(state)
            await asyncio.sleep(0.5)


def operator(group: SentinelGroup, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the command line, over the Sentinels."""
    command = [
        sys.executable,
        "-m",
        "pyscheduler",
        *words,
        "--redis-url",
        group.url,
        "--namespace",
        NAMESPACE,
        "--json",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def by_id(allocator: Allocator) -> dict[str, NodeState]:
    return {state.node_id: state for state in (await allocator.nodes(limit=5000)).nodes}


def cut_off(group: SentinelGroup) -> None:
    """From here on the replica misses every write. It has all that were before."""
    group.replica.pause()
    # What is under way to it stays in its socket; the connection ends, and it cannot open another.
    assert int(group.primary.ask("CLIENT", "KILL", "TYPE", "replica")) == 1


def role(server: TcpServer) -> str:
    try:
        return server.info("replication")["role"]
    except redis.ConnectionError:
        return ""  # it closes every connection while it changes


def named(group: SentinelGroup) -> set[int]:
    return {group.named_primary(sentinel) for sentinel in group.sentinels}


@pytest.mark.faults
async def test_a_failover_loses_exactly_the_writes_that_the_replica_missed(tmp_path: Path, program: Path) -> None:
    group = SentinelGroup(program=program, down_after_ms=1000)
    before = document_of(pool("english", semantic={"contains": ["en"]}))
    lost = document_of(pool("german", semantic={"contains": ["de"]}))
    file = tmp_path / "pools.yaml"
    try:
        await asyncio.to_thread(group.start)
        async with AsyncExitStack() as stack:
            first, second = await stack.enter_async_context(serving(group, tmp_path, 2))
            allocator = await stack.enter_async_context(await Allocator.open(group.url, namespace=NAMESPACE))
            fleet = Beating(stack)
            for number in range(8):
                await fleet.connect(first if number % 2 else second, f"n{number}")
            beating = asyncio.create_task(fleet.run())
            stack.push_async_callback(cancel, beating)
            kept = (await allocator.sync(before, reason="before the cut")).document_version
            await allocator.hold("n1", owner="ops", reason="before the cut")

            async with writers(group.url, 3) as work:
                for one in work:
                    await one.progress()
                await wait_until_async(lambda: caught_up(group), "the replica has every write so far")
                started = time.monotonic()
                await asyncio.to_thread(cut_off, group)
                cut = time.monotonic()

                # The tail: all of it is acknowledged, and none of it survives by itself.
                gone = (await allocator.sync(lost, force=True, reason="in the tail")).document_version
                await allocator.hold("n3", owner="ops", reason="in the tail")
                await fleet.connect(first, "n8", GERMAN_ENGLISH)
                node, _ = fleet.nodes["n2"]
                fleet.nodes["n2"] = (node, GERMAN_ENGLISH)
                await wait_until_async(lambda: in_pool(allocator, "n2", "german"), "n2 has changed its languages")
                leaver, _ = fleet.nodes.pop("n5")
                await leaver.close()
                await wait_until_async(lambda: is_status(allocator, "n5", "offline"), "n5 is released")
                returner, _ = fleet.nodes.pop("n6")
                await returner.close()
                await fleet.connect(first, "n6")
                for one in work:
                    await one.progress()
                epochs = {node_id: state.epoch for node_id, state in (await by_id(allocator)).items()}

                killed = time.monotonic()
                await asyncio.to_thread(group.primary.kill)
                group.replica.resume()
                await wait_until_async(
                    lambda: named(group) == {group.replica.port} and role(group.replica) == "master",
                    "the Sentinels have promoted the replica",
                    60,
                )
                promoted = time.monotonic()
                for one in work:
                    await one.progress()
                failed_calls = sum(one.unavailable for one in work)

            expected = {*fleet.nodes, "n8"}
            await wait_until_async(lambda: all_back(allocator, expected, epochs), "every connected node is back", 30)
            await wait_until_async(
                lambda: in_pool(allocator, "n2", "english"),
                "the store has learnt n2's languages, under the old document",
            )
            states = await by_id(allocator)
            assert {code for node_id in ("n2", "n8") for code in states[node_id].languages} == {"de", "en"}

            # What writers without sockets were told: all but the tail is there, and of the tail nothing.
            acknowledged = {node_id: times for one in work for node_id, times in one.acknowledged.items()}
            tail = {node_id for node_id, (began, ended) in acknowledged.items() if cut < began and ended < killed}
            perhaps = {
                node_id for node_id, (began, ended) in acknowledged.items() if started < ended and began < promoted
            }
            missing = {node_id for node_id in acknowledged if node_id not in states}
            assert tail <= missing <= perhaps

            # The rest of the tail.
            current = await allocator.document()
            assert (current.version, current.json) == (kept, before.canonical())
            assert [hold.reason for hold in states["n1"].holds] == ["before the cut"]
            assert states["n3"].holds == ()
            with pytest.raises(VersionConflict):
                await allocator.sync(lost, expect_version=gone, reason="who saw the lost one is told")
            file.write_text("schema: 1\npools:\n  - {name: german, match: {semantic: {contains: [de]}}}\n")
            refused = await asyncio.to_thread(
                operator, group, "pool", "sync", "-f", str(file), "--expect-version", str(gone)
            )
            assert refused.returncode == 3, refused
            again = await asyncio.to_thread(
                operator, group, "pool", "sync", "-f", str(file), "--expect-version", str(kept), "--force"
            )
            assert again.returncode == 0, again.stderr
            # Its release is lost, and so it counts as alive until its lease ends.
            await wait_until_async(lambda: is_gone(allocator, "n5"), "n5, whose release is lost, has expired", 60)

            # The former primary comes back, and does not bring back what it had.
            await asyncio.to_thread(group.primary.start)
            await wait_until_async(lambda: role(group.primary) == "slave", "the former primary follows", 60)
            assert set(await by_id(allocator)) >= expected
            for process in (first, second):
                assert process.alive
                assert process.logged("store_back"), "the process saw the store go and come back"
            await assert_invariants(group.url, NAMESPACE)
            report = json.loads((await asyncio.to_thread(operator, group, "check")).stdout)
            assert report["ok"], report
        print(f"writers: {len(acknowledged)} acknowledged, {len(tail)} in the tail, {len(missing)} lost")
        print(f"{failed_calls} calls failed; promoted {promoted - killed:.1f} s after the kill")
    finally:
        group.close()


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def asked(check: Callable[[], Any]) -> Any:
    """What the store says, or nothing as long as it says nothing."""
    try:
        return await check()
    except StoreUnavailable:
        return None


async def all_back(allocator: Allocator, expected: set[str], epochs: dict[str, int]) -> bool:
    states = await asked(lambda: by_id(allocator)) or {}
    there = [node_id for node_id in expected if node_id in states and states[node_id].epoch >= epochs[node_id]]
    return len(there) == len(expected) and all(states[node_id].status != "offline" for node_id in expected)


async def in_pool(allocator: Allocator, node_id: str, name: str) -> bool:
    states = await asked(lambda: allocator.describe([node_id]))
    return bool(states) and states[0].pool == name and set(states[0].languages) == {"de", "en"}


async def is_status(allocator: Allocator, node_id: str, status: str) -> bool:
    states = await asked(lambda: allocator.describe([node_id]))
    return bool(states) and states[0].status == status


async def is_gone(allocator: Allocator, node_id: str) -> bool:
    return bool(await asked(lambda: allocator.describe([node_id])) == [])
