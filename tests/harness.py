"""What tests of the store share: a clock that they set, an allocator on it, the check of every invariant after each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from pyscheduler import Allocator, Facts, NodeReport, PoolDocument
from pyscheduler.core.results import NodeStatus, ReconcileLimits, ReconcileReport, Registration, Session
from pyscheduler.scripts import calls
from pyscheduler.store import Store, StoreOptions
from tests.oracle import read_state, violations

LEASE_MS = 45_000
GRACE_MS = 30_000

SETTABLE_CLOCK = {
    "lib/clock.lua": """
local function now_ms()
  local time = redis.call('TIME')
  local offset = tonumber(redis.call('HGET', CONFIG, 'test_offset_ms') or 0)
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + offset
end
"""
}
"""Server time plus an offset that the test keeps in the configuration."""

EPOCH_MS = 1_700_000_000_000

STANDING_CLOCK = {
    "lib/clock.lua": f"""
local function now_ms()
  return {EPOCH_MS} + tonumber(redis.call('HGET', CONFIG, 'test_offset_ms') or 0)
end
"""
}
"""Time passes only when a step says so: a history is the same each time it is run."""


@dataclass
class Cell:
    """A namespace under test: the allocator, the raw store behind it, and its clock."""

    allocator: Allocator
    store: Store

    async def advance(self, milliseconds: int) -> None:
        """Lets time pass for every script."""
        await self.store.command("HINCRBY", self.store.key("config"), "test_offset_ms", milliseconds)

    async def register(self, node_id: str, *languages: str, session_id: str = "", **options: Any) -> Registration:
        """A node with one GPU that translates between ``languages``; ``facts`` and ``status`` may be given instead."""
        facts = options.pop("facts", None) or facts_of(*languages)
        status = options.pop("status", NodeStatus.READY)
        report = NodeReport.of(facts, status=status, load=options.pop("load", 0.0), record=options.pop("record", None))
        defaults = {"session_id": session_id or f"socket-of-{node_id}", "instance": "test", "lease_ms": LEASE_MS}
        return await self.allocator.register(node_id, report, **(defaults | options))

    async def reconcile(self, **limits: Any) -> ReconcileReport:
        return await self.allocator.reconcile(lease_ms=LEASE_MS, force=True, limits=ReconcileLimits(**limits))

    async def pass_time(self, milliseconds: int) -> None:
        """Lets time pass as it does while reconcile is running all along, so that it has not itself been away."""
        await self.advance(milliseconds)
        await self.trust_leases()

    async def trust_leases(self) -> None:
        """Ends the time during which reconcile expires nothing because it had itself been away."""
        await self.store.command(
            "HSET", self.store.key("config"), "ticked_at", await self.now_ms(), "suspended_until", 0
        )

    async def now_ms(self) -> int:
        seconds, micros = await self.store.command("TIME")
        offset = await self.store.command("HGET", self.store.key("config"), "test_offset_ms")
        return int(seconds) * 1000 + int(micros) // 1000 + int(offset or 0)

    async def pool_of(self, node_id: str) -> str | None:
        return (await self.allocator.node(node_id)).state.pool

    async def event_types(self, node_id: str | None = None) -> list[str]:
        return [event.type for event in await self.allocator.events() if node_id in (None, event.node_id)]


def facts_of(*languages: str, **members: Any) -> Facts:
    return Facts(
        **{
            "asr": languages,
            "tts": languages,
            "semantic": languages,
            "services": ("asr", "nmt", "tts"),
            "gpu_memory_gb": (24,),
            **members,
        }
    )


def document_of(*pools: dict[str, Any], **sections: Any) -> PoolDocument:
    """A document from plain objects."""
    return PoolDocument.model_validate({"schema": 1, "pools": list(pools), **sections})


def pool(name: str, *, priority: int = 0, **match: Any) -> dict[str, Any]:
    return {"name": name, "priority": priority, "match": match}


@pytest.fixture
async def cell(redis_url: str, namespace: str) -> AsyncIterator[Cell]:
    """An empty namespace on the engine under test."""
    allocator = await Allocator.open(redis_url, namespace=namespace, script_overrides=SETTABLE_CLOCK)
    try:
        yield Cell(allocator, allocator._store)
    finally:
        await allocator.aclose()


@pytest.fixture
def allocator(cell: Cell) -> Allocator:
    return cell.allocator


@pytest.fixture(autouse=True)
async def invariants_hold(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """After each test every invariant holds, by the product's own check and by the oracle's.

    A test that breaks the store on purpose says so with the mark ``breaks_store``.
    """
    if "redis_url" not in request.fixturenames or request.node.get_closest_marker("breaks_store"):
        yield
        return
    redis_url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")
    yield
    await assert_invariants(redis_url, namespace)


async def assert_invariants(redis_url: str, namespace: str) -> None:
    """Fails with every violation found."""
    store = await Store.open(redis_url, namespace, StoreOptions())
    try:
        if not await store.command("EXISTS", store.key("config")):
            return
        reply = await store.run(calls.check())
        assert reply[0] == "OK", reply
        assert reply[5:] == [], f"pyscheduler check: {reply[5:]}"
        found = violations(await read_state(store))
        assert not found, "\n".join(found)
    finally:
        await store.aclose()


__all__ = [
    "EPOCH_MS",
    "GRACE_MS",
    "LEASE_MS",
    "SETTABLE_CLOCK",
    "STANDING_CLOCK",
    "Cell",
    "Session",
    "allocator",
    "assert_invariants",
    "cell",
    "document_of",
    "facts_of",
    "invariants_hold",
    "pool",
]
