"""Sessions put back after the store has lost something of them: what goes on, and under which epoch."""

from __future__ import annotations

import pytest

from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import (
    SessionLost,
)
from tests.cells import Replica, lose_everything
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, pool
from tests.oracle import read_state
from tests.sessions import heartbeat, last_event, put_back, report


async def test_after_the_store_lost_everything_a_session_goes_on_under_its_epoch(cell: Cell) -> None:
    await cell.allocator.sync(document_of(pool("english", semantic={"contains": ["en"]})))
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await lose_everything(cell)

    with pytest.raises(SessionLost) as lost:
        await heartbeat(cell, session)
    assert lost.value.unknown
    back = await put_back(cell, session, "en", "zh", session_id="s1")
    assert back.session.epoch == session.epoch
    assert (back.pool, back.version) == ("en-zh", 2), "the document is lost too, until an operator brings it"
    await heartbeat(cell, back.session)
    assert (await last_event(cell, "node.registered"))["reason"] == "resume"


async def test_a_session_that_has_expired_goes_on_under_a_newer_epoch(cell: Cell) -> None:
    """Another socket of the node may have come and gone meanwhile: the epoch must be above that one's, too."""
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    other = (await cell.register("a", "en", "zh", session_id="s2")).session
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    back = await put_back(cell, session, "en", "zh", session_id="s1")
    assert back.session.epoch > other.epoch
    with pytest.raises(SessionLost):
        await heartbeat(cell, other)


async def test_putting_back_may_be_repeated_though_it_gave_a_new_epoch(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    back = await put_back(cell, session, "en", "zh", session_id="s1")
    before = await read_state(cell.store)
    again = await put_back(cell, session, "en", "zh", session_id="s1")  # the reply with the new epoch was lost
    assert again.session == back.session
    assert (await read_state(cell.store)).events == before.events


async def test_a_failover_that_lost_the_newest_session_does_not_end_it(cell: Cell) -> None:
    old = (await cell.register("a", "en", "zh", session_id="s1")).session
    replica = await Replica.of(cell)
    newest = (await cell.register("a", "de", "fr", session_id="s2")).session
    await replica.fail_over()

    for attempt in (heartbeat(cell, newest), cell.allocator.update(newest, report("de"), lease_ms=LEASE_MS)):
        with pytest.raises(SessionLost) as lost:
            await attempt
        assert lost.value.unknown, "its process must put it back, not close the socket"
    back = await put_back(cell, newest, "de", "fr", session_id="s2")
    assert back.session.epoch == newest.epoch
    assert back.pool == "de-fr"
    with pytest.raises(SessionLost) as superseded:
        await heartbeat(cell, old)
    assert not superseded.value.unknown


async def test_a_session_that_a_failover_lost_is_put_back_where_takeover_is_refused_too(cell: Cell) -> None:
    """The session that the store still holds had ended before: it is no holder that could refuse."""
    first = (await cell.register("a", "en", session_id="s1")).session
    await cell.allocator.release(first, grace_ms=GRACE_MS, reason="closed")
    second = (await cell.register("a", "en", session_id="s2")).session
    replica = await Replica.of(cell)
    await cell.allocator.release(second, grace_ms=GRACE_MS, reason="closed")
    newest = (await cell.register("a", "en", session_id="s3", takeover=False)).session
    await replica.fail_over()

    back = await put_back(cell, newest, "en", session_id="s3", takeover=False)
    assert back.session.epoch == newest.epoch
    assert (await last_event(cell, "node.registered"))["reason"] == "resume"


async def test_many_sessions_put_back_after_a_failover_are_no_sign_of_cloned_ids(cell: Cell) -> None:
    await cell.register("a", "en", session_id="s0")
    for number in range(1, 5):
        replica = await Replica.of(cell)
        newest = (await cell.register("a", "en", session_id=f"s{number}")).session
        await replica.fail_over()
        back = await put_back(cell, newest, "en", session_id=f"s{number}")
        assert not back.cloned_id


async def test_a_failover_that_lost_an_update_does_not_end_the_session(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    replica = await Replica.of(cell)
    changed = await cell.allocator.update(session, report("de", "fr"), lease_ms=LEASE_MS)
    await replica.fail_over()

    with pytest.raises(SessionLost) as lost:
        await heartbeat(cell, changed.session)
    assert lost.value.unknown
    assert (await put_back(cell, changed.session, "de", "fr", session_id="s1")).session.epoch == session.epoch
    assert await cell.pool_of("a") == "de-fr"


async def test_an_update_whose_reply_was_lost_does_not_end_the_session(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", session_id="s1")).session
    changed = await cell.allocator.update(session, report("de", "fr"), lease_ms=LEASE_MS)
    with pytest.raises(SessionLost) as lost:
        await heartbeat(cell, session)  # the caller has the token from before the update
    assert lost.value.unknown
    assert (await put_back(cell, session, "de", "fr", session_id="s1")).session == changed.session


async def test_a_failover_that_lost_the_new_epoch_of_a_session_that_was_put_back(cell: Cell) -> None:
    session = (await cell.register("a", "en", session_id="s1")).session
    replica = await Replica.of(cell)
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    back = (await put_back(cell, session, "en", session_id="s1")).session
    assert back.epoch > session.epoch
    await replica.fail_over()
    assert (await put_back(cell, back, "en", session_id="s1")).session.epoch == back.epoch


async def test_a_status_that_changes_while_the_store_is_away_is_told_with_a_reason(cell: Cell) -> None:
    session = (await cell.register("a", "en", session_id="s1", status=NodeStatus.REGISTERING)).session
    await put_back(cell, session, "en", session_id="s1")
    event = await last_event(cell, "node.status")
    assert (event["from"], event["to"], event["reason"]) == ("registering", "ready", "resume")


async def test_admission_does_not_apply_again_to_a_session_that_is_put_back(cell: Cell) -> None:
    checked_under = (await cell.allocator.admission()).digest
    session = (await cell.register("a", "en", session_id="s1", admission_digest=checked_under)).session
    await cell.allocator.sync(document_of(admission={"gpu": {"min_count": 2}}))
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    assert (await put_back(cell, session, "en", session_id="s1", admission_digest=checked_under)).pool == "en"
