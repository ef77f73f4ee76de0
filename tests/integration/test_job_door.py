"""Jobs at the operator door: each answer held against the OpenAPI description; and what the door refuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema
import pytest

from pyscheduler import NodeReport
from pyscheduler.core.limits import MAX_JOB_ID_CHARS
from pyscheduler.core.results import NodeStatus
from pyscheduler.registry.http_bodies import MAX_BODY_BYTES
from pyscheduler.registry.job_bodies import MAX_JOBS_OF_A_REQUEST
from pyscheduler.registry.job_paths import MAX_WAITING_REQUESTS
from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Scheduler
from tests.harness import document_of, facts_of
from tests.support import wait_until_async

PAIR = {"src": "zh", "tgt": "en"}
OWNED = {"owner": "me", "lease_ms": 60_000}
WANTED = {**PAIR, **OWNED}


@dataclass
class Door:
    """The operator door of a scheduler, and its own description."""

    scheduler: Scheduler
    http: httpx.AsyncClient
    description: dict[str, Any]

    async def ask(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        """The JSON answer, after it was held against what the description promises for this path and status."""
        answer = await self.http.request(method, path, **request)
        assert answer.status_code == status, answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
        body = answer.json()
        names = [name for name, one in self.description["paths"].items() if method.lower() in one]
        template = next(name for name in names if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", name), path))
        responses = self.description["paths"][template][method.lower()]["responses"]
        schema = responses[str(status)]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**schema, "components": self.description["components"]})
        return body

    async def get(self, path: str, status: int = 200, **query: Any) -> Any:
        return await self.ask("GET", path, status, params=query)

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        return await self.ask("POST", f"/api/v1/jobs/{path}", status, json=body)

    async def refused(self, path: str, body: Any, status: int) -> Any:
        return (await self.post(path, body, status))["error"]

    async def reserve(self, job_id: str, **more: Any) -> Any:
        return await self.post("reserve", {"job_id": job_id, **WANTED, **more})

    async def metrics(self) -> list[str]:
        return (await self.http.get("/metrics")).text.splitlines()

    async def node(self, node_id: str, *languages: str, **facts: Any) -> Any:
        report = NodeReport.of(facts_of(*languages, **facts), status=NodeStatus.READY)
        return await self.scheduler.allocator.register(
            node_id, report, session_id=f"socket-of-{node_id}", instance="test", lease_ms=60_000
        )


@pytest.fixture
async def door(redis_url: str, namespace: str) -> AsyncIterator[Door]:
    scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": redis_url, "namespace": namespace}))
    async with (
        scheduler.process,
        httpx.AsyncClient(base_url=scheduler.process.operator_url, trust_env=False, timeout=30) as http,
    ):
        yield Door(scheduler, http, (await http.get("/openapi.json")).json())
    assert not [line for line in scheduler.lines if "defect" in line["event"]]


# --- the life of a job -----------------------------------------------------------------------------------------------


async def test_the_life_of_a_job(door: Door) -> None:
    registration = await door.node("a", "en", "zh")
    reserved = await door.reserve("j", services=["ASR", "nmt"], slots=2)
    assert reserved.pop("lease_end_at") > 1_700_000_000_000
    assert reserved == {
        "job_id": "j",
        "attempt": 1,
        "state": "reserved",
        "node_id": "a",
        "epoch": registration.session.epoch,
        "pool": "en-zh",
        "version": registration.version,
        "slots": 2,
        "fresh": True,
        "plan": False,
    }
    assert (await door.reserve("j", services=["nmt", "asr"], slots=2))["fresh"] is False
    shown = await door.get("/api/v1/jobs/j")
    assert (shown["state"], shown["tenant"], shown["session"], shown["reason"]) == ("reserved", None, None, None)
    assert 0 < shown["lease_ms"] <= 60_000
    said = {"attempt": 1, **OWNED}
    assert (await door.post("j/renew", {**said, "lease_ms": 90_000}))["state"] == "reserved"
    assert (await door.post("j/start", said))["state"] == "running"
    ended = {"attempt": 1, "owner": "me", "reason": "all said"}
    assert (await door.post("j/finish", ended))["state"] == "finished"
    assert (await door.post("j/finish", ended))["state"] == "finished"
    assert (await door.get("/api/v1/jobs/j"))["reason"] == "all said"
    assert [line["operation"] for line in door.scheduler.logged("job_changed")] == [
        "reserve",
        "renew",
        "start",
        "finish",
        "finish",
    ]
    assert {(line["owner"], line["job_id"], line["peer"]) for line in door.scheduler.logged("job_changed")} == {
        ("me", "j", "127.0.0.1")
    }


async def test_a_further_attempt_goes_elsewhere(door: Door) -> None:
    await door.node("a", "en", "zh")
    await door.node("b", "en", "zh")
    first = await door.reserve("j")
    assert (await door.post("j/fail", {"attempt": 1, "owner": "me"}))["state"] == "failed"
    second = await door.post("j/reassign", {"after": 1, **WANTED, "owner": "other"})
    assert (second["attempt"], second["fresh"]) == (2, True)
    assert {first["node_id"], second["node_id"]} == {"a", "b"}
    assert (await door.post("j/release", {"attempt": 2, "owner": "other"}))["state"] == "released"


async def test_a_plan_changes_nothing(door: Door) -> None:
    await door.node("a", "en", "zh")
    planned = await door.reserve("j", plan=True)
    assert (planned["node_id"], planned["plan"]) == ("a", True)
    await door.get("/api/v1/jobs/j", 404)
    await door.post("j/reassign", {"after": 1, **WANTED, "plan": True})
    many = await door.post("reserve", {"jobs": [{"job_id": "k", **PAIR}], **OWNED, "plan": True})
    assert many["answers"][0]["reservation"]["plan"] is True
    assert (await door.get("/api/v1/jobs"))["total"] == 0
    assert (
        "plan does not wait"
        in (await door.refused("reserve", {"job_id": "j", **WANTED, "plan": True, "wait_ms": 1}, 422))["message"]
    )
    assert door.scheduler.logged("job_changed") == []


async def test_many_at_once_have_answers_of_their_own(door: Door) -> None:
    await door.scheduler.allocator.sync(document_of(selection={"slots_per_node": 2}))
    await door.node("a", "en", "zh")
    jobs = [
        {"job_id": "one", **PAIR},
        {"job_id": "two", "src": "zh", "tgt": "fr"},
        {"job_id": "three", **PAIR, "attempt": 3},
    ]
    answers = (await door.post("reserve", {"jobs": [*jobs, {"job_id": "four", **PAIR}], **OWNED}))["answers"]
    assert [(one["job_id"], one["status"]) for one in answers] == [
        ("one", 200),
        ("two", 503),
        ("three", 200),
        ("four", 503),
    ]
    assert answers[0]["reservation"]["node_id"] == "a"
    assert "error" not in answers[0]
    assert answers[1]["error"]["reasons"] == {"no_pair": 1}
    assert "reservation" not in answers[1]
    assert answers[3]["error"]["code"] == "no_node"
    (line,) = door.scheduler.logged("job_changed")
    assert (line["jobs"], line["nodes"], line["first"]) == (2, 1, ["one", "three"])


async def test_jobs_page_by_page(door: Door) -> None:
    await door.node("a", "en", "zh")
    await door.node("b", "de", "en", "zh")
    for number in range(5):
        await door.reserve(f"job-{number}", owner=f"owner-{number % 2}", tenant="acme" if number else None)
    page = await door.get("/api/v1/jobs")
    assert (page["total"], page["limit"], page["next"]) == (5, 100, None)
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await door.get("/api/v1/jobs", limit=2, **after)
        seen += [one["job_id"] for one in page["jobs"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(seen) == [f"job-{number}" for number in range(5)]

    async def ids(**query: str) -> list[str]:
        return [one["job_id"] for one in (await door.get("/api/v1/jobs", **query))["jobs"]]

    assert await ids(owner="owner-1") == ["job-1", "job-3"]
    assert await ids(node="a", state="live") == ["job-0", "job-1", "job-2", "job-3"]
    assert await ids(pool="de-en-zh", tenant="acme") == ["job-4"]
    assert await ids(state="finished") == []


async def test_an_explanation(door: Door) -> None:
    await door.node("a", "en", "zh")
    await door.node("b", "de", "fr")
    await door.scheduler.allocator.hold("a", owner="ops", reason="repair")
    explained = await door.post("explain", PAIR)
    assert (explained["node_id"], explained["reasons"]) == (None, {"draining": 1, "no_pair": 1})
    assert {(one["node_id"], one["reason"]) for one in explained["nodes"]} == {("a", "draining"), ("b", "no_pair")}
    explained = await door.post("explain", {"src": "de", "tgt": "fr", "job_id": "j", "services": ["asr"]})
    assert explained["node_id"] == "b"
    assert {"node_id": "b", "pool": "de-fr", "reason": None} in explained["nodes"]


# --- refusals of the allocator ---------------------------------------------------------------------------------------


async def test_what_does_not_fit_what_is_there_is_a_conflict(door: Door) -> None:
    await door.node("a", "en", "zh")
    await door.reserve("j")
    await door.post("j/reassign", {"after": 1, **WANTED, "scope": "exact"}, 503)
    wanted = {"job_id": "j", **WANTED}
    cases = (
        ("reserve", {**wanted, "owner": "other"}, "not_owner", {"owner": "me"}),
        ("reserve", {**wanted, "slots": 2}, "request_changed", {"attempt": 1}),
        ("reserve", {**wanted, "attempt": 3}, "future_attempt", {"attempt": 1}),
        ("j/reassign", {"after": 2, **WANTED}, "future_attempt", {"attempt": 1}),
        ("j/renew", {"attempt": 2, **OWNED}, "future_attempt", {"attempt": 1}),
        ("j/start", {"attempt": 1, **OWNED, "owner": "other"}, "not_owner", {"owner": "me"}),
        ("j/release", {"attempt": 1, "owner": "other"}, "not_owner", {"owner": "me"}),
    )
    for path, body, code, fields in cases:
        error = await door.refused(path, body, 409)
        assert error["code"] == code
        assert error["next"]
        assert fields.items() <= error.items()
    await door.node("b", "en", "zh")
    await door.post("j/reassign", {"after": 1, **WANTED})
    stale = await door.refused("j/finish", {"attempt": 1, "owner": "me"}, 409)
    assert (stale["code"], stale["attempt"], stale["state"]) == ("stale_attempt", 2, "reserved")
    await door.post("j/finish", {"attempt": 2, "owner": "me"})
    for path, body in (("j/fail", {"attempt": 2, "owner": "me"}), ("j/reassign", {"after": 2, **WANTED})):
        ended = await door.refused(path, body, 409)
        assert (ended["code"], ended["state"]) == ("job_ended", "finished")
        assert "job id of its own" in ended["next"]


async def test_a_job_that_nobody_knows(door: Door) -> None:
    for path, body in (
        ("x/renew", {"attempt": 1, **OWNED}),
        ("x/start", {"attempt": 1, **OWNED}),
        ("x/finish", {"attempt": 1, "owner": "me"}),
        ("x/fail", {"attempt": 1, "owner": "me"}),
        ("x/release", {"attempt": 1, "owner": "me"}),
    ):
        assert (await door.refused(path, body, 404))["code"] == "not_found"
    assert (await door.get("/api/v1/jobs/x", 404))["error"]["code"] == "not_found"


async def test_why_there_is_no_node(door: Door) -> None:
    await door.scheduler.allocator.sync(document_of(selection={"slots_per_node": 1, "tenant_slots": 1}))
    error = await door.refused("reserve", {"job_id": "j", **WANTED}, 503)
    assert (error["code"], error["reasons"]) == ("no_node", {})
    await door.node("a", "en", "zh")
    await door.reserve("held", tenant="acme")
    error = await door.refused("reserve", {"job_id": "j", **WANTED}, 503)
    assert (error["reasons"], error["missing"]) == ({"no_slot": 1}, [])
    assert "wait_ms" in error["next"]
    error = await door.refused("reserve", {"job_id": "j", **WANTED, "tenant": "acme"}, 503)
    assert error["reasons"] == {"quota": 1}
    error = await door.refused("reserve", {"job_id": "j", **WANTED, "src": "xx", "services": ["magic"]}, 503)
    assert error["missing"] == ["asr:xx", "service:magic"]
    assert "waiting brings none" in error["next"]
    lines = await door.metrics()
    for line in (
        'pyscheduler_job_reservations_total{outcome="reserved"} 1.0',
        'pyscheduler_job_reservations_total{outcome="no_node"} 4.0',
        'pyscheduler_job_refusals_total{reason="no_slot"} 1.0',
        'pyscheduler_job_refusals_total{reason="quota"} 1.0',
        'pyscheduler_job_refusals_total{reason="no_pair"} 1.0',
        "pyscheduler_job_waits 0.0",
    ):
        assert line in lines


async def test_what_is_counted_of_updates(door: Door) -> None:
    await door.node("a", "en", "zh")
    await door.reserve("j")
    await door.reserve("j")
    await door.reserve("k", plan=True)
    await door.post("j/start", {"attempt": 1, **OWNED})
    await door.post("j/release", {"attempt": 2, "owner": "me"}, 409)
    lines = await door.metrics()
    for line in (
        'pyscheduler_job_reservations_total{outcome="repeated"} 1.0',
        'pyscheduler_job_reservations_total{outcome="planned"} 1.0',
        'pyscheduler_job_updates_total{operation="start",outcome="ok"} 1.0',
        'pyscheduler_job_updates_total{operation="release",outcome="future_attempt"} 1.0',
    ):
        assert line in lines


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_who_waits_gets_the_first_node_that_there_is(door: Door) -> None:
    waiting = asyncio.create_task(door.reserve("j", wait_ms=30_000))
    await wait_until_async(lambda: door.scheduler.process.shared.job_waits == 1, "it waits")
    assert "pyscheduler_job_waits 1.0" in await door.metrics()
    await door.node("a", "en", "zh")
    assert (await waiting)["node_id"] == "a"
    assert door.scheduler.process.shared.job_waits == 0


async def test_a_wait_ends_with_the_reasons(door: Door) -> None:
    await door.node("a", "de", "fr")
    error = await door.refused("reserve", {"job_id": "j", **WANTED, "wait_ms": 50}, 503)
    assert (error["code"], error["reasons"]) == ("no_node", {"no_pair": 1})


async def test_a_wait_ends_with_its_client(door: Door) -> None:
    waiting = asyncio.create_task(door.reserve("j", wait_ms=60_000))
    await wait_until_async(lambda: door.scheduler.process.shared.job_waits == 1, "it waits")
    waiting.cancel()
    await wait_until_async(lambda: door.scheduler.process.shared.job_waits == 0, "the wait is over")
    await door.node("a", "en", "zh")
    await door.get("/api/v1/jobs/j", 404)


async def test_a_wait_ends_with_the_process(door: Door) -> None:
    waiting = asyncio.create_task(
        door.http.post("/api/v1/jobs/reserve", json={"job_id": "j", **WANTED, "wait_ms": 60_000})
    )
    await wait_until_async(lambda: door.scheduler.process.shared.job_waits == 1, "it waits")
    await door.scheduler.process.stop()
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")


async def test_a_bounded_number_waits_and_the_others_find_the_door_open(door: Door) -> None:
    async with httpx.AsyncClient(
        base_url=door.scheduler.process.operator_url,
        trust_env=False,
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as http:

        async def wait(number: int) -> None:
            await http.post("/api/v1/jobs/reserve", json={"job_id": f"j{number}", **WANTED, "wait_ms": 60_000})

        waiting = [asyncio.create_task(wait(number)) for number in range(MAX_WAITING_REQUESTS)]
        await wait_until_async(lambda: door.scheduler.process.shared.job_waits == MAX_WAITING_REQUESTS, "all wait")
        error = await door.refused("reserve", {"job_id": "late", **WANTED, "wait_ms": 1000}, 503)
        assert error["code"] == "limit_exceeded"
        assert (await door.get("/health"))["status"] == "ok"
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await wait_until_async(lambda: door.scheduler.process.shared.job_waits == 0, "no wait is left")


# --- what is wrong with a request ------------------------------------------------------------------------------------

LONG = "j" * 10_000


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("reserve", {}, "src: Field required"),
        ("reserve", {"job_id": "j", **WANTED, "sorce": "zh"}, "sorce: unknown member; did you mean src?"),
        ("reserve", {"job_id": "j", **WANTED, "xyzzy": 1}, "xyzzy: unknown member"),
        ("reserve", {"job_id": "j", **WANTED, "slots": 0}, "slots: Input should be greater than or equal to 1"),
        ("reserve", {"job_id": "j", **WANTED, "slots": -1}, "slots: "),
        ("reserve", {"job_id": "j", **WANTED, "slots": "1"}, "slots: Input should be a valid integer"),
        ("reserve", {"job_id": "j", **WANTED, "slots": 1.0}, "slots: Input should be a valid integer"),
        ("reserve", {"job_id": "j", **WANTED, "slots": True}, "slots: "),
        ("reserve", {"job_id": LONG, **WANTED}, "job_id: String should have at most 128 characters"),
        ("reserve", {"job_id": "a b", **WANTED}, "'a b' is no job id"),
        ("reserve", {"job_id": "j", **WANTED, "src": "EN US!"}, "EN US!"),
        ("reserve", {"job_id": "j", **WANTED, "lease_ms": 0}, "lease_ms: "),
        ("reserve", {"job_id": "j", **WANTED, "lease_ms": 86_400_001}, "lease_ms: "),
        ("reserve", {"job_id": "j", **WANTED, "attempt": 0}, "attempt: "),
        ("reserve", {"job_id": "j", **WANTED, "wait_ms": 60_001}, "wait_ms: "),
        ("reserve", {"job_id": "j", **WANTED, "owner": "a/b"}, "'a/b' is no owner"),
        ("reserve", {"job_id": "j", **WANTED, "tenant": 7}, "tenant: Input should be a valid string"),
        ("reserve", {"job_id": "j", **WANTED, "labels": {"unique.x": "1"}}, "labels that begin with unique."),
        ("reserve", {"job_id": "j", **WANTED, "labels": {"zone": 1}}, "labels.zone: Input should be a valid string"),
        ("reserve", {"job_id": "j", **WANTED, "scope": "best"}, "scope: "),
        ("reserve", {"job_id": "j", **WANTED, "exclude": [f"n{number}" for number in range(65)]}, "exclude: "),
        ("reserve", {"jobs": [], **OWNED}, "jobs: "),
        ("reserve", {"jobs": [{"job_id": "j", **PAIR}] * (MAX_JOBS_OF_A_REQUEST + 1), **OWNED}, "jobs: "),
        (
            "reserve",
            {"jobs": [{"job_id": "j", **PAIR, "slotz": 1}], **OWNED},
            "jobs.0.slotz: unknown member; did you mean slots?",
        ),
        ("reserve", {"jobs": [{"job_id": "j", **PAIR}, {"job_id": "k", **PAIR, "src": "!"}], **OWNED}, "jobs.1: "),
        ("reserve", {"jobs": [{"job_id": "j", **PAIR}], **OWNED, "job_id": "k"}, "job_id: unknown member"),
        ("reserve", {"jobs": {"job_id": "j"}, **OWNED}, "jobs: "),
        ("explain", {"src": "en"}, "tgt: Field required"),
        ("explain", {**PAIR, "owner": "me"}, "owner: unknown member"),
        ("j/renew", {"attempt": 1, "owner": "me"}, "lease_ms: Field required"),
        ("j/finish", {"attempt": 1, **OWNED}, "lease_ms: unknown member"),
        ("j/finish", {"attempt": 1, "owner": "me", "reason": "r" * 129}, "reason: "),
        ("j/reassign", {"after": 0, **WANTED}, "after: "),
        ("j/reassign", {"after": 1_000_000, **WANTED}, "after: "),
        (f"{LONG}/finish", {"attempt": 1, "owner": "me"}, "no job id"),
        ("a%20b/reassign", {"after": 1, **WANTED}, "'a b' is no job id"),
        ("reserve", [], "the body is no JSON object"),
        ("reserve", "text", "the body is no JSON object"),
        ("reserve", None, "the body is no JSON object"),
    ],
)
async def test_what_breaks_a_rule_is_named_and_changes_nothing(door: Door, path: str, body: Any, said: str) -> None:
    await door.node("a", "en", "zh")
    answer = await door.http.post(
        f"/api/v1/jobs/{path}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_input"
    assert said in error["message"]
    assert len(error["message"]) < 1000
    assert error["message"].isprintable()
    assert (await door.get("/api/v1/jobs"))["total"] == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 40_000, b'{"src": NaN}', b"{'src': 1}", b'{"src": "\\ud800"}'],
    ids=[
        "nothing",
        "half",
        "no text",
        "lists without end",
        "objects without end",
        "no number",
        "Python",
        "half a pair",
    ],
)
async def test_what_is_no_json(door: Door, body: bytes) -> None:
    answer = await door.http.post("/api/v1/jobs/reserve", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "the body is no JSON" in answer.json()["error"]["message"]
    assert answer.json()["error"]["message"].isprintable()
    assert "openapi.json" in answer.json()["error"]["next"]


@pytest.mark.parametrize("path", ["reserve", "explain", "j/renew", "j/finish", "j/reassign"])
async def test_only_what_is_said_to_be_json_is_read(door: Door, path: str) -> None:
    text = json.dumps({"job_id": "j", **WANTED})
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jsonp",
    ):
        answer = await door.http.post(f"/api/v1/jobs/{path}", content=text, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert "application/json" in answer.json()["error"]["next"]


async def test_json_of_a_charset_is_json(door: Door) -> None:
    await door.node("a", "en", "zh")
    answer = await door.http.post(
        "/api/v1/jobs/reserve",
        content=json.dumps({"job_id": "j", **WANTED}),
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:5011", ""])
async def test_no_web_page_changes_anything(door: Door, origin: str) -> None:
    """Nor one that calls itself by a name which points here: its host and its origin would be the same."""
    await door.node("a", "en", "zh")
    headers = {"origin": origin, "host": origin.removeprefix("https://") or "localhost"}
    answer = await door.http.post("/api/v1/jobs/reserve", json={"job_id": "j", **WANTED}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    preflight = await door.http.options(
        "/api/v1/jobs/reserve", headers=headers | {"access-control-request-method": "POST"}
    )
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    await door.get("/api/v1/jobs/j", 404)


async def test_a_body_is_bounded(door: Door) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    for content in (b" " * (MAX_BODY_BYTES + 1), endless()):
        answer = await door.http.post(
            "/api/v1/jobs/reserve", content=content, headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    full = json.dumps({"job_id": "j", **WANTED}).encode().ljust(MAX_BODY_BYTES)
    answer = await door.http.post("/api/v1/jobs/reserve", content=full, headers={"content-type": "application/json"})
    assert answer.json()["error"]["code"] == "no_node"


async def test_methods(door: Door) -> None:
    for method, path in (
        ("GET", "/api/v1/jobs/j/renew"),
        ("PUT", "/api/v1/jobs/j"),
        ("DELETE", "/api/v1/jobs/j"),
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/j"),
        ("POST", "/api/v1/nodes"),
        ("HEAD", "/api/v1/jobs"),
    ):
        assert (await door.http.request(method, path)).status_code == 405, (method, path)
    # A job may be called as a path is.
    await door.node("a", "en", "zh")
    await door.reserve("reserve")
    assert (await door.get("/api/v1/jobs/reserve"))["node_id"] == "a"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=1001", 422),
        ("after=yesterday", 422),
        ("state=dead", 422),
        ("node=a%20b", 422),
        ("pool=EN", 422),
        (f"tenant={'t' * 100}", 422),
        ("owner=%00", 422),
        ("node=nobody", 200),
    ],
)
async def test_conditions_that_are_none(door: Door, query: str, status: int) -> None:
    assert (await door.http.get(f"/api/v1/jobs?{query}")).status_code == status
    assert (await door.http.get(f"/api/v1/jobs/{'j' * (MAX_JOB_ID_CHARS + 1)}")).status_code == 422


# --- the switch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "said", "changes"),
    [
        ("127.0.0.1", "loopback", True),
        ("localhost", "loopback", True),
        ("0.0.0.0", "loopback", False),
        ("127.0.0.1", "off", False),
        ("0.0.0.0", "on", True),
    ],
)
async def test_who_may_change_jobs(redis_url: str, namespace: str, host: str, said: str, changes: bool) -> None:
    settings = {"redis_url": redis_url, "namespace": namespace, "operator_host": host, "operator_changes": said}
    scheduler = Scheduler(ServeSettings(**{**QUICK, **settings}))
    async with (
        scheduler.process,
        httpx.AsyncClient(base_url=scheduler.process.operator_url, trust_env=False) as http,
    ):
        door = Door(scheduler, http, (await http.get("/openapi.json")).json())
        await door.node("a", "en", "zh")
        # What changes nothing is always answered.
        await door.reserve("j", plan=True)
        await door.post("explain", PAIR)
        await door.get("/api/v1/jobs")
        if changes:
            await door.reserve("j")
            return
        bodies = {
            "reserve": {"job_id": "j", **WANTED},
            "j/renew": {"attempt": 1, **OWNED},
            "j/start": {"attempt": 1, **OWNED},
            "j/finish": {"attempt": 1, "owner": "me"},
            "j/fail": {"attempt": 1, "owner": "me"},
            "j/release": {"attempt": 1, "owner": "me"},
            "j/reassign": {"after": 1, **WANTED},
        }
        for path, body in bodies.items():
            error = await door.refused(path, body, 403)
            assert error["code"] == "changes_off"
            assert "--operator-changes on" in error["next"]
        await door.refused("reserve", {"jobs": [{"job_id": "j", **PAIR}], **OWNED}, 403)
        assert (await door.get("/api/v1/jobs"))["total"] == 0


async def test_without_a_store_it_says_so(door: Door) -> None:
    await door.scheduler.allocator._reservations.aclose()
    for body in ({"job_id": "j", **WANTED}, {"jobs": [{"job_id": "j", **PAIR}, {"job_id": "k", **PAIR}], **OWNED}):
        error = await door.refused("reserve", body, 503)
        assert error["code"] == "store_unavailable"
        assert error["next"]
