"""Faults of the network between node and scheduler."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from pyscheduler.core.results import NodeStatus
from tests.faults.lan import SLOW_S, Lan, bound, connected
from tests.faults.relay import Relay
from tests.support import wait_until_async


@pytest.mark.faults
async def test_a_node_behind_a_partition_is_released_with_the_grace_and_comes_back(lan: Lan) -> None:
    serve = lan.serve("a", silence_timeout_ms=1_000, reconnect_grace_ms=60_000, lease_ms=60_000)
    node = await lan.node(serve.url, "n")
    before = await lan.known("n")
    lan.network.part("nodes", "a")
    released = await wait_until_async(lambda: lan.events("node.released", "n"), "the silent node is released", SLOW_S)
    state = await lan.known("n")
    assert (state.status, state.pool, state.epoch) == (NodeStatus.OFFLINE, before.pool, before.epoch)
    assert node.connected, "the node's end is half open: nobody can have told it"
    lan.network.heal()
    await node.vanish()
    again = await lan.node(serve.url, "n")
    after = await lan.known("n")
    assert after.epoch > before.epoch
    assert (after.status, after.pool) == (NodeStatus.READY, before.pool)
    assert again.connected
    assert len(await lan.events("node.released", "n")) == len(released)
    assert len(await lan.events("node.assigned", "n")) == 1, "it never left its pool"
    assert await lan.events("node.expired") == []


@pytest.mark.faults
async def test_the_end_of_a_half_open_socket_removes_nothing(lan: Lan) -> None:
    serve = lan.serve("a", silence_timeout_ms=600_000, lease_ms=60_000)
    node = await lan.node(serve.url, "n")
    before = await lan.known("n")
    # What the scheduler sent again afterwards would be answered with a reset, and the socket not be half open.
    await lan.renewed(node)
    await node.stop()
    port = urlsplit(serve.url).port or 0
    await wait_until_async(lambda: lan.network["a"].on_its_way(port) == 0, "all that was sent has arrived")
    lan.network.part("nodes", "a")
    # The node's reset never arrives, and the scheduler holds a socket that nobody is at the other end of.
    await node.vanish()
    lan.network.heal()
    again = await lan.node(serve.url, "n")
    after = await lan.known("n")
    assert after.epoch > before.epoch
    await wait_until_async(lambda: lan.connections(serve) == 1, "the old socket is gone", SLOW_S)
    await lan.renewed(again)
    state = await lan.known("n")
    assert (state.epoch, state.status, state.pool) == (after.epoch, NodeStatus.READY, before.pool)
    assert await lan.events("node.released") == []
    assert [event.reason for event in await lan.events("node.registered", "n")] == ["new", "takeover"]
    assert again.connected


@pytest.mark.faults
async def test_loss_between_node_and_scheduler_costs_time_only(lan: Lan) -> None:
    serve = lan.serve("a", lease_ms=30_000)
    lan.network.lose("nodes", "a", 0.2)
    nodes = [await lan.node(serve.url, f"n{number}") for number in range(5)]
    here, there = lan.network["a"], lan.network["nodes"]
    await wait_until_async(lambda: here.dropped() > 20 and there.dropped() > 5, "packets were lost", SLOW_S)
    await lan.nothing_happened_to(*nodes)


@pytest.mark.faults
async def test_a_long_way_between_node_and_scheduler_costs_time_only(lan: Lan) -> None:
    serve = lan.serve("a")
    host = lan.network["nodes"]
    parts = urlsplit(serve.url)
    assert parts.hostname is not None
    assert parts.port is not None
    address, port = parts.hostname, parts.port

    async def to_scheduler() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(sock=await connected(host, address, port))

    async with Relay(bound(host), to_scheduler, delay_s=0.25) as relay:
        url = f"ws://{host.address}:{relay.port}{parts.path}"
        nodes = [await lan.node(url, f"n{number}") for number in range(5)]
        await lan.renewed(*nodes)
        await lan.nothing_happened_to(*nodes)
        for node in nodes:
            await node.vanish()
