"""A step of upkeep that leaves lapsed nodes to the next one looks at nothing else, and every other step does."""

from __future__ import annotations

import pytest

from tests.harness import LEASE_MS, Cell, facts_of
from tests.oracle import read_state
from tests.upkeep import fleet


@pytest.mark.parametrize("braked", [False, True])
async def test_a_step_that_leaves_nodes_to_the_next_one_looks_at_nothing_else_unless_it_is_braked(
    cell: Cell, braked: bool
) -> None:
    brake = {"brake_share": 0.1, "brake_floor": 1, "brake_expire": 2} if braked else {"expire": 2}
    await fleet(cell, 3)
    for codes in (["de"], ["fr"]):
        await cell.register("x", *codes, session_id=codes[0])
    await cell.pass_time(LEASE_MS)
    await cell.register("x", "fr", session_id="again")
    step = await cell.reconcile(**brake)
    assert (step.lapsed, step.expired, step.dropped_classes, step.braked) == (3, 2, 1 if braked else 0, braked)
    step = await cell.reconcile()
    assert (step.expired, step.dropped_classes) == (1, 1 if braked else 2)


async def test_a_step_that_takes_as_many_as_it_may_and_leaves_none_looks_at_the_rest(cell: Cell) -> None:
    await fleet(cell, 3)
    await cell.pass_time(LEASE_MS)
    step = await cell.reconcile(expire=3)
    assert (step.expired, step.dropped_classes) == (3, 1)


async def test_while_nothing_may_expire_the_rest_is_looked_at_however_many_have_lapsed(cell: Cell) -> None:
    await fleet(cell, 3)
    for codes in (["de"], ["fr"]):
        await cell.register("x", *codes, session_id=codes[0])
    await cell.advance(LEASE_MS + 1)
    step = await cell.reconcile(expire=1)
    assert (step.suspended_ms, step.lapsed, step.dropped_classes) == (LEASE_MS, 4, 1)


async def test_a_step_that_looks_at_nothing_else_leaves_the_turns_where_they_were(cell: Cell) -> None:
    for number in range(4):
        await cell.register(f"n{number}", facts=facts_of("en", gpu_memory_gb=(number,)))
    await cell.reconcile(scan=2)
    before = (await read_state(cell.store)).config
    assert (before["class_cursor"], before["node_cursor"]) == ("2", "2")
    await cell.pass_time(LEASE_MS)
    assert (await cell.reconcile(expire=3, scan=2)).expired == 3
    after = (await read_state(cell.store)).config
    assert (after["class_cursor"], after["node_cursor"]) == ("2", "2")
