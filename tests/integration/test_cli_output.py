"""What nodes and operators have written, as the command line prints it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import Cli, file_of
from tests.harness import Cell

EVIL = "\x1b[31mEVIL\x1b]0;title\x07[bold red]markup[/] \u202egnirts \x9b2J\r\n\x00"
SENT = "[bold red]markup[/]"


@pytest.mark.parametrize("terminal", [True, False], ids=["a terminal", "a pipe"])
async def test_text_from_outside_is_shown_and_does_nothing(
    cli: Cli, cell: Cell, tmp_path: Path, terminal: bool
) -> None:
    await cell.register("n1", "en", "zh", record={"platform": EVIL, EVIL: [EVIL]})
    await cell.allocator.hold("n1", owner="ops", reason=EVIL)
    labelled = {"name": "labelled", "match": {"labels": {"zone": "[red]eu[/]"}}}
    await cli("pool", "sync", "-f", file_of(tmp_path, labelled), "--author", EVIL, "--reason", EVIL)
    env = {"FORCE_COLOR": "1", "COLUMNS": "400"} if terminal else {}
    said = 0
    for command in (
        ["node", "show", "n1"],
        ["node", "explain", "n1"],
        ["node", "drain", "n1", "--owner", "ops", "--reason", EVIL],
        ["pool", "show", "labelled"],
        ["pool", "history"],
        ["events"],
    ):
        output = (await cli(*command, env=env)).output
        assert ("\x1b[" in output) is terminal, command
        said += SENT in output or "[red]eu[/]" in output
        for acting in ("\x1b[31mEVIL", "\x1b]", "\x07", "\x9b", "\u202e", "\r", "\x00"):
            assert acting not in output, (command, acting)
    assert said == 6


async def test_errors_that_repeat_the_input_do_nothing_either(cli: Cli) -> None:
    result = await cli("node", "show", EVIL, exit_code=2)
    assert "\x1b" not in result.output
    result = await cli("pool", EVIL, exit_code=2)
    assert "\x1b" not in result.output


async def test_json_is_one_line_of_ascii_where_nobody_looks(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh", record={"platform": EVIL})
    result = await cli("node", "show", "n1", "--json")
    assert result.stdout.isascii()
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["record"]["platform"] == EVIL


async def test_colours_can_be_switched_off(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    assert "\x1b[32m" in (await cli("node", "list", env={"FORCE_COLOR": "1"})).stdout
    assert "\x1b[32m" not in (await cli("node", "list", env={"FORCE_COLOR": "1", "NO_COLOR": "1"})).stdout
    assert "\x1b" not in (await cli("node", "list")).stdout


async def test_a_pipe_gets_whole_lines(cli: Cli, cell: Cell) -> None:
    languages = [f"l{letter}" for letter in "abcdefgh"]
    await cell.register("n" * 128, *languages, session_id="s")
    lines = (await cli("node", "list")).stdout.splitlines()
    assert lines[1].startswith("n" * 128)
    assert lines[1].endswith("test")
    assert all(line == line.rstrip() for line in lines)
