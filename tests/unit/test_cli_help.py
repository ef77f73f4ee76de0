"""The help of every command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

import pyscheduler
from pyscheduler.cli import main
from pyscheduler.cli.app import Later
from pyscheduler.cli.root import commands

LEAVES = commands()
NAMES = [*LEAVES, "pool", "node", "job", "config"]


def test_the_command_tree_is_the_one_that_is_promised() -> None:
    assert set(LEAVES) == {
        "serve",
        "simulate",
        *(f"pool {name}" for name in ("sync", "list", "show", "find", "history", "rollback")),
        *(f"node {name}" for name in ("list", "show", "explain", "drain", "resume")),
        *(f"job {name}" for name in ("list", "show", "explain", "reserve", "reassign", "renew", "start")),
        *(f"job {name}" for name in ("finish", "fail", "release")),
        "events",
        *(f"config {name}" for name in ("show", "schema", "check-file")),
        "check",
    }


def test_the_list_of_commands_says_what_they_say_themselves() -> None:
    for command in main.commands.values():
        assert isinstance(command, Later)
        loaded = command.load()
        assert loaded.name == command.name
        assert loaded.help is not None
        assert command.help == loaded.help.partition("\n")[0]


@pytest.mark.parametrize("name", ["", *NAMES])
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert f"Usage: pyscheduler {name}".rstrip() in result.output


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_and_option_says_what_it_does(name: str) -> None:
    command = LEAVES[name]
    assert command.help
    for parameter in command.get_params(click.Context(command)):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


@pytest.mark.parametrize("name", sorted(set(LEAVES) - {"simulate", "config schema", "config check-file"}))
def test_a_command_on_the_store_takes_the_store_options(name: str) -> None:
    command = LEAVES[name]
    options = {opt for parameter in command.get_params(click.Context(command)) for opt in parameter.opts}
    assert {"--redis-url", "--namespace", "--state-dir"} <= options


@pytest.mark.parametrize("name", sorted(set(LEAVES) - {"serve", "config schema"}))
def test_a_command_that_answers_takes_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in LEAVES[name].params)


def test_the_flags_of_serve_are_the_settings() -> None:
    from pyscheduler.settings import describe

    serve = LEAVES["serve"]
    flags = [parameter.opts[0] for parameter in serve.get_params(click.Context(serve))]
    assert [flag for flag in flags if flag not in ("--settings", "--help")] == [one.flag for one in describe()]
    # Asked again, nothing is there twice.
    assert flags == [parameter.opts[0] for parameter in serve.get_params(click.Context(serve))]


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"pyscheduler {pyscheduler.__version__}\n")
