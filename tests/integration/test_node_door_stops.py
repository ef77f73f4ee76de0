"""The end of a scheduler, seen from its nodes, and a start that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyscheduler.core.results import NodeStatus
from pyscheduler.registry.connection import Connection
from pyscheduler.registry.listener import CannotListen
from pyscheduler.registry.process import ServeProcess
from pyscheduler.settings import ServeSettings
from tests.doors import QUICK, Scheduler, Serve, connect
from tests.servers import PlainServer


async def test_stopping_releases_the_nodes_and_sends_them_elsewhere(serve: Serve) -> None:
    first, second = await serve(), await serve()
    async with connect(first.url) as node, connect(first.url) as unregistered:
        await node.become_ready()
        await first.process.stop()
        assert await node.closed() == 1012
        assert await unregistered.closed() == 1012
        state = await second.state(node.node_id)
        assert state is not None
        assert (state.status, state.pool) == (NodeStatus.OFFLINE, "de-en")
        assert first.process.instance not in [one.instance for one in await second.allocator.instances()]
        with pytest.raises(OSError):
            async with connect(first.url):
                pass
    async with connect(second.url) as again:
        await again.become_ready(node_id=node.node_id)
    released = next(one for one in await second.allocator.events() if one.type == "node.released")
    assert released.reason == "server_restart"


async def test_stopping_does_not_wait_for_a_store_that_is_gone(
    serve_on: Callable[..., Any], make_server: Callable[..., PlainServer]
) -> None:
    server = make_server()
    scheduler: Scheduler = await serve_on(server.url, shutdown_timeout_ms=500)
    async with connect(scheduler.url) as node:
        await node.become_ready()
        server.pause()
        async with asyncio.timeout(5):
            await scheduler.process.stop()
        server.resume()


async def test_ports_that_are_taken_are_named(serve: Serve, redis_url: str, namespace: str) -> None:
    scheduler = await serve()
    taken = scheduler.process.ports.node
    process = ServeProcess(ServeSettings(**{**QUICK, "redis_url": redis_url, "namespace": namespace, "port": taken}))
    with pytest.raises(CannotListen, match=rf"port {taken}.*--port"):
        await process.start()


async def test_a_stop_waits_until_every_connection_has_been_seen_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_closed = Connection.on_closed

    async def slowly(connection: Connection, reason: str = "") -> None:
        await asyncio.sleep(0.3)
        await on_closed(connection, reason)

    monkeypatch.setattr(Connection, "on_closed", slowly)
    scheduler = await serve()
    async with connect(scheduler.url) as node:
        await node.register()
        sockets = scheduler.process.shared.sockets
        assert len(sockets) == 1
        await scheduler.process.stop()
        assert len(sockets) == 0
