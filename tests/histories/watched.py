"""What is looked at after every step of a random history, whatever the step was."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from pyscheduler import Allocator, NodeReport
from pyscheduler.core.results import CheckReport, NodeStatus, Registration, Session
from pyscheduler.keys import KEY_NAMES
from tests.cells import Replica
from tests.harness import LEASE_MS, Cell
from tests.histories.expected import (
    epoch_of,
    facts_of_node,
    is_offline,
    is_released,
    now_of,
    pool_of,
    reason_without_pool,
)
from tests.oracle import State, expected_pool, read_state, slots_of, violations

T = TypeVar("T")


@dataclass(frozen=True)
class Tenure:
    """One socket's tenure of a node id, as its process knows it."""

    session_id: str
    session: Session
    report: NodeReport


class Watched(RuleBasedStateMachine):
    """A machine that looks at the whole state after each of its steps."""

    redis_url: ClassVar[str]
    namespace: ClassVar[str]
    overrides: ClassVar[Mapping[str, str]]
    number: ClassVar[Iterator[int]]
    steps: ClassVar[int] = 0

    cell: Cell
    allocator: Allocator
    state: State

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._socket = itertools.count(1)
        self.tenures: list[Tenure] = []
        self.newest: dict[str, int] = {}
        self.replica: Replica | None = None
        self.replicated_events: list[dict[str, str]] = []
        self.clock_goes_back = True

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(awaitable)

    def teardown(self) -> None:
        async def close() -> None:
            keys = [self.cell.store.key(name) for name in KEY_NAMES]
            await self.cell.store.command("DEL", *keys, *(f"{key}:replica" for key in keys))
            await self.allocator.aclose()

        if hasattr(self, "cell"):
            self.run(close())
        self._runner.close()

    # --- after each step ---

    def step(self, *, changes: bool = True, loses: bool = False, jobs: Collection[str] | None = ()) -> State:
        """Takes the state after a step, and holds it against the one before.

        ``changes`` is false for a step that must have changed nothing, ``loses`` true for one that lost writes.
        ``jobs`` are those that it may have changed, ``None`` if it may be any.
        """

        async def look() -> tuple[State, CheckReport]:
            return await asyncio.gather(read_state(self.cell.store), self.allocator.check())

        type(self).steps += 1
        before, (after, report) = self.state, self.run(look())
        self.state = after
        assert not violations(after)
        assert report.ok, report.violations
        if not changes:
            assert after == before
        if not loses:
            for job_id in (before.jobs.keys() | after.jobs.keys()) - set(jobs or ()) if jobs is not None else ():
                was, now = before.jobs.get(job_id), after.jobs.get(job_id)
                assert (now, after.due.get(job_id)) == (was, before.due.get(job_id)), f"{job_id} has changed"
            self._nobody_left_without_a_reason(before, after)
            for node_id in after.members:
                assert epoch_of(after, node_id) >= self.newest.get(node_id, 0)
                self.newest[node_id] = epoch_of(after, node_id)
        return after

    def _nobody_left_without_a_reason(self, before: State, after: State) -> None:
        new = after.events[len(before.events) :]
        versions = int(after.config["version"]) - int(before.config["version"])
        assert versions == sum(1 for event in new if event["type"] == "config.bumped")
        assert versions in (0, 1), "one step, one version"
        assert all(event["reason"] for event in new if event["type"].startswith("node."))
        for node_id in before.members:
            if node_id not in after.members:
                assert before.leases[node_id] <= now_of(before)
                (event,) = [one for one in new if one["type"] == "node.expired" and one["node_id"] == node_id]
                assert event["reason"] == ("grace_ended" if is_offline(before, node_id) else "lease_lapsed")
            elif facts_of_node(before, node_id) == facts_of_node(after, node_id):
                moved = pool_of(before, node_id) != pool_of(after, node_id)
                assert not moved or versions == 1, f"{node_id} left its pool, and no version says so"

    def _is_placed(self, registration: Registration) -> None:
        node_id = registration.session.node_id
        of_node = facts_of_node(self.state, node_id)
        expected = expected_pool(self.state, of_node)
        assert (registration.pool or "") == expected
        assert registration.reason == ("matched" if expected else reason_without_pool(self.state, of_node))
        assert registration.version == int(self.state.config["version"])
        assert registration.session.token == self.state.sessions[node_id]

    def _is_stored(self, tenure: Tenure) -> None:
        """What the process knows of its node is what the store holds."""
        node_id, report = tenure.session.node_id, tenure.report
        header, record = self.state.nodes[node_id]
        assert (header["session"], header["instance"]) == (tenure.session_id, "test")
        assert record == json.loads(report.record)
        assert facts_of_node(self.state, node_id) == json.loads(report.facts.json)
        assert self.state.leases[node_id] == now_of(self.state) + LEASE_MS
        assert self.state.usage[node_id] == f"{report.load:.4f} {report.usage}"
        if report.status is NodeStatus.READY and node_id not in self.state.holds:
            assert (
                self.state.ready[node_id]
                == self.state.members[node_id] * 1024 + 2 * slots_of(self.state, node_id) + report.load
            )

    # --- which tenure is what ---

    def current(self) -> list[Tenure]:
        return [one for one in self.tenures if self.state.sessions.get(one.session.node_id) == one.session.token]

    def ended(self) -> list[Tenure]:
        """Tenures that another one has followed, or that have been released."""
        return [
            one
            for one in self.tenures
            if (node_id := one.session.node_id) in self.state.sessions
            and one not in self.current()
            and (
                epoch_of(self.state, node_id) > one.session.epoch
                or (epoch_of(self.state, node_id) == one.session.epoch and is_released(self.state, node_id))
            )
        ]

    def lost(self) -> list[Tenure]:
        """Tenures that the store has forgotten or holds an earlier state of, or whose instance it took for dead."""
        return [one for one in self.tenures if one not in self.current() and one not in self.ended()]
