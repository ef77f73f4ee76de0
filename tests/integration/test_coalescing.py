"""Calls that come together leave together, and each has its own end."""

from __future__ import annotations

import asyncio
import re

import pytest

from pyscheduler.core.limits import MAX_CALLS_AT_ONCE
from pyscheduler.core.results import Registration
from pyscheduler.errors import InvalidInput, NodeIdConflict
from pyscheduler.scripts.calls import Call
from tests.harness import Cell, facts_of


async def test_registrations_that_come_together_leave_together_and_each_has_its_own_end(cell: Cell) -> None:
    """Of old classes and new ones, of one id twice, and of one that is refused."""
    await cell.register("n0", "en", "zh")
    before = await cell.store.command("INFO", "commandstats")
    languages = [("en", "zh"), ("de", "zh"), ("fr", "zh")]
    wanted = [(f"n{number}", languages[number % 3]) for number in range(1, 200)]
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(
            *(cell.register(node_id, *spoken) for node_id, spoken in wanted),
            cell.register("n1", "en", "zh", session_id="another"),
            cell.register("n0", "en", "zh", session_id="another", takeover=False),
            return_exceptions=True,
        )
    assert isinstance(outcomes.pop(), NodeIdConflict)
    assert [outcome.pool for outcome in outcomes if isinstance(outcome, Registration)] == [
        *("-".join(spoken) for _, spoken in wanted), "en-zh",
    ]  # fmt: skip
    first, last = outcomes[0], outcomes[-1]
    assert isinstance(first, Registration)
    assert isinstance(last, Registration)
    assert last.session.epoch > first.session.epoch
    made = re.findall(r"cmdstat_evalsha:calls=(\d+)", before + await cell.store.command("INFO", "commandstats"))
    assert int(made[1]) - int(made[0]) <= 10


async def test_many_new_classes_do_not_take_a_round_trip_each(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node of a new class takes a call of its own; the calls leave together."""
    under_way, most, turns = 0, 0, 0
    run = cell.allocator._upserts._run

    async def counted(call: Call) -> list[str]:
        nonlocal under_way, most, turns
        turns += under_way == 0
        under_way += 1
        most = max(most, under_way)
        try:
            return await run(call)
        finally:
            under_way -= 1

    monkeypatch.setattr(cell.allocator._upserts, "_run", counted)
    made = await asyncio.gather(
        *(cell.register(f"n{n}", facts=facts_of("en", labels={"site": f"s{n}"})) for n in range(120))
    )
    assert len({one.node_class for one in made}) == 120
    assert most == MAX_CALLS_AT_ONCE
    assert turns < 40


async def test_one_registration_that_the_script_refuses_spoils_no_other(cell: Cell) -> None:
    outcomes = await asyncio.gather(
        cell.register("a", "en", "zh"),
        cell.register("b", "en", "zh", session_id="no session id"),
        cell.register("c", "en", "zh"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Registration, InvalidInput, Registration]
