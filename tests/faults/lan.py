"""A store, schedulers and nodes on a network of their own, which a test cuts, slows and makes lossy.

Real processes on hosts of their own (:mod:`tests.faults.namespaces`). The test looks at the store through a Unix
socket, which no fault touches.
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
            raw = await connected(self.network["nodes"], parts.hostname, parts.port)
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


async def connected(host: Host, address: str, port: int) -> socket.socket:
    raw = host.socket()
    try:
        await asyncio.get_running_loop().sock_connect(raw, (address, port))
    except BaseException:
        raw.close()
        raise
    return raw


def bound(host: Host) -> socket.socket:
    made = host.socket()
    made.bind((host.address, 0))
    return made


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
