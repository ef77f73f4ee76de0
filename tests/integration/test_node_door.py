"""The node door over real WebSockets: what a node sends, what it gets back, and what the store holds afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
import websockets.exceptions

from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import StoreUnavailable
from pyscheduler.registry.listener import CannotListen
from pyscheduler.registry.process import ServeProcess
from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Node, Scheduler, Serve, connect, eventually
from tests.fixtures.clients import HEAD, REVISIONS, Client, Message, State
from tests.harness import assert_invariants, document_of, pool
from tests.peers import TEXT, connected, frame
from tests.servers import PlainServer
from tests.support import wait_until_async


@pytest.fixture
async def serve_on() -> AsyncIterator[Callable[..., Any]]:
    """Starts scheduler processes on a store, ends them after the test."""
    running: list[Scheduler] = []

    async def start(redis_url: str, **settings: Any) -> Scheduler:
        scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": redis_url, **settings}))
        await scheduler.process.start()
        running.append(scheduler)
        return scheduler

    yield start
    for scheduler in reversed(running):
        await scheduler.process.stop()
        assert not [line for line in scheduler.lines if line["event"].endswith("_defect")]


@pytest.fixture
def serve(serve_on: Callable[..., Any], redis_url: str, namespace: str) -> Serve:
    """Starts scheduler processes on the engine under test."""

    async def start(**settings: Any) -> Scheduler:
        scheduler: Scheduler = await serve_on(redis_url, namespace=namespace, **settings)
        return scheduler

    return start


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
        lambda: _with_status(scheduler, node.node_id, NodeStatus.OFFLINE), "the node counts as offline"
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
    await eventually(lambda: _is_unknown(scheduler, node.node_id), "the node is expired")
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
        await eventually(lambda: _has_load(scheduler, node.node_id, 0.75), "the new load is stored")
        # Usage alone changes, the load does not.
        beat = HEAD.heartbeat(node.node_id, State(gpu_percent=75))
        beat["resource_usage"]["mem_percent"] = 99.0
        await node.send(beat)
        await eventually(lambda: _has_usage(scheduler, node.node_id, "mem_percent", 99.0), "the usage is stored")
        assert await _has_load(scheduler, node.node_id, 0.75)


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


# --- who may have an id ----------------------------------------------------------------------------------------------


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
            await eventually(lambda: _has_load(elsewhere, new.node_id, 0.6), "the new one's heartbeat counts")
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
        await eventually(lambda: _has_load(scheduler, old.node_id, 0.6), "the holder goes on")


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


# --- bad input -------------------------------------------------------------------------------------------------------


def _register(**changes: Any) -> Message:
    return {**HEAD.register(), **changes}


def _languages(*codes: Any) -> Message:
    lists = {name: list(codes) for name in ("asr_languages", "tts_languages", "semantic_languages")}
    return _register(language_capabilities={**lists, "semantic_core_ready": True})


BAD_FRAMES: dict[str, Message | str | bytes] = {
    "empty": "",
    "not JSON": "hello",
    "truncated": json.dumps(HEAD.register())[:-1],
    "no object": "[1,2,3]",
    "no type": "{}",
    "type is no text": '{"type":7}',
    "binary": b"\x00\x01\x02",
    "binary JSON": json.dumps(HEAD.register()).encode(),
    "10 MB": json.dumps(_register(padding="x" * 10_000_000)),
    "10 MB binary": b"x" * 10_000_000,
    "deep nesting": '{"type":"node_heartbeat","x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "nesting within the size": '{"type":"node_heartbeat","x":' + "[" * 200 + "]" * 200 + "}",
    "a million keys": "{" + ",".join(f'"{number}":0' for number in range(1_000_000)) + "}",
    "many keys within the size": '{"type":"node_register",' + ",".join(f'"{n}":0' for n in range(50_000)) + "}",
    "duplicate keys": '{"type":"node_register","type":"node_register"}',
    "NaN": json.dumps(HEAD.heartbeat("n")).replace("12.5", "NaN"),
    "Infinity": json.dumps(HEAD.heartbeat("n")).replace("12.5", "Infinity"),
    "a huge number": json.dumps(_register()).replace('"cpu_cores": 8', '"cpu_cores": ' + "9" * 5000),
    "lone surrogate": '{"type":"node_register","node_id":"\\ud800"}',
    "unknown type": '{"type":"launch_missiles"}',
    "missing fields": '{"type":"node_register"}',
    "wrong types": _register(hardware={"cpu_cores": "eight", "memory_gb": -1, "gpus": {}}),
    "float for an integer": _register(hardware={"cpu_cores": 1.5, "memory_gb": 32, "gpus": []}),
    "heartbeat first": HEAD.heartbeat("node-somebody"),
    "empty id": _register(node_id=""),
    "id of 10 kB": _register(node_id="n" * 10_000),
    "id with control characters": _register(node_id="node\r\n\x1b[31m\x00"),
    "id with a look-alike": _register(node_id="n\u043ede"),
    "id like a cluster tag": _register(node_id="{tag}"),
    "id that is no text": _register(node_id=7),
    "language of 10 kB": _languages("e" * 10_000),
    "empty language": _languages(""),
    "language with control characters": _languages("en\n"),
    "language with a look-alike": _languages("\u0435n"),
    "language that is no text": _languages(7),
    "language like a property": _languages("__proto__"),
    "10,000 languages": _languages(*(f"a{chr(97 + n % 26)}-{n}" for n in range(10_000))),
    "labels that are no text": _register(labels={"zone": 7}),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=list(BAD_FRAMES))
async def test_a_bad_frame_is_answered_and_the_connection_stays_usable(
    frame: Message | str | bytes, serve: Serve
) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.send(frame)
        error = await node.receive()
        assert (error["type"], error["code"]) == ("error", "INVALID_MESSAGE")
        assert 0 < len(error["message"]) <= 2048
        assert error["message"].isascii()
        assert error["message"].isprintable()
        assert (await scheduler.allocator.nodes()).total == 0
        # The same connection can do it right afterwards.
        await node.become_ready()


async def test_bad_frames_change_nothing_about_a_registered_node(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.become_ready()
        before = await scheduler.state(node.node_id)
        assert before is not None
        for frame in BAD_FRAMES.values():
            if isinstance(frame, dict) and frame["type"] == "node_heartbeat":
                continue  # only too early, and it is not any more
            await node.send(frame)
            await node.receive_until("error")
        after = await scheduler.state(node.node_id)
        assert after is not None
        assert (after.pool, after.epoch, after.status) == (before.pool, before.epoch, before.status)
    # A node cannot fill the log.
    assert len(scheduler.logged("message_refused")) < 10


async def test_names_that_only_look_dangerous_are_names(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        assert (await node.register(node_id="__proto__"))["node_id"] == "__proto__"


async def test_unknown_fields_and_services_are_kept(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        state = State(services=("asr", "nmt", "tts", "lexicon"))
        await node.register(state, something_new={"a": [1, 2]})
        detail = await scheduler.allocator.node(node.node_id)
        assert detail.record["something_new"] == {"a": [1, 2]}
        assert "lexicon" in detail.state.services


async def test_job_messages_are_answered(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.become_ready()
        for kind in ("job_result", "asr_partial", "job_ack", "job_started"):
            await node.send(
                {"type": kind, "job_id": "job-7", "node_id": node.node_id, "session_id": "s", "trace_id": "t"}
            )
            error = await node.receive()
            assert error["code"] == "INVALID_SESSION"
            assert "job-7" in error["message"]


async def test_a_frame_beyond_the_transport_limit_closes_the_connection(serve: Serve) -> None:
    scheduler = await serve(max_frame_bytes=2 * 1024 * 1024)
    async with connect(scheduler.url) as node:
        await node.register()
        await node.send("x" * (2 * 1024 * 1024 + 1))
        assert await node.closed() == 1009
    await eventually(lambda: _with_status(scheduler, node.node_id, NodeStatus.OFFLINE), "the node is released")


async def test_text_that_is_not_utf8_closes_the_connection(serve: Serve) -> None:
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.socket.send(b"\xff\xfe", text=True)
        assert await node.closed() == 1007


async def test_an_answer_that_the_transport_can_send_no_more_is_no_defect(serve: Serve) -> None:
    """The transport closes over the second frame while the first still waits for the store."""
    scheduler = await serve()
    register = json.dumps(HEAD.register(node_id="n1")).encode()
    for first in (register, b"{}", b""):
        async with connected(scheduler.url, upgraded=True) as peer:
            await peer.send(frame(TEXT, first) + frame(TEXT, b"\xff"))
            assert (1007).to_bytes(2, "big") in await peer.rest()
    await eventually(lambda: _with_status(scheduler, "n1", NodeStatus.OFFLINE), "the node is released")


# --- sockets that do not behave --------------------------------------------------------------------------------------


async def test_a_connection_that_does_not_register_is_told_and_closed(serve: Serve) -> None:
    scheduler = await serve(register_timeout_ms=200)
    async with connect(scheduler.url) as node:
        error = await node.receive()
        assert error["code"] == "INVALID_MESSAGE"
        assert "node_register" in error["message"]
        assert await node.closed() == 4400


async def test_a_connection_that_never_becomes_a_websocket_is_dropped(serve: Serve) -> None:
    scheduler = await serve(register_timeout_ms=200)
    address = urlsplit(scheduler.url)
    for said in (b"", b"GET /ws/node HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(said)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(10):
                await reader.readexactly(1)
        writer.close()


async def test_a_silent_node_is_closed_and_released(serve: Serve) -> None:
    scheduler = await serve(silence_timeout_ms=300)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        assert await node.closed() == 4400
        state = await eventually(
            lambda: _with_status(scheduler, node.node_id, NodeStatus.OFFLINE), "the node is released"
        )
        assert state.pool == "de-en"
    assert scheduler.logged("node.released")[-1]["reason"] == "silent"


async def test_a_node_that_says_nothing_for_a_lease_is_gone_until_it_says_something(serve: Serve) -> None:
    """Nobody must speak for it, though its connection looks alive: a dead node would take work until that is closed."""
    scheduler = await serve(lease_ms=600, reconcile_interval_ms=100, resync_interval_ms=100, silence_timeout_ms=60_000)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        epoch = await eventually(lambda: _epoch(scheduler, node.node_id), "the node is there")
        await wait_until_async(lambda: scheduler.logged("node.expired"), "the node is expired")
        passes = scheduler.process.shared.metrics.reconciled.labels("done")._value
        seen = passes.get()
        await wait_until_async(lambda: passes.get() >= seen + 5, "all that runs in the background has run")
        assert await scheduler.state(node.node_id) is None
        assert not scheduler.logged("nodes_put_back")
        await node.heartbeat()
        assert await eventually(lambda: _epoch(scheduler, node.node_id), "it is registered again") > epoch


async def test_a_half_open_connection_does_not_stay(serve: Serve) -> None:
    """The peer is gone without a word: nothing comes any more, and nobody answers the closing handshake."""
    scheduler = await serve(silence_timeout_ms=300)
    peer = await _half_open(scheduler.url)
    try:
        sockets = scheduler.process.shared.sockets
        await wait_until_async(lambda: sockets.registered == 1, "the node is registered")
        (connection,) = sockets
        assert connection.node_id is not None
        await wait_until_async(lambda: len(sockets) == 0, "the connection is given up")
        await eventually(
            lambda: _with_status(scheduler, connection.node_id or "", NodeStatus.OFFLINE), "the node is released"
        )
    finally:
        peer.close()


async def test_a_node_that_does_not_read_is_cut(serve: Serve) -> None:
    scheduler = await serve(send_timeout_ms=300)
    peer = await _half_open(scheduler.url)
    try:
        sockets = scheduler.process.shared.sockets
        await wait_until_async(lambda: sockets.registered == 1, "the node is registered")
        # Each of these gets an answer that nobody takes, until the buffers between us are full.
        flood = _masked(json.dumps({"type": "job_ack", "job_id": "j" * 60}).encode()) * 1000
        loop = asyncio.get_running_loop()

        async def send_on() -> None:
            while True:
                await loop.sock_sendall(peer, flood)

        flooding = asyncio.create_task(send_on())
        await wait_until_async(lambda: len(sockets) == 0, "the connection is cut")
        with pytest.raises(OSError):
            await flooding
    finally:
        peer.close()
    assert scheduler.logged("connection_cut")


async def test_one_connection_too_many_is_closed_with_a_reason(serve: Serve) -> None:
    scheduler = await serve(max_connections=2)
    async with connect(scheduler.url) as first, connect(scheduler.url) as second:
        await first.register()
        async with connect(scheduler.url) as third:
            assert await third.closed() == 1013
        await second.register()
        await second.close()
        await wait_until_async(lambda: len(scheduler.process.shared.sockets) == 1, "there is room again")
        async with connect(scheduler.url) as fourth:
            await fourth.register()


async def test_the_door_speaks_the_node_protocol_and_nothing_else(serve: Serve) -> None:
    scheduler = await serve()
    base = scheduler.url.replace("ws://", "http://").removesuffix("/ws/node")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{base}/ws/node")).status_code == 426
        for path in ("/", "/health", "/metrics", "/api/v1/nodes", "/ws/node/", "/ws/nodes"):
            assert (await http.get(f"{base}{path}")).status_code == 404
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        async with connect(scheduler.url.removesuffix("/node")):
            pass
    assert refused.value.response.status_code == 404


# --- the store goes away ---------------------------------------------------------------------------------------------


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
        await eventually(lambda: _has_load(scheduler, node.node_id, 0.75), "heartbeats count again")
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
        await eventually(lambda: _has_load(scheduler, node.node_id, 0.75), "heartbeats count again")
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
        await eventually(lambda: _has_load(scheduler, node.node_id, 0.8), "heartbeats count again")
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
            await eventually(lambda: _has_load(scheduler, node.node_id, 0.75), "heartbeats still count")
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
        await eventually(lambda: _has_load(scheduler, node.node_id, 0.8), "heartbeats count again")
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


# --- start and stop --------------------------------------------------------------------------------------------------


async def test_stopping_releases_the_nodes_and_sends_them_elsewhere(serve: Serve) -> None:
    first, second = await serve(), await serve()
    async with connect(first.url) as node, connect(first.url) as unregistered:
        await node.become_ready()
        await first.process.stop()
        assert await node.closed() == 1012
        assert await unregistered.closed() == 1012
        state = await second.state(node.node_id)
        assert state is not None
        assert (state.status, state.pool) == (NodeStatus.OFFLINE, "de-en")
        assert first.process.instance not in [one.instance for one in await second.allocator.instances()]
        with pytest.raises(OSError):
            async with connect(first.url):
                pass
    async with connect(second.url) as again:
        await again.become_ready(node_id=node.node_id)
    released = next(one for one in await second.allocator.events() if one.type == "node.released")
    assert released.reason == "server_restart"


async def test_stopping_does_not_wait_for_a_store_that_is_gone(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url, shutdown_timeout_ms=500)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        server.pause()
        async with asyncio.timeout(5):
            await scheduler.process.stop()
        server.resume()


async def test_ports_that_are_taken_are_named(serve: Serve, redis_url: str, namespace: str) -> None:
    scheduler = await serve()
    taken = scheduler.process.ports.node
    process = ServeProcess(ServeSettings(**{**QUICK, "redis_url": redis_url, "namespace": namespace, "port": taken}))
    with pytest.raises(CannotListen, match=rf"port {taken}.*--port"):
        await process.start()


# --- helpers ---------------------------------------------------------------------------------------------------------


async def _with_status(scheduler: Scheduler, node_id: str, status: NodeStatus) -> Any:
    state = await scheduler.state(node_id)
    return state if state is not None and state.status is status else None


async def _epoch(scheduler: Scheduler, node_id: str) -> int:
    state = await scheduler.state(node_id)
    return state.epoch if state is not None else 0


async def _is_unknown(scheduler: Scheduler, node_id: str) -> bool:
    return await scheduler.state(node_id) is None


async def _has_load(scheduler: Scheduler, node_id: str, load: float) -> bool:
    state = await scheduler.state(node_id)
    return state is not None and state.load == pytest.approx(load)


async def _has_usage(scheduler: Scheduler, node_id: str, name: str, value: float) -> bool:
    usage = (await scheduler.allocator.node(node_id)).usage
    return bool(usage.get(name) == value)


def _fleet(url: str, count: int) -> Any:
    from contextlib import AsyncExitStack, asynccontextmanager

    @asynccontextmanager
    async def connected() -> AsyncIterator[list[Node]]:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(connect(url)) for _ in range(count)]
            await asyncio.gather(*(node.become_ready() for node in nodes))
            yield nodes

    return connected()


async def _half_open(url: str) -> socket.socket:
    """A registered node on a bare socket that never reads and answers nothing."""
    address = urlsplit(url)
    peer = socket.create_connection((address.hostname, address.port))
    key = base64.b64encode(os.urandom(16)).decode()
    peer.sendall(
        f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await loop.sock_recv(peer, 4096)
    assert answer.startswith(b"HTTP/1.1 101 ")
    await loop.sock_sendall(peer, _masked(json.dumps(HEAD.register()).encode()))
    return peer


def _masked(payload: bytes) -> bytes:
    """A text frame as a client sends it, with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload
