"""Instances: how long a scheduler process is known, and what it says of itself."""

from __future__ import annotations

import pytest

from pyscheduler.errors import InvalidInput, LimitExceeded
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell
from tests.support import wait_until_async
from tests.upkeep import MINUTE_MS, remembered


async def test_an_instance_that_does_not_renew_its_lease_is_forgotten_two_leases_later(cell: Cell) -> None:
    await cell.register("a", "en", instance="one", lease_ms=10 * LEASE_MS)
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={"node_port": 5010})
    await cell.allocator.renew_instance("two", lease_ms=10 * LEASE_MS, info={})
    await cell.pass_time(3 * LEASE_MS - 10_000)
    await cell.reconcile()
    assert await remembered(cell) == {"one", "two"}
    await cell.pass_time(10_000)
    await cell.reconcile()
    assert await remembered(cell) == {"two"}
    assert await cell.pool_of("a") == "en"


async def test_an_instance_whose_lease_has_lapsed_is_not_listed(cell: Cell) -> None:
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.allocator.renew_instance("two", lease_ms=1, info={})

    async def listed() -> bool:
        return [instance.instance for instance in await cell.allocator.instances()] == ["one"]

    await wait_until_async(listed, "its lease has lapsed")
    assert await remembered(cell) == {"one", "two"}


async def test_instances_outlast_an_outage_of_the_store(cell: Cell) -> None:
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.trust_leases()
    await cell.advance(10 * MINUTE_MS)
    await cell.reconcile()
    assert await remembered(cell) == {"one"}


async def test_an_instance_shows_what_it_says_of_itself_until_it_leaves(cell: Cell) -> None:
    await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={"host": "Rechner ü", "port": 1})
    await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
    await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={"host": "other"})
    one, two = await cell.allocator.instances()
    assert (one.instance, two.instance, two.info) == ("one", "two", {"host": "other"})
    assert LEASE_MS - 10_000 < two.lease_ms <= LEASE_MS
    await cell.allocator.leave_instance("two")
    await cell.allocator.leave_instance("two")
    assert [instance.instance for instance in await cell.allocator.instances()] == ["one"]


async def test_instances_are_bounded(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_INSTANCES=1) as cell:
        await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={})
        with pytest.raises(LimitExceeded, match="1 instances"):
            await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={})
        await cell.allocator.renew_instance("one", lease_ms=LEASE_MS, info={"x": 1})
        await cell.allocator.leave_instance("one")
        await cell.allocator.renew_instance("two", lease_ms=LEASE_MS, info={})
        # One that lapsed is kept for its nodes' sake, but not at the cost of one that lives.
        await cell.advance(LEASE_MS)
        await cell.allocator.renew_instance("three", lease_ms=LEASE_MS, info={})
        assert await remembered(cell) == {"three"}
        with pytest.raises(InvalidInput):
            await cell.allocator.renew_instance("three", lease_ms=LEASE_MS, info={"x": "y" * 4096})
