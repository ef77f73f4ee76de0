"""The simulator against real scheduler processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pyscheduler import Allocator
from pyscheduler.cli.text import safe
from pyscheduler.simulate import fleet as fleet_module
from pyscheduler.simulate.fleet import Fleet, Summary
from pyscheduler.simulate.options import FleetOptions
from pyscheduler.simulate.view import FleetView
from tests.e2e.processes import ServeProcess
from tests.support import wait_until_async

NOBODY = "ws://127.0.0.1:9/ws/node"


@pytest.fixture
def serve(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Callable[[], ServeProcess]]:
    """Starts scheduler processes on the test's namespace."""
    started: list[ServeProcess] = []

    def start() -> ServeProcess:
        store = ("--redis-url", redis_url, "--namespace", namespace)
        started.append(ServeProcess(tmp_path, f"serve-{len(started)}", *store, "--reconcile-interval-ms", "200"))
        return started[-1].wait_listening()

    yield start
    for one in started:
        one.close()


@contextlib.contextmanager
def begin(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A simulation as a process of its own, killed if the test leaves it behind."""
    command = [sys.executable, "-m", "pyscheduler", "simulate", "--json", *arguments]
    with subprocess.Popen(
        command, env=os.environ | (environment or {}), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], exit_code: int = 0) -> dict[str, Any]:
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (exit_code, ""), output
    document = json.loads(output)
    assert isinstance(document, dict)
    return document


async def simulate(*arguments: str, exit_code: int = 0, environment: dict[str, str] | None = None) -> dict[str, Any]:
    with begin(*arguments, environment=environment) as process:
        return await asyncio.to_thread(finish, process, exit_code)


async def test_a_fleet_registers_and_gets_its_pools(serve: Callable[[], ServeProcess], allocator: Allocator) -> None:
    url = serve().url
    summary = await simulate(
        *("--url", url, "--nodes", "20", "--duration", "4", "--heartbeat", "0.2", "--id-prefix", "sim-"),
        *("--languages", "en,zh;de,en;fr"),
    )
    assert summary["ok"] is True
    assert (summary["nodes"], summary["connected"], summary["registered"], summary["lost"]) == (20, 20, 20, 0)
    assert summary["pools"] == {"en-zh": 7, "de-en": 7, "fr": 6}
    assert summary["statuses"] == {"ready": 20}
    assert summary["registrations"] == 20
    assert summary["heartbeats"] > 20 * 5
    assert (summary["reconnects"], summary["drops"], summary["errors"], summary["connect_errors"]) == (0, 0, {}, {})
    latency = summary["latency_ms"]["register"]
    assert latency["count"] == 20
    assert 0 < latency["p50"] <= latency["p95"] <= latency["max"]
    nodes = (await allocator.nodes()).nodes
    assert {node.node_id for node in nodes} == {f"sim-{number:02}" for number in range(1, 21)}
    # They have left as clients that are stopped do: released, and in their grace.
    assert {str(node.status) for node in nodes} == {"offline"}


async def test_churn_over_two_schedulers_loses_nobody(serve: Callable[[], ServeProcess], allocator: Allocator) -> None:
    schedulers = [serve(), serve()]
    summary = await simulate(
        *("--url", schedulers[0].url, "--url", schedulers[1].url, "--nodes", "20", "--duration", "6"),
        *("--heartbeat", "0.1", "--reconnect", "0.1", "--churn", "0.5", "--seed", "3", "--languages", "en,zh;de,en;fr"),
    )
    assert summary["ok"] is True
    assert summary["drops"] > 0
    assert summary["reconnects"] > 0
    assert summary["language_changes"] > 0
    assert summary["latency_ms"]["language_change"]["count"] > 0
    assert set(summary["closes"]) <= {"1005", "1006"}
    assert set(summary["pools"]) <= {"en-zh", "de-en", "fr"}
    # Reconnects go one URL further, so nodes have changed hands.
    instances: dict[str, set[str]] = {}
    for event in await allocator.events(limit=10_000):
        if event.type == "node.registered" and event.node_id is not None:
            instances.setdefault(event.node_id, set()).add(event.fields["instance"])
    assert any(len(seen) == 2 for seen in instances.values())
    assert (await allocator.check()).ok


async def all_ready(allocator: Allocator, nodes: int) -> None:
    async def ready() -> bool:
        return sum(str(node.status) == "ready" for node in (await allocator.nodes()).nodes) == nodes

    await wait_until_async(lambda: ready(), "the fleet is ready", 30)


async def test_a_killed_scheduler_is_survived_by_the_other(
    serve: Callable[[], ServeProcess], allocator: Allocator
) -> None:
    schedulers = [serve(), serve()]
    with begin(
        *("--url", schedulers[0].url, "--url", schedulers[1].url, "--nodes", "10", "--duration", "8"),
        *("--heartbeat", "0.1", "--reconnect", "0.2"),
    ) as process:
        await all_ready(allocator, 10)
        schedulers[0].kill()
        summary = await asyncio.to_thread(finish, process)
    assert (summary["registered"], summary["lost"]) == (10, 0)
    assert summary["closes"]["1006"] >= 5
    assert summary["longest_absence_s"] >= 0.2


async def test_ctrl_c_ends_it_in_good_order(serve: Callable[[], ServeProcess], allocator: Allocator) -> None:
    with begin("--url", serve().url, "--nodes", "5", "--heartbeat", "0.1") as process:
        await all_ready(allocator, 5)
        process.send_signal(signal.SIGINT)
        summary = await asyncio.to_thread(finish, process)
    assert summary["ok"] is True
    assert summary["registered"] == 5

    async def released() -> bool:
        return sum(event.type == "node.released" for event in await allocator.events()) == 5

    await wait_until_async(lambda: released(), "every node has been released")


async def test_nodes_that_are_refused_are_lost(serve: Callable[[], ServeProcess]) -> None:
    summary = await simulate(*("--url", serve().url, "--nodes", "3", "--duration", "1", "--gpu", "none"), exit_code=1)
    assert (summary["ok"], summary["registered"], summary["lost"]) == (False, 0, 3)
    assert summary["errors"] == {"NO_GPU_AVAILABLE": 3}
    assert summary["closes"] == {"4403": 3}


async def test_nobody_there_is_a_failure() -> None:
    summary = await simulate("--url", NOBODY, "--nodes", "3", "--duration", "1", "--reconnect", "0.2", exit_code=1)
    assert (summary["ok"], summary["connected"], summary["lost"]) == (False, 0, 3)
    assert summary["connect_errors"]["refused"] >= 3


async def test_without_a_duration_it_gives_up_when_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "START_PATIENCE_S", 0.3)
    summary = await Fleet(FleetOptions(nodes=2, urls=(NOBODY,), reconnect_s=0.1)).run(asyncio.Event())
    assert summary.gave_up
    assert not summary.ok


@contextlib.contextmanager
def web_server(status: int, location: str) -> Iterator[tuple[str, list[str]]]:
    """A web server that answers everything with a redirect, and the requests that it gets."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(status)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()


async def test_it_talks_to_the_given_urls_only(serve: Callable[[], ServeProcess]) -> None:
    url = serve().url
    with web_server(200, "/") as (elsewhere, seen), web_server(302, f"ws://{elsewhere}/ws/node") as (door, asked):
        summary = await simulate(
            *("--url", f"ws://{door}/ws/node", "--nodes", "2", "--duration", "1"),
            exit_code=1,
        )
        assert summary["connect_errors"] == {"http 302": 2}
        assert asked == ["/ws/node", "/ws/node"]
        proxy = f"http://{elsewhere}"
        through = dict.fromkeys(("http_proxy", "https_proxy", "ws_proxy", "all_proxy", "ALL_PROXY"), proxy)
        assert (await simulate("--url", url, "--nodes", "2", "--duration", "2", environment=through))["ok"] is True
        assert seen == []


@pytest.mark.parametrize(
    "option",
    [
        ["--nodes", "0"],
        ["--nodes", "many"],
        ["--url", "http://127.0.0.1:5010"],
        ["--heartbeat", "0"],
        ["--heartbeat", "nan"],
        ["--gpu", "RTX"],
    ],
    ids=" ".join,
)
def test_bad_options_are_bad_input(option: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyscheduler", "simulate", "--json", *option], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert set(json.loads(done.stdout)) == {"error"}
    assert done.stderr.startswith("error: ")


async def test_without_a_terminal_it_prints_lines_and_a_summary(serve: Callable[[], ServeProcess]) -> None:
    command = [sys.executable, "-m", "pyscheduler", "simulate", "--url", serve().url, "--nodes", "4", "--duration", "2"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "registered" in lines[0]
    assert "ok: 4 of 4 nodes registered at the end" in lines
    assert "\x1b" not in done.stdout


async def test_what_the_scheduler_says_does_nothing_to_the_terminal() -> None:
    fleet = Fleet(FleetOptions(nodes=2, languages=(("en",),)))
    for node in fleet._nodes:
        node.registered, node.pool, node.away_since_s = True, "\x1b]0;title\x07[bold]pool[/]", None
    fleet.tally.errors.add("\x1b[31mCODE")
    fleet.tally.problem("\x9b2J[red]problem")
    view = FleetView(safe, unicode=True)
    out = Console(file=io.StringIO(), force_terminal=True, width=120, markup=False)
    out.print(view.live(fleet))
    out.print(view.summary(Summary(fleet.options, fleet.look(), fleet.tally, gave_up=True)))
    drawn = out.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]pool[/]" in drawn
    assert "[red]problem" in drawn
    for acting in ("\x1b]", "\x07", "\x9b", "\x1b[31mCODE"):
        assert acting not in drawn
