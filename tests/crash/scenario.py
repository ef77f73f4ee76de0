"""What a scenario is: it prepares a state, yields, and makes one call. The clock stands, so that runs compare."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from tests.crash.rig import Scenario
from tests.harness import EPOCH_MS, Cell, document_of, pool

Steps = AsyncGenerator[None, None]

WRITING: dict[str, Scenario] = {}
"""Scenarios whose call writes, by name."""

QUIET: dict[str, Scenario] = {}
"""Those whose call is refused, has nothing to do, or only reads."""

CHINESE = pool("chinese", semantic={"contains": ["zh"]})
ENGLISH = pool("english", semantic={"contains": ["en"]})


def scenario(function: Scenario) -> Scenario:
    WRITING[function.__name__] = function
    return function


def quiet_scenario(function: Scenario) -> Scenario:
    QUIET[function.__name__] = function
    return function


def auto(**policy: Any) -> dict[str, Any]:
    return {"require_services": [], "idle_ttl": "1s", **policy}


async def pass_time(cell: Cell, milliseconds: int) -> None:
    """Lets time pass as it does while upkeep is running all along."""
    await cell.advance(milliseconds)
    config = cell.store.key("config")
    offset = int(await cell.store.command("HGET", config, "test_offset_ms"))
    await cell.store.command("HSET", config, "ticked_at", EPOCH_MS + offset, "suspended_until", 0)


async def sync(cell: Cell, *pools: dict[str, Any], **sections: Any) -> None:
    await cell.allocator.sync(document_of(*pools, **sections), force=True, allow_empty=True)
