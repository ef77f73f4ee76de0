"""``pyscheduler serve`` as a process of its own: its start, its signals, and the end of the embedded server's owner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from pyscheduler import Allocator
from pyscheduler.core.results import NodeStatus
from pyscheduler.embedded import find_running
from pyscheduler.registry.process import SAME_REQUEST_S
from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Scheduler, connect, eventually
from tests.harness import assert_invariants
from tests.servers import PlainServer
from tests.support import DEADLINE_S, wait_until_async


class Serving:
    """A running ``pyscheduler serve``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.written: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.written.append(line.decode())
            with contextlib.suppress(json.JSONDecodeError):
                self.lines.append(json.loads(line))

    async def logged(self, event: str) -> dict[str, Any]:
        """The first log line of this event, once it is there."""
        found = await wait_until_async(
            lambda: [line for line in self.lines if line.get("event") == event], f"'{event}' is logged"
        )
        assert isinstance(found, list)
        line: dict[str, Any] = found[0]
        return line

    async def url(self) -> str:
        return str((await self.logged("listening"))["node_url"])

    async def ended(self) -> int:
        """The exit code."""
        async with asyncio.timeout(DEADLINE_S):
            code = await self.process.wait()
            await self._reader
        return code


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Starts ``pyscheduler serve`` with flags; kills what is left after the test."""
    started: list[Serving] = []

    async def run(**flags: object) -> Serving:
        given = {"port": 0, "operator_port": 0, "log_format": "json", **flags}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pyscheduler", "serve", *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        serving = Serving(process)
        started.append(serving)
        return serving

    yield run
    for serving in started:
        if serving.process.returncode is None:
            serving.process.kill()
        await serving.ended()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_a_signal_stops_it_in_good_order(
    start: Callable[..., Any], redis_url: str, namespace: str, name: str
) -> None:
    serving = await start(redis_url=redis_url, namespace=namespace)
    async with connect(await serving.url()) as node:
        await node.become_ready()
        serving.process.send_signal(signal.Signals[name])
        assert await node.closed() == 1012
    assert await serving.ended() == 0
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        (state,) = await allocator.describe([node.node_id])
        # Released with the grace: it takes no work, and its pool is kept for it.
        assert state.status is NodeStatus.OFFLINE
        assert state.pool == "de-en"
        assert await allocator.instances() == []
        events = [event for event in await allocator.events() if event.type == "node.released"]
        assert [event.reason for event in events] == ["server_restart"]


async def test_a_second_signal_ends_it_at_once(
    start: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    serving = await start(redis_url=server.url, shutdown_timeout_ms=600_000, store_timeout_ms=600_000)
    async with connect(await serving.url()) as node:
        await node.become_ready()
        server.pause()
        serving.process.send_signal(signal.SIGTERM)
        await serving.logged("signal")
        seen = time.monotonic()
        await wait_until_async(lambda: time.monotonic() - seen > SAME_REQUEST_S, "a signal is a request of its own")
        serving.process.send_signal(signal.SIGTERM)
        assert await serving.ended() == 130
    server.resume()


async def test_a_signal_that_comes_twice_at_once_is_one_request(
    start: Callable[..., Any], redis_url: str, namespace: str
) -> None:
    serving = await start(redis_url=redis_url, namespace=namespace)
    async with connect(await serving.url()) as node:
        await node.become_ready()
        # As from a terminal and from the program that started it. Two kinds, or the kernel would make one of them.
        serving.process.send_signal(signal.SIGINT)
        serving.process.send_signal(signal.SIGTERM)
        assert await node.closed() == 1012
    assert await serving.ended() == 0


async def test_a_signal_during_a_start_that_waits_for_the_store_ends_it(start: Callable[..., Any]) -> None:
    serving = await start(redis_url="redis://127.0.0.1:1/0", store_start_timeout_ms=600_000)
    line = await serving.logged("store_not_reached")
    assert "127.0.0.1:1" in line["error"]
    serving.process.send_signal(signal.SIGTERM)
    assert await serving.ended() == 0


async def test_a_store_that_cannot_be_reached_is_said_and_the_exit_code_is_5(start: Callable[..., Any]) -> None:
    serving = await start(redis_url="redis://:hunter2@127.0.0.1:1/0", store_start_timeout_ms=0)
    assert await serving.ended() == 5
    assert "127.0.0.1:1" in "".join(serving.written)
    assert "hunter2" not in "".join(serving.written)


async def test_wrong_credentials_are_said_and_the_password_is_not(
    start: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server(requirepass="right", unixsocketperm="700")
    serving = await start(redis_url=f"{server.url}?password=hunter2", store_start_timeout_ms=700)
    line = await serving.logged("store_not_reached")
    assert "refused the credentials" in line["error"]
    assert await serving.ended() == 5
    assert "hunter2" not in "".join(serving.written)


async def test_a_namespace_of_a_newer_version_is_left_alone(
    start: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    async with await Allocator.open(server.url):
        pass
    with redis.Redis.from_url(server.url) as client:
        client.hset("{pyscheduler}:config", "schema", "99")
    serving = await start(redis_url=server.url)
    assert await serving.ended() == 1
    assert "layout 99" in "".join(serving.written)


async def test_the_store_may_come_later_than_the_process(
    start: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    server.stop()
    serving = await start(redis_url=server.url)
    await serving.logged("store_not_reached")
    server.start()
    async with connect(await serving.url()) as node:
        await node.become_ready()


async def test_a_bad_setting_is_named_and_the_exit_code_is_2(start: Callable[..., Any]) -> None:
    serving = await start(namespace="not a name")
    assert await serving.ended() == 2


async def test_the_log_tells_every_assignment_and_removal_with_its_reason(
    start: Callable[..., Any], redis_url: str, namespace: str
) -> None:
    serving = await start(
        redis_url=redis_url, namespace=namespace, reconnect_grace_ms=100, lease_ms=1000, reconcile_interval_ms=100
    )
    async with connect(await serving.url()) as node:
        await node.become_ready()
        assigned = await serving.logged("node.assigned")
        assert assigned["node_id"] == node.node_id
        assert (assigned["from"], assigned["to"], assigned["reason"]) == ("", "de-en", "new")
        assert (await serving.logged("config.bumped"))["reason"] == "auto_pool_created"
    assert (await serving.logged("node.released"))["reason"] == "socket_closed"
    expired = await serving.logged("node.expired")
    assert expired["from"] == "de-en"
    assert expired["reason"]
    assert (await serving.logged("reconciled"))["expired"] == 1
    assert all(line["instance"] for line in serving.lines if line["event"].startswith("node."))


async def test_whoever_is_left_goes_on_when_the_owner_of_the_embedded_server_dies(
    start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state_dir = tmp_path_factory.mktemp("s")
    owner = await start(state_dir=state_dir)
    assert (await owner.logged("listening"))["store_owner"] is True
    attached = Scheduler(ServeSettings(**{**QUICK, "state_dir": state_dir}))
    async with attached.process:
        assert not attached.process.owns_store
        async with connect(attached.url) as node, connect(await owner.url()) as elsewhere:
            await node.become_ready()
            await elsewhere.become_ready()
            before = await attached.state(node.node_id)
            assert before is not None
            os.kill(owner.process.pid, signal.SIGKILL)
            await wait_until_async(lambda: attached.process.owns_store, "the other process owns the server")
            await wait_until_async(lambda: attached.logged("store_back"), "the store is back")
            # The data are kept, and so is the node, on the connection that it had.
            after = await attached.state(node.node_id)
            assert after is not None
            assert (after.epoch, after.pool) == (before.epoch, before.pool)
            await node.heartbeat()
            async with connect(attached.url) as again:
                await again.become_ready(node_id=elsewhere.node_id)
            await eventually(lambda: _is_instance(attached, elsewhere.node_id), "the other node has moved over")
        url = find_running(state_dir)
        assert url is not None
        await assert_invariants(url, "pyscheduler")
    assert find_running(state_dir) is None


async def _is_instance(scheduler: Scheduler, node_id: str) -> bool:
    state = await scheduler.state(node_id)
    return state is not None and state.instance == scheduler.process.instance
