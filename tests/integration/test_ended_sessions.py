"""A session that has ended changes nothing, whatever it ended by and whatever it still says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from pyscheduler.core.results import Session
from pyscheduler.errors import (
    SessionLost,
)
from tests.harness import GRACE_MS, LEASE_MS, Cell
from tests.oracle import read_state
from tests.sessions import heartbeat, put_back, report

LATE: dict[str, Callable[[Cell, Session], Awaitable[object]]] = {
    "heartbeat": lambda cell, old: heartbeat(cell, old, load=0.9, usage='{"cpu":1}'),
    "update": lambda cell, old: cell.allocator.update(old, report("de", "fr"), lease_ms=LEASE_MS),
    "release": lambda cell, old: cell.allocator.release(old, grace_ms=0, reason="late"),
    "registration again": lambda cell, old: cell.register("a", "de", "fr", session_id="s1"),
    "putting back": lambda cell, old: put_back(cell, old, "de", "fr", session_id="s1"),
}


async def taken_over(cell: Cell) -> Session:
    old = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.register("a", "en", "zh", session_id="s2")
    return old


async def released(cell: Cell) -> Session:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    return session


async def released_and_back(cell: Cell) -> Session:
    old = await released(cell)
    await cell.register("a", "en", "zh", session_id="s2")
    return old


async def replaced_after_its_lease(cell: Cell) -> Session:
    old = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.advance(LEASE_MS)
    await cell.register("a", "en", "zh", session_id="s2")
    return old


async def forgotten_and_back(cell: Cell) -> Session:
    old = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    await cell.register("a", "en", "zh", session_id="s2")
    return old


ENDED = (taken_over, released, released_and_back, replaced_after_its_lease, forgotten_and_back)
TOO_LATE = [
    pytest.param(ended, late, id=f"{ended.__name__}-{late}")
    for ended in ENDED
    for late in LATE
    # Once a node has been forgotten, nothing tells a late repetition from a new socket.
    if (ended, late) != (forgotten_and_back, "registration again")
]


async def attempt(cell: Cell, late: str, session: Session) -> object:
    """What the late call returns, or the error that it ends with."""
    try:
        return await LATE[late](cell, session)
    except SessionLost as lost:
        return lost


@pytest.mark.parametrize(("ended", "late"), TOO_LATE)
async def test_a_session_that_has_ended_changes_nothing(
    cell: Cell, ended: Callable[[Cell], Awaitable[Session]], late: str
) -> None:
    old = await ended(cell)
    before = await read_state(cell.store)
    outcome = await attempt(cell, late, old)
    assert await read_state(cell.store) == before
    if late == "release":
        assert outcome is (ended is released), "a release may be repeated"
    else:
        assert isinstance(outcome, SessionLost)
        assert not outcome.unknown


@pytest.mark.parametrize("late", ["heartbeat", "update", "release"])
async def test_a_node_that_has_expired_is_brought_back_by_its_registration_alone(cell: Cell, late: str) -> None:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    before = await read_state(cell.store)
    outcome = await attempt(cell, late, session)
    assert await read_state(cell.store) == before
    assert outcome is False if late == "release" else isinstance(outcome, SessionLost) and outcome.unknown
