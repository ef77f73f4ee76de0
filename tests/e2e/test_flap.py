"""The fault that this package exists for: live nodes that leave their pools because something else changes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from pyscheduler import Allocator
from pyscheduler.core.results import Event
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import HEAD, State
from tests.harness import assert_invariants, document_of, pool
from tests.support import wait_until_async

NODES = 200
HEARTBEAT_S = 0.1
SYNC_S = 0.2
LANGUAGES = (("en", "zh"), ("de", "en"), ("de", "en", "zh"), ("ja",))
SHORT_S = 8.0
LONG_S = float(os.environ.get("PYSCHEDULER_TEST_FLAP_SECONDS", "60"))


class Fleet:
    """Nodes that never change their languages, and reconnect at once to any process that is there."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self.urls = urls
        self.random = random.Random(seed)
        self.connected: set[str] = set()
        self.heartbeats = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._node(f"node-{number:03}", number)) for number in range(NODES)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [error for error in ended if isinstance(error, Exception)]
        assert not failed, failed[:3]

    async def _node(self, node_id: str, number: int) -> None:
        state = State(languages=LANGUAGES[number % len(LANGUAGES)])
        while True:
            try:
                async with connect(self.random.choice(self.urls), compression=None) as socket:
                    await socket.send(json.dumps(HEAD.register(state, node_id=node_id)))
                    await self._beat(socket, node_id, state)
            except (OSError, WebSocketException):
                self.connected.discard(node_id)
                await asyncio.sleep(HEARTBEAT_S)

    async def _beat(self, socket: ClientConnection, node_id: str, state: State) -> None:
        reader = asyncio.create_task(self._read(socket, node_id))
        try:
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                await socket.send(json.dumps(HEAD.heartbeat(node_id, state)))
                self.heartbeats += 1
        finally:
            reader.cancel()

    async def _read(self, socket: ClientConnection, node_id: str) -> None:
        async for message in socket:
            kind = json.loads(message)["type"]
            assert kind in ("node_register_ack", "node_status"), message
            if kind == "node_register_ack":
                self.connected.add(node_id)


@pytest.fixture
def serve(tmp_path: Path, redis_url: str, namespace: str) -> Iterator[list[ServeProcess]]:
    processes: list[ServeProcess] = []
    flags = ("--redis-url", redis_url, "--namespace", namespace, "--reconcile-interval-ms", "500")

    class Starter(list[ServeProcess]):
        def start(self) -> ServeProcess:
            process = ServeProcess(tmp_path, f"serve-{len(processes)}", *flags)
            processes.append(process)
            return process.wait_listening()

    yield Starter()
    for process in processes:
        process.close()


async def no_live_node_leaves_its_pool(allocator: Allocator, serve: list[ServeProcess], seconds: float) -> str:
    """Runs the fleet, the operator, the readers and the kill; returns a line that says how much happened."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    processes = [serve.start() for _ in range(3)]  # type: ignore[attr-defined]
    urls = [process.url for process in processes]
    fleet = Fleet(urls, seed)
    stable = pool("german", semantic={"contains": ["de"]}, services=["asr"])
    await allocator.sync(document_of(stable))
    sizes = Counter("german" if "de" in LANGUAGES[n % 4] else "-".join(LANGUAGES[n % 4]) for n in range(NODES))
    syncs = reads = 0
    async with fleet.running():
        await wait_until_async(lambda: len(fleet.connected) == NODES, "every node is registered", 60)
        end = time.monotonic() + seconds
        kill_at = time.monotonic() + seconds / 3

        async def operator() -> None:
            nonlocal syncs
            for turn in itertools.count():
                rules = ({"semantic": {"exact": ["fr", "it"]}, "labels": {"n": str(n)}} for n in range(5))
                others = [pool(f"other-{turn}-{n}", **rule) for n, rule in enumerate(rules)]
                document = document_of(stable, *others if turn % 2 else ())
                await allocator.sync(document, author="flap", reason=f"turn {turn}")
                syncs += 1
                await asyncio.sleep(SYNC_S)

        async def reader() -> None:
            nonlocal reads
            while True:
                table = {row.name: row.nodes for row in (await allocator.pools()).pools}
                seen = {name: table.get(name, 0) for name in sizes}
                assert seen == sizes, f"a reader saw {seen} instead of {dict(sizes)}"
                reads += 1
                await asyncio.sleep(0.005)

        async def killer() -> None:
            await asyncio.sleep(max(0, kill_at - time.monotonic()))
            processes[0].kill()
            fleet.urls[0] = serve.start().url  # type: ignore[attr-defined]
            await asyncio.Event().wait()

        others = [asyncio.create_task(part()) for part in (operator, reader, reader, killer)]
        done, _ = await asyncio.wait(others, timeout=end - time.monotonic(), return_when=asyncio.FIRST_EXCEPTION)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in done:
            task.result()
        await wait_until_async(lambda: len(fleet.connected) == NODES, "every node is back", 60)
    events = await all_events(allocator)
    assert departures(events) == []
    reconnects = sum(event.type == "node.registered" for event in events) - NODES
    assert reconnects > 0, "the kill went unnoticed: nothing was tried"
    return (
        f"{seconds:g} s: {NODES} nodes, {fleet.heartbeats} heartbeats, {syncs} syncs, {reads} reads, "
        f"{reconnects} reconnects, {len(events)} events: no live node left its pool"
    )


async def all_events(allocator: Allocator) -> list[Event]:
    events: list[Event] = []
    while batch := await allocator.events(since=events[-1].id if events else "-", limit=10_000):
        events += batch
    return events


def departures(events: list[Event]) -> list[Event]:
    """Events by which a node left a pool that it was in. Its nodes' languages never change, so there must be none."""
    found = []
    members: Counter[str] = Counter()
    node_class: dict[str, str] = {}
    for event in events:
        if event.type == "node.assigned" and event.node_id is not None:
            if event.from_ is not None and event.from_ != event.to:
                found.append(event)
            with contextlib.suppress(KeyError):
                members[node_class[event.node_id]] -= 1
            node_class[event.node_id] = event.fields["class"]
            members[event.fields["class"]] += 1
        elif event.type == "node.expired" or (event.type == "class.remapped" and members[event.fields["class"]]):
            found.append(event)
    return found


async def test_live_nodes_stay_in_their_pools(
    serve: list[ServeProcess], redis_url: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        print(await no_live_node_leaves_its_pool(allocator, serve, SHORT_S))
    await assert_invariants(redis_url, namespace)


@pytest.mark.flap
async def test_live_nodes_stay_in_their_pools_for_long(
    serve: list[ServeProcess], redis_url: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        line = await no_live_node_leaves_its_pool(allocator, serve, LONG_S)
    await assert_invariants(redis_url, namespace)
    with capsys.disabled():
        print(f"\nflap test, {line}")
