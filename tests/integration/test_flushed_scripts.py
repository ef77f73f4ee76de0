"""Scripts that a server forgets, once or all the time: nobody notices."""

from __future__ import annotations

import asyncio

from tests.own_server import ENGLISH, administer, heartbeat, opened, raw, registrations
from tests.servers import PlainServer


async def test_flushed_scripts_are_not_noticed(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await administer(server, "SCRIPT", "FLUSH")
        assert await heartbeat(cell, session) == 2
        await administer(server, "SCRIPT", "FLUSH")
        await cell.allocator.sync(ENGLISH)
        assert await cell.pool_of("a") == "english"


async def test_scripts_that_are_flushed_all_the_time_make_no_call_fail_or_run_twice(server: PlainServer) -> None:
    async with opened(server.url) as cell, raw(server.url) as administrator:

        async def flush_until_done() -> None:
            while not done.is_set():
                await administrator.command("SCRIPT", "FLUSH")

        done = asyncio.Event()
        flushing = asyncio.create_task(flush_until_done())
        nodes = [f"n{number}" for number in range(40)]
        try:
            for node in nodes:
                count = cell.store.command("INCR", "{own}:counted")
                await asyncio.gather(count, cell.register(node, "en", "zh"), cell.allocator.pools())
        finally:
            done.set()
            await flushing
        assert await cell.store.command("GETDEL", "{own}:counted") == "40"
        assert [await registrations(cell, node) for node in nodes] == [1] * 40
