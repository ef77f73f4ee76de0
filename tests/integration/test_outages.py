"""A server that dies, comes back or is slow: what is lost, and what the caller is told."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from pyscheduler import Allocator
from pyscheduler.errors import OutcomeUnknown, StoreUnavailable
from tests.harness import assert_invariants
from tests.own_server import (
    IMPATIENT,
    NAMESPACE,
    MakeServer,
    administer,
    answers,
    heartbeat,
    opened,
    registrations,
    sent,
)
from tests.servers import PlainServer
from tests.support import wait_until_async

# --- the server dies and comes back ----------------------------------------------------------------------------------


async def test_a_server_that_comes_back_empty_gets_its_namespace_again(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        server.kill()
        server.start()
        await administer(server, "PING")
        again = await cell.register("a", "en", "zh", epoch=session.epoch)
        assert (again.pool, again.session.epoch) == ("en-zh", session.epoch)
        assert (await cell.allocator.check()).nodes == 1


async def test_a_server_that_comes_back_with_its_data_goes_on(make_server: MakeServer, program: Path) -> None:
    server = make_server(program, appendonly="yes", appendfsync="always")
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        server.kill()
        server.start()
        await administer(server, "PING")
        assert await heartbeat(cell, session) == 2
        assert await registrations(cell, "a") == 1
    await assert_invariants(server.url, NAMESPACE)


async def test_a_call_that_finds_no_server_was_not_executed(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        server.kill()
        with pytest.raises(StoreUnavailable):
            await cell.allocator.ping()
        for call in (cell.register("b", "en"), heartbeat(cell, session), cell.allocator.pools()):
            with pytest.raises(StoreUnavailable) as refused:
                await call
            assert refused.type is StoreUnavailable
            assert "cannot be reached" in str(refused.value)
        server.start()
        assert (await cell.allocator.nodes()).total == 0


async def test_a_call_that_was_under_way_when_the_server_died_has_an_unknown_outcome(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        server.pause()
        call = asyncio.create_task(cell.register("a", "en", "zh"))
        await sent(cell)
        server.kill()
        with pytest.raises(OutcomeUnknown):
            await call
        server.start()


async def test_there_is_nothing_to_open_where_no_server_is(make_server: MakeServer) -> None:
    server = make_server()
    server.kill()
    with pytest.raises(StoreUnavailable) as refused:
        await Allocator.open(server.url)
    assert refused.type is StoreUnavailable


async def test_followers_are_told_that_the_server_died(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        events = cell.allocator.follow(since="-")
        assert (await anext(events)).type == "config.bumped"
        server.kill()
        with pytest.raises(StoreUnavailable):
            await anext(events)
        await events.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
        server.start()


# --- the server is slow ----------------------------------------------------------------------------------------------


async def test_a_call_that_timed_out_has_an_unknown_outcome_and_is_safe_to_repeat(server: PlainServer) -> None:
    async with opened(server.url) as observer, opened(server.url, IMPATIENT) as cell:
        await cell.register("z", "en", "zh")
        server.pause()
        with pytest.raises(OutcomeUnknown, match="may have been executed"):
            await cell.register("a", "en", "zh")
        with pytest.raises(StoreUnavailable) as not_sent:
            await cell.register("a", "en", "zh")
        assert not_sent.type is StoreUnavailable
        server.resume()
        await wait_until_async(partial(registrations, observer, "a"), "the first call is executed after all")
        first = (await observer.allocator.node("a")).state.epoch
        assert (await cell.register("a", "en", "zh")).session.epoch == first
        assert await registrations(observer, "a") == 1


async def test_replies_are_not_mixed_up_after_a_time_out(server: PlainServer) -> None:
    async with opened(server.url, IMPATIENT) as cell:
        await cell.register("a", "en", "zh")
        server.pause()
        with pytest.raises(OutcomeUnknown):
            await cell.allocator.version()
        server.resume()
        assert await cell.pool_of("a") == "en-zh"
        assert await cell.allocator.version() == 2


async def test_opening_a_server_that_hangs_ends_in_time(server: PlainServer) -> None:
    server.pause()
    with pytest.raises(StoreUnavailable, match="timed out") as refused:
        await Allocator.open(server.url, options=IMPATIENT)
    assert refused.type is StoreUnavailable
    server.resume()


async def test_a_server_that_still_loads_its_data_is_waited_for_by_the_caller(
    make_server: MakeServer, program: Path
) -> None:
    server = make_server(program, rdbcompression="no")
    fill = "for i = 1, 800 do redis.call('SET', 'bulk' .. i, string.rep('x', 50000)) end"
    async with opened(server.url) as cell:
        await administer(server, "EVAL", fill, 0)
        await administer(server, "SAVE")
        server.stop()
        server.settings |= {"key-load-delay": "1000"}  # in microseconds
        server.start()
        with pytest.raises(StoreUnavailable, match="still loading") as refused:
            await Allocator.open(server.url)
        assert refused.type is StoreUnavailable
        await wait_until_async(partial(answers, cell), "the store answers")
        assert (await cell.allocator.check()).ok
