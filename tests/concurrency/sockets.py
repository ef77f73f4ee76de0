"""Nodes on real WebSockets that take each other's ids, from process to process, and record what they are told.

A node is told no epoch, so each socket names itself by a label, which is kept in the node's record: by that, a reader
can tell whose session it sees.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException

from pyscheduler import Allocator
from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.profile import NodeProfile
from pyscheduler.core.protocol import parse_frame
from tests.concurrency.client import Client
from tests.concurrency.history import Recorder
from tests.doors import Node, connect
from tests.fixtures.clients import HEAD, Message, State
from tests.harness import document_of, pool

LABEL = "unique.socket"
TAKEN_OVER = 4409
STATES = (State(languages=("de", "en")), State(languages=("en", "zh")), State(languages=("ja",)))
FAMILIES = ("german", "chinese", "japanese")
"""How the name of each state's pool begins, whatever document is in force: it tells what an answer is about."""

DOCUMENTS = tuple(
    document_of(
        pool(f"german-{german}", semantic={"contains": ["de"]}),
        pool(f"chinese-{chinese}", semantic={"contains": ["zh"]}),
        pool(f"japanese-{japanese}", semantic={"contains": ["ja"]}),
        auto={"enabled": False},
        guard={"max_unassigned_share": 1},
    )
    for german, chinese, japanese in ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1))
)


def facts_of_state(state: State) -> str:
    return NodeProfile.registered(parse_frame(json.dumps(HEAD.register(state)))).facts.json


class SocketNode:
    """A node that connects again and again, under one of a few ids, to one of the processes.

    Args:
        name: unique in the history; its sockets are called after it.
        urls: of the node doors. The list may change meanwhile.
        node_ids: what it calls itself, now this and now that.
        sockets: how often it connects.
    """

    def __init__(
        self, name: str, urls: list[str], node_ids: Sequence[str], recorder: Recorder, *, seed: int, sockets: int
    ) -> None:
        self.name = name
        self.told: dict[str, list[Message]] = {}
        self._urls, self._node_ids, self._recorder = urls, node_ids, recorder
        self._random = random.Random(f"{seed} {name}")
        self._sockets = sockets
        self._registering = ""

    async def run(self) -> None:
        while len(self.told) < self._sockets:
            try:
                async with connect(self._random.choice(self._urls)) as node:
                    await self._live(node)
            except TimeoutError as error:
                raise AssertionError(f"{self.name}-{len(self.told) - 1} was not answered") from error
            except (OSError, WebSocketException):
                # A process that is gone. Another one, or the one that replaces it, is there.
                await asyncio.sleep(0)

    async def _live(self, node: Node) -> None:
        session, node_id = f"{self.name}-{len(self.told)}", self._random.choice(self._node_ids)
        self.told[session] = []
        self._registering = ""
        about = {"node": node_id, "session": session, "epoch": 0}
        number = self._random.randrange(len(STATES))
        try:
            message = {**HEAD.register(STATES[number], node_id=node_id), "labels": {LABEL: session}}
            await self._report(node, "register", message, {**about, "takeover": True}, number, "registering")
            await self._report(node, "update", HEAD.heartbeat(node_id, STATES[number]), about, number, "ready")
            for _ in range(self._random.randrange(4)):
                # Another state, since what changes nothing is not answered.
                number = (number + self._random.randrange(1, len(STATES))) % len(STATES)
                await self._report(node, "update", HEAD.heartbeat(node_id, STATES[number]), about, number, "ready")
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == TAKEN_OVER:
                if self._registering:
                    # It had the node, since that was taken from it; in which pool, it was not told.
                    untold = {"epoch": 0, "node_class": 0, "status": "registering"}
                    self._recorder.complete(self._registering, untold)
                operation_id = f"{session}-superseded"
                self._recorder.invoke(operation_id, "superseded", about)
                self._recorder.complete(operation_id, {})
            return
        # The process will release the node, some time after this; the node is not told.
        self._recorder.invoke(f"{session}-release", "release", {**about, "grace_ms": 600_000})
        if self._random.random() < 0.3:
            node.socket.transport.abort()

    async def _report(
        self, node: Node, kind: str, message: Message, about: Mapping[str, Any], number: int, status: str
    ) -> None:
        """Sends a message, and waits for the status that it leads to."""
        operation_id = f"{about['session']}-{time.monotonic_ns()}"
        args = {**about, "facts": facts_of_state(STATES[number]), "status": status, "digest": ""}
        self._recorder.invoke(operation_id, kind, args)
        await node.send(message)
        if kind == "register":
            self._registering = operation_id
            await node.receive_until("node_register_ack")
        while True:
            told = await node.receive_until("node_status", status=status)
            self.told[about["session"]].append(told)
            if (told["pool"] or "").startswith(FAMILIES[number]):
                break
        result = {"epoch": 0, "node_class": 0, "pool": told["pool"], "version": told["version"], "status": status}
        self._recorder.complete(operation_id, result)
        self._registering = ""


class Operator(Client):
    """Syncs one document after another, and looks at what became of it."""

    def __init__(self, name: str, allocator: Allocator, recorder: Recorder, node_ids: Sequence[str], seed: int) -> None:
        super().__init__(name, allocator, recorder)
        self._node_ids = node_ids
        self._random = random.Random(f"{seed} {name}")

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            kind = self._random.choice(["sync", "read_pools", "read_version", "look", "look"])
            if kind == "sync":
                seen = await self.read_document()
                await self.sync(self._random.choice(DOCUMENTS), self._random.choice([None, seen, seen]))
            elif kind == "look":
                await self.look_at(self._random.choice(self._node_ids))
            else:
                await getattr(self, kind)()
            await asyncio.sleep(0)

    async def look_at(self, node_id: str) -> None:
        """Reads a node. Whose session it is stands in its record."""
        await self._call(
            "read_node",
            {"node": node_id},
            lambda: self.allocator.node(node_id),
            lambda seen: {
                "instance": seen.record["labels"][LABEL],
                "epoch": seen.state.epoch,
                "status": seen.state.status.value,
                "pool": seen.state.pool,
                "node_class": seen.state.node_class,
                "holds": [],
                "facts": canonical_json(dict(seen.facts)),
                "version": seen.state.version,
            },
        )
