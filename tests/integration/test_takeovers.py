"""One node id, several sockets: who takes it over, where takeover is refused, and what looks like a cloned id."""

from __future__ import annotations

import pytest

from pyscheduler.errors import (
    NodeIdConflict,
    SessionLost,
)
from tests.harness import GRACE_MS, LEASE_MS, Cell
from tests.oracle import read_state
from tests.sessions import heartbeat, last_event


async def test_a_node_that_comes_back_within_its_grace_never_leaves_its_pool(cell: Cell) -> None:
    first = await cell.register("a", "en", "zh", session_id="s1")
    assert await cell.allocator.release(first.session, grace_ms=GRACE_MS, reason="closed")
    await cell.pass_time(GRACE_MS - 10_000)
    assert (await cell.reconcile()).expired == 0
    assert await cell.pool_of("a") == "en-zh"

    second = await cell.register("a", "en", "zh", session_id="s2")
    assert second.session.epoch > first.session.epoch
    assert second.node_class == first.node_class
    assert await cell.event_types("a") == ["node.registered", "node.assigned", "node.released", "node.registered"]
    assert (await last_event(cell, "node.registered"))["reason"] == "reconnect"


async def test_the_newest_socket_of_an_id_takes_it_over(cell: Cell) -> None:
    first = await cell.register("a", "en", "zh", session_id="s1", instance="one")
    second = await cell.register("a", "en", "zh", session_id="s2", instance="two")
    assert second.session.epoch > first.session.epoch
    assert (await cell.allocator.node("a")).state.instance == "two"
    assert (await last_event(cell, "node.registered"))["reason"] == "takeover"
    with pytest.raises(SessionLost) as lost:
        await heartbeat(cell, first.session)
    assert not lost.value.unknown
    await heartbeat(cell, second.session)


async def test_where_takeover_is_refused_the_holder_keeps_the_id_while_its_lease_lives(cell: Cell) -> None:
    first = await cell.register("a", "en", session_id="s1", instance="one")
    before = await read_state(cell.store)
    with pytest.raises(NodeIdConflict) as refused:
        await cell.register("a", "de", session_id="s2", takeover=False)
    assert refused.value.instance == "one"
    assert await read_state(cell.store) == before

    assert (await cell.register("a", "en", session_id="s1", takeover=False)).session == first.session
    await cell.advance(LEASE_MS)
    second = await cell.register("a", "en", session_id="s2", takeover=False)
    assert second.session.epoch > first.session.epoch


async def test_where_takeover_is_refused_a_released_id_is_free(cell: Cell) -> None:
    first = await cell.register("a", "en", session_id="s1")
    await cell.allocator.release(first.session, grace_ms=GRACE_MS, reason="closed")
    assert (await cell.register("a", "en", session_id="s2", takeover=False)).pool == "en"


async def test_takeovers_that_follow_each_other_quickly_are_recognised_as_a_cloned_id(cell: Cell) -> None:
    found = []
    for number in range(4):
        found.append((await cell.register("a", "en", session_id=f"s{number}")).cloned_id)
        await cell.advance(1000)
    assert found == [False, False, False, True]
    assert (await last_event(cell, "node.registered"))["reason"] == "cloned_id"

    session = (await cell.register("a", "en", session_id="s4")).session
    for _ in range(2):
        await cell.advance(40_000)
        await heartbeat(cell, session)
    assert not (await cell.register("a", "en", session_id="s5")).cloned_id, "a minute has passed in peace"


async def test_a_reconnect_after_a_release_is_no_sign_of_a_cloned_id(cell: Cell) -> None:
    for number in range(6):
        registered = await cell.register("a", "en", session_id=f"s{number}")
        assert not registered.cloned_id
        await cell.allocator.release(registered.session, grace_ms=GRACE_MS, reason="closed")
