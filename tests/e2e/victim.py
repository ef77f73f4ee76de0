"""The process that bad input is thrown at, and what must hold of it after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click.testing
import pytest

from pyscheduler import Allocator
from pyscheduler.cli import main
from pyscheduler.embedded import find_running
from tests.doors import connect
from tests.e2e.processes import ServeProcess

GROWTH_MB = 48
"""What a test may leave behind in the process's memory; the input of most is larger by far."""

LOG_LINES = 120
"""Lines that a test may make the process log."""


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad-input")


@pytest.fixture(scope="module")
def victim(state_dir: Path) -> Iterator[ServeProcess]:
    """The process that all of it is thrown at, on an embedded server."""
    process = ServeProcess(state_dir, "victim", "--state-dir", str(state_dir / "state"))
    try:
        yield process.wait_listening()
        assert process.terminate() == 0
    finally:
        process.close()


@pytest.fixture
async def survives(victim: ServeProcess, state_dir: Path) -> AsyncIterator[None]:
    """After the test the process serves a good node, has not grown, has not filled its log, and all invariants hold."""
    await serves(victim.url)
    memory, lines = memory_mb(victim.pid), len(victim.lines())
    yield
    assert victim.alive, victim.log.read_text()
    await serves(victim.url)
    assert memory_mb(victim.pid) - memory < GROWTH_MB
    written = victim.lines()
    assert len(written) - lines < LOG_LINES
    assert not [line for line in written if "defect" in line["event"] or line["event"] == "background_task_ended"]
    await checks(store_of(state_dir / "state"), "pyscheduler")


async def serves(url: str) -> None:
    async with connect(url) as node:
        await node.become_ready(node_id="good")


async def checks(redis_url: str, namespace: str) -> None:
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        report = await allocator.check()
        assert report.ok, report.violations


def store_of(state_dir: Path) -> str:
    url = find_running(state_dir)
    assert url is not None, "no embedded server runs"
    return url


def memory_mb(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) // 1024


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, arguments)


def started(folder: Path, *flags: str, name: str = "other") -> ServeProcess:
    return ServeProcess(folder, name, *flags)
