"""A server that refuses: credentials, permissions, replicas, full memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyscheduler import Allocator
from pyscheduler.errors import StoreError, StoreUnavailable
from tests.harness import GRACE_MS
from tests.own_server import ENGLISH, MakeServer, administer, content, heartbeat, opened, raw
from tests.servers import PlainServer


@pytest.mark.parametrize(
    "url",
    ["unix://{path}", "unix://:wrong@{path}", "unix://nobody:wrong@{path}", "unix://{path}?password=wrong"],
)
async def test_wrong_credentials_are_said_to_be_wrong_and_are_not_shown(
    make_server: MakeServer, program: Path, url: str
) -> None:
    server = make_server(program, requirepass="right")
    path = server.url.removeprefix("unix://")
    with pytest.raises(StoreUnavailable, match="user and password") as refused:
        await Allocator.open(url.format(path=path))
    assert refused.type is StoreUnavailable
    assert "wrong@" not in str(refused.value)
    assert "=wrong" not in str(refused.value)
    async with opened(f"unix://:right@{path}") as cell:
        await cell.register("a", "en")


async def test_a_user_who_may_not_run_scripts_is_told_so(server: PlainServer) -> None:
    await administer(server, "ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection", "+info")
    with pytest.raises(StoreError, match="lacks a permission"):
        await Allocator.open(server.url.replace("unix://", "unix://reader:secret@"))


async def test_a_replica_is_read_and_refuses_to_be_written(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await administer(server, "REPLICAOF", "127.0.0.1", 1)
        before = await content(cell)
        writers = (
            heartbeat(cell, session),
            cell.register("b", "en"),
            cell.allocator.sync(ENGLISH),
            cell.allocator.release(session, grace_ms=GRACE_MS, reason="test"),
            cell.allocator.hold("a", owner="ops", reason="test"),
            cell.reconcile(),
        )
        for call in writers:
            with pytest.raises(StoreUnavailable, match="read-only replica") as refused:
                await call
            assert refused.type is StoreUnavailable
        assert await content(cell) == before
        assert await cell.pool_of("a") == "en-zh"
        assert [candidate.pool for candidate in await cell.allocator.find("zh", "en")] == ["en-zh"]
        assert (await cell.allocator.check()).ok
        await administer(server, "REPLICAOF", "NO", "ONE")
        await heartbeat(cell, session)


async def test_an_empty_replica_cannot_be_opened(make_server: MakeServer, program: Path) -> None:
    server = make_server(program, replicaof="127.0.0.1 1")
    with pytest.raises(StoreUnavailable, match="read-only replica"):
        await Allocator.open(server.url)


async def test_a_replica_that_serves_nothing_without_its_primary_is_not_available(server: PlainServer) -> None:
    async with opened(server.url) as cell, raw(server.url) as administrator:
        await administrator.command("CONFIG", "SET", "replica-serve-stale-data", "no")
        await administrator.command("REPLICAOF", "127.0.0.1", 1)
        for call in (cell.allocator.pools(), cell.register("a", "en")):
            with pytest.raises(StoreUnavailable) as refused:
                await call
            assert refused.type is StoreUnavailable
        await administrator.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("program", [pytest.param(name, id=name) for name in ("valkey", "redis")], indirect=True)
@pytest.mark.parametrize("flushed", [False, True], ids=["", "scripts flushed"])
async def test_with_full_memory_nodes_stay_alive_and_go_but_do_not_come(server: PlainServer, flushed: bool) -> None:
    async with opened(server.url) as cell:
        a, b = [(await cell.register(node, "en", "zh")).session for node in "ab"]
        await cell.trust_leases()
        await administer(server, "SET", "ballast", "x" * 2_000_000)
        await administer(server, "CONFIG", "SET", "maxmemory", "1mb")
        if flushed:
            await administer(server, "SCRIPT", "FLUSH")
        for call in (cell.register("c", "en", "zh"), cell.register("d", "fr"), cell.allocator.sync(ENGLISH)):
            with pytest.raises(StoreUnavailable, match="out of memory") as refused:
                await call
            assert refused.type is StoreUnavailable
        await heartbeat(cell, a)
        assert (await cell.allocator.hold("a", owner="ops", reason="full")).changed
        assert (await cell.allocator.lift("a", owner="ops", reason="not full")).changed
        assert await cell.allocator.release(b, grace_ms=0, reason="test")
        assert (await cell.reconcile()).expired == 1
        assert (await cell.allocator.check()).ok
        assert [node.node_id for node in (await cell.allocator.nodes()).nodes] == ["a"]
        await administer(server, "CONFIG", "SET", "maxmemory", "0")
        await cell.register("c", "en", "zh")


@pytest.mark.parametrize("program", [pytest.param("redis 6.2", id="redis 6.2")], indirect=True)
async def test_with_full_memory_redis_6_does_a_thing_whole_or_not_at_all(server: PlainServer) -> None:
    """It cannot be told to let some scripts run then, so even heartbeats are refused."""
    async with opened(server.url) as cell:
        a, b = [(await cell.register(node, "en", "zh")).session for node in "ab"]
        await cell.trust_leases()
        await administer(server, "SET", "ballast", "x" * 2_000_000)
        await administer(server, "CONFIG", "SET", "maxmemory", "1mb")
        for call in (cell.register("c", "fr"), cell.allocator.sync(ENGLISH), heartbeat(cell, a)):
            with pytest.raises(StoreUnavailable, match="out of memory") as refused:
                await call
            assert refused.type is StoreUnavailable
        assert await cell.allocator.release(b, grace_ms=0, reason="test")
        assert (await cell.reconcile()).expired == 1
        assert (await cell.allocator.check()).ok
