"""Sessions of nodes: who speaks for a node id, and what those who no longer do can change (nothing)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.errors import (
    AdmissionChanged,
    InvalidInput,
    LimitExceeded,
    NodeIdConflict,
    PyschedulerError,
    SessionLost,
    StoreUnavailable,
)
from tests.cells import Replica, limited_cell, lose_everything
from tests.harness import GRACE_MS, LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state

CHINESE = facts_of("en", "zh")
GERMAN = facts_of("de", "fr")


def report(*languages: str, **members: object) -> NodeReport:
    return NodeReport.of(facts_of(*languages), **members)  # type: ignore[arg-type]


async def heartbeat(cell: Cell, session: Session, **what: object) -> int:
    return await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, **what)  # type: ignore[arg-type]


async def put_back(cell: Cell, session: Session, *languages: str, session_id: str, **options: object) -> Registration:
    """The process that still holds the socket registers its session again."""
    return await cell.register(session.node_id, *languages, session_id=session_id, epoch=session.epoch, **options)


async def last_event(cell: Cell, kind: str) -> dict[str, str]:
    return [event for event in (await read_state(cell.store)).events if event["type"] == kind][-1]


# --- a new session ----------------------------------------------------------------------------------------------------


async def test_a_node_that_registers_is_in_the_pool_of_its_languages(cell: Cell) -> None:
    registered = await cell.register("a", "zh", "en", record={"name": "Tower", "future_field": [1, {"x": None}]})
    assert (registered.pool, registered.pool_id, registered.reason) == ("en-zh", 1, "matched")
    assert registered.status is NodeStatus.READY
    assert not registered.cloned_id

    node = await cell.allocator.node("a")
    assert (node.state.pool, node.state.pool_id) == ("en-zh", 1)
    assert (node.state.epoch, node.state.version) == (registered.session.epoch, registered.version)
    assert node.state.instance == "test"
    assert node.state.languages == ("en", "zh")
    assert 0 < node.state.lease_ms <= LEASE_MS
    assert node.record == {"name": "Tower", "future_field": [1, {"x": None}]}
    assert node.transition is not None
    assert (node.transition.from_pool, node.transition.to_pool) == (None, "en-zh")
    assert node.transition.reason == "new"
    assert await cell.event_types("a") == ["node.registered", "node.assigned"]


async def test_a_registration_repeated_by_its_own_session_changes_nothing_but_the_lease(cell: Cell) -> None:
    """A reply may be lost; then the caller asks again."""
    first = await cell.register("a", "en", "zh", session_id="s1")
    before = await read_state(cell.store)
    await cell.advance(1000)
    again = await cell.register("a", "en", "zh", session_id="s1")
    assert again == first

    after = await read_state(cell.store)
    assert after.leases["a"] > before.leases["a"]
    assert after.events == before.events
    after.leases, after.config["test_offset_ms"] = before.leases, before.config.get("test_offset_ms", "")
    before.config.setdefault("test_offset_ms", "")
    assert after == before


async def test_epochs_of_one_node_grow_although_the_clock_goes_back(cell: Cell) -> None:
    first = await cell.register("a", "en", session_id="s1")
    await cell.advance(-3_600_000)
    second = await cell.register("a", "en", session_id="s2")
    assert second.session.epoch > first.session.epoch
    with pytest.raises(SessionLost):
        await heartbeat(cell, first.session)


async def test_the_epoch_of_a_node_that_has_been_forgotten_is_never_given_again(cell: Cell) -> None:
    first = await cell.register("a", "en", session_id="s1")
    await cell.pass_time(LEASE_MS)
    assert (await cell.reconcile()).expired == 1
    await cell.advance(-3_600_000)
    second = await cell.register("a", "en", session_id="s2")
    assert second.session.epoch > first.session.epoch


async def test_a_node_that_is_not_ready_takes_no_work(cell: Cell) -> None:
    registered = await cell.register("a", "en", "zh", status=NodeStatus.REGISTERING)
    assert registered.status is NodeStatus.REGISTERING
    assert (registered.pool, await ready(cell)) == ("en-zh", 0)

    await cell.allocator.update(registered.session, report("en", "zh"), lease_ms=LEASE_MS, reason="warm")
    assert await ready(cell) == 1
    assert (await last_event(cell, "node.status"))["from"] == "registering"
    assert (await last_event(cell, "node.status"))["reason"] == "warm"

    ill = report("en", "zh", status=NodeStatus.DEGRADED)
    changed = await cell.allocator.update(registered.session, ill, lease_ms=LEASE_MS, reason="gpu at 140 %")
    assert changed.status is NodeStatus.DEGRADED
    assert (changed.pool, await ready(cell)) == ("en-zh", 0)


async def ready(cell: Cell) -> int:
    return sum(row.ready for row in (await cell.allocator.pools()).pools)


# --- one id, several sockets ------------------------------------------------------------------------------------------


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


async def test_a_registration_that_is_repeated_too_late_does_not_take_the_node_back(cell: Cell) -> None:
    """Its first reply was lost; before it asked again, the node had come back on another socket."""
    for name in ("s1", "s2", "s3"):
        await cell.register("a", "en", "zh", session_id=name)
    newest = (await cell.register("a", "en", "zh", session_id="s4")).session
    before = await read_state(cell.store)
    for late in ("s1", "s2", "s3"):
        with pytest.raises(SessionLost) as lost:
            await cell.register("a", "en", "zh", session_id=late)
        assert not lost.value.unknown
    assert await read_state(cell.store) == before
    await heartbeat(cell, newest)


async def test_a_damaged_record_is_healed_by_the_next_registration(cell: Cell) -> None:
    first = await cell.register("a", "en", session_id="s1")
    await cell.store.command("HSET", cell.store.key("nodes"), "a", "{damaged")
    assert [node.instance for node in (await cell.allocator.nodes()).nodes] == [""]
    assert (await cell.allocator.node("a")).record == {}
    second = await cell.register("a", "en", session_id="s2")
    assert second.session.epoch > first.session.epoch
    assert (await cell.allocator.node("a")).state.instance == "test"


# --- an old epoch changes nothing -------------------------------------------------------------------------------------

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


# --- a session is put back --------------------------------------------------------------------------------------------


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


# --- releases and leases ----------------------------------------------------------------------------------------------


async def test_a_released_node_takes_no_work_but_stays_in_its_pool(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    assert await cell.allocator.release(session, grace_ms=GRACE_MS, reason="socket closed")
    state = (await cell.allocator.node("a")).state
    assert (state.status, state.pool) == (NodeStatus.OFFLINE, "en-zh")
    assert state.lease_ms <= GRACE_MS
    assert await ready(cell) == 0
    event = await last_event(cell, "node.released")
    assert (event["pool"], event["reason"]) == ("en-zh", "socket closed")


async def test_a_release_never_lengthens_a_lease(cell: Cell) -> None:
    session = (await cell.register("a", "en", lease_ms=1000)).session
    await cell.allocator.release(session, grace_ms=GRACE_MS, reason="closed")
    assert (await cell.allocator.node("a")).state.lease_ms <= 1000


async def test_a_lease_that_has_lapsed_can_be_renewed_until_somebody_notices(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    await cell.pass_time(LEASE_MS + 1)
    await heartbeat(cell, session)
    assert (await cell.reconcile()).expired == 0
    assert await cell.pool_of("a") == "en-zh"


# --- heartbeats -------------------------------------------------------------------------------------------------------


async def test_a_heartbeat_tells_load_and_usage(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", load=0.25)).session
    assert await heartbeat(cell, session, load=0.5, usage='{"cpu_percent": 12.5}') == await cell.allocator.version()
    node = await cell.allocator.node("a")
    assert (node.state.load, node.usage) == (0.5, {"cpu_percent": 12.5})
    assert (await read_state(cell.store)).ready["a"] == node.state.node_class * 1024 + 0.5


async def test_a_heartbeat_with_a_load_alone_leaves_the_usage(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    await heartbeat(cell, session, load=0.5, usage='{"cpu_percent":1}')
    await heartbeat(cell, session, load=0.75)
    node = await cell.allocator.node("a")
    assert (node.state.load, node.usage) == (0.75, {"cpu_percent": 1})
    await asyncio.gather(
        heartbeat(cell, session, load=0.1, usage='{"cpu_percent":2}'), heartbeat(cell, session, load=1.0)
    )
    node = await cell.allocator.node("a")
    assert (node.state.load, node.usage) == (1.0, {"cpu_percent": 2})


async def test_a_heartbeat_without_news_leaves_load_and_usage(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", load=0.25)).session
    await heartbeat(cell, session, load=0.5, usage='{"cpu_percent":1}')
    await heartbeat(cell, session)
    node = await cell.allocator.node("a")
    assert (node.state.load, node.usage) == (0.5, {"cpu_percent": 1})


async def test_an_update_tells_load_and_usage_too(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", load=0.25)).session
    busy = report("en", "zh", load=0.5, usage={"cpu_percent": 90})
    assert (await cell.allocator.update(session, busy, lease_ms=LEASE_MS)).session == session
    node = await cell.allocator.node("a")
    assert (node.state.load, node.usage) == (0.5, {"cpu_percent": 90})


@pytest.mark.parametrize("status", [NodeStatus.REGISTERING, NodeStatus.DEGRADED])
async def test_a_heartbeat_makes_no_node_ready(cell: Cell, status: NodeStatus) -> None:
    session = (await cell.register("a", "en", status=status)).session
    await heartbeat(cell, session, load=0.5)
    assert await ready(cell) == 0


async def test_heartbeats_that_come_together_leave_together_and_each_has_its_own_answer(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = [(await cell.register(f"n{number}", "en")).session for number in range(20)]
    stale = (await cell.register("stale", "en", session_id="s1")).session
    await cell.register("stale", "en", session_id="s2")
    unknown = Session("unknown", 1, "1:1:r:ab")
    sent: list[str] = []
    run = cell.store.run

    async def counted(call: object) -> list[str]:
        sent.append(call.script)  # type: ignore[attr-defined]
        return await run(call)  # type: ignore[arg-type]

    monkeypatch.setattr(cell.store, "run", counted)
    sessions = [*alive[:10], stale, *alive[10:], unknown]
    answers = await asyncio.gather(*(heartbeat(cell, session) for session in sessions), return_exceptions=True)
    assert len(sent) < 5, "not one call a node"
    for session, answer in zip(sessions, answers, strict=True):
        if session in (stale, unknown):
            assert isinstance(answer, SessionLost)
            assert (answer.node_id, answer.unknown) == (session.node_id, session is unknown)
        else:
            assert answer == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"load": 1.5},
        {"load": -0.1},
        {"load": float("nan")},
        {"usage": "{}"},
        {"load": 0.5, "usage": "[]"},
        {"load": 0.5, "usage": "{"},
        {"load": 0.5, "usage": " {}"},
        {"load": 0.5, "usage": json.dumps({"x": "y" * 5000})},
        {"load": 0.5, "usage": '{"x":"\ud800"}'},
    ],
)
async def test_one_bad_heartbeat_is_no_trouble_of_the_others(cell: Cell, bad: dict[str, object]) -> None:
    good, other = (await cell.register("a", "en")).session, (await cell.register("b", "en")).session
    refused, answer, named = await asyncio.gather(
        heartbeat(cell, other, **bad),
        heartbeat(cell, good, load=0.5),
        heartbeat(cell, Session("no id", 1, "")),
        return_exceptions=True,
    )
    assert isinstance(refused, InvalidInput)
    assert isinstance(named, InvalidInput)
    assert answer == 2


async def test_heartbeats_that_wait_while_the_allocator_is_closed_end_with_an_error(cell: Cell) -> None:
    sessions = [(await cell.register(f"n{number}", "en")).session for number in range(3)]
    waiting = [
        asyncio.ensure_future(cell.allocator.heartbeat(session, lease_ms=LEASE_MS + number))
        for number, session in enumerate(sessions)
    ]
    await asyncio.sleep(0)
    await cell.allocator.aclose()
    for answer in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
        assert isinstance(answer, StoreUnavailable)


# --- admission --------------------------------------------------------------------------------------------------------


async def test_a_new_node_must_have_been_checked_under_the_policy_in_force(cell: Cell) -> None:
    checked_under = (await cell.allocator.admission()).digest
    await cell.allocator.sync(document_of(admission={"gpu": {"min_count": 2}}))
    before = await read_state(cell.store)
    with pytest.raises(AdmissionChanged) as changed:
        await cell.register("a", "en", admission_digest=checked_under)
    assert await read_state(cell.store) == before
    policy = await cell.allocator.admission()
    assert changed.value.policy_json == policy.to_json()
    assert (await cell.register("a", "en", admission_digest=policy.digest)).pool == "en"


async def test_a_stricter_policy_does_not_touch_those_who_are_in(cell: Cell) -> None:
    checked_under = (await cell.allocator.admission()).digest
    session = (await cell.register("a", "en", session_id="s1", admission_digest=checked_under)).session
    await cell.allocator.sync(document_of(admission={"gpu": {"min_count": 2}}))
    await heartbeat(cell, session)
    await cell.allocator.update(session, report("de"), lease_ms=LEASE_MS)
    await put_back(cell, session, "de", session_id="s1", admission_digest=checked_under)
    # Registered before the change; only the reply was lost.
    again = await cell.register("a", "de", session_id="s1", admission_digest=checked_under)
    assert again.session.epoch == session.epoch


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_beyond_the_bound_on_classes_new_facts_are_refused(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_CLASSES=2) as cell:
        first = await cell.register("a", "en")
        await cell.register("b", "de")
        before = await read_state(cell.store)
        with pytest.raises(LimitExceeded, match="2 capability classes"):
            await cell.register("c", "fr")
        with pytest.raises(LimitExceeded):
            await cell.allocator.update(first.session, report("fr"), lease_ms=LEASE_MS)
        assert await read_state(cell.store) == before

        assert (await cell.register("c", "de")).pool == "de", "facts that are known are welcome"
        await heartbeat(cell, first.session)
        await cell.allocator.update(first.session, report("de"), lease_ms=LEASE_MS)
        await cell.reconcile()
        assert (await cell.register("d", "fr")).pool == "fr", "an unused class has made room"


@pytest.mark.parametrize(
    "argument",
    [
        {"node_id": ""},
        {"node_id": "a b"},
        {"node_id": "n" * 129},
        {"node_id": "\u212a"},
        {"node_id": "{tag}"},
        {"session_id": "a b"},
        {"session_id": "s" * 129},
        {"session_id": "\ud800"},
        {"instance": "i" * 65},
        {"lease_ms": 0},
        {"lease_ms": 86_400_001},
        {"epoch": -1},
    ],
)
async def test_a_registration_with_an_argument_out_of_its_bounds_is_refused(
    cell: Cell, argument: dict[str, object]
) -> None:
    before = await read_state(cell.store)
    arguments: dict[str, object] = {"node_id": "a", "session_id": "s1", "instance": "i", "lease_ms": LEASE_MS}
    with pytest.raises(InvalidInput):
        await cell.allocator.register(report=report("en"), **(arguments | argument))  # type: ignore[arg-type]
    assert await read_state(cell.store) == before


async def test_epochs_of_sixteen_digits_are_kept_exactly(cell: Cell) -> None:
    """A number of that size becomes 9.00719925474e+15 where Lua is left to write it."""
    epoch = 2**53 - 3
    back = await cell.register("a", "en", session_id="s1", epoch=epoch)
    assert back.session.epoch == epoch
    assert (await cell.register("a", "en", session_id="s2")).session.epoch == epoch + 1
    assert await read_epoch(cell) == epoch + 1
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    assert (await read_state(cell.store)).config["epoch_floor"] == str(epoch + 1)


async def read_epoch(cell: Cell) -> int:
    return (await cell.allocator.node("a")).state.epoch


async def test_two_processes_that_register_the_same_node_at_once_agree_on_the_newest(
    cell: Cell, redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace) as other:
        outcomes = await asyncio.gather(
            *(
                here.register("a", "en", session_id=f"{name}-{number}", instance=name)
                for number in range(10)
                for name, here in (("one", cell), ("two", other))
            )
        )
    newest = max(outcomes, key=lambda outcome: outcome.session.epoch)
    assert len({outcome.session.epoch for outcome in outcomes}) == 20
    for outcome in outcomes:
        if outcome is newest:
            await heartbeat(cell, outcome.session)
        else:
            with pytest.raises(SessionLost):
                await heartbeat(cell, outcome.session)


async def test_scripts_that_were_flushed_are_loaded_again_unnoticed(cell: Cell) -> None:
    session = (await cell.register("a", "en")).session
    await cell.store.command("SCRIPT", "FLUSH")
    answers = await asyncio.gather(
        heartbeat(cell, session), cell.register("b", "en"), cell.allocator.pools(), return_exceptions=True
    )
    assert not [answer for answer in answers if isinstance(answer, PyschedulerError)]
