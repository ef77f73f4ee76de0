"""Where a process begins to read the event stream: nothing that happens once its doors are open may be missed."""

from __future__ import annotations

from tests.harness import Cell


async def test_the_newest_event_is_where_following_begins(cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    assert await cell.allocator.newest_event_id() == (await cell.allocator.events())[-1].id


async def test_an_empty_stream_has_no_newest_event(cell: Cell) -> None:
    await cell.store.command("XTRIM", cell.store.key("events"), "MAXLEN", "0")
    assert await cell.allocator.newest_event_id() == "0-0"
