"""Scheduler processes inside the test, and nodes that connect to them over real WebSockets."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from pyscheduler.core.results import NodeState, NodeStatus
from pyscheduler.registry import logs
from pyscheduler.registry.process import ServeProcess
from pyscheduler.settings import ServeSettings
from tests.fixtures.clients import HEAD, Client, Message, State
from tests.support import wait_until_async

RECEIVE_S = 20.0
"""How long a test waits for a message. None that passes waits so long."""

QUICK: dict[str, Any] = {
    "port": 0,
    "operator_port": 0,
    "reconcile_interval_ms": 200,
    "resync_interval_ms": 300,
    "store_check_interval_ms": 50,
}
"""Settings under which background work that a test waits for comes soon."""

T = TypeVar("T")

Serve = Callable[..., Awaitable["Scheduler"]]


async def eventually(check: Callable[[], Awaitable[T | None]], description: str) -> T:
    """Ask until the answer is true, and return it."""
    asked: Callable[[], Any] = check
    found: T = await wait_until_async(asked, description)
    return found


class Scheduler:
    """A scheduler process that runs inside the test, with its log at hand."""

    def __init__(self, settings: ServeSettings) -> None:
        self.written = io.StringIO()
        self.process = ServeProcess(settings, log=logs.make("json", "debug", stream=self.written))

    @property
    def url(self) -> str:
        return self.process.node_url

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.written.getvalue().splitlines()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    @property
    def allocator(self) -> Any:
        return self.process.shared.allocator

    async def state(self, node_id: str) -> NodeState | None:
        """What the store says of a node; ``None`` if it does not know it."""
        states = await self.allocator.describe([node_id])
        return states[0] if states else None


class Node:
    """A node on a connection of its own.

    Attributes:
        node_id: from the acknowledgement.
        received: every message so far.
    """

    def __init__(self, socket: websockets.asyncio.client.ClientConnection, client: Client) -> None:
        self.socket = socket
        self.client = client
        self.node_id = ""
        self.received: list[Message] = []

    async def send(self, message: Message | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self) -> Message:
        async with asyncio.timeout(RECEIVE_S):
            text = await self.socket.recv()
        message = json.loads(text)
        assert isinstance(message, dict)
        self.received.append(message)
        return message

    async def receive_until(self, kind: str, **fields: Any) -> Message:
        """The next message of a type with these fields."""
        while True:
            message = await self.receive()
            if message["type"] == kind and all(message.get(name) == value for name, value in fields.items()):
                return message

    async def register(self, state: State | None = None, *, node_id: str | None = None, **more: Any) -> Message:
        """Register, wait for the acknowledgement, return it."""
        await self.send({**self.client.register(state, node_id=node_id), **more})
        ack = await self.receive_until("node_register_ack")
        self.node_id = ack["node_id"]
        return ack

    async def heartbeat(self, state: State | None = None, **more: Any) -> None:
        await self.send({**self.client.heartbeat(self.node_id, state), **more})

    async def become_ready(self, state: State | None = None, *, node_id: str | None = None) -> Message:
        """Register and send the first heartbeat; returns the ``node_status`` that says ready."""
        await self.register(state, node_id=node_id)
        await self.heartbeat(state)
        return await self.receive_until("node_status", status="ready")

    async def closed(self) -> int:
        """Wait until the server has closed the connection; returns the close code."""
        frame = None
        while True:
            try:
                await self.receive()
            except ConnectionClosed as ended:
                frame = ended.rcvd
                break
        assert frame is not None, "the connection ended without a close frame"
        return frame.code

    async def close(self) -> None:
        await self.socket.close()


@asynccontextmanager
async def connect(url: str, client: Client = HEAD, **options: Any) -> AsyncIterator[Node]:
    """A connection to a node door."""
    # The fleet's clients answer pings and send none.
    options = {"ping_interval": None, "proxy": None, "max_size": None, "close_timeout": 1, **options}
    async with websockets.asyncio.client.connect(url, **options) as socket:
        yield Node(socket, client)


@pytest.fixture
async def serve_on() -> AsyncIterator[Callable[..., Any]]:
    """Starts scheduler processes on a store, ends them after the test."""
    running: list[Scheduler] = []

    async def start(redis_url: str, **settings: Any) -> Scheduler:
        scheduler = Scheduler(ServeSettings(**{**QUICK, "redis_url": redis_url, **settings}))
        await scheduler.process.start()
        running.append(scheduler)
        return scheduler

    yield start
    for scheduler in reversed(running):
        await scheduler.process.stop()
        assert not [line for line in scheduler.lines if line["event"].endswith("_defect")]


@pytest.fixture
def serve(serve_on: Callable[..., Any], redis_url: str, namespace: str) -> Serve:
    """Starts scheduler processes on the engine under test."""

    async def start(**settings: Any) -> Scheduler:
        scheduler: Scheduler = await serve_on(redis_url, namespace=namespace, **settings)
        return scheduler

    return start


async def with_status(scheduler: Scheduler, node_id: str, status: NodeStatus) -> Any:
    state = await scheduler.state(node_id)
    return state if state is not None and state.status is status else None


async def epoch_of(scheduler: Scheduler, node_id: str) -> int:
    state = await scheduler.state(node_id)
    return state.epoch if state is not None else 0


async def is_unknown(scheduler: Scheduler, node_id: str) -> bool:
    return await scheduler.state(node_id) is None


async def has_load(scheduler: Scheduler, node_id: str, load: float) -> bool:
    state = await scheduler.state(node_id)
    return state is not None and state.load == pytest.approx(load)


async def has_usage(scheduler: Scheduler, node_id: str, name: str, value: float) -> bool:
    usage = (await scheduler.allocator.node(node_id)).usage
    return bool(usage.get(name) == value)
