"""Heartbeats and releases: what they tell of a node, and what they do to its lease."""

from __future__ import annotations

import asyncio
import json

import pytest

from pyscheduler.core.results import NodeStatus, Session
from pyscheduler.errors import (
    InvalidInput,
    SessionLost,
    StoreUnavailable,
)
from tests.harness import GRACE_MS, LEASE_MS, Cell
from tests.oracle import read_state
from tests.sessions import heartbeat, last_event, ready, report

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


async def test_a_load_of_minus_nought_is_nought(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh", load=-0.0)).session
    assert (await read_state(cell.store)).usage["a"] == "0.0000 {}"
    for usage in ("{}", None):
        await heartbeat(cell, session, load=0.5)
        await heartbeat(cell, session, load=-0.0, usage=usage)
        assert (await read_state(cell.store)).usage["a"] == "0.0000 {}"


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
