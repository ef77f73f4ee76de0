"""The operator door as jobs use it: each answer is held against the OpenAPI description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import NodeStatus
from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Scheduler
from tests.harness import facts_of
from tests.operator_door import OperatorDoor

PAIR = {"src": "zh", "tgt": "en"}
OWNED = {"owner": "me", "lease_ms": 60_000}
WANTED = {**PAIR, **OWNED}


@dataclass
class JobDoor(OperatorDoor):
    """That of a scheduler, asked about jobs."""

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
async def job_door(redis_url: str, namespace: str) -> AsyncIterator[JobDoor]:
    scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": redis_url, "namespace": namespace}))
    async with (
        scheduler.process,
        httpx.AsyncClient(base_url=scheduler.process.operator_url, trust_env=False, timeout=30) as http,
    ):
        yield JobDoor(scheduler, http, (await http.get("/openapi.json")).json())
    assert not [line for line in scheduler.lines if "defect" in line["event"]]
