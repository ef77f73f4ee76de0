"""Follows the event stream: tells the log, and tells this process's nodes what others have changed about them.

Assignment never depends on it. A node whose event is missed is in its right pool all the same; it is told later, by the
comparison in :mod:`pyscheduler.registry.recovery`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pyscheduler.core.results import Event, NodeStatus
from pyscheduler.errors import EventsLost, PyschedulerError
from pyscheduler.registry.connection import Connection
from pyscheduler.registry.logs import Log
from pyscheduler.registry.shared import Shared

MAX_DESCRIBED: Final = 1000
"""Nodes that one look at the store asks for."""

_GATHER_S: Final = 0.02
_RETRY_S: Final = 0.5
_CONFIGURATION: Final = frozenset({"pool.created", "pool.removed", "class.remapped", "config.bumped"})


class Watcher:
    """Follows the events of the namespace.

    Args:
        shared: what connections share.
        compare: asks for a comparison of all nodes with the store, since events may have been missed.
        lost: says that the store has dropped a node that this process holds.
    """

    def __init__(self, shared: Shared, *, compare: Callable[[], None], lost: Callable[[str], None]) -> None:
        self._shared = shared
        self._compare = compare
        self._lost = lost
        self._last = "0-0"
        self._nodes: set[str] = set()
        self._classes: set[int] = set()
        self._pools: set[str] = set()
        self._affected = asyncio.Event()

    async def begin(self) -> None:
        """Settle that events from now on are read, however late :meth:`follow` gets to it.

        Raises:
            PyschedulerError: the store could not be asked.
        """
        self._last = await self._shared.allocator.newest_event_id()

    async def follow(self) -> None:
        """Read events, for ever: log each, and note which nodes it affects."""
        while True:
            try:
                if not self._last:
                    await self.begin()
                async for event in self._shared.allocator.follow(since=self._last):
                    self._last = event.id
                    self._on_event(event)
            except EventsLost:
                self._shared.metrics.events_lost.inc()
                self._shared.log.warning("events_lost", since=self._last)
                self._last = ""
            except PyschedulerError as error:
                self._shared.log.debug("events_interrupted", error=str(error))
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                self._shared.log.error("event_defect", exc_info=error)
                await asyncio.sleep(_RETRY_S)
            self._compare()

    # --- one event ---------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        shared = self._shared
        shared.metrics.count_event(event.type)
        shared.metrics.config_version.set(event.version)
        holder = shared.sockets.holder(event.node_id) if event.node_id else None
        write_line(shared.log, event, ours=self._is_ours(event))
        match event.type:
            case "node.registered":
                self._on_registered(event, holder)
            case "node.status" if holder is not None and "hold" in event.fields:
                self._affect(node_id=event.node_id)
            case "node.expired" if holder is not None and event.node_id is not None:
                self._lost(event.node_id)
            case "node.released" if holder is not None and event.reason == "instance_lost":
                # This very process was taken for dead; the node is still here.
                self._lost(holder.node_id or "")
            case "class.remapped":
                self._affect(node_class=_number(event.fields.get("class")))
            case "pool.created":
                # A pool that was replaced by one of the same name: no class moves, but its number is another.
                self._affect(pool=event.pool)

    def _is_ours(self, event: Event) -> bool:
        if event.node_id is None:
            return False
        return event.fields.get("instance") == self._shared.instance or self._shared.sockets.remembers(event.node_id)

    def _on_registered(self, event: Event, holder: Connection | None) -> None:
        if event.node_id is None or event.fields.get("instance") == self._shared.instance:
            return  # takeover within this process is settled by its table of sockets
        if holder is not None and _number(event.fields.get("epoch")) > holder.epoch:
            holder.taken_over()
        if holder is None or holder.machine.session is None:
            self._shared.sockets.forget(event.node_id)

    # --- what nodes are told -----------------------------------------------------------------------------------------

    def _affect(self, *, node_id: str | None = None, node_class: int = 0, pool: str | None = None) -> None:
        if node_id is not None:
            self._nodes.add(node_id)
        if node_class:
            self._classes.add(node_class)
        if pool is not None:
            self._pools.add(pool)
        self._affected.set()

    async def tell(self) -> None:
        """Tell affected nodes what the store says of them now, for ever."""
        while True:
            await self._affected.wait()
            # One change touches many classes: let its events come in before the store is asked.
            await asyncio.sleep(_GATHER_S)
            self._affected.clear()
            nodes, classes, pools = self._nodes, self._classes, self._pools
            self._nodes, self._classes, self._pools = set(), set(), set()
            holders = {
                node_id: holder
                for node_id, holder in self._shared.sockets.holders().items()
                if node_id in nodes or holder.node_class in classes or holder.pool in pools
            }
            try:
                await tell_states(self._shared, holders)
            except PyschedulerError as error:
                self._shared.log.debug("states_not_read", nodes=len(holders), error=str(error))
                self._compare()
            except Exception as error:
                self._shared.log.error("watcher_defect", exc_info=error)
                self._compare()


async def tell_states(shared: Shared, holders: dict[str, Connection]) -> list[Connection]:
    """Compare nodes with the store and tell each what the store says of it.

    Args:
        shared: what connections share.
        holders: the nodes to compare, by id.

    Returns:
        The sockets of nodes that the store does not know, knows only an older session of, or has released.

    Raises:
        PyschedulerError: the store could not be asked.
    """
    lost = []
    ids = list(holders)
    for start in range(0, len(ids), MAX_DESCRIBED):
        asked = ids[start : start + MAX_DESCRIBED]
        epochs = {node_id: holders[node_id].epoch for node_id in asked}
        states = {state.node_id: state for state in await shared.allocator.describe(asked)}
        for node_id in asked:
            holder, state = holders[node_id], states.get(node_id)
            if holder.machine.session is None or holder.epoch != epochs[node_id]:
                continue  # it ended or was registered anew meanwhile: what was read may be older
            if state is None or state.epoch < holder.epoch:
                lost.append(holder)
            elif state.epoch == holder.epoch and state.status is NodeStatus.OFFLINE:
                lost.append(holder)  # this process was taken for dead
            elif state.epoch > holder.epoch:
                holder.taken_over()
            else:
                holder.on_state(state)
    return lost


def write_line(log: Log, event: Event, *, ours: bool) -> None:
    """Write an event into the log.

    Every process tells changes of the configuration and expired nodes (whose process may be gone); each tells what
    happens to its own nodes; the rest is for debugging.
    """
    level = _level(event, ours=ours)
    if not log.writes(level):
        return
    fields: dict[str, object] = {"event_id": event.id, "version": event.version}
    for name, value in (("node_id", event.node_id), ("pool", event.pool), ("from", event.from_), ("to", event.to)):
        if value is not None:
            fields[name] = value
    for name, value in event.fields.items():
        if name not in fields:
            # The line itself says which process wrote it.
            fields["node_instance" if name == "instance" else name] = value
    if event.type in ("node.assigned", "class.remapped"):
        fields.setdefault("from", "")
        fields.setdefault("to", "")
    fields["reason"] = event.reason or ""
    log.log(level, event.type, **fields)


def _level(event: Event, *, ours: bool) -> int:
    if event.type == "reconcile.braked" or (event.type == "node.registered" and event.reason == "cloned_id"):
        return logging.WARNING
    if ours or event.type in _CONFIGURATION or event.type == "node.expired":
        return logging.INFO
    return logging.DEBUG


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
