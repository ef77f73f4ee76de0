"""Many callers on one connection, until it is closed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Any

import pytest

from pyscheduler import StoreOptions
from pyscheduler.core.limits import MAX_TOUCH_BATCH
from pyscheduler.core.results import Registration
from pyscheduler.errors import LimitExceeded, OutcomeUnknown, StoreError, StoreUnavailable
from pyscheduler.store import Store
from tests.own_server import NAMESPACE, PATIENT, MakeServer, heartbeat, opened, sent
from tests.servers import PlainServer
from tests.support import wait_until_async


async def test_a_thousand_heartbeats_go_in_a_handful_of_calls(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        nodes = [f"n{number}" for number in range(1000)]
        sessions = [answer.session for answer in await asyncio.gather(*(cell.register(node, "en") for node in nodes))]
        await heartbeat(cell, sessions[0])
        await cell.store.command("CONFIG", "RESETSTAT")
        await asyncio.gather(*(heartbeat(cell, session) for session in sessions))
        statistics = str(await cell.store.command("INFO", "commandstats"))
        calls = next(line for line in statistics.splitlines() if line.startswith("cmdstat_evalsha:"))
        assert int(calls.split("calls=")[1].split(",")[0]) == ceil(1000 / MAX_TOUCH_BATCH)


async def test_a_cancelled_caller_disturbs_nobody(server: PlainServer) -> None:
    async with opened(server.url, StoreOptions(batch=1)) as cell:
        sessions = [(await cell.register(f"old{number}", "en")).session for number in range(30)]
        server.pause()
        registering = [asyncio.create_task(cell.register(f"new{number}", "en")) for number in range(30)]
        beating = [asyncio.create_task(heartbeat(cell, session)) for session in sessions]
        await wait_until_async(
            lambda: len(cell.store._waiting) == 1, "the registrations are under way and the heartbeats wait"
        )
        cancelled: Sequence[asyncio.Task[Any]] = (*registering[::3], *beating[::3])
        for task in cancelled:
            task.cancel()
        server.resume()
        outcomes = await asyncio.gather(*registering, *beating, return_exceptions=True)
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == len(cancelled)
        for number, outcome in enumerate(outcomes[:30]):
            if number % 3:
                assert isinstance(outcome, Registration)
                assert outcome.session.node_id == f"new{number}"
        assert set(outcomes[30:]) - set(outcomes[30::3]) == {2}
        assert await cell.allocator.version() == 2


async def test_a_reply_that_is_no_text_is_nobody_elses_trouble(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        await cell.store.command("EVAL", "redis.call('SET', KEYS[1], '\\255')", 1, "{own}:theirs")
        theirs, ours = await asyncio.gather(
            cell.store.command("GET", "{own}:theirs"), cell.register("a", "en"), return_exceptions=True
        )
        assert isinstance(theirs, str | StoreError)
        assert isinstance(ours, Registration)


async def test_more_calls_than_the_queue_takes_are_refused_at_once(server: PlainServer) -> None:
    async with opened(server.url, StoreOptions(queue=10)) as cell:
        outcomes = await asyncio.gather(*(cell.allocator.ping() for _ in range(50)), return_exceptions=True)
        assert Counter(type(outcome) for outcome in outcomes) == {float: 10, LimitExceeded: 40}
        assert await cell.allocator.ping() > 0


async def test_closing_ends_every_call(server: PlainServer) -> None:
    async with opened(server.url, StoreOptions(batch=1)) as cell:
        session = (await cell.register("a", "en")).session
        server.pause()
        under_way = asyncio.create_task(cell.allocator.version())
        await sent(cell)
        waiting = [asyncio.create_task(call) for call in (cell.allocator.version(), heartbeat(cell, session))]
        await asyncio.sleep(0)
        await cell.allocator.aclose()
        server.resume()
        outcomes = await asyncio.gather(under_way, *waiting, cell.allocator.version(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, *[StoreUnavailable] * 3]


@pytest.mark.parametrize("turns", range(12))
async def test_closing_in_the_middle_of_a_call_ends(make_server: MakeServer, turns: int) -> None:
    store = await Store.open(make_server().url, NAMESPACE, PATIENT)

    async def call_for_ever() -> None:
        while True:
            await store.command("PING")

    calling = asyncio.create_task(call_for_ever())
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await store.aclose()
        with pytest.raises(StoreUnavailable):
            await calling
