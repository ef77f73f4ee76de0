"""Scripts at their bounds: what a header allows at most is done. Lua's unpack() fails near 8,000 values."""

from __future__ import annotations

import asyncio

from pyscheduler.scripts import calls
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state


async def fleet(cell: Cell, count: int, **options: object) -> list[str]:
    """Tokens of that many nodes, half of them in a class of their own."""
    registered = await asyncio.gather(
        *(
            cell.register(f"n{number:04}", facts=facts_of("en", gpu_memory_gb=(number % 2 and number,)), **options)
            for number in range(count)
        )
    )
    return [one.session.token for one in registered]


async def test_a_batch_of_500_heartbeats(cell: Cell) -> None:
    tokens = await fleet(cell, 500)
    nodes = [part for number, token in enumerate(tokens) for part in (f"n{number:04}", token, "0.5000 {}")]
    reply = await cell.store.run(calls.touch_nodes(lease_ms=LEASE_MS, nodes=nodes))
    assert reply == ["OK", "2", "A" * 500]
    assert {stored.split()[0] for stored in (await read_state(cell.store)).usage.values()} == {"0.5000"}


async def test_a_step_that_expires_1000_nodes_and_one_that_drops_their_classes(cell: Cell) -> None:
    """The step that expires as many as it may looks at one class."""
    await fleet(cell, 1000, lease_ms=1)
    await cell.pass_time(LEASE_MS)
    reports = [await cell.reconcile(expire=1000, scan=1000, brake_share=1.0) for _ in range(2)]
    assert [(report.expired, report.dropped_classes) for report in reports] == [(1000, 1), (0, 500)]
    state = await read_state(cell.store)
    assert (state.members, state.classes, state.capabilities) == ({}, {}, set())


async def test_a_reading_of_5000_named_nodes(cell: Cell) -> None:
    await fleet(cell, 2)
    names = [f"n{number:04}" for number in range(5000)]
    assert [node.node_id for node in await cell.allocator.describe(names)] == ["n0000", "n0001"]


async def test_a_search_for_64_services(cell: Cell) -> None:
    services = tuple(f"s{number}" for number in range(64))
    await cell.register("a", facts=facts_of("en", services=services))
    assert [found.pool for found in await cell.allocator.find("en", "en", services)] == ["en"]


async def test_names_and_an_owner_and_a_reason_of_the_greatest_length(cell: Cell) -> None:
    name, session = "n" * 128, "s" * 128
    await cell.allocator.sync(document_of(pool("p" * 128, semantic={"contains": ["en"]})))
    registered = await cell.register(name, "en", session_id=session, instance="i" * 64)
    assert registered.pool == "p" * 128
    for number in range(16):
        await cell.allocator.hold(name, owner=f"{number:02}" + "o" * 62, reason="r" * 256)
    assert len((await cell.allocator.node(name)).state.holds) == 16
    assert await cell.allocator.release(registered.session, grace_ms=86_400_000, reason="r" * 128)
