"""What tests of reservations share: a request, reservations of it, why there is none, and how one ended."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest, Reservation
from pyscheduler.errors import (
    NoNode,
)
from tests.harness import Cell

ZH_EN = JobRequest("zh", "en", services=("asr", "nmt", "tts"))
JOB_MS = 20_000
KEPT_MS = 600_000


async def reserve(cell: Cell, job_id: str, request: JobRequest = ZH_EN, **options: Any) -> Reservation:
    return await cell.allocator.reserve(job_id, request, **({"owner": "me", "lease_ms": JOB_MS} | options))


async def many(cell: Cell, count: int, request: JobRequest = ZH_EN, **options: Any) -> list[Any]:
    asks = [JobAsk(f"job-{number}", request) for number in range(count)]
    return await cell.allocator.reserve_many(asks, **({"owner": "me", "lease_ms": JOB_MS} | options))


async def reasons(cell: Cell, request: JobRequest = ZH_EN, **options: Any) -> dict[str, int]:
    """Why there is no node; the explanation, by the same code, says the same."""
    with pytest.raises(NoNode) as refused:
        await reserve(cell, "refused", request, **options)
    explained = await cell.allocator.explain_job("refused", request)
    assert explained.node_id is None
    assert (explained.reasons, explained.missing) == (refused.value.reasons, refused.value.missing)
    if "quota" not in explained.reasons:
        assert Counter(node.reason for node in explained.nodes) == explained.reasons
    return dict(refused.value.reasons)


async def ended(cell: Cell, job_id: str) -> list[tuple[str, str | None]]:
    events = await cell.allocator.events()
    return [
        (event.fields["state"], event.reason)
        for event in events
        if event.type == "job.ended" and event.fields["job_id"] == job_id
    ]
