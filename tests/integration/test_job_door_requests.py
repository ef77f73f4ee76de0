"""What the operator door refuses of a request about jobs, before anything is changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyscheduler.core.limits import MAX_JOB_ID_CHARS
from pyscheduler.registry.http_bodies import MAX_BODY_BYTES
from pyscheduler.registry.job_bodies import MAX_JOBS_OF_A_REQUEST
from tests.job_door import OWNED, PAIR, WANTED, JobDoor

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
async def test_what_breaks_a_rule_is_named_and_changes_nothing(
    job_door: JobDoor, path: str, body: Any, said: str
) -> None:
    await job_door.node("a", "en", "zh")
    answer = await job_door.http.post(
        f"/api/v1/jobs/{path}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_input"
    assert said in error["message"]
    assert len(error["message"]) < 1000
    assert error["message"].isprintable()
    assert (await job_door.get("/api/v1/jobs"))["total"] == 0


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
async def test_what_is_no_json(job_door: JobDoor, body: bytes) -> None:
    answer = await job_door.http.post(
        "/api/v1/jobs/reserve", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert "the body is no JSON" in answer.json()["error"]["message"]
    assert answer.json()["error"]["message"].isprintable()
    assert "openapi.json" in answer.json()["error"]["next"]


@pytest.mark.parametrize("path", ["reserve", "explain", "j/renew", "j/finish", "j/reassign"])
async def test_only_what_is_said_to_be_json_is_read(job_door: JobDoor, path: str) -> None:
    text = json.dumps({"job_id": "j", **WANTED})
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jsonp",
    ):
        answer = await job_door.http.post(f"/api/v1/jobs/{path}", content=text, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert "application/json" in answer.json()["error"]["next"]


async def test_json_of_a_charset_is_json(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    answer = await job_door.http.post(
        "/api/v1/jobs/reserve",
        content=json.dumps({"job_id": "j", **WANTED}),
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:5011", ""])
async def test_no_web_page_changes_anything(job_door: JobDoor, origin: str) -> None:
    """Nor one that calls itself by a name which points here: its host and its origin would be the same."""
    await job_door.node("a", "en", "zh")
    headers = {"origin": origin, "host": origin.removeprefix("https://") or "localhost"}
    answer = await job_door.http.post("/api/v1/jobs/reserve", json={"job_id": "j", **WANTED}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    preflight = await job_door.http.options(
        "/api/v1/jobs/reserve", headers=headers | {"access-control-request-method": "POST"}
    )
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    await job_door.get("/api/v1/jobs/j", 404)


async def test_a_body_is_bounded(job_door: JobDoor) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65_536

    for content in (b" " * (MAX_BODY_BYTES + 1), endless()):
        answer = await job_door.http.post(
            "/api/v1/jobs/reserve", content=content, headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    full = json.dumps({"job_id": "j", **WANTED}).encode().ljust(MAX_BODY_BYTES)
    answer = await job_door.http.post(
        "/api/v1/jobs/reserve", content=full, headers={"content-type": "application/json"}
    )
    assert answer.json()["error"]["code"] == "no_node"


async def test_methods(job_door: JobDoor) -> None:
    for method, path in (
        ("GET", "/api/v1/jobs/j/renew"),
        ("PUT", "/api/v1/jobs/j"),
        ("DELETE", "/api/v1/jobs/j"),
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/j"),
        ("POST", "/api/v1/nodes"),
        ("HEAD", "/api/v1/jobs"),
    ):
        assert (await job_door.http.request(method, path)).status_code == 405, (method, path)
    # A job may be called as a path is.
    await job_door.node("a", "en", "zh")
    await job_door.reserve("reserve")
    assert (await job_door.get("/api/v1/jobs/reserve"))["node_id"] == "a"


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
async def test_conditions_that_are_none(job_door: JobDoor, query: str, status: int) -> None:
    assert (await job_door.http.get(f"/api/v1/jobs?{query}")).status_code == status
    assert (await job_door.http.get(f"/api/v1/jobs/{'j' * (MAX_JOB_ID_CHARS + 1)}")).status_code == 422
