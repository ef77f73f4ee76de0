"""The store of a command: how it is found, and what is said when it is not there or not ours."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pyscheduler import Allocator
from pyscheduler.embedded import EmbeddedServer
from pyscheduler.store import Store, StoreOptions
from tests.commands import UNREACHABLE, Cli, error_of
from tests.harness import Cell
from tests.servers import PlainServer

READING = [
    ["pool", "list"],
    ["pool", "show", "a"],
    ["pool", "find", "--src", "zh", "--tgt", "en"],
    ["pool", "history"],
    ["pool", "sync"],
    ["pool", "rollback", "1"],
    ["node", "list"],
    ["node", "show", "n1"],
    ["node", "explain", "n1"],
    ["node", "drain", "n1", "--reason", "r"],
    ["node", "resume", "n1", "--reason", "r"],
    ["events"],
    ["events", "--follow"],
    ["config", "show"],
    ["check"],
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
async def test_a_store_that_is_not_there_is_exit_code_5(command: Sequence[str]) -> None:
    error = error_of(await Cli(UNREACHABLE, "x").json(*command, exit_code=5))
    assert error["code"] == "store_unavailable"
    assert "--redis-url" in error["next"]


async def test_a_store_that_hangs_is_exit_code_5(make_server: Callable[..., PlainServer]) -> None:
    server = make_server()
    cli = Cli(server.url, "x")
    async with await Allocator.open(server.url, namespace="x"):
        pass
    assert await cli.json("pool", "list") == []
    server.pause()
    assert error_of(await cli.json("pool", "list", exit_code=5))["code"] in ("store_unavailable", "outcome_unknown")
    server.resume()
    assert await cli.json("pool", "list") == []


async def test_an_interrupted_command_says_so() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    cli = Cli(f"redis://127.0.0.1:{silent.getsockname()[1]}", "x")
    with silent, cli.start("pool", "list", "--json") as process:
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            assert await asyncio.to_thread(connection.recv, 1)
            process.send_signal(signal.SIGINT)
            output, errors = await asyncio.to_thread(process.communicate, timeout=30)
    assert (process.returncode, errors.strip()) == (130, "error: interrupted")
    assert error_of(json.loads(output))["code"] == "interrupted"


async def test_without_a_url_and_a_scheduler_the_command_says_what_to_do(tmp_path: Path) -> None:
    cli = Cli("", "x")
    error = error_of(await cli.json("pool", "list", "--state-dir", str(tmp_path), exit_code=5))
    assert error["code"] == "no_store"
    assert "pyscheduler serve" in error["next"]
    # Looking creates nothing.
    assert list(tmp_path.iterdir()) == []
    result = await cli("pool", "sync", "--state-dir", str(tmp_path), exit_code=5)
    assert result.stdout == ""
    assert result.stderr.startswith("error: no store: ")
    assert "\n next: start one with 'pyscheduler serve'" in result.stderr


async def test_the_embedded_server_is_found_without_being_told(tmp_path: Path) -> None:
    cli = Cli("", "x")
    server = await EmbeddedServer.open(tmp_path)
    try:
        async with await Allocator.open(server.url, namespace="x"):
            pass
        assert await cli.json("pool", "list", "--state-dir", str(tmp_path)) == []
        cli.environment["PYSCHEDULER_STATE_DIR"] = str(tmp_path)
        assert await cli.json("node", "list") == []
    finally:
        await server.close()
    await cli("node", "list", exit_code=5)


async def test_a_reader_that_mistypes_the_namespace_is_told_and_leaves_none_behind(redis_url: str, cell: Cell) -> None:
    mistyped = Cli(redis_url, "mistyped-" + cell.allocator.namespace)
    for command in (("pool", "list"), ("node", "list"), ("check",), ("events",), ("config", "show")):
        assert error_of(await mistyped.json(*command, exit_code=1))["code"] == "not_found"
    store = await Store.open(redis_url, mistyped.environment["PYSCHEDULER_NAMESPACE"], StoreOptions())
    assert await store.command("EXISTS", store.key("config")) == 0
    await store.aclose()


async def test_the_password_of_the_store_is_not_shown() -> None:
    result = await Cli("redis://user:sekrit@127.0.0.1:1/0", "x")("pool", "list", "--json", exit_code=5)
    assert "127.0.0.1:1" in result.output
    assert "sekrit" not in result.output


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [(["--redis-url", "http://127.0.0.1"], 2), (["--namespace", "{a}"], 2), (["--namespace", "x" * 65], 2)],
)
async def test_store_options_out_of_bounds_are_bad_input(cli: Cli, options: list[str], exit_code: int) -> None:
    assert error_of(await cli.json("pool", "list", *options, exit_code=exit_code))["code"] == "invalid_input"


@pytest.mark.breaks_store
async def test_a_store_of_a_newer_version_is_left_alone(cli: Cli, cell: Cell) -> None:
    await cell.store.command("HSET", cell.store.key("config"), "schema", "99")
    error = error_of(await cli.json("pool", "list", exit_code=1))
    assert error["code"] == "store_error"
    assert "upgrade" in error["message"]
