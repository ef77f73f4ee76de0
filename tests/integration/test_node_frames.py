"""Frames that a node should not have sent: each is answered, and hurts nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyscheduler.core.results import NodeStatus
from tests.doors import Serve, connect, eventually, with_status
from tests.fixtures.clients import HEAD, Message, State
from tests.peers import TEXT, connected, frame


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
    await eventually(lambda: with_status(scheduler, node.node_id, NodeStatus.OFFLINE), "the node is released")


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
    await eventually(lambda: with_status(scheduler, "n1", NodeStatus.OFFLINE), "the node is released")
