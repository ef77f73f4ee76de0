"""A scheduler that dies or hangs, and a connection that is dead at one end: what becomes of the nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyscheduler.core.results import NodeStatus
from tests.doors import connect
from tests.faults.live import ENGLISH_CHINESE, LEASE_MS, Live
from tests.faults.proxy import Proxy
from tests.fixtures.clients import State
from tests.servers import PlainServer
from tests.support import wait_until_async

MakeServer = Callable[..., PlainServer]


@pytest.mark.faults
async def test_a_scheduler_is_killed(make_server: MakeServer, tmp_path: Path) -> None:
    """Who reconnects keeps its place; who is late gets the grace of a closed socket; who does not come back is gone."""
    async with Live(tmp_path, make_server().url) as live:
        first, second = await live.serve("first"), await live.serve("second")
        for name in ("quick0", "quick1", "quick2"):
            live.node(name, first.url, second.url)
        late, gone = live.node("late", first.url), live.node("gone", first.url)
        before = await live.wait_ready()
        moved = {name: before[name].instance for name in before}
        first.kill()

        on_first = [name for name, instance in moved.items() if instance == "first"]
        assert {"late", "gone"} <= set(on_first)
        for name in ("late", "gone"):
            await live.wait_event("node.released", node_id=name, reason="instance_lost")
        state = (await live.states())["late"]
        assert (state.status, state.pool, state.epoch) == (NodeStatus.OFFLINE, "en-zh", before["late"].epoch)
        late.urls = [second.url]
        await live.wait_event("node.expired", node_id="gone", reason="grace_ended")
        del live.nodes["gone"]
        await gone.stop()
        after = await live.wait_ready()
        assert {state.instance for state in after.values()} == {"second"}
        assert all(after[name].epoch > before[name].epoch for name in on_first if name != "gone")
        assert [event.node_id for event in await live.events("node.expired")] == ["gone"]
        assert len(await live.events("node.assigned")) == 5, "nobody has changed its pool"


async def test_a_scheduler_that_hung_and_wakes_speaks_for_nobody(make_server: MakeServer, tmp_path: Path) -> None:
    """Its node has moved on. What had been said to it in the meantime is under an old epoch, and changes nothing."""
    async with Live(tmp_path, make_server().url) as live:
        first, second = await live.serve("first"), await live.serve("second")
        async with connect(first.url) as old, connect(second.url) as new:
            await old.become_ready(ENGLISH_CHINESE, node_id="n1")
            os.kill(first.pid, signal.SIGSTOP)
            await old.heartbeat(State(languages=("de", "fr")))
            await new.become_ready(ENGLISH_CHINESE, node_id="n1")
            before = (await live.states())["n1"]
            os.kill(first.pid, signal.SIGCONT)
            assert await old.closed() == 4409
            after = (await live.states())["n1"]
            assert (after.epoch, after.pool, after.instance) == (before.epoch, "en-zh", "second")
            assert after.status is NodeStatus.READY
            assert len(await live.events("node.assigned")) == 1
            assert await live.events("node.released") == []
            await new.heartbeat(State(languages=("de", "en")))
            await new.receive_until("node_status", pool="de-en")
        async with connect(first.url) as another:
            await another.become_ready(ENGLISH_CHINESE, node_id="n2")


@pytest.mark.faults
async def test_a_scheduler_that_hung_for_more_than_a_lease_goes_on_with_its_nodes(
    make_server: MakeServer, tmp_path: Path
) -> None:
    """Nobody else has taken them over: their sockets stay, and so do their epochs."""
    async with Live(tmp_path, make_server().url) as live:
        first = await live.serve("first")
        await live.serve("second")
        await live.fleet(4, first.url)
        before = await live.wait_ready()
        os.kill(first.pid, signal.SIGSTOP)
        await live.wait_event("node.released", count=4, reason="instance_lost")
        os.kill(first.pid, signal.SIGCONT)
        after = await live.wait_ready()
        assert {name: state.epoch for name, state in after.items()} == {
            name: state.epoch for name, state in before.items()
        }
        await live.assert_nobody_left(reconnected=True)
        assert [node.connections for node in live.nodes.values()] == [1] * 4


# --- half-open sockets -----------------------------------------------------------------------------------------------


@pytest.mark.faults
async def test_a_half_open_socket_keeps_no_node_alive(make_server: MakeServer, tmp_path: Path) -> None:
    """No FIN, no reset: it is out of its pool when its lease ends, though its socket looks open for longer."""
    async with Live(tmp_path, make_server().url) as live:
        process = await live.serve("only")
        address = urlsplit(process.url)
        async with Proxy((address.hostname or "", address.port or 0)) as proxy:
            node = live.node("n1", process.url.replace(f":{address.port}", f":{proxy.port}"))
            epoch = (await live.wait_ready())["n1"].epoch
            proxy.freeze()
            await live.wait_event("node.expired", node_id="n1", reason="lease_lapsed")
            # It lasts: nothing speaks for it until it does so itself.
            other = live.node("n2", process.url)
            await live.wait_ready("n2")
            await other.stop()
            assert "n1" not in await live.states()
            proxy.thaw()
            assert (await live.wait_ready("n1"))["n1"].epoch > epoch
            assert node.connections == 1
            assert len(await live.events("node.expired", node_id="n1")) == 1


@pytest.mark.faults
async def test_a_half_open_socket_is_closed_after_its_silence(make_server: MakeServer, tmp_path: Path) -> None:
    async with Live(tmp_path, make_server().url, flags=("--silence-timeout-ms", "1500")) as live:
        process = await live.serve("only")
        address = urlsplit(process.url)
        async with Proxy((address.hostname or "", address.port or 0)) as proxy:
            node = live.node("n1", process.url.replace(f":{address.port}", f":{proxy.port}"))
            await live.wait_ready()
            proxy.freeze()
            await live.wait_event("node.released", node_id="n1", reason="silent")
            state = (await live.states())["n1"]
            assert (state.status, state.pool) == (NodeStatus.OFFLINE, "en-zh")
            proxy.thaw()
            await wait_until_async(lambda: node.connections == 2, "it has seen the close, and reconnected")
            await live.wait_ready()
            assert node.closes[0] == 4400
            assert await live.events("node.expired") == []
    assert LEASE_MS > 1500, "or its lease would have ended first"
