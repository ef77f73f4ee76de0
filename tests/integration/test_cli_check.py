"""The check of the invariants on the command line."""

from __future__ import annotations

import pytest

from tests.commands import Cli
from tests.harness import Cell


async def test_check_says_that_all_is_well(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    assert await cli.json("check") == {"ok": True, "violations": [], "nodes": 1, "pools": 1, "version": 2}
    assert "ok: every invariant holds (1 node, 1 pool, version 2)" in (await cli("check")).stdout


@pytest.mark.breaks_store
async def test_check_exits_1_when_an_invariant_is_broken(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.store.command("ZREM", cell.store.key("leases"), "n1")
    report = await cli.json("check", exit_code=1)
    assert report["ok"] is False
    assert report["violations"][0]["invariant"] == 1
    assert "leases" in report["violations"][0]["detail"]
    assert "not ok: " in (await cli("check", exit_code=1)).stdout
