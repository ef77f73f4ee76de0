"""The node door while the store is away, full, read-only or spoilt: sockets outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import redis

from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import StoreUnavailable
from tests.doors import Node, Scheduler, connect, eventually, has_load
from tests.fixtures.clients import HEAD, State
from tests.harness import assert_invariants, document_of, pool
from tests.servers import PlainServer
from tests.support import wait_until_async


async def test_sockets_outlive_a_store_that_comes_back_empty(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url)
    async with connect(scheduler.url) as node, connect(scheduler.url) as late:
        # The version gets well ahead of where the empty store begins again.
        for number in range(5):
            await scheduler.allocator.sync(document_of(pool(f"named-{number}", asr={"contains": ["de"]})))
        await node.become_ready()
        before = await scheduler.state(node.node_id)
        assert before is not None
        server.kill()
        # An honest answer, to what is said and to what begins meanwhile.
        await node.heartbeat()
        assert (await node.receive_until("error"))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
        await late.send(HEAD.register(State(languages=("fr", "it"))))
        assert (await late.receive())["code"] == "SCHEDULER_DEPENDENCY_DOWN"
        await wait_until_async(lambda: scheduler.logged("store_down"), "the outage is noticed")
        server.start()
        # Nobody says anything, and both are there: the one under its epoch, the other for the first time.
        late.node_id = (await late.receive_until("node_register_ack"))["node_id"]
        after = await eventually(lambda: scheduler.state(node.node_id), "the node is registered again")
        assert after.epoch == before.epoch
        assert after.status is NodeStatus.READY
        assert after.pool == "de-en", "the document is gone with the store, so the auto policy holds"
        await node.receive_until("node_status", pool="de-en")
        # And it goes on as if nothing had been.
        await node.heartbeat(State(gpu_percent=75))
        await eventually(lambda: has_load(scheduler, node.node_id, 0.75), "heartbeats count again")
        await scheduler.allocator.hold(node.node_id, owner="ops", reason="check")
        await node.receive_until("node_status", status="draining")
    assert scheduler.logged("store_back")
    assert scheduler.logged("nodes_put_back")
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


async def test_sockets_outlive_a_store_that_comes_back_with_its_data(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server(appendonly="yes", appendfsync="always")
    scheduler: Scheduler = await serve_on(server.url)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        before = await scheduler.state(node.node_id)
        server.kill()
        await wait_until_async(lambda: scheduler.logged("store_down"), "the outage is noticed")
        server.start()
        await wait_until_async(lambda: scheduler.logged("store_back"), "the end of the outage is noticed")
        await node.heartbeat(State(gpu_percent=75))
        await eventually(lambda: has_load(scheduler, node.node_id, 0.75), "heartbeats count again")
        after = await scheduler.state(node.node_id)
        assert before is not None
        assert after is not None
        assert (after.epoch, after.pool) == (before.epoch, before.pool)
        events = await scheduler.allocator.events()
        assert [one.type for one in events if one.node_id == node.node_id].count("node.registered") == 1
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


async def test_sockets_outlive_a_store_that_hangs(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url, store_timeout_ms=300)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        server.pause()
        await node.heartbeat(State(gpu_percent=75))
        assert (await node.receive_until("error"))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
        await wait_until_async(lambda: scheduler.logged("store_down"), "the outage is noticed")
        server.resume()
        await wait_until_async(lambda: scheduler.logged("store_back"), "the end of the outage is noticed")
        await node.heartbeat(State(gpu_percent=80))
        await eventually(lambda: has_load(scheduler, node.node_id, 0.8), "heartbeats count again")
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


async def test_many_nodes_are_put_back_at_once(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url, recovery_concurrency=4)
    async with _fleet(scheduler.url, 40) as nodes:
        epochs = {node.node_id: state.epoch for node in nodes if (state := await scheduler.state(node.node_id))}
        assert len(epochs) == 40
        # So short an outage that no check may have seen it.
        server.kill()
        server.start()

        async def all_back() -> bool:
            try:
                states = await scheduler.allocator.describe(list(epochs))
            except StoreUnavailable:
                return False
            return {state.node_id: state.epoch for state in states} == epochs

        await eventually(all_back, "every node is registered again under its epoch")
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


async def test_a_full_store_takes_no_new_node_and_keeps_those_it_has(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server(maxmemory="64mb", maxmemory_policy="noeviction")
    scheduler: Scheduler = await serve_on(server.url)
    async with connect(scheduler.url) as node, connect(scheduler.url) as late:
        await node.become_ready()
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "1mb")
            await late.send(HEAD.register(State(languages=("fr", "it"))))
            assert (await late.receive())["code"] == "SCHEDULER_DEPENDENCY_DOWN"
            await node.heartbeat(State(gpu_percent=75))
            await eventually(lambda: has_load(scheduler, node.node_id, 0.75), "heartbeats still count")
            client.config_set("maxmemory", "64mb")
        await late.send(HEAD.register(State(languages=("fr", "it"))))
        await late.receive_until("node_register_ack")
    assert "maxmemory" in scheduler.logged("store_call_failed")[0]["error"]
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


async def test_a_read_only_store_is_waited_for(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        with redis.Redis.from_url(server.url) as client:
            client.replicaof("127.0.0.1", "1")
            await node.heartbeat(State(gpu_percent=75))
            assert (await node.receive_until("error"))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
            client.replicaof("NO", "ONE")
        await node.heartbeat(State(gpu_percent=80))
        await eventually(lambda: has_load(scheduler, node.node_id, 0.8), "heartbeats count again")
    assert "read-only replica" in scheduler.logged("store_call_failed")[0]["error"]
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


async def test_a_key_that_somebody_else_has_spoilt_is_named(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url)
    async with connect(scheduler.url) as node:
        with redis.Redis.from_url(server.url) as client:
            client.rename("{pyscheduler}:leases", "put-aside")
            client.set("{pyscheduler}:leases", "spoilt")
            await node.send(HEAD.register())
            error = await node.receive()
            assert error["code"] == "INTERNAL_ERROR"
            assert "{pyscheduler}:leases is a string, not a zset" in error["message"]
            client.rename("put-aside", "{pyscheduler}:leases")
        await node.become_ready()
    await scheduler.process.stop()
    await assert_invariants(server.url, "pyscheduler")


def _fleet(url: str, count: int) -> Any:
    from contextlib import AsyncExitStack, asynccontextmanager

    @asynccontextmanager
    async def connected() -> AsyncIterator[list[Node]]:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(connect(url)) for _ in range(count)]
            await asyncio.gather(*(node.become_ready() for node in nodes))
            yield nodes

    return connected()
