"""Two nodes that claim one id, through one scheduler and through two: one at a time has it, the fight is reported."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from pyscheduler import Allocator
from pyscheduler.core.results import NodeStatus
from tests.doors import Node, connect
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import HEAD, State
from tests.harness import assert_invariants
from tests.servers import PlainServer
from tests.support import wait_until_async

NAMESPACE = "pyscheduler"
ID = "twice-there"
CONFLICT = 4409
TAKEOVERS = 12
CLONE_TAKEOVERS = 3
CROWD = 16

Start = Callable[..., list[ServeProcess]]


@pytest.fixture
def server(make_server: Callable[..., PlainServer]) -> PlainServer:
    return make_server()


@pytest.fixture
def start(server: PlainServer, tmp_path: Path) -> Iterator[Start]:
    """Starts processes on one store."""
    started: list[ServeProcess] = []

    def start(count: int, *flags: str) -> list[ServeProcess]:
        for number in range(count):
            started.append(ServeProcess(tmp_path, f"serve-{number}", "--redis-url", server.url, *flags))
        return [process.wait_listening() for process in started]

    yield start
    for process in started:
        process.close()


def metric(processes: list[ServeProcess], series: str) -> int:
    """A series of the metrics page, summed over the processes."""
    found = 0
    for process in processes:
        with urllib.request.urlopen(f"{process.operator_url}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        found += sum(int(float(line.split()[-1])) for line in lines if line.startswith(f"{series} "))
    return found


async def end_of(node: Node) -> int:
    """Read until the socket is closed; returns the close code."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await node.receive()
    return node.socket.close_code or 0


@pytest.mark.parametrize("count", [1, 2], ids=["one-process", "two-processes"])
async def test_nodes_that_take_an_id_from_each_other_are_reported_and_one_at_a_time_has_it(
    start: Start, server: PlainServer, count: int
) -> None:
    processes = start(count)
    async with await Allocator.open(server.url) as allocator, AsyncExitStack() as sockets:
        holder: Node | None = None
        epochs = []
        for number in range(TAKEOVERS + 1):
            process = processes[number % count]
            node = await sockets.enter_async_context(connect(process.url))
            await node.become_ready(node_id=ID)
            if holder is not None:
                assert await end_of(holder) == CONFLICT
                assert holder.received[-1]["code"] == "NODE_ID_CONFLICT"
            holder = node
            (state,) = await allocator.describe([ID])
            assert (state.instance, state.status) == (process.name, NodeStatus.READY)
            epochs.append(state.epoch)
            await wait_until_async(
                lambda: metric(processes, "pyscheduler_node_sessions") == 1, "one socket has the id, of all processes"
            )
        assert epochs == sorted(set(epochs)), "epochs only grow"
        events = await allocator.events()
        registered = [event for event in events if event.type == "node.registered"]
        assert [int(event.fields["epoch"]) for event in registered] == epochs
        honest = CLONE_TAKEOVERS - 1
        expected = ["new", *["takeover"] * honest, *["cloned_id"] * (TAKEOVERS - honest)]
        assert [event.reason for event in registered] == expected
        assert [event.type for event in events if event.type in ("node.released", "node.expired")] == []
        assert len([event for event in events if event.type == "node.assigned"]) == 1, "it never left its pool"
    assert metric(processes, "pyscheduler_cloned_id_takeovers_total") == TAKEOVERS - honest
    warned = [line for process in processes for line in process.logged("cloned_id")]
    assert len(warned) == TAKEOVERS - honest
    assert {(line["level"], line["node_id"]) for line in warned} == {("warning", ID)}
    await assert_invariants(server.url, NAMESPACE)


@pytest.mark.parametrize("policy", ["takeover", "refuse"])
async def test_of_many_that_claim_an_id_at_the_same_moment_one_has_it(
    start: Start, server: PlainServer, policy: str
) -> None:
    processes = start(2, "--node-id-conflict", policy)
    async with await Allocator.open(server.url) as allocator, AsyncExitStack() as sockets:
        nodes = [await sockets.enter_async_context(connect(processes[number % 2].url)) for number in range(CROWD)]
        # Each tells who it is by what it can do.
        states = [State(languages=("en", f"x{chr(ord('a') + number)}")) for number in range(CROWD)]
        ends = [asyncio.create_task(end_of(node)) for node in nodes]
        for node, state in zip(nodes, states, strict=True):
            await node.send(HEAD.register(state, node_id=ID))
        await wait_until_async(lambda: sum(end.done() for end in ends) >= CROWD - 1, "all but one are told")
        assert metric(processes, "pyscheduler_node_sessions") == 1
        (winner,) = [number for number, end in enumerate(ends) if not end.done()]
        assert [end.result() for end in ends if end.done()] == [CONFLICT] * (CROWD - 1)
        assert all(node.received[-1]["code"] == "NODE_ID_CONFLICT" for node in nodes if node is not nodes[winner])
        (held,) = await allocator.describe([ID])
        assert held.instance == processes[winner % 2].name
        assert held.languages == tuple(sorted(states[winner].languages))
        registered = [event for event in await allocator.events() if event.type == "node.registered"]
        epochs = [int(event.fields["epoch"]) for event in registered]
        assert epochs == sorted(set(epochs))
        assert epochs[-1] == held.epoch
        assert len(epochs) == (CROWD if policy == "takeover" else 1)
        ends[winner].cancel()
    await assert_invariants(server.url, NAMESPACE)


async def test_where_the_policy_refuses_the_other_process_gives_the_id_once_the_holder_has_gone(
    start: Start, server: PlainServer
) -> None:
    here, there = start(2, "--node-id-conflict", "refuse")
    async with await Allocator.open(server.url) as allocator, AsyncExitStack() as sockets:
        holder = await sockets.enter_async_context(connect(here.url))
        await holder.become_ready(node_id=ID)
        (before,) = await allocator.describe([ID])
        for _ in range(CLONE_TAKEOVERS + 1):
            other = await sockets.enter_async_context(connect(there.url))
            await other.send(HEAD.register(node_id=ID))
            assert await end_of(other) == CONFLICT
            assert other.received[-1]["code"] == "NODE_ID_CONFLICT"
        await holder.heartbeat(State(gpu_percent=60))

        async def busy() -> bool:
            (state,) = await allocator.describe([ID])
            return (state.load, state.epoch, state.instance) == (0.6, before.epoch, here.name)

        await wait_until_async(busy, "the holder goes on under its epoch")
        await holder.close()

        async def released() -> bool:
            (state,) = await allocator.describe([ID])
            return state.status is NodeStatus.OFFLINE

        await wait_until_async(released, "the holder is released")
        heir = await sockets.enter_async_context(connect(there.url))
        await heir.become_ready(node_id=ID)
        (after,) = await allocator.describe([ID])
        assert (after.epoch > before.epoch, after.instance, after.pool) == (True, there.name, before.pool)
    assert metric([here, there], "pyscheduler_cloned_id_takeovers_total") == 0
    await assert_invariants(server.url, NAMESPACE)
