"""Who may change jobs at the operator job_door."""

from __future__ import annotations

import httpx
import pytest

from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Scheduler
from tests.job_door import OWNED, PAIR, WANTED, JobDoor


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
        job_door = JobDoor(scheduler, http, (await http.get("/openapi.json")).json())
        await job_door.node("a", "en", "zh")
        # What changes nothing is always answered.
        await job_door.reserve("j", plan=True)
        await job_door.post("explain", PAIR)
        await job_door.get("/api/v1/jobs")
        if changes:
            await job_door.reserve("j")
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
            error = await job_door.refused(path, body, 403)
            assert error["code"] == "changes_off"
            assert "--operator-changes on" in error["next"]
        await job_door.refused("reserve", {"jobs": [{"job_id": "j", **PAIR}], **OWNED}, 403)
        assert (await job_door.get("/api/v1/jobs"))["total"] == 0
