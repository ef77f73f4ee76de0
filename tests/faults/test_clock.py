"""The server's clock jumps, by TIME itself: libfaketime is loaded into the server, and no script is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pyscheduler import Allocator, NodeReport
from pyscheduler.core.results import NodeStatus
from tests.faults.live import LEASE_MS, Live
from tests.harness import facts_of
from tests.servers import PlainServer
from tests.support import wait_until

HOUR_S = 3_600

_LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(_LIBRARY is None, reason="there is no libfaketime (Debian's package libfaketime)"),
]


class Clock:
    """The clock of one server. Its monotonic clock goes on: a jump is what an administrator or NTP does."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.set(0)

    def set(self, offset_s: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        new.replace(self._file)

    def start(self, make_server: Callable[..., PlainServer], **settings: str) -> PlainServer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(_LIBRARY))
            patch.setenv("FAKETIME_TIMESTAMP_FILE", str(self._file))
            patch.setenv("FAKETIME_NO_CACHE", "1")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            return make_server(**settings)


def server_ms(server: PlainServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        seconds, micros = client.time()
        return int(seconds) * 1000 + int(micros) // 1000


def jump(clock: Clock, server: PlainServer, offset_s: int) -> None:
    seen_ms = server_ms(server)
    clock.set(offset_s)
    wait_until(lambda: abs(server_ms(server) - seen_ms) > HOUR_S * 900, "the clock has jumped")


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "backward"])
async def test_a_clock_that_jumps_expires_nobody_early_and_keeps_nobody_who_has_gone(
    jump_s: int, make_server: Callable[..., PlainServer], tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    server = clock.start(make_server)
    async with Live(tmp_path, server.url) as live:
        process = await live.serve("only")
        await live.fleet(4, process.url)
        gone = live.node("gone", process.url)
        before = await live.wait_ready()
        jump(clock, server, jump_s)
        jumped_ms = server_ms(server)
        await gone.stop()
        del live.nodes["gone"]
        event = await live.wait_event("node.expired")
        assert event.node_id == "gone"
        # A full lease to report in, and no hour on top of it.
        assert event.at_ms >= jumped_ms + LEASE_MS
        assert event.at_ms < jumped_ms + HOUR_S * 500
        after = await live.wait_ready()
        assert {name: after[name].epoch for name in live.nodes} == {name: before[name].epoch for name in live.nodes}
        assert [one.node_id for one in await live.events("node.expired")] == ["gone"]
        assert [node.connections for node in live.nodes.values()] == [1] * 4


async def test_epochs_grow_although_the_clock_goes_back(
    make_server: Callable[..., PlainServer], tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    server = clock.start(make_server)
    report = NodeReport.of(facts_of("en"), status=NodeStatus.READY)
    async with await Allocator.open(server.url) as allocator:

        async def epoch(session_id: str) -> int:
            registration = await allocator.register(
                "n1", report, session_id=session_id, instance="test", lease_ms=LEASE_MS
            )
            return registration.session.epoch

        epochs = [await epoch("first")]
        for offset_s in (-HOUR_S, HOUR_S, 0, -2 * HOUR_S):
            jump(clock, server, offset_s)
            epochs.append(await epoch(f"at {offset_s}".replace(" ", "")))
        assert epochs == sorted(set(epochs))
        assert (await allocator.check()).ok
