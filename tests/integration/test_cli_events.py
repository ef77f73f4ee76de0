"""The events on the command line: those that happened, and those that happen."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import click.testing
import pytest

from pyscheduler.core.jobs import JobRequest
from tests.commands import Cli, error_of, file_of, named
from tests.harness import Cell
from tests.support import wait_until_async


def lines_of(result: click.testing.Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_events_are_objects_one_a_line(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "de")
    await cli("pool", "sync", "-f", file_of(tmp_path, named("chinese", "zh")))
    events = lines_of(await cli("events", "--json"))
    assert [event["id"] for event in events] == [event.id for event in await cell.allocator.events()]
    assert all({"id", "at", "type", "version"} <= set(event) for event in events)
    assigned = next(event for event in events if event["type"] == "node.assigned")
    assert {"node_id": "n1", "pool": "en-zh", "to": "en-zh"}.items() <= assigned.items()
    assert isinstance(assigned["at"], int)
    assert "from" not in assigned
    moved = next(event for event in events if event["type"] == "class.remapped")
    assert (moved["from"], moved["to"], moved["version"]) == ("en-zh", "chinese", 4)

    async def chosen(*options: str) -> list[str]:
        return [event["id"] for event in lines_of(await cli("events", "--json", *options))]

    assert await chosen("--since", events[4]["id"]) == [event["id"] for event in events[5:]]
    assert await chosen("--limit", "3") == [event["id"] for event in events[:3]]
    assert await chosen("--since", "1h") == [event["id"] for event in events]
    assert await chosen("--node", "n2") == [event["id"] for event in events if event.get("node_id") == "n2"]
    assert (
        await chosen("--type", "node.assigned", "--type", "pool.created", "--limit", "2")
        == [event["id"] for event in events if event["type"] in ("node.assigned", "pool.created")][:2]
    )
    assert await chosen("--pool", "chinese") == [
        event["id"] for event in events if "chinese" in (event.get("pool"), event.get("to"))
    ]
    page = (await cli("events")).stdout
    assert re.search(r"node\.assigned +v2  n1  none → en-zh", page)
    assert len(page.splitlines()) == len(events)


async def test_events_of_a_job_name_it_first(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    for job_id in ("j1", "j2"):
        await cell.allocator.reserve(job_id, JobRequest("zh", "en"), owner="me", lease_ms=60_000)
    await cell.allocator.finish_job("j1", 1, owner="me")
    assert [event["type"] for event in lines_of(await cli("events", "--json", "--job", "j1"))] == [
        "job.reserved",
        "job.ended",
    ]
    lines = (await cli("events", "--job", "j1")).stdout.splitlines()
    assert re.search(r"job\.reserved +v2  j1  on n1  en-zh  new  attempt=1 epoch=\d+ slots=1 owner=me$", lines[0])
    assert re.search(r"job\.ended +v2  j1  on n1  en-zh  finish  attempt=1 slots=1 state=finished$", lines[1])


@pytest.mark.parametrize("option", [["--since", "yesterday"], ["--type", "node.moved"], ["--limit", "0"]])
async def test_bad_choices_of_events_are_bad_input(cli: Cli, option: list[str]) -> None:
    result = await cli("events", "--json", *option, exit_code=2)
    assert error_of(json.loads(result.stdout))["code"] == "usage"
    assert len(result.stdout.splitlines()) == 1


def ended(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


async def test_following_shows_events_as_they_happen(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    with cli.start("events", "--follow", "--json", "--since", "1h", "--type", "node.registered") as process:
        assert process.stdout is not None
        assert json.loads(await asyncio.to_thread(process.stdout.readline))["node_id"] == "n1"
        await cell.register("n2", "en", "zh")
        assert json.loads(await asyncio.to_thread(process.stdout.readline))["node_id"] == "n2"
        # Ctrl-C is the way to end it, not a failure.
        assert await asyncio.to_thread(ended, process) == (0, "")


async def test_following_goes_on_after_an_event(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh")
    seen = lines_of(await cli("events", "--json", "--node", "n1"))[-1]["id"]
    followed = await cli("events", "--follow", "--json", "--since", seen, "--type", "node.registered", "--limit", "1")
    assert lines_of(followed)[0]["node_id"] == "n2"


async def test_following_from_a_time_at_which_nothing_happened_waits(cli: Cli, cell: Cell) -> None:
    with cli.start(
        "events", "--follow", "--json", "--since", "0s", "--type", "node.released", "--limit", "1"
    ) as process:

        async def released() -> bool:
            # Again and again: when the command begins to look is its own affair.
            session = (await cell.register("n1", "en", "zh", session_id=f"s{next(numbers)}")).session
            await cell.allocator.release(session, grace_ms=30_000, reason="test")
            return process.poll() is not None

        numbers = itertools.count()
        await wait_until_async(lambda: released(), "the command has seen a node leave")
        output, errors = await asyncio.to_thread(process.communicate, timeout=30)
        assert (process.returncode, errors) == (0, "")
        assert json.loads(output)["node_id"] == "n1"


async def test_events_that_are_no_longer_kept_are_not_passed_over_in_silence(cli: Cli, cell: Cell) -> None:
    result = await cli("events", "--follow", "--json", "--since", "1-1", exit_code=1)
    assert error_of(json.loads(result.stdout))["code"] == "events_lost"


async def test_a_reader_that_goes_away_is_no_crash(cli: Cli, cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh") for number in range(2000)))
    with cli.start("events", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.to_thread(process.stdout.readline)
        process.stdout.close()
        errors = await asyncio.to_thread(process.stderr.read)
        assert (await asyncio.to_thread(process.wait, 30), errors) == (1, "")
