"""Registration of a node: its pool, its epoch, what it must have passed, and what is out of bounds."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler.core.results import NodeStatus, Registration
from pyscheduler.errors import (
    AdmissionChanged,
    InvalidInput,
    LimitExceeded,
    PyschedulerError,
    SessionLost,
)
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of
from tests.oracle import read_state
from tests.sessions import heartbeat, last_event, put_back, ready, report

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


# --- one id, several sockets ------------------------------------------------------------------------------------------


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


# --- a new session ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("reason", [" ", "  two  words  ", "7 8 9", "tab\tand\rreturn", "nul\0", "\x0b\u2028 \x85é漢"])
async def test_a_reason_is_any_text_of_one_line(cell: Cell, reason: str) -> None:
    session = (await cell.register("a", "en", "zh")).session
    await cell.allocator.update(session, report("de", "fr"), lease_ms=LEASE_MS, reason=reason)
    node = await cell.allocator.node("a")
    assert node.transition is not None
    assert (node.transition.from_pool, node.transition.to_pool, node.transition.reason) == ("en-zh", "de-fr", reason)
    assert (node.state.instance, node.transition.version) == ("test", node.state.version)
    assert (await last_event(cell, "node.assigned"))["reason"] == reason
    # What was read is written again as it was.
    session = (await cell.register("a", "de", "fr", session_id="s2")).session
    assert (await cell.allocator.node("a")).transition == node.transition


async def test_a_reason_of_two_lines_is_refused_and_no_trouble_of_the_others(cell: Cell) -> None:
    first, second = [(await cell.register(name, "en", "zh")).session for name in ("a", "b")]
    before = await cell.allocator.node("a")
    refused, other = await asyncio.gather(
        cell.allocator.update(first, report("de", "fr"), lease_ms=LEASE_MS, reason="two\nlines"),
        cell.allocator.update(second, report("de", "fr"), lease_ms=LEASE_MS, reason="one line"),
        return_exceptions=True,
    )
    assert isinstance(refused, InvalidInput)
    assert isinstance(other, Registration)
    assert other.pool == "de-fr"
    after = await cell.allocator.node("a")
    assert (after.state.pool, after.transition) == ("en-zh", before.transition)


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
