"""A store whose content is not ours, or not of this version: it is named and left alone."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler import Allocator
from pyscheduler.errors import StoreError, StoreUnavailable
from tests.own_server import NAMESPACE, administer, content, heartbeat, opened
from tests.servers import PlainServer
from tests.support import wait_until_async


@pytest.mark.breaks_store
@pytest.mark.parametrize(("layout", "said"), [("4", "upgrade pyscheduler"), ("1", "of an older version, so use that")])
async def test_another_layout_is_left_alone(server: PlainServer, layout: str, said: str) -> None:
    said = f"has layout {layout}, this version knows layout 3: .*{said}, or choose another --namespace"
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await cell.store.command("HSET", cell.store.key("config"), "schema", layout)
        before = await content(cell)
        for call in (cell.register("a", "en"), heartbeat(cell, session), cell.allocator.pools(), cell.reconcile()):
            with pytest.raises(StoreError, match=said):
                await call
        with pytest.raises(StoreError, match=said):
            await Allocator.open(server.url, namespace=NAMESPACE)
        assert await content(cell) == before


@pytest.mark.breaks_store
async def test_somebody_elses_keys_are_left_alone(server: PlainServer) -> None:
    await administer(server, "HSET", "{own}:pools", "theirs", "1")
    with pytest.raises(StoreError, match=r"\{own\}:pools exists.*another --namespace"):
        await Allocator.open(server.url, namespace=NAMESPACE)
    assert await administer(server, "KEYS", "*") == ["{own}:pools"]


@pytest.mark.breaks_store
async def test_a_namespace_restored_in_part_is_not_adopted(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await cell.store.command("DEL", cell.store.key("config"))
        before = await content(cell)
        with pytest.raises(StoreError, match="restored in part"):
            await heartbeat(cell, session)
        assert await content(cell) == before


@pytest.mark.breaks_store
async def test_a_key_of_a_wrong_type_is_named(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await cell.store.command("DEL", cell.store.key("leases"))
        await cell.store.command("SET", cell.store.key("leases"), "spoilt")
        before = await content(cell)
        for call in (cell.register("b", "en"), heartbeat(cell, session), cell.reconcile(), cell.allocator.check()):
            with pytest.raises(
                StoreError, match=r"\{own\}:leases is a string, not a zset.*another --namespace"
            ) as refused:
                await call
            assert not isinstance(refused.value, StoreUnavailable)
        assert await content(cell) == before


async def test_an_engine_that_is_too_old_is_refused() -> None:
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.strip().upper() == b"INFO":
                info = "# Server\r\nredis_version:5.0.14\r\n"
                writer.write(f"${len(info)}\r\n{info}\r\n".encode())
            elif line.strip().upper() == b"CLIENT":
                writer.write(b"+OK\r\n")
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(StoreError, match=r"redis 5\.0\.14 is too old: Redis 6\.2 or newer") as refused:
            await Allocator.open(f"redis://127.0.0.1:{port}")
        assert not isinstance(refused.value, StoreUnavailable)
        await wait_until_async(hung_up.is_set, "the connection is closed", 2)
