"""Who may have a node id: the socket that registered it, until another may and does."""

from __future__ import annotations

import pytest

from pyscheduler.core.results import NodeStatus
from tests.doors import Serve, connect, eventually, has_load
from tests.fixtures.clients import HEAD, State
from tests.support import wait_until_async


async def test_a_second_registration_on_a_socket_is_acknowledged_again(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        first = await node.register()
        again = await node.register(State(languages=("en", "fr")))
        assert again["node_id"] == first["node_id"]
        await node.receive_until("node_status", pool="en-fr")


async def test_a_socket_has_one_node_only(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node, connect(scheduler.url) as other:
        await other.become_ready(State(languages=("fr", "it")), node_id="node-other")
        await node.become_ready()
        await node.send(HEAD.register(State(languages=("es", "pt")), node_id="node-other"))
        assert (await node.receive_until("error"))["code"] == "NODE_ID_CONFLICT"
        # The connection is still the first node's, and the other node is as it was.
        await node.heartbeat(State(languages=("de", "fr")))
        await node.receive_until("node_status", pool="de-fr")
        state = await scheduler.state("node-other")
        assert state is not None
        assert state.pool == "fr-it"


async def test_a_heartbeat_counts_for_the_node_of_its_own_socket(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node, connect(scheduler.url) as victim:
        await victim.become_ready(State(languages=("fr", "it")))
        await node.become_ready()
        await node.send(HEAD.heartbeat(victim.node_id, State(languages=("es", "pt"))))
        await node.receive_until("node_status", pool="es-pt")
        state = await scheduler.state(victim.node_id)
        assert state is not None
        assert state.pool == "fr-it"


@pytest.mark.parametrize("same_process", [True, False])
async def test_the_newer_connection_takes_an_id_over_and_the_older_is_closed(serve: Serve, same_process: bool) -> None:
    scheduler = await serve()
    elsewhere = scheduler if same_process else await serve()
    async with connect(scheduler.url) as old:
        await old.become_ready()
        async with connect(elsewhere.url) as new:
            await new.become_ready(node_id=old.node_id)
            assert await old.closed() == 4409
            assert old.received[-1]["code"] == "NODE_ID_CONFLICT"
            # The old connection's end does not concern the node any more.
            await wait_until_async(
                lambda: len(scheduler.process.shared.sockets) == same_process, "the old connection is gone"
            )
            await new.heartbeat(State(gpu_percent=60))
            await eventually(lambda: has_load(elsewhere, new.node_id, 0.6), "the new one's heartbeat counts")
            state = await elsewhere.state(new.node_id)
            assert state is not None
            assert state.status is NodeStatus.READY
            assert state.instance == elsewhere.process.instance


async def test_the_newer_connection_is_refused_where_the_policy_says_so(serve: Serve) -> None:
    scheduler = await serve(node_id_conflict="refuse")
    async with connect(scheduler.url) as old, connect(scheduler.url) as new:
        await old.become_ready()
        await new.send(HEAD.register(node_id=old.node_id))
        assert await new.closed() == 4409
        assert new.received[-1]["code"] == "NODE_ID_CONFLICT"
        await old.heartbeat(State(gpu_percent=60))
        await eventually(lambda: has_load(scheduler, old.node_id, 0.6), "the holder goes on")


async def test_a_node_without_a_gpu_is_told_why_and_closed(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.send(HEAD.register(State(gpus=())))
        error = await node.receive()
        assert (error["type"], error["code"]) == ("error", "NO_GPU_AVAILABLE")
        assert await node.closed() == 4403
    assert (await scheduler.allocator.nodes()).total == 0


async def test_an_unknown_capability_schema_is_told_and_closed(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.send({**HEAD.register(), "capability_schema_version": "9.0"})
        assert (await node.receive())["code"] == "INVALID_CAPABILITY_SCHEMA"
        assert await node.closed() == 4403
