"""Cells out of the ordinary: with lower bounds, and put back to an earlier state."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyscheduler import Allocator
from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts.loader import lua_directory
from tests.harness import SETTABLE_CLOCK, Cell


def lower_limits(**limits: int) -> dict[str, str]:
    """An override of the scripts' bounds: name of a bound in ``lua/lib/limits.lua`` -> its value."""
    text = (lua_directory() / "lib" / "limits.lua").read_text(encoding="utf-8")
    for name, value in limits.items():
        text, count = re.subn(rf"^local {name} = \d+", f"local {name} = {value}", text, flags=re.MULTILINE)
        assert count == 1, f"limits.lua has no bound {name}"
    return {"lib/limits.lua": text}


def altered_script(name: str, old: str, new: str) -> dict[str, str]:
    """An override of a script, with one place of it changed."""
    text = (lua_directory() / name).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} has changed: {old!r} is there {text.count(old)} times"
    return {name: text.replace(old, new)}


@asynccontextmanager
async def limited_cell(redis_url: str, namespace: str, **limits: int) -> AsyncIterator[Cell]:
    """The cell of a test, with some of the scripts' bounds lowered."""
    overrides = {**SETTABLE_CLOCK, **lower_limits(**limits)}
    async with await Allocator.open(redis_url, namespace=namespace, script_overrides=overrides) as allocator:
        yield Cell(allocator, allocator._store)


class Replica:
    """What a replica holds that has missed everything since it was made. To fail over to it loses the newest writes."""

    def __init__(self, cell: Cell) -> None:
        self._store = cell.store

    @classmethod
    async def of(cls, cell: Cell) -> Replica:
        replica = cls(cell)
        for name in KEY_NAMES:
            await replica._copy(cell.store.key(name), replica._shadow(name))
        return replica

    async def fail_over(self) -> None:
        """The store is the replica's now. The test's clock goes on."""
        config = self._store.key("config")
        offset = await self._store.command("HGET", config, "test_offset_ms")
        for name in KEY_NAMES:
            await self._copy(self._shadow(name), self._store.key(name))
        if offset is not None:
            await self._store.command("HSET", config, "test_offset_ms", offset)

    def _shadow(self, name: str) -> str:
        return f"{self._store.key(name)}:replica"

    async def _copy(self, source: str, destination: str) -> None:
        assert await self._store.command("COPY", source, destination, "REPLACE") == 1


async def lose_everything(cell: Cell) -> None:
    """The store restarts without its data. The clock of the test goes with it."""
    await cell.store.command("DEL", *(cell.store.key(name) for name in KEY_NAMES))
