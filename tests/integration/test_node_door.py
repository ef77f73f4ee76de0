"""The node door over real WebSockets: what a node sends, what it gets back, and what the store holds afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyscheduler.core.results import NodeStatus
from tests.doors import Serve, connect, eventually, has_load, has_usage, is_unknown, with_status
from tests.fixtures.clients import HEAD, REVISIONS, Client, State
from tests.harness import document_of, pool
from tests.support import wait_until_async

# --- what a node does every day --------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", REVISIONS, ids=lambda client: client.name)
async def test_each_client_revision_is_taken_in_and_becomes_ready(client: Client, serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url, client) as node:
        await node.send(client.register())
        ack = await node.receive()
        assert ack["type"] == "node_register_ack"
        assert ack["node_id"].startswith("node-")
        assert ack["status"] == "registering"
        node.node_id = ack["node_id"]
        await node.heartbeat()
        status = await node.receive_until("node_status", status="ready")
        assert status["pool"]
        state = await scheduler.state(node.node_id)
        assert state is not None
        assert state.pool == status["pool"]
        assert state.status is NodeStatus.READY


async def test_a_node_reconnects_under_its_id_and_keeps_its_pool(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        first = await node.become_ready()
    state = await eventually(
        lambda: with_status(scheduler, node.node_id, NodeStatus.OFFLINE), "the node counts as offline"
    )
    assert state.pool == first["pool"]
    async with connect(scheduler.url) as again:
        # On a reconnect the client's heartbeat may overtake its registration.
        again.node_id = node.node_id
        await again.heartbeat()
        assert (await again.receive())["code"] == "INVALID_MESSAGE"
        ack = await again.register(node_id=node.node_id)
        assert ack["node_id"] == node.node_id
        await again.heartbeat()
        status = await again.receive_until("node_status", status="ready")
        assert status["pool"] == first["pool"]


async def test_a_node_that_stays_away_beyond_the_grace_is_expired(serve: Serve) -> None:
    scheduler = await serve(reconnect_grace_ms=100, lease_ms=1_000)
    async with connect(scheduler.url) as node:
        await node.become_ready()
    await eventually(lambda: is_unknown(scheduler, node.node_id), "the node is expired")
    assert scheduler.logged("node.released")[0]["reason"] == "socket_closed"
    assert await wait_until_async(lambda: scheduler.logged("node.expired"), "the expiry is in the log")


async def test_a_heartbeat_with_other_languages_moves_the_node_in_one_step(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.become_ready(State(languages=("de", "en")))
        await node.heartbeat(State(languages=("en", "fr")))
        status = await node.receive_until("node_status", pool="en-fr")
        assert status["status"] == "ready"
    moves = [line for line in scheduler.logged("node.assigned") if line["node_id"] == node.node_id]
    assert [(move["from"], move["to"], move["reason"]) for move in moves] == [
        ("", "de-en", "new"),
        ("de-en", "en-fr", "facts_changed"),
    ]


async def test_plain_heartbeats_renew_the_lease_and_take_the_load_along(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.become_ready(State(gpu_percent=40))
        await node.heartbeat(State(gpu_percent=75))
        await eventually(lambda: has_load(scheduler, node.node_id, 0.75), "the new load is stored")
        # Usage alone changes, the load does not.
        beat = HEAD.heartbeat(node.node_id, State(gpu_percent=75))
        beat["resource_usage"]["mem_percent"] = 99.0
        await node.send(beat)
        await eventually(lambda: has_usage(scheduler, node.node_id, "mem_percent", 99.0), "the usage is stored")
        assert await has_load(scheduler, node.node_id, 0.75)


async def test_compression_is_not_negotiated(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url, compression="deflate") as node:
        assert node.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in node.socket.response.headers
        await node.register()


# --- what operators do meanwhile -------------------------------------------------------------------------------------


async def test_a_hold_and_its_lifting_are_pushed(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.become_ready()
        await scheduler.allocator.hold(node.node_id, owner="ops", reason="new driver")
        assert (await node.receive_until("node_status"))["status"] == "draining"
        await scheduler.allocator.lift(node.node_id, owner="ops", reason="done")
        assert (await node.receive_until("node_status"))["status"] == "ready"


async def test_a_configuration_change_pushes_the_new_pool(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node, connect(scheduler.url) as other:
        await node.become_ready(State(languages=("de", "en")))
        await other.become_ready(State(languages=("fr", "it")))
        change = await scheduler.allocator.sync(document_of(pool("german", asr={"contains": ["de"]})), reason="named")
        status = await node.receive_until("node_status", pool="german")
        assert status["version"] >= change.version_after
        assert status["pool_id"]
        # The other one has not moved, and is told nothing.
        await other.send("not JSON")
        assert (await other.receive())["type"] == "error"
    assert scheduler.logged("class.remapped")[-1]["reason"]
    assert scheduler.logged("config.bumped")[-1]["reason"]


async def test_a_new_admission_policy_applies_to_the_next_registration(serve: Serve) -> None:
    scheduler = await serve()
    admission = {"gpu": {"min_count": 1, "min_memory_gb": 48}}
    async with connect(scheduler.url) as old, connect(scheduler.url) as new:
        await old.become_ready()
        await scheduler.allocator.sync(document_of(admission=admission), allow_empty=True)
        await new.send(HEAD.register())
        error = await new.receive()
        assert error["code"] == "NO_GPU_AVAILABLE"
        assert "48" in error["message"]
        assert await new.closed() == 4403
        await old.heartbeat()
        await scheduler.allocator.sync(document_of(), allow_empty=True)
    async with connect(scheduler.url) as later:
        await later.become_ready()


async def test_the_first_document_is_applied_from_the_file(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text("schema: 1\npools:\n  - name: first\n    match: {asr: {contains: [en]}}\n")
    first = await serve(pools=file)
    assert [one.name for one in (await first.allocator.pools()).pools] == ["first"]
    file.write_text("schema: 1\npools:\n  - name: second\n    match: {asr: {contains: [en]}}\n")
    second = await serve(pools=file)
    assert [one.name for one in (await second.allocator.pools()).pools] == ["first"]
    assert second.logged("pools_not_applied")
