"""Several ``pyscheduler serve`` processes on one store, with real sockets, and an operator on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pyscheduler import Allocator
from tests.doors import Node, connect
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import State
from tests.servers import PlainServer
from tests.support import wait_until_async

ENGLISH_CHINESE = State(languages=("en", "zh"))
GERMAN_ENGLISH = State(languages=("de", "en"))

Start = Callable[..., ServeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process on a store."""
    started: list[ServeProcess] = []

    def start(redis_url: str, namespace: str) -> ServeProcess:
        flags = ("--redis-url", redis_url, "--namespace", namespace, "--store-check-interval-ms", "100")
        process = ServeProcess(tmp_path, f"serve-{len(started)}", *flags)
        started.append(process)
        return process.wait_listening()

    yield start
    for process in started:
        process.close()


@pytest.fixture
async def nodes() -> AsyncIterator[Callable[..., Any]]:
    """Connects nodes that are ready; their sockets end with the test."""
    async with AsyncExitStack() as sockets:

        async def ready(process: ServeProcess, state: State, node_id: str) -> Node:
            node = await sockets.enter_async_context(connect(process.url))
            await node.become_ready(state, node_id=node_id)
            return node

        yield ready


@pytest.fixture
def operator(redis_url: str, namespace: str) -> Callable[..., Any]:
    """Runs a command of the command line as a process of its own and returns what it printed, decoded."""

    def run(*words: str) -> Any:
        command = [
            sys.executable,
            "-m",
            "pyscheduler",
            *words,
            "--redis-url",
            redis_url,
            "--namespace",
            namespace,
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


async def test_a_sync_moves_the_nodes_of_every_process_in_one_step(
    start: Start, nodes: Any, operator: Any, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    processes = [start(redis_url, namespace) for _ in range(3)]
    fleet = [await nodes(process, ENGLISH_CHINESE, f"n{number}") for number, process in enumerate(processes)]
    other = await nodes(processes[0], GERMAN_ENGLISH, "other")
    document = tmp_path / "pools.yaml"
    document.write_text("schema: 1\npools:\n  - name: chinese\n    match: {semantic: {contains: [zh]}}\n")

    change = operator("pool", "sync", "-f", str(document))
    assert [(move["from"], move["to"], move["nodes"]) for move in change["moves"]] == [("en-zh", "chinese", 3)]
    for node in fleet:
        told = await node.receive_until("node_status", pool="chinese")
        assert (told["status"], told["version"]) == ("ready", change["version_after"])

    pools = {row["name"]: (row["nodes"], row["ready"]) for row in operator("pool", "list")}
    assert pools == {"chinese": (3, 3), "de-en": (1, 1), "en-zh": (0, 0)}
    assert not [message for message in other.received if message.get("pool") not in (None, "de-en")]
    assert operator("check")["ok"]


async def test_a_drain_reaches_the_process_that_holds_the_socket(
    start: Start, nodes: Any, operator: Any, redis_url: str, namespace: str
) -> None:
    node = await nodes(start(redis_url, namespace), ENGLISH_CHINESE, "n1")
    start(redis_url, namespace)
    operator("node", "drain", "n1", "--reason", "new driver", "--owner", "ops")
    assert (await node.receive_until("node_status", status="draining"))["pool"] == "en-zh"
    assert [row["status"] for row in operator("node", "list")] == ["draining"]
    operator("node", "resume", "n1", "--reason", "done", "--owner", "ops")
    await node.receive_until("node_status", status="ready")


async def test_the_newer_process_takes_an_id_over(
    start: Start, nodes: Any, operator: Any, redis_url: str, namespace: str
) -> None:
    first, second = start(redis_url, namespace), start(redis_url, namespace)
    older = await nodes(first, ENGLISH_CHINESE, "n1")
    newer = await nodes(second, ENGLISH_CHINESE, "n1")
    assert await older.closed() == 4409
    await newer.heartbeat(ENGLISH_CHINESE)
    (row,) = operator("node", "list")
    assert (row["instance"], row["status"], row["pool"]) == (second.name, "ready", "en-zh")


async def test_a_process_that_stops_hands_its_nodes_over(
    start: Start, nodes: Any, operator: Any, redis_url: str, namespace: str
) -> None:
    first, second = start(redis_url, namespace), start(redis_url, namespace)
    node = await nodes(first, ENGLISH_CHINESE, "n1")
    assert first.terminate() == 0
    assert await node.closed() == 1012
    assert [(row["pool"], row["status"]) for row in operator("node", "list")] == [("en-zh", "offline")]
    await nodes(second, ENGLISH_CHINESE, "n1")
    assert [(row["pool"], row["status"]) for row in operator("node", "list")] == [("en-zh", "ready")]
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        assigned = [event for event in await allocator.events() if event.type == "node.assigned"]
    assert len(assigned) == 1, "it never left its pool, so it was assigned once"


async def test_a_store_that_comes_back_empty_learns_its_nodes_from_every_process(start: Start, nodes: Any) -> None:
    server = PlainServer()
    try:
        server.start()
        processes = [start(server.url, "fleet") for _ in range(2)]
        fleet = {f"n{n}": await nodes(processes[n % 2], ENGLISH_CHINESE, f"n{n}") for n in range(10)}
        async with await Allocator.open(server.url, namespace="fleet") as allocator:
            before = {state.node_id: state.epoch for state in (await allocator.nodes()).nodes}
            server.kill()
            await fleet["n0"].heartbeat(ENGLISH_CHINESE)
            assert (await fleet["n0"].receive_until("error"))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
            server.start()
            await wait_until_async(lambda: registered(allocator, 10), "every node is registered again", 30)
            after = {state.node_id: state.epoch for state in (await allocator.nodes()).nodes}
            assert after == before, "each under its epoch, over the socket that it had"
            assert {state.pool for state in (await allocator.nodes()).nodes} == {"en-zh"}
            assert (await allocator.check()).ok
        for node in fleet.values():
            await node.heartbeat(ENGLISH_CHINESE)
    finally:
        server.close()


async def registered(allocator: Allocator, count: int) -> bool:
    return len((await allocator.nodes()).nodes) == count
