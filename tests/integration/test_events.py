"""Events: read from an id on, and followed as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pyscheduler.core.results import Event
from pyscheduler.errors import EventsLost, InvalidInput, StoreUnavailable
from tests.cells import limited_cell
from tests.harness import Cell
from tests.support import DEADLINE_S, wait_until_async


async def test_events_are_read_in_order_from_an_id_on(cell: Cell) -> None:
    await cell.register("a", "en")
    everything = await cell.allocator.events()
    assert [event.type for event in everything] == [
        "config.bumped",
        "pool.created",
        "config.bumped",
        "node.registered",
        "node.assigned",
    ]
    assert [event.id for event in everything] == sorted(event.id for event in everything)
    assert await cell.allocator.events(since=everything[1].id) == everything[2:]
    assert await cell.allocator.events(since=everything[1].id, limit=1) == everything[2:3]
    assert await cell.allocator.events(since=everything[-1].id) == []
    assert await cell.allocator.events(since="0") == everything
    assigned = everything[-1]
    assert (assigned.node_id, assigned.pool, assigned.from_, assigned.to, assigned.reason) == (
        "a",
        "en",
        None,
        "en",
        "new",
    )
    assert assigned.fields == {"class": "1"}
    assert [(event.at_ms, event.version) for event in everything[1:]] == [(everything[-1].at_ms, 2)] * 4


@pytest.mark.parametrize("since", ["", "x", "1-x", "-1", "1-2-3", "\uff11", "99999999999999999999-0", "1" * 50])
async def test_what_is_no_event_id_is_refused(cell: Cell, since: str) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.events(since=since)
    with pytest.raises(InvalidInput):
        await anext(cell.allocator.follow(since=since))


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_a_number_of_events_out_of_its_bounds_is_refused(cell: Cell, limit: int) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.events(limit=limit)


class Follower:
    """Reads a stream of events, one at a time."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def next(self) -> Event:
        async with asyncio.timeout(DEADLINE_S):
            return await anext(self._events)

    async def types(self, count: int) -> list[str]:
        return [(await self.next()).type for _ in range(count)]


async def blocked_readers(cell: Cell) -> list[str]:
    clients = await cell.store.command("CLIENT", "LIST")
    lines = clients if isinstance(clients, str) else str(clients)
    return [line.split()[0].removeprefix("id=") for line in lines.splitlines() if "cmd=xread" in line.lower()]


async def test_events_are_followed_as_they_happen(cell: Cell) -> None:
    await cell.register("before", "en")
    follower = Follower(cell.allocator.follow(block_ms=50))
    first = asyncio.ensure_future(follower.next())
    await wait_until_async(lambda: blocked_readers(cell), "the follower reads")
    await cell.register("a", "en")
    assert (await first).type == "node.registered"
    assert (await follower.next()).type == "node.assigned"


async def test_events_are_followed_from_the_beginning_or_from_an_id_without_a_gap(cell: Cell) -> None:
    await cell.register("a", "en")
    everything = await cell.allocator.events()
    follower = Follower(cell.allocator.follow(since="-", block_ms=50))
    assert [await follower.next() for _ in everything] == everything
    await cell.register("b", "en")
    assert await follower.types(2) == ["node.registered", "node.assigned"]
    later = Follower(cell.allocator.follow(since=everything[0].id, block_ms=50))
    assert [await later.next() for _ in everything[1:]] == everything[1:]


async def test_who_follows_from_an_event_that_is_no_longer_kept_is_told(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, EVENTS_KEPT=10) as cell:
        await cell.register("a", "en")
        first = (await cell.allocator.events())[0]
        for _ in range(150):
            await cell.allocator.hold("a", owner="ops", reason="x")
            await cell.allocator.lift("a", owner="ops", reason="x")
        assert len(await cell.allocator.events()) < 150, "the stream is capped, in whole blocks"
        with pytest.raises(EventsLost):
            await anext(cell.allocator.follow(since=first.id))


async def test_a_connection_that_breaks_ends_the_following_with_an_error(cell: Cell) -> None:
    follower = Follower(cell.allocator.follow(block_ms=60_000))
    waiting = asyncio.ensure_future(follower.next())
    (reader,) = await wait_until_async(lambda: blocked_readers(cell), "the follower reads")
    await cell.store.command("CLIENT", "KILL", "ID", reader)
    with pytest.raises(StoreUnavailable):
        await waiting
