"""Requests that wait for a node at the operator door: how they end, and that others find it open."""

from __future__ import annotations

import asyncio

import httpx

from pyscheduler.registry.job_paths import MAX_WAITING_REQUESTS
from tests.job_door import WANTED, JobDoor
from tests.support import wait_until_async


async def test_who_waits_gets_the_first_node_that_there_is(job_door: JobDoor) -> None:
    waiting = asyncio.create_task(job_door.reserve("j", wait_ms=30_000))
    await wait_until_async(lambda: job_door.scheduler.process.shared.job_waits == 1, "it waits")
    assert "pyscheduler_job_waits 1.0" in await job_door.metrics()
    await job_door.node("a", "en", "zh")
    assert (await waiting)["node_id"] == "a"
    assert job_door.scheduler.process.shared.job_waits == 0


async def test_a_wait_ends_with_the_reasons(job_door: JobDoor) -> None:
    await job_door.node("a", "de", "fr")
    error = await job_door.refused("reserve", {"job_id": "j", **WANTED, "wait_ms": 50}, 503)
    assert (error["code"], error["reasons"]) == ("no_node", {"no_pair": 1})


async def test_a_wait_ends_with_its_client(job_door: JobDoor) -> None:
    waiting = asyncio.create_task(job_door.reserve("j", wait_ms=60_000))
    await wait_until_async(lambda: job_door.scheduler.process.shared.job_waits == 1, "it waits")
    waiting.cancel()
    await wait_until_async(lambda: job_door.scheduler.process.shared.job_waits == 0, "the wait is over")
    await job_door.node("a", "en", "zh")
    await job_door.get("/api/v1/jobs/j", 404)


async def test_a_wait_ends_with_the_process(job_door: JobDoor) -> None:
    waiting = asyncio.create_task(
        job_door.http.post("/api/v1/jobs/reserve", json={"job_id": "j", **WANTED, "wait_ms": 60_000})
    )
    await wait_until_async(lambda: job_door.scheduler.process.shared.job_waits == 1, "it waits")
    await job_door.scheduler.process.stop()
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")


async def test_a_bounded_number_waits_and_the_others_find_the_door_open(job_door: JobDoor) -> None:
    async with httpx.AsyncClient(
        base_url=job_door.scheduler.process.operator_url,
        trust_env=False,
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as http:

        async def wait(number: int) -> None:
            await http.post("/api/v1/jobs/reserve", json={"job_id": f"j{number}", **WANTED, "wait_ms": 60_000})

        waiting = [asyncio.create_task(wait(number)) for number in range(MAX_WAITING_REQUESTS)]
        await wait_until_async(lambda: job_door.scheduler.process.shared.job_waits == MAX_WAITING_REQUESTS, "all wait")
        error = await job_door.refused("reserve", {"job_id": "late", **WANTED, "wait_ms": 1000}, 503)
        assert error["code"] == "limit_exceeded"
        assert (await job_door.get("/health"))["status"] == "ok"
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await wait_until_async(lambda: job_door.scheduler.process.shared.job_waits == 0, "no wait is left")
