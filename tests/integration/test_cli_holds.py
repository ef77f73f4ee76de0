"""The commands that keep work away from nodes."""

from __future__ import annotations

import pytest

from tests.commands import Cli, error_of
from tests.harness import Cell


async def test_a_node_takes_work_when_no_hold_is_left(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    held = await cli.json("node", "drain", "n1", "--reason", "upgrade", "--owner", "ops")
    assert held["holds"][0].pop("at") > 1_700_000_000_000
    assert held == {"node_id": "n1", "changed": True, "live": True, "holds": [{"owner": "ops", "reason": "upgrade"}]}
    assert (await cli.json("node", "drain", "n1", "--reason", "upgrade", "--owner", "ops"))["changed"] is False
    await cli("node", "drain", "n1", "--reason", "noise", "--owner", "ada")
    node = (await cli.json("node", "list"))[0]
    assert (node["status"], node["pool"]) == ("draining", "en-zh")
    assert {hold["owner"] for hold in node["holds"]} == {"ada", "ops"}
    assert (await cli.json("pool", "list"))[0]["ready"] == 0
    conflict = await cli("node", "resume", "n1", "--reason", "mine", "--owner", "eve", exit_code=3)
    assert "held by ada, ops" in conflict.stderr
    await cli("node", "resume", "n1", "--reason", "done", "--owner", "ops")
    assert (await cli.json("node", "list"))[0]["status"] == "draining"
    assert "no hold is left" in (await cli("node", "resume", "n1", "--reason", "done", "--owner", "ada")).stdout
    assert (await cli.json("node", "list"))[0]["status"] == "ready"
    assert (await cli.json("node", "resume", "n1", "--reason", "done", "--owner", "ada"))["changed"] is False
    assert "no node n2" in (await cli("node", "resume", "n2", "--reason", "done", exit_code=1)).stderr


async def test_the_owner_is_the_user_unless_named(cli: Cli, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    await cell.register("n1", "en", "zh")
    assert (await cli.json("node", "drain", "n1", "--reason", "r"))["holds"][0]["owner"] == "grace"


async def test_a_hold_can_wait_for_its_node(cli: Cli, cell: Cell) -> None:
    assert error_of(await cli.json("node", "drain", "n9", "--reason", "r", exit_code=1))["code"] == "not_found"
    held = await cli.json("node", "drain", "n9", "--reason", "r", "--allow-unknown")
    assert held["live"] is False
    await cell.register("n9", "en", "zh")
    assert (await cli.json("node", "show", "n9"))["status"] == "draining"


@pytest.mark.parametrize(
    "arguments",
    [["drain", "n1"], ["resume", "n1"], ["drain", "n 1", "--reason", "r"], ["drain", "n1", "--reason", "r" * 300]],
    ids=["no reason", "no reason to resume", "no node id", "a reason too long"],
)
async def test_holds_want_good_input(cli: Cli, cell: Cell, arguments: list[str]) -> None:
    await cell.register("n1", "en", "zh")
    await cli("node", *arguments, exit_code=2)
