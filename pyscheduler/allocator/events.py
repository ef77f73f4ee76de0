"""Events: what happened, and what happens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from pyscheduler.allocator.namespace import Namespace
from pyscheduler.allocator.replies import event_of
from pyscheduler.core.ids import shown
from pyscheduler.core.limits import MAX_EVENTS_PAGE
from pyscheduler.core.results import Event
from pyscheduler.errors import EventsLost, InvalidInput

_EVENT_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_MAX_U64 = 2**64 - 1


class Events(Namespace):
    """The calls that read the event stream."""

    async def events(self, *, since: str = "-", limit: int = 1000) -> list[Event]:
        """Events after an id, oldest first.

        Args:
            since: id after which to begin; ``-`` for the oldest that is kept.
            limit: events at most, 1..10000.

        Raises:
            InvalidInput: not an id, or a limit out of its bounds.
        """
        if not 1 <= limit <= MAX_EVENTS_PAGE:
            raise InvalidInput(f"limit must be 1 to {MAX_EVENTS_PAGE}")
        start = "-" if since == "-" else f"({_event_id(since)}"
        entries = await self._store.command("XRANGE", self._store.key("events"), start, "+", "COUNT", limit)
        return [event_of(entry) for entry in entries]

    async def newest_event_id(self) -> str:
        """Id of the newest event, to follow from; ``0-0`` if there is none."""
        entries = await self._store.command("XREVRANGE", self._store.key("events"), "+", "-", "COUNT", 1)
        return str(entries[0][0]) if entries else "0-0"

    async def follow(self, *, since: str = "$", block_ms: int = 5000) -> AsyncIterator[Event]:
        """Events as they happen, on a connection of its own, until the caller stops.

        Args:
            since: id after which to begin; ``$`` for what comes from now on, ``-`` for all that is kept.
            block_ms: longest wait of one read.

        Raises:
            EventsLost: the entry ``since`` is no longer kept, so others may have been missed.
            InvalidInput: not an id.
            StoreUnavailable: the connection failed.
        """
        if since == "-":
            since = "0-0"
        elif since != "$" and _event_id(since) != "0-0":
            since = _event_id(since)
            if not await self._store.command("XRANGE", self._store.key("events"), since, since):
                raise EventsLost(f"event {since} is no longer kept")
        async for batch in self._store.follow("events", since, block_ms, 1000):
            for entry in batch:
                yield event_of(entry)
            await asyncio.sleep(0)


def _event_id(text: str) -> str:
    found = _EVENT_ID.fullmatch(text)
    if found is None or any(int(number or 0) > _MAX_U64 for number in found.groups()):
        raise InvalidInput(f"{shown(text)} is no event id: one looks like 1767225600000-0")
    return f"{found[1]}-{found[2] or '0'}"
