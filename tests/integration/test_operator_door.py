"""The operator door: health, metrics, and the JSON view, each answer held against the OpenAPI description."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema
import pytest

from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Node, Scheduler, connect, eventually
from tests.fixtures.clients import State
from tests.harness import document_of, pool
from tests.operator_door import OperatorDoor
from tests.servers import PlainServer
from tests.support import wait_until_async


@dataclass
class Door(OperatorDoor):
    """That of a scheduler with two nodes."""

    german: Node
    french: Node


@pytest.fixture
async def door(redis_url: str, namespace: str) -> AsyncIterator[Door]:
    scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": redis_url, "namespace": namespace}))
    async with (
        scheduler.process,
        connect(scheduler.url) as german,
        connect(scheduler.url) as french,
        httpx.AsyncClient(base_url=scheduler.process.operator_url, trust_env=False) as http,
    ):
        await scheduler.allocator.sync(
            document_of(pool("german", asr={"contains": ["de"]}, priority=5)), author="ann", reason="first"
        )
        await german.become_ready(State(languages=("de", "en")), node_id="node-german")
        await french.become_ready(State(languages=("en", "fr")), node_id="node-french")
        description = (await http.get("/openapi.json")).json()
        yield Door(scheduler, http, description, german, french)


async def test_health_and_readiness(door: Door) -> None:
    health = await door.get("/health")
    assert (health["status"], health["connections"], health["nodes"]) == ("ok", 2, 2)
    assert health["instance"] == door.scheduler.process.instance
    ready = await door.get("/ready")
    assert ready["ready"] is True
    assert ready["store_ms"] > 0


async def test_pools(door: Door) -> None:
    table = await door.get("/api/v1/pools")
    assert table["nodes"] == 2
    assert [(one["name"], one["origin"], one["nodes"], one["ready"]) for one in table["pools"]] == [
        ("en-fr", "auto", 1, 1),
        ("german", "declared", 1, 1),
    ]
    detail = await door.get("/api/v1/pools/german")
    assert detail["rule"] == {"asr": {"contains": ["de"]}}
    assert detail["priority"] == 5
    assert {"src": "de", "tgt": "en"} in detail["ready_pairs"]
    assert detail["classes"][0]["facts"]["asr"] == ["de", "en"]


async def test_finding_pools_for_a_pair(door: Door) -> None:
    found = await door.get("/api/v1/find", src="DE", tgt="en")
    assert [one["pool"] for one in found["candidates"]] == ["german"]
    found = await door.get("/api/v1/find", src="en", tgt="fr", service=["tts", "asr"])
    assert [one["pool"] for one in found["candidates"]] == ["en-fr"]
    assert (await door.get("/api/v1/find", src="en", tgt="fr", service="lexicon"))["candidates"] == []


async def test_nodes_page_by_page(door: Door) -> None:
    page = await door.get("/api/v1/nodes")
    assert page["total"] == 2
    assert {one["node_id"] for one in page["nodes"]} == {"node-german", "node-french"}
    first = await door.get("/api/v1/nodes", limit=1)
    second = await door.get("/api/v1/nodes", limit=1, offset=1)
    assert {first["nodes"][0]["node_id"], second["nodes"][0]["node_id"]} == {"node-german", "node-french"}
    assert (await door.get("/api/v1/nodes", limit=1, offset=2))["nodes"] == []
    of_pool = await door.get("/api/v1/nodes", pool="german")
    assert [one["node_id"] for one in of_pool["nodes"]] == ["node-german"]


async def test_one_node_and_why_it_is_where_it_is(door: Door) -> None:
    await door.scheduler.allocator.hold("node-german", owner="ann", reason="new driver")
    node = await door.get("/api/v1/nodes/node-german")
    assert (node["status"], node["pool"]) == ("draining", "german")
    assert [(hold["owner"], hold["reason"]) for hold in node["holds"]] == [("ann", "new driver")]
    assert node["record"]["platform"] == "linux"
    assert node["transition"]["to"] == "german"
    why = await door.get("/api/v1/nodes/node-french/explain")
    german = next(one for one in why["decisions"] if one["pool"] == "german")
    assert not german["matches"]
    assert german["failed"] == ["asr.contains"]
    assert next(one for one in why["decisions"] if one["chosen"])["pool"] == "en-fr"


async def test_configuration_and_history(door: Door) -> None:
    config = await door.get("/api/v1/config")
    assert [one["name"] for one in config["document"]["pools"]] == ["german"]
    await door.scheduler.allocator.sync(document_of(), allow_empty=True, author="bob", reason="second")
    assert (await door.get("/api/v1/config"))["document"]["pools"] == []
    earlier = await door.get("/api/v1/config", version=config["version"])
    assert earlier["document"] == config["document"]
    entries = (await door.get("/api/v1/history", limit=2))["entries"]
    assert len(entries) == 2
    bobs = next(one for one in entries if one["author"] == "bob")
    assert bobs["reason"] == "second"
    assert {"pool": "german", "change": "removed"} in bobs["changes"]
    schema = await door.get("/api/v1/config/schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(config["document"], schema)


async def test_events_in_pieces(door: Door) -> None:
    everything = (await door.get("/api/v1/events", limit=1000))["events"]
    assert {"config.bumped", "pool.created", "node.registered", "node.assigned"} <= {one["type"] for one in everything}
    assigned = next(one for one in everything if one["type"] == "node.assigned" and one["node_id"] == "node-german")
    assert (assigned["to"], assigned["reason"]) == ("german", "new")
    assert "pool" not in next(one for one in everything if one["type"] == "config.bumped")
    pieces: list[Any] = []
    since = "-"
    while True:
        piece = await door.get("/api/v1/events", since=since, limit=3)
        if not piece["events"]:
            assert piece["next"] == since
            break
        pieces += piece["events"]
        since = piece["next"]
    assert pieces[: len(everything)] == everything


async def test_instances(door: Door) -> None:
    (instance,) = (await door.get("/api/v1/instances"))["instances"]
    assert instance["instance"] == door.scheduler.process.instance
    assert instance["lease_ms"] > 0
    assert instance["info"]["port"] == door.scheduler.process.ports.node


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/pools/nobody", 404, "not_found"),
        ("/api/v1/pools/NOT%20A%20NAME", 422, "invalid_input"),
        ("/api/v1/nodes/nobody", 404, "not_found"),
        ("/api/v1/nodes/nobody/explain", 404, "not_found"),
        ("/api/v1/nodes/%7Btag%7D", 422, "invalid_input"),
        (f"/api/v1/nodes/{'n' * 10_000}", 422, "invalid_input"),
        ("/api/v1/nodes?limit=0", 422, "invalid_input"),
        ("/api/v1/nodes?limit=many", 422, "invalid_input"),
        ("/api/v1/nodes?limit=1001", 422, "invalid_input"),
        ("/api/v1/nodes?offset=-1", 422, "invalid_input"),
        ("/api/v1/nodes?pool=nobody", 404, "not_found"),
        ("/api/v1/find", 422, "invalid_input"),
        ("/api/v1/find?src=en&tgt=%0a", 422, "invalid_input"),
        (f"/api/v1/find?src=en&tgt={'e' * 10_000}", 422, "invalid_input"),
        ("/api/v1/events?since=yesterday", 422, "invalid_input"),
        ("/api/v1/config?version=999999", 404, "not_found"),
        ("/api/v1/config?version=0", 422, "invalid_input"),
        ("/api/v1/history?limit=-5", 422, "invalid_input"),
        ("/api/v1/nothing", 404, "not_found"),
        ("/", 404, "not_found"),
        ("/docs", 404, "not_found"),
        ("/ws/node", 404, "not_found"),
        # Not a redirect to whatever host the request names.
        ("/api/v1/nodes/..%2f", 404, "not_found"),
        ("/api/v1/nodes/..%2f..%2f..%2fetc%2fpasswd", 404, "not_found"),
        ("/health/", 404, "not_found"),
        ("/api/v1/nodes/%00", 422, "invalid_input"),
        ("/api/v1/nodes/%ff", 422, "invalid_input"),
        ("/api/v1/nodes?limit=99999999999999999999999", 422, "invalid_input"),
        ("/api/v1/nodes?offset=99999999999999999999999", 422, "invalid_input"),
        ("/api/v1/events?since=18446744073709551616-0", 422, "invalid_input"),
        ("/api/v1/find?src=__proto__&tgt=%7Btag%7D", 422, "invalid_input"),
    ],
)
async def test_bad_input_gets_an_error_document(door: Door, path: str, status: int, code: str) -> None:
    answer = await door.http.get(path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert 0 < len(error["message"]) < 1000
    assert error["message"].isprintable()


async def test_nodes_are_only_read(door: Door) -> None:
    for method in ("post", "put", "patch", "delete", "options"):
        answer = await door.http.request(method, "/api/v1/nodes/node-german")
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"
    assert (await door.http.head("/health")).status_code == 405


async def test_every_path_is_described(door: Door) -> None:
    paths = door.description["paths"]
    assert set(paths) == {
        "/health",
        "/ready",
        "/metrics",
        "/api/v1/pools",
        "/api/v1/pools/{name}",
        "/api/v1/find",
        "/api/v1/nodes",
        "/api/v1/nodes/{node_id}",
        "/api/v1/nodes/{node_id}/explain",
        "/api/v1/jobs",
        "/api/v1/jobs/{job_id}",
        "/api/v1/jobs/reserve",
        "/api/v1/jobs/explain",
        *(f"/api/v1/jobs/{{job_id}}/{word}" for word in ("renew", "start", "finish", "fail", "release", "reassign")),
        "/api/v1/config",
        "/api/v1/config/schema",
        "/api/v1/history",
        "/api/v1/events",
        "/api/v1/instances",
    }
    assert all(one["summary"] for methods in paths.values() for one in methods.values())


async def test_metrics_count_without_naming_nodes(door: Door) -> None:
    await door.german.send("not JSON")
    await door.german.receive_until("error")

    async def seen() -> str | None:
        text = (await door.http.get("/metrics")).text
        wanted = (
            'pyscheduler_events_total{type="node.status"} 2.0',
            'pyscheduler_reconcile_passes_total{outcome="done"}',  # a pass is due at any time, and makes a series
        )
        return text if all(line in text for line in wanted) else None

    text = await eventually(seen, "the events and the first pass are counted")
    for line in (
        "pyscheduler_node_connections 2.0",
        "pyscheduler_node_sessions 2.0",
        "pyscheduler_store_up 1.0",
        "pyscheduler_nodes 2.0",
        "pyscheduler_nodes_ready 2.0",
        'pyscheduler_pools{origin="declared"} 1.0',
        'pyscheduler_pools{origin="auto"} 1.0',
        'pyscheduler_node_errors_total{code="INVALID_MESSAGE"} 1.0',
        'pyscheduler_store_calls_total{call="register",outcome="ok"} 2.0',
    ):
        assert line in text.splitlines()
    assert "node-german" not in text
    assert "german" not in text
    for more in (0, 1, 2):
        assert _texts((await door.http.get("/metrics")).text) == _texts(text) + more
        await door.german.send("not JSON")
        await door.german.receive_until("error")
    await door.german.close()
    await door.french.close()
    # A node that comes and goes leaves no series behind.
    series = _series(text)
    for _ in range(3):
        async with connect(door.scheduler.url) as node:
            await node.become_ready()
    assert _series((await door.http.get("/metrics")).text) - series <= {
        'pyscheduler_store_calls_total{call="release",outcome="ok"}',
        'pyscheduler_store_call_seconds_count{call="release"}',
        'pyscheduler_store_call_seconds_sum{call="release"}',
        'pyscheduler_events_total{type="node.released"}',
        'pyscheduler_events_total{type="reconcile.ran"}',
    }


def _texts(text: str) -> float:
    """Text messages that have come from nodes."""
    (line,) = (line for line in text.splitlines() if line.startswith('pyscheduler_node_frames_total{kind="text"}'))
    return float(line.rpartition(" ")[2])


def _series(text: str) -> set[str]:
    lines = (line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#"))
    return {line for line in lines if "_bucket{" not in line}


async def test_without_a_store_it_says_so_and_stays_up(make_server: Callable[..., PlainServer]) -> None:
    server = make_server()
    scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": server.url}))
    async with (
        scheduler.process,
        httpx.AsyncClient(base_url=scheduler.process.operator_url, trust_env=False) as http,
    ):
        server.kill()
        assert (await http.get("/health")).status_code == 200
        ready = await http.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["ready"] is False
        assert "socket" in ready.json()["reason"]
        pools = await http.get("/api/v1/pools")
        assert pools.status_code == 503
        assert pools.json()["error"]["code"] in ("store_unavailable", "outcome_unknown")
        await wait_until_async(lambda: scheduler.logged("store_down"), "the outage is noticed")
        assert "pyscheduler_store_up 0.0" in (await http.get("/metrics")).text.splitlines()
        server.start()
        await wait_until_async(lambda: scheduler.logged("store_back"), "the end of the outage is noticed")
        assert (await http.get("/ready")).status_code == 200


async def test_a_store_that_hangs_does_not_hang_the_readiness(make_server: Callable[..., PlainServer]) -> None:
    server = make_server()
    scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": server.url, "store_timeout_ms": 500}))
    async with (
        scheduler.process,
        httpx.AsyncClient(base_url=scheduler.process.operator_url, trust_env=False) as http,
    ):
        server.pause()
        ready = await http.get("/ready")
        assert ready.status_code == 503
        server.resume()
