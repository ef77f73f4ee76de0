"""Reservations while everything else changes: no slot is given twice, none is lost, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pyscheduler import Allocator
from pyscheduler.core.jobs import JobAsk, JobRequest, Reservation
from pyscheduler.core.results import ReconcileLimits
from pyscheduler.errors import Conflict, NoNode, NotFound, SessionLost
from tests.harness import LEASE_MS, SETTABLE_CLOCK, Cell, document_of, pool
from tests.oracle import read_state

SLOTS = 3
NODES = [f"n{number}" for number in range(8)]
LANGUAGES = (("en", "zh"), ("de", "en", "zh"), ("en", "fr", "zh"))
ROUNDS = 40
STRATEGIES = ("least_loaded", "power_of_two", "random", "affinity")


@pytest.fixture
async def others(redis_url: str, namespace: str, cell: Cell) -> AsyncIterator[list[Allocator]]:
    """Allocators of other processes."""
    opened = [await Allocator.open(redis_url, namespace=namespace, script_overrides=SETTABLE_CLOCK) for _ in range(3)]
    yield opened
    for one in opened:
        await one.aclose()


async def scheduler(allocator: Allocator, name: str, chance: random.Random) -> int:
    """Reserves, starts, ends and reassigns jobs; returns how many it got."""
    got = 0
    for turn in range(ROUNDS):
        request = JobRequest("zh", "en", slots=chance.choice((1, 1, 2)), tenant=chance.choice(("", "acme")))
        asks = [JobAsk(f"{name}-{turn}-{number}", request) for number in range(4)]
        lease_ms = chance.choice((1, 10 * LEASE_MS))
        found = await allocator.reserve_many(asks, owner=name, lease_ms=lease_ms)
        for one in found:
            if not isinstance(one, Reservation):
                assert isinstance(one, NoNode), one
                continue
            got += 1
            try:
                attempt = one.attempt
                if chance.random() < 0.3:
                    await allocator.reassign(one.job_id, request, after=1, owner=name, lease_ms=lease_ms)
                    attempt = 2
                    with pytest.raises(Conflict):
                        await allocator.finish_job(one.job_id, 1, owner=name)
                await allocator.start_job(one.job_id, attempt, owner=name, lease_ms=lease_ms)
                end = chance.choice((allocator.finish_job, allocator.fail_job, allocator.release_job))
                await asyncio.gather(*(end(one.job_id, attempt, owner=name) for _ in range(2)))
            except (NoNode, NotFound, Conflict):
                continue
    return got


async def test_no_slot_is_given_twice_and_none_is_lost(cell: Cell, others: list[Allocator]) -> None:
    chance = random.Random(5)
    await asyncio.gather(*(cell.register(node, *LANGUAGES[len(node) % 2], load=0.2) for node in NODES))
    done = asyncio.Event()

    async def until_done(step: Callable[[], Awaitable[object]]) -> None:
        while not done.is_set():
            await step()

    async def configure() -> None:
        pools = [
            pool("english", semantic={"contains": ["en"]}),
            pool("german", semantic={"contains": ["de"]}, priority=1),
        ]
        selection = {
            "slots_per_node": SLOTS,
            "strategy": chance.choice(STRATEGIES),
            "on_drain": chance.choice(("keep", "lose")),
            "on_new_epoch": chance.choice(("keep", "lose")),
            "tenant_slots": chance.choice((0, 5)),
        }
        document = document_of(*chance.sample(pools, chance.randrange(3)), selection=selection)
        await cell.allocator.sync(document, force=True, allow_empty=True)

    async def hold() -> None:
        node = chance.choice(NODES)
        await cell.allocator.hold(node, owner="ops", reason="x", allow_unknown=True)
        await cell.allocator.lift(node, owner="ops", reason="x")

    async def nodes_come_and_go() -> None:
        node, languages = chance.choice(NODES), chance.choice(LANGUAGES)
        session = (await cell.register(node, *languages, session_id=f"s{chance.random()}")).session
        try:
            await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=chance.choice((0.0, 0.5, 1.0)))
            if chance.random() < 0.5:
                await cell.allocator.release(session, grace_ms=0, reason="closed")
        except SessionLost:
            pass

    async def upkeep() -> None:
        await cell.trust_leases()
        limits = ReconcileLimits(expire=3, brake_share=1.0)
        await cell.allocator.reconcile(lease_ms=LEASE_MS, force=True, limits=limits)

    async def look() -> None:
        report = await cell.allocator.check()
        assert report.ok, report.violations
        state = await read_state(cell.store)
        assert max((int(used) for used, *_ in state.reserved.values()), default=0) <= SLOTS

    await configure()
    background = [asyncio.create_task(until_done(step)) for step in (configure, hold, nodes_come_and_go, upkeep, look)]
    schedulers = [
        asyncio.create_task(scheduler(allocator, f"s{number}", random.Random(number)))
        for number, allocator in enumerate(others)
    ]
    try:
        got = await asyncio.gather(*schedulers)
    finally:
        done.set()
        await asyncio.gather(*background)
    assert min(got) > ROUNDS / 4, "there was something to be had"
    await cell.pass_time(20 * LEASE_MS)
    for _ in range(40):
        await upkeep()
        if not (await read_state(cell.store)).reserved:
            break
    state = await read_state(cell.store)
    assert (state.reserved, state.tenants) == ({}, {})
    _replayed_within_bounds(state.events)


def _replayed_within_bounds(events: list[dict[str, str]]) -> None:
    """At no moment has a node more slots reserved than it has, nor a job two nodes."""
    used: dict[str, int] = defaultdict(int)
    holding: dict[str, str] = {}
    for event in events:
        if event["type"] == "job.reserved":
            assert event["job_id"] not in holding, event
            holding[event["job_id"]] = event["node_id"]
            used[event["node_id"]] += int(event["slots"])
            assert used[event["node_id"]] <= SLOTS, event
        elif event["type"] == "job.ended":
            assert holding.pop(event["job_id"]) == event["node_id"]
            used[event["node_id"]] -= int(event["slots"])
    assert not holding
