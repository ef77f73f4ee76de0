"""Scenarios of jobs: reservations, further attempts, updates, and what upkeep does with them."""

from __future__ import annotations

from typing import Any

import pytest

from pyscheduler.core.jobs import JobRequest
from pyscheduler.errors import Conflict, NotFound
from tests.crash.scenario import Steps, pass_time, quiet_scenario, scenario, sync
from tests.harness import LEASE_MS, Cell

ANY = JobRequest("zh", "en", tenant="acme", session="talk")
KEPT_MS = 600_000


async def reserve(cell: Cell, job_id: str = "j", request: JobRequest = ANY, **options: Any) -> None:
    await cell.allocator.reserve(job_id, request, **({"owner": "me", "lease_ms": 10_000} | options))


async def two_nodes(cell: Cell, **selection: Any) -> None:
    await sync(cell, selection=selection)
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "zh", load=0.5)


@scenario
async def a_reservation(cell: Cell) -> Steps:
    await two_nodes(cell)
    yield
    await reserve(cell)


@scenario
async def a_reservation_of_a_known_kind(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await reserve(cell, "k")


@scenario
async def a_reservation_of_a_session(cell: Cell) -> Steps:
    await two_nodes(cell, strategy="affinity")
    yield
    await reserve(cell)


@scenario
async def a_further_attempt(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await reserve(cell, attempt=2)


@quiet_scenario
async def a_reservation_that_is_repeated(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await reserve(cell)


@quiet_scenario
async def a_reservation_under_an_older_attempt(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell, attempt=2)
    yield
    with pytest.raises(Conflict):
        await reserve(cell)


@quiet_scenario
async def a_reservation_that_would_be(cell: Cell) -> Steps:
    await two_nodes(cell)
    yield
    await reserve(cell, dry_run=True)


@quiet_scenario
async def an_explanation_of_a_job(cell: Cell) -> Steps:
    await two_nodes(cell)
    yield
    await cell.allocator.explain_job("j", ANY)


@quiet_scenario
async def a_page_of_jobs(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await cell.allocator.jobs()


@scenario
async def a_job_that_starts(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await cell.allocator.start_job("j", 1, owner="me", lease_ms=20_000)


@scenario
async def a_lease_of_a_job_that_is_renewed(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await cell.allocator.renew_job("j", 1, owner="me", lease_ms=20_000)


@scenario
async def a_job_that_is_finished(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await cell.allocator.finish_job("j", 1, owner="me")


@scenario
async def one_of_two_jobs_of_a_node_that_is_given_back(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell, "i")
    await reserve(cell)
    yield
    await cell.allocator.release_job("j", 1, owner="me")


@quiet_scenario
async def a_job_that_is_not_known(cell: Cell) -> Steps:
    yield
    with pytest.raises(NotFound):
        await cell.allocator.finish_job("j", 1, owner="me")


@scenario
async def a_job_that_lapses(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    await pass_time(cell, 10_000)
    yield
    await cell.reconcile()


@scenario
async def a_job_that_is_forgotten(cell: Cell) -> Steps:
    await sync(cell, selection={"strategy": "affinity"})
    await cell.register("a", "en", "zh", lease_ms=2 * KEPT_MS)
    await reserve(cell)
    await cell.allocator.fail_job("j", 1, owner="me")
    await pass_time(cell, KEPT_MS)
    yield
    await cell.reconcile()


@scenario
async def a_node_that_expires_with_its_jobs(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell, lease_ms=2 * LEASE_MS)
    await pass_time(cell, LEASE_MS)
    yield
    await cell.reconcile(brake_share=1.0)


@scenario
async def a_drained_node_that_loses_its_jobs(cell: Cell) -> Steps:
    await two_nodes(cell, on_drain="lose")
    await reserve(cell)
    await cell.allocator.hold("a", owner="ops", reason="repair")
    await pass_time(cell, 1)
    yield
    await cell.reconcile()


@scenario
async def a_hold_on_a_node_with_jobs(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await cell.allocator.hold("a", owner="ops", reason="repair")


@scenario
async def a_new_session_of_a_node_with_jobs(cell: Cell) -> Steps:
    await two_nodes(cell)
    await reserve(cell)
    yield
    await cell.register("a", "en", "zh", session_id="again")
