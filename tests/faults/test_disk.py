"""The disk of the embedded server is full: what is refused, and that it heals by itself when there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyscheduler.errors import StoreError
from tests.doors import connect
from tests.faults.live import Live
from tests.fixtures.clients import HEAD
from tests.support import wait_until_async

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", place], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"there is no mount: {error}")
    if made.returncode:
        pytest.skip(f"this user may not mount a tmpfs: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    """Take what is left of a disk, to the last byte."""
    ballast = place / "ballast"
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file, b"x" * size)
        with pytest.raises(OSError) as full:
            os.write(file, b"x")
        assert full.value.errno == errno.ENOSPC
    finally:
        os.close(file)
    return ballast


async def test_a_full_disk_refuses_changes_and_heals_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    state_dir = small_disk / "state"
    async with Live(tmp_path, state_dir=state_dir) as live:
        process = await live.serve("owner")
        await live.fleet(4, process.url)
        before = await live.wait_ready()
        await live.allocator.hold("n0", owner="ops", reason="before")
        ballast = fill(small_disk)

        await live.wait_error()
        assert [line for line in process.logged("store_down") if "MISCONF" in line["error"]], "the log says why"
        async with connect(process.url) as late:
            await late.send(HEAD.register(node_id="late"))
            await late.receive_until("error", code="SCHEDULER_DEPENDENCY_DOWN")
            with pytest.raises(StoreError, match="MISCONF"):
                await live.allocator.hold("n1", owner="ops", reason="while it is full")
            assert set(await live.states()) >= set(before), "it can still be read"

            ballast.unlink()
            await late.receive_until("node_register_ack")
        await wait_until_async(lambda: process.logged("store_back"), "the log says that it is over")
        await live.wait_ready("n1", "n2", "n3")
        await live.allocator.hold("n1", owner="ops", reason="after")
        assert process.alive
        assert await live.events("node.expired") == []
        assert [node.connections for node in live.nodes.values()] == [1] * 4

        # All that was acknowledged is on the disk: the server ends with its owner, and another one reads it.
        process.kill()
        again = await live.serve("again")
        for node in live.nodes.values():
            node.urls = [again.url]
        await live.reopen()
        states = await live.wait_ready("n2", "n3")
        assert {name: [hold.reason for hold in states[name].holds] for name in ("n0", "n1")} == {
            "n0": ["before"],
            "n1": ["after"],
        }
        assert all(states[name].epoch > before[name].epoch for name in ("n2", "n3"))
