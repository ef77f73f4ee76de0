"""Faults of the network: between scheduler and store, and between node and scheduler.

Real processes on hosts of a network of their own (:mod:`tests.faults.namespaces`). The test looks at the store through
a Unix socket, which no fault touches.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed

from pyscheduler import Allocator
from pyscheduler.core.results import Event, NodeState, NodeStatus
from tests.doors import Node, connect
from tests.e2e.processes import ServeProcess
from tests.faults.namespaces import Host, Network, NotPossible
from tests.faults.relay import Relay
from tests.fixtures.clients import Message, State
from tests.harness import assert_invariants
from tests.servers import PlainServer
from tests.support import wait_until_async

NAMESPACE = "pyscheduler"
STORE_PORT = 6379
LEASE_MS = 4_000
GRACE_MS = 2_000
BEAT_S = 0.25
SLOW_S = 40.0
"""For what TCP has to do over again, with pauses that double."""

QUICK = {
    "lease-ms": LEASE_MS,
    "reconnect-grace-ms": GRACE_MS,
    "store-timeout-ms": 500,
    "store-check-interval-ms": 100,
    "reconcile-interval-ms": 200,
    "resync-interval-ms": 500,
    "instance-lease-ms": 60_000,
}


class Beating:
    """A node that reads whatever comes and sends a heartbeat every quarter of a second, until its socket ends."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.state = State()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._beat())]

    @property
    def node_id(self) -> str:
        return self.node.node_id

    @property
    def received(self) -> list[Message]:
        return self.node.received

    @property
    def connected(self) -> bool:
        return not any(task.done() for task in self._tasks)

    def errors(self) -> list[str]:
        return [message["code"] for message in self.received if message["type"] == "error"]

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(TimeoutError):
                    await self.node.receive()

    async def _beat(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.node.heartbeat(self.state)
                await asyncio.sleep(BEAT_S)

    async def stop(self) -> None:
        """Fall silent; the socket stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def vanish(self) -> None:
        """The node's end of the socket is gone. The other end hears of it at most once, and only if nothing is cut."""
        await self.stop()
        transport = self.node.socket.transport
        # A reset, which is sent once: the end of a stream would be sent again and again, and arrive in the end.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await self.node.socket.wait_closed()


class Lan:
    """A store, schedulers and nodes on a network of their own."""

    def __init__(self, network: Network, server: PlainServer, allocator: Allocator, folder: Path) -> None:
        self.network, self.server, self.allocator = network, server, allocator
        self._folder = folder
        self.sockets = AsyncExitStack()
        self.processes: list[ServeProcess] = []

    def serve(self, name: str, *, store: str | None = None, **settings: int) -> ServeProcess:
        host = self.network[name]
        values = QUICK | {setting.replace("_", "-"): value for setting, value in settings.items()}
        flags = [f"--{setting}={value}" for setting, value in values.items()]
        flags += [f"--redis-url={store or self.store_url}", f"--namespace={NAMESPACE}", f"--host={host.address}"]
        with host.inside():
            process = ServeProcess(self._folder, name, *flags)
        self.processes.append(process)
        return process.wait_listening()

    @property
    def store_url(self) -> str:
        return f"redis://{self.network['store'].address}:{STORE_PORT}/0"

    async def connect(self, url: str) -> Node:
        """A socket of the host ``nodes`` to a scheduler."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        async with asyncio.timeout(SLOW_S):
            raw = await _connected(self.network["nodes"], parts.hostname, parts.port)
            return await self.sockets.enter_async_context(connect(url, sock=raw, open_timeout=SLOW_S))

    async def node(self, url: str, node_id: str, state: State | None = None) -> Beating:
        """A node that is ready, and beats."""
        node = await self.connect(url)
        await node.become_ready(state, node_id=node_id)
        beating = Beating(node)
        beating.state = state or beating.state
        self.sockets.push_async_callback(beating.stop)
        return beating

    async def state(self, node_id: str) -> NodeState | None:
        states = await self.allocator.describe([node_id])
        return states[0] if states else None

    async def known(self, node_id: str) -> NodeState:
        state = await self.state(node_id)
        assert state is not None, f"the store does not know {node_id}"
        return state

    async def events(self, kind: str, node_id: str | None = None) -> list[Event]:
        events = await self.allocator.events(limit=10_000)
        return [event for event in events if event.type == kind and node_id in (None, event.node_id)]

    async def now_ms(self) -> int:
        seconds, micros = await self.allocator._store.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def lapsed(self) -> bool:
        """Whether no node has a lease that has not ended."""
        page = await self.allocator.nodes()
        return bool(page.nodes) and all(node.lease_ms <= 0 for node in page.nodes)

    async def renewed(self, *nodes: Beating) -> None:
        """Wait until a heartbeat of each of these has counted since this was called."""
        called = {node.node_id: await self._lease_end(node.node_id) for node in nodes}
        for node_id, end in called.items():

            async def later(node_id: str = node_id, end: int = end) -> bool:
                return await self._lease_end(node_id) > end

            await wait_until_async(later, f"the lease of {node_id} is renewed", SLOW_S)

    async def _lease_end(self, node_id: str) -> int:
        return int(await self.allocator._store.command("ZSCORE", self.allocator._store.key("leases"), node_id) or 0)

    def connections(self, process: ServeProcess) -> int:
        """Node sockets that the process holds."""
        with self.network[process.name].inside(), urllib.request.urlopen(f"{process.operator_url}/metrics") as page:
            lines = page.read().decode().splitlines()
        return int(float(next(line for line in lines if line.startswith("pyscheduler_node_connections ")).split()[1]))

    async def nothing_happened_to(self, *nodes: Beating) -> None:
        """Each is on its first session, on its first socket, in the pool that it was given at first."""
        for node in nodes:
            assert node.connected, node.received[-1]
            state = await self.known(node.node_id)
            assert state.status is NodeStatus.READY
            assert len(await self.events("node.registered", node.node_id)) == 1
            assert len(await self.events("node.assigned", node.node_id)) == 1
            assert await self.events("node.released", node.node_id) == []
            assert await self.events("node.expired", node.node_id) == []


async def _connected(host: Host, address: str, port: int) -> socket.socket:
    raw = host.socket()
    try:
        await asyncio.get_running_loop().sock_connect(raw, (address, port))
    except BaseException:
        raw.close()
        raise
    return raw


@pytest.fixture
def network() -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(Network("store", "a", "b", "nodes"))
        except NotPossible as reason:
            pytest.skip(str(reason))
        yield network


@pytest.fixture
async def lan(network: Network, tmp_path: Path) -> AsyncIterator[Lan]:
    store = network["store"]
    settings = {"port": str(STORE_PORT), "bind": store.address, "protected-mode": "no"}
    server = PlainServer(settings=settings)
    try:
        with store.inside():
            server.start()
        async with await Allocator.open(server.url, namespace=NAMESPACE) as allocator:
            lan = Lan(network, server, allocator, tmp_path)
            try:
                async with lan.sockets:
                    yield lan
                    network.heal()
            finally:
                for process in lan.processes:
                    process.close()
            await assert_invariants(server.url, NAMESPACE)
    finally:
        server.close()


# --- between scheduler and store -------------------------------------------------------------------------------------

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

    async with Relay(_bound(lan.network["store"]), to_store, delay_s=0.05) as relay:
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


def _bound(host: Host) -> socket.socket:
    made = host.socket()
    made.bind((host.address, 0))
    return made


# --- between node and scheduler --------------------------------------------------------------------------------------


@pytest.mark.faults
async def test_a_node_behind_a_partition_is_released_with_the_grace_and_comes_back(lan: Lan) -> None:
    serve = lan.serve("a", silence_timeout_ms=1_000, reconnect_grace_ms=60_000, lease_ms=60_000)
    node = await lan.node(serve.url, "n")
    before = await lan.known("n")
    lan.network.part("nodes", "a")
    released = await wait_until_async(lambda: lan.events("node.released", "n"), "the silent node is released", SLOW_S)
    state = await lan.known("n")
    assert (state.status, state.pool, state.epoch) == (NodeStatus.OFFLINE, before.pool, before.epoch)
    assert node.connected, "the node's end is half open: nobody can have told it"
    lan.network.heal()
    await node.vanish()
    again = await lan.node(serve.url, "n")
    after = await lan.known("n")
    assert after.epoch > before.epoch
    assert (after.status, after.pool) == (NodeStatus.READY, before.pool)
    assert again.connected
    assert len(await lan.events("node.released", "n")) == len(released)
    assert len(await lan.events("node.assigned", "n")) == 1, "it never left its pool"
    assert await lan.events("node.expired") == []


@pytest.mark.faults
async def test_the_end_of_a_half_open_socket_removes_nothing(lan: Lan) -> None:
    serve = lan.serve("a", silence_timeout_ms=600_000, lease_ms=60_000)
    node = await lan.node(serve.url, "n")
    before = await lan.known("n")
    # What the scheduler sent again afterwards would be answered with a reset, and the socket not be half open.
    await lan.renewed(node)
    await node.stop()
    port = urlsplit(serve.url).port or 0
    await wait_until_async(lambda: lan.network["a"].on_its_way(port) == 0, "all that was sent has arrived")
    lan.network.part("nodes", "a")
    # The node's reset never arrives, and the scheduler holds a socket that nobody is at the other end of.
    await node.vanish()
    lan.network.heal()
    again = await lan.node(serve.url, "n")
    after = await lan.known("n")
    assert after.epoch > before.epoch
    await wait_until_async(lambda: lan.connections(serve) == 1, "the old socket is gone", SLOW_S)
    await lan.renewed(again)
    state = await lan.known("n")
    assert (state.epoch, state.status, state.pool) == (after.epoch, NodeStatus.READY, before.pool)
    assert await lan.events("node.released") == []
    assert [event.reason for event in await lan.events("node.registered", "n")] == ["new", "takeover"]
    assert again.connected


@pytest.mark.faults
async def test_loss_between_node_and_scheduler_costs_time_only(lan: Lan) -> None:
    serve = lan.serve("a", lease_ms=30_000)
    lan.network.lose("nodes", "a", 0.2)
    nodes = [await lan.node(serve.url, f"n{number}") for number in range(5)]
    here, there = lan.network["a"], lan.network["nodes"]
    await wait_until_async(lambda: here.dropped() > 20 and there.dropped() > 5, "packets were lost", SLOW_S)
    await lan.nothing_happened_to(*nodes)


@pytest.mark.faults
async def test_a_long_way_between_node_and_scheduler_costs_time_only(lan: Lan) -> None:
    serve = lan.serve("a")
    host = lan.network["nodes"]
    parts = urlsplit(serve.url)
    assert parts.hostname is not None
    assert parts.port is not None
    address, port = parts.hostname, parts.port

    async def to_scheduler() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(sock=await _connected(host, address, port))

    async with Relay(_bound(host), to_scheduler, delay_s=0.25) as relay:
        url = f"ws://{host.address}:{relay.port}{parts.path}"
        nodes = [await lan.node(url, f"n{number}") for number in range(5)]
        await lan.renewed(*nodes)
        await lan.nothing_happened_to(*nodes)
        for node in nodes:
            await node.vanish()
