"""Bad requests for jobs, over HTTP and at the command line: named, with what to do, and nothing changes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from pyscheduler import Allocator
from pyscheduler.core.jobs import JobRequest
from tests.doors import connect
from tests.e2e.processes import ServeProcess
from tests.e2e.victim import invoke, needs_proc, store_of
from tests.fixtures.clients import State

pytestmark = needs_proc


ASKED = {"job_id": "j", "src": "en", "tgt": "de", "owner": "me", "lease_ms": 60_000}

BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "no JSON": (b"job_id=j", 422),
    "no text": (bytes(range(256)), 422),
    "deep nesting": (b"[" * 250_000, 422),
    "20,000 unknown members": (b"{" + b",".join(b'"%d":0' % number for number in range(20_000)) + b"}", 422),
    "a long id": (json.dumps({**ASKED, "job_id": "j" * 10_000}).encode(), 422),
    "no slots": (json.dumps({**ASKED, "slots": 0}).encode(), 422),
    "negative slots": (json.dumps({**ASKED, "slots": -5}).encode(), 422),
    "very many slots": (json.dumps({**ASKED, "slots": 10**400}).encode(), 422),
    "an unknown language": (json.dumps({**ASKED, "src": "xx"}).encode(), 503),
    "an unknown service": (json.dumps({**ASKED, "services": ["magic"]}).encode(), 503),
    "escapes": (json.dumps({**ASKED, "\x1b[2J": "\u202e"}).encode(), 422),
    "many jobs": (json.dumps({"jobs": [ASKED] * 1500, "owner": "me", "lease_ms": 1}).encode(), 422),
    "ten megabytes": (b" " * 10_000_000, 413),
}


@pytest.mark.parametrize(("body", "status"), BAD_BODIES.values(), ids=list(BAD_BODIES))
async def test_a_bad_request_for_a_job_is_named_and_changes_nothing(
    body: bytes, status: int, victim: ServeProcess, survives: None
) -> None:
    async with (
        connect(victim.url) as node,
        httpx.AsyncClient(base_url=victim.operator_url, trust_env=False) as http,
    ):
        await node.become_ready(State(languages=("en", "de")), node_id="worker")
        before = (await http.get("/api/v1/jobs")).json()["total"]
        for _ in range(20):
            answer = await http.post("/api/v1/jobs/reserve", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status, answer.text
            error = answer.json()["error"]
            assert error["message"].isprintable()
            assert len(answer.content) < 2000
            assert error["next"]
        assert (await http.get("/api/v1/jobs")).json()["total"] == before


PAIR = ("--src", "en", "--tgt", "de")

BAD_JOBS: dict[str, tuple[tuple[str, ...], int, str, str]] = {
    "an unknown language": (("reserve", "new", "--src", "xx", "--tgt", "de"), 4, "asr:xx: no node has it", "check"),
    "an unknown service": (
        ("reserve", "new", *PAIR, "--service", "magic"),
        4,
        "service:magic: no node has it",
        "check",
    ),
    "no slots": (("reserve", "new", *PAIR, "--slots", "0"), 2, "0 is not in the range", "--help"),
    "negative slots": (("reserve", "new", *PAIR, "--slots", "-3"), 2, "-3 is not in the range", "--help"),
    "an attempt from the future": (("renew", "held", "--attempt", "7"), 3, "is only at attempt 1", "--attempt 1"),
    "a reservation from the future": (("reserve", "held", *PAIR, "--attempt", "7"), 3, "only at attempt 1", "reassign"),
    "a long id": (("reserve", "j" * 10_000, *PAIR), 2, "(10000 characters) is no job id", "1 to 128 characters"),
    "finished twice": (("finish", "over", "--owner", "me"), 0, "", ""),
    "failed once finished": (("fail", "over", "--owner", "me"), 3, "job over is finished", "a job id of its own"),
    "somebody else": (("release", "held", "--owner", "you"), 3, "job held belongs to me", "--owner me"),
    "nobody's": (("release", "nobody"), 1, "no job nobody", "pyscheduler job list"),
}


@pytest.mark.parametrize(("arguments", "exit_code", "said", "step"), BAD_JOBS.values(), ids=list(BAD_JOBS))
async def test_what_is_wrong_with_a_job_is_told_with_what_to_do(
    arguments: tuple[str, ...],
    exit_code: int,
    said: str,
    step: str,
    victim: ServeProcess,
    survives: None,
    state_dir: Path,
) -> None:
    state = ("--state-dir", str(state_dir / "state"))
    async with (
        connect(victim.url) as node,
        await Allocator.open(store_of(state_dir / "state")) as allocator,
    ):
        await node.become_ready(State(languages=("en", "de")), node_id="worker")
        for name in ("held", "over"):
            await allocator.reserve(name, JobRequest("en", "de"), owner="me", lease_ms=60_000)
        await allocator.finish_job("over", 1, owner="me")
        before = [(job.state, job.attempt) for job in await allocator.describe_jobs(["held", "over"])]
        result = await asyncio.to_thread(invoke, "job", *arguments, *state)
        assert result.exit_code == exit_code, result.output
        assert said in result.stderr
        assert step in result.stderr
        assert len(result.stderr) < 1000
        assert [(job.state, job.attempt) for job in await allocator.describe_jobs(["held", "over"])] == before
