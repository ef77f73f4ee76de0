"""Faults of the network between scheduler and store."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler.core.results import NodeStatus
from tests.faults.lan import LEASE_MS, SLOW_S, STORE_PORT, Lan, bound
from tests.faults.relay import Relay
from tests.fixtures.clients import State
from tests.support import wait_until_async

BOTH = [("a", "store"), ("store", "a")]


@pytest.mark.parametrize(
    "directions",
    [
        pytest.param(BOTH, id="both"),
        pytest.param(BOTH[:1], id="requests", marks=pytest.mark.faults),
        pytest.param(BOTH[1:], id="replies", marks=pytest.mark.faults),
    ],
)
async def test_a_partition_from_the_store_costs_nobody_anything(lan: Lan, directions: list[tuple[str, str]]) -> None:
    serve = lan.serve("a")
    nodes = [await lan.node(serve.url, f"n{number}") for number in range(3)]
    version = (await lan.allocator.pools()).version
    for source, destination in directions:
        lan.network.cut(source, destination)
    await wait_until_async(
        lambda: all("SCHEDULER_DEPENDENCY_DOWN" in node.errors() for node in nodes), "each node gets an honest error"
    )
    await wait_until_async(lambda: serve.logged("store_down"), "the outage is noticed")
    lan.network.heal()
    await wait_until_async(lambda: serve.logged("store_back"), "the end of the outage is noticed", SLOW_S)
    await lan.renewed(*nodes)
    await lan.nothing_happened_to(*nodes)
    assert (await lan.allocator.pools()).version == version


@pytest.mark.faults
@pytest.mark.parametrize("directions", [BOTH[:1], BOTH[1:]], ids=["requests", "replies"])
async def test_what_was_on_its_way_when_the_network_parted_is_done_once(
    lan: Lan, directions: list[tuple[str, str]]
) -> None:
    serve = lan.serve("a")
    changing = await lan.node(serve.url, "changing")
    newcomer = await lan.connect(serve.url)
    for source, destination in directions:
        lan.network.cut(source, destination)
    # A registration that makes a pool, and a change of languages that makes another, both without an answer.
    await newcomer.send(newcomer.client.register(State(languages=("fr", "it")), node_id="newcomer"))
    changing.state = State(languages=("ja", "ko"))
    error = await newcomer.receive_until("error")
    assert error["code"] == "SCHEDULER_DEPENDENCY_DOWN"
    await wait_until_async(lambda: serve.logged("store_down"), "the outage is noticed")
    # What it reports last is what must hold, whatever of the former comes late.
    changing.state = State(languages=("es", "pt"))
    before = len(changing.errors())
    await wait_until_async(lambda: len(changing.errors()) > before, "the last report has met the outage, too")
    lan.network.heal()
    await newcomer.receive_until("node_register_ack")
    newcomer.node_id = "newcomer"

    async def settled() -> bool:
        return (await lan.known("changing")).pool == "es-pt"

    await wait_until_async(settled, "the store has what the node said last", SLOW_S)
    await lan.renewed(changing)
    assert (await lan.known("changing")).pool == "es-pt"
    assert len(await lan.events("node.registered", "newcomer")) == 1
    assert (await lan.known("newcomer")).pool == "fr-it"
    made = [event.pool for event in await lan.events("pool.created")]
    assert len(made) == len(set(made)), made
    assert await lan.events("node.expired") == []


@pytest.mark.faults
async def test_after_a_partition_longer_than_the_lease_nobody_is_expired_before_a_full_lease(lan: Lan) -> None:
    serve = lan.serve("a")
    staying, leaving = await lan.node(serve.url, "staying"), await lan.node(serve.url, "leaving")
    lan.network.part("a", "store")
    await wait_until_async(lambda: serve.logged("store_down"), "the outage is noticed")
    await leaving.vanish()
    await wait_until_async(lan.lapsed, "every lease has lapsed, and nobody there to renew one", SLOW_S)
    healed_ms = await lan.now_ms()
    lan.network.heal()
    await lan.renewed(staying)
    expired = await wait_until_async(
        lambda: lan.events("node.expired", "leaving"), "the node that has left is expired", SLOW_S
    )
    assert int(expired[0].id.split("-")[0]) >= healed_ms + LEASE_MS
    assert await lan.events("node.expired", "staying") == []
    assert staying.connected
    assert len(await lan.events("node.registered", "staying")) == 1


@pytest.mark.faults
async def test_the_nodes_of_a_scheduler_that_is_cut_off_keep_their_leases_and_may_go_to_another(lan: Lan) -> None:
    # A lease that outlasts the test: that b expires nobody is then not a matter of luck.
    lease = {"lease_ms": 120_000}
    a, b = lan.serve("a", **lease), lan.serve("b", **lease)
    staying, moving = await lan.node(a.url, "staying"), await lan.node(a.url, "moving")
    at_b = await lan.node(b.url, "at-b")
    first = (await lan.known("moving")).epoch
    lan.network.part("a", "store")
    await wait_until_async(lambda: a.logged("store_down"), "the outage is noticed")
    again = await lan.node(b.url, "moving", State(languages=("en", "zh")))
    moved = await lan.known("moving")
    assert moved.epoch > first
    assert moved.instance == "b"
    assert (await lan.known("staying")).status is NodeStatus.READY
    # The cut-off process does not know yet: the old socket goes on, and says what is no longer so.
    assert moving.connected
    lan.network.heal()
    await wait_until_async(lambda: not moving.connected, "the old socket is closed", SLOW_S)
    assert moving.node.socket.close_code == 4409
    assert "NODE_ID_CONFLICT" in moving.errors()
    await wait_until_async(lambda: a.logged("store_back"), "the end of the outage is noticed", SLOW_S)
    after = await lan.known("moving")
    assert (after.epoch, after.instance, after.pool) == (moved.epoch, "b", "en-zh")
    assert again.connected
    await lan.nothing_happened_to(staying, at_b)
    assert await lan.events("node.released") == []


@pytest.mark.faults
async def test_a_release_that_arrives_after_the_node_has_gone_elsewhere_changes_nothing(lan: Lan) -> None:
    # Nothing else is to be under way: what waits behind another call is not sent.
    rare = {"lease_ms": 240_000, "reconcile_interval_ms": 600_000, "instance_lease_ms": 600_000}
    rare |= {"store_check_interval_ms": 600_000, "resync_interval_ms": 600_000}
    a, b = lan.serve("a", **rare), lan.serve("b", **rare)
    # A script that the store does not know yet is refused at first, and would not be run by what comes late.
    await (await lan.node(a.url, "other")).vanish()
    await wait_until_async(lambda: lan.events("node.released", "other"), "the store has the script")
    node = await lan.node(a.url, "moving")
    first = (await lan.known("moving")).epoch
    await node.stop()
    lan.network.cut("a", "store")
    await node.vanish()
    failed = await wait_until_async(lambda: a.logged("release_failed"), "the release has no answer", SLOW_S)
    assert "may have been executed" in failed[0]["error"]
    assert lan.network["a"].on_its_way(STORE_PORT) > 0, "the kernel still tries to send it"
    again = await lan.node(b.url, "moving")
    moved = await lan.known("moving")
    lan.network.heal()
    await wait_until_async(lambda: lan.network["a"].on_its_way(STORE_PORT) == 0, "it has arrived", SLOW_S)
    await lan.renewed(again)
    after = await lan.known("moving")
    assert (after.epoch, after.instance, after.status) == (moved.epoch, "b", NodeStatus.READY)
    assert after.epoch > first
    assert await lan.events("node.released", "moving") == []


@pytest.mark.faults
async def test_who_lapsed_behind_a_partition_is_put_back_from_its_socket(lan: Lan) -> None:
    a, b = lan.serve("a"), lan.serve("b")
    cut_off, at_b = await lan.node(a.url, "cut-off"), await lan.node(b.url, "at-b")
    before = await lan.known("cut-off")
    lan.network.part("a", "store")
    await wait_until_async(lambda: a.logged("store_down"), "the outage is noticed")
    last = await lan.now_ms() + (await lan.known("cut-off")).lease_ms
    # b has not been away. To it this is a node that has been silent for a lease.
    expired = await wait_until_async(lambda: lan.events("node.expired", "cut-off"), "its lease ends", SLOW_S)
    assert int(expired[0].id.split("-")[0]) >= last - 50
    lan.network.heal()
    await lan.renewed(cut_off)
    after = await lan.known("cut-off")
    assert (after.pool, after.instance) == (before.pool, "a")
    assert after.epoch >= before.epoch
    assert cut_off.connected
    await lan.nothing_happened_to(at_b)


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.05, 0.2])
async def test_loss_on_the_way_to_the_store_costs_time_only(lan: Lan, share: float) -> None:
    # TCP sends again after 0.2 s, 0.4 s, 0.8 s: a time-out of half a second would be an outage.
    serve = lan.serve("a", store_timeout_ms=30_000, lease_ms=30_000)
    lan.network.lose("a", "store", share)
    nodes = [await lan.node(serve.url, f"n{number}") for number in range(3)]
    store, scheduler = lan.network["store"], lan.network["a"]
    await wait_until_async(lambda: store.dropped() > 10 and scheduler.dropped() > 10, "packets were lost", SLOW_S)
    nodes[0].state = State(languages=("ja", "ko"))

    async def changed() -> bool:
        return (await lan.known("n0")).pool == "ja-ko"

    await wait_until_async(changed, "a change comes through", SLOW_S)
    await lan.nothing_happened_to(*nodes[1:])
    assert all(node.connected and not node.errors() for node in nodes)


@pytest.mark.faults
async def test_a_long_way_to_the_store_costs_time_only(lan: Lan) -> None:
    async def to_store() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(lan.server.address.decode())

    async with Relay(bound(lan.network["store"]), to_store, delay_s=0.05) as relay:
        serve = await asyncio.to_thread(
            lan.serve, "a", store=f"redis://{lan.network['store'].address}:{relay.port}/0", store_timeout_ms=10_000
        )
        nodes = [await lan.node(serve.url, f"n{number}") for number in range(5)]
        sent = len(nodes[0].received)
        nodes[0].state = State(languages=("ja", "ko"))
        await wait_until_async(lambda: len(nodes[0].received) > sent, "the node is told of its new pool")
        await lan.renewed(*nodes)
        await lan.nothing_happened_to(*nodes[1:])
        assert all(node.connected and not node.errors() for node in nodes)
        # One call is on its way for 0.1 s: heartbeats of several nodes must share one.
        assert not serve.logged("store_down")
        await asyncio.to_thread(serve.terminate)
