"""A process in bad surroundings: ports taken, no disk, closed streams, its server killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis

from tests.doors import connect, eventually
from tests.e2e.victim import checks, invoke, needs_proc, serves, started, store_of
from tests.fixtures.clients import State

pytestmark = needs_proc


@pytest.mark.parametrize("flag", ["--port", "--operator-port"])
def test_a_port_that_is_taken_is_named(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = started(tmp_path, "--state-dir", str(tmp_path / "state"), flag, port)
        assert process.wait_ended() == 1
        assert f"port {port}: Address already in use; choose another with {flag}" in process.log.read_text()


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        process = started(tmp_path, "--state-dir", str(place))
        assert process.wait_ended() == 2
        said = process.log.read_text()
        assert f"state directory {place} can't be used" in said
        assert "next: name another directory with --state-dir" in said


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        with (disk / "fill").open("wb", buffering=0) as fill:
            assert fill.write(bytes(1 << 20)) < 1 << 20
        process = started(tmp_path, "--state-dir", str(disk / "state"), "--store-start-timeout-ms", "600")
        assert process.wait_ended() == 5
        said = process.log.read_text()
        assert "No space left on device" in said
        assert "next: free some space on that disk" in said
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [found.getsockname()[1] for found in (one, other)]
    serve = [sys.executable, "-m", "pyscheduler", "serve", "--state-dir", str(tmp_path / "state")]
    serve += ["--port", str(ports[0]), "--operator-port", str(ports[1])]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {closed}', "sh", *serve),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def is_ready() -> bool:
        assert process.returncode is None, f"it ended with {process.returncode}"
        async with httpx.AsyncClient(trust_env=False) as http:
            try:
                return (await http.get(f"http://127.0.0.1:{ports[1]}/ready")).status_code == 200
            except httpx.TransportError:
                return False

    try:
        await eventually(is_ready, "it is ready")
        await serves(f"ws://127.0.0.1:{ports[0]}/ws/node")
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_embedded_server_may_be_killed_under_its_nodes(tmp_path: Path) -> None:
    """Two processes in one state directory, nodes on both, and the server between them killed three times."""
    state = tmp_path / "state"
    processes = [
        started(tmp_path, "--state-dir", str(state), "--store-check-interval-ms", "100", name=name).wait_listening()
        for name in ("one", "two")
    ]
    try:
        async with connect(processes[0].url) as first, connect(processes[1].url) as second:
            await first.become_ready(node_id="first")
            await second.become_ready(node_id="second")
            for languages in (("fr", "it"), ("es", "pt"), ("de", "en")):
                with redis.Redis.from_url(store_of(state)) as client:
                    killed = int(client.info("server")["process_id"])
                os.kill(killed, signal.SIGKILL)

                async def is_back(languages: tuple[str, str] = languages) -> bool:
                    # As nodes do, again and again: what a change had to wait for is not lost.
                    await first.heartbeat(State(languages=languages))
                    await second.heartbeat()
                    listed = await asyncio.to_thread(invoke, "node", "list", "--json", "--state-dir", str(state))
                    if listed.exit_code:
                        return False
                    found = {node["node_id"]: (node["status"], node["pool"]) for node in json.loads(listed.stdout)}
                    return found == {"first": ("ready", "-".join(languages)), "second": ("ready", "de-en")}

                await eventually(is_back, "both nodes are back, under their languages")
                await checks(store_of(state), "pyscheduler")
        for process in processes:
            await serves(process.url)
        assert processes[1].terminate() == 0
        assert processes[0].terminate() == 0
    finally:
        for process in processes:
            process.close()
