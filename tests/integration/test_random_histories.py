"""Random histories of nodes, operators, time and failures, on the real store and held against the rules.

After every single step: no invariant is broken, the events replay to the state, no node has left its pool without a
reason, no ended session has changed anything, and every placement is the one that the rules say.

A failure is printed as the shrunk sequence of steps, with a line that replays it. ``PYSCHEDULER_TEST_SEED`` repeats a
whole run; ``PYSCHEDULER_TEST_HISTORIES`` and ``PYSCHEDULER_TEST_STEPS`` make it longer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from pyscheduler import Allocator, Facts, NodeReport, PoolDocument
from pyscheduler.core.results import NodeStatus, ReconcileLimits, Registration, Session
from pyscheduler.errors import GuardRefused, NodeIdConflict, NotFound, SessionLost, VersionConflict
from pyscheduler.keys import KEY_NAMES
from tests.cells import Replica
from tests.harness import EPOCH_MS, LEASE_MS, STANDING_CLOCK, Cell, document_of, pool
from tests.oracle import State, expected_pool, languages_of, meets, read_state, set_name, violations

T = TypeVar("T")

SEED = int(os.environ.get("PYSCHEDULER_TEST_SEED") or random.SystemRandom().randrange(2**32))
HISTORIES = int(os.environ.get("PYSCHEDULER_TEST_HISTORIES") or 15)
STEPS = int(os.environ.get("PYSCHEDULER_TEST_STEPS") or 40)

# --- what nodes and operators may say ---------------------------------------------------------------------------------

NODES = ("a", "b", "c", "d")
OWNERS = ("ops", "autoscaler")
LANGUAGES = ("de", "en", "zh-cn")

# Few, and made to meet: most of what could be drawn freely would have nothing to do with anything else.
FACTS = (
    Facts(semantic=("en",), asr=("en",), services=("asr",)),
    Facts(semantic=("en",), asr=("en",), services=("asr",), gpu_memory_gb=(24, 24)),
    Facts(semantic=("en",), asr=("en",), gpu_memory_gb=(8,)),
    Facts(semantic=("en",), labels={"zone": "eu"}, services=("asr", "tts"), tts=("en",)),
    Facts(semantic=("en", "zh-cn"), asr=("en",), services=("asr", "tts"), tts=("zh-cn",), gpu_memory_gb=(24,)),
    Facts(semantic=("en", "zh-cn"), asr=("zh-cn",), services=("asr",), labels={"origin": "auto"}),
    Facts(semantic=("de", "en"), asr=("de", "en"), services=("asr",)),
    Facts(tts=("de",), asr=("en",), services=("asr",)),
    Facts(asr=("de",), services=("asr",)),
    Facts(services=("asr",), gpu_memory_gb=(8, 8)),
    Facts(),
)
RULES: tuple[dict[str, Any], ...] = (
    {"semantic": {"exact": ["en"]}},
    {"semantic": {"exact": ["en", "zh-cn"]}},
    {"semantic": {"contains": ["en"]}},
    {"semantic": {"contains": ["en"]}, "services": ["asr"]},
    {"semantic": {"any": ["de", "zh-cn"]}},
    {"asr": {"any": ["de", "en"]}, "labels": {"zone": "eu"}},
    {"asr": {"contains": ["en"]}},
    {"tts": {"contains": ["de"]}},
    {"services": ["asr"]},
    {"services": ["asr", "tts"]},
    {"gpu": {"min_count": 1}},
    {"gpu": {"min_count": 2}},
    {"gpu": {"min_memory_gb": 16}},
    {"labels": {"zone": "eu"}},
    {"labels": {"origin": "auto"}},
)

reports = st.builds(
    NodeReport.of,
    st.sampled_from(FACTS),
    status=st.sampled_from([NodeStatus.READY, NodeStatus.READY, NodeStatus.REGISTERING, NodeStatus.DEGRADED]),
    load=st.sampled_from([0.0, 0.25, 1.0]),
    record=st.sampled_from([{}, {"name": "x"}]),
)
pools = st.builds(
    lambda name, priority, match: pool(name, priority=priority, **match),
    # Some are names that auto pools would take.
    st.sampled_from(["one", "two", "three", "en", "de", "en-zh_cn"]),
    st.sampled_from([0, 0, 1]),
    st.sampled_from(RULES),
)
documents = st.builds(
    lambda declared, auto, share: document_of(*declared, auto=auto, guard={"max_unassigned_share": share}),
    st.lists(pools, max_size=3, unique_by=lambda one: one["name"]),
    st.fixed_dictionaries(
        {
            "enabled": st.sampled_from([True, True, True, False]),
            "require_services": st.sampled_from([[], [], ["asr"]]),
            "min_nodes": st.sampled_from([1, 1, 2, 3]),
            "max_pools": st.sampled_from([0, 1, 2, 9]),
            "idle_ttl": st.sampled_from(["1s", "60s"]),
        }
    ),
    st.sampled_from([0.0, 0.5, 1.0]),
)


# --- what the rules say of a state ------------------------------------------------------------------------------------


@dataclass
class Waiting:
    nodes: int = 0
    languages: tuple[str, ...] = ()


def waiting_sets(state: State) -> dict[str, Waiting]:
    """Language sets whose classes lack nothing but an auto pool."""
    auto = json.loads(state.config["auto"])
    found: dict[str, Waiting] = defaultdict(Waiting)
    for number, of_class in state.class_facts.items():
        name = set_name(of_class)
        has_services = set(auto["require_services"] or ()) <= set(of_class.get("services", ()))
        if name and has_services and name not in state.pools and state.classes[number] == "":
            found[name].nodes += sum(1 for other in state.members.values() if other == number)
            found[name].languages = tuple(languages_of(of_class))
    return found


def denial(state: State, nodes: int) -> str:
    """Why no auto pool can be made for that many nodes; empty if one can."""
    auto = json.loads(state.config["auto"])
    autos = sum(1 for one in state.pools.values() if one["origin"] == "auto")
    if not auto["enabled"]:
        return "auto_disabled"
    if autos >= auto["max_pools"]:
        return "max_pools"
    return "below_min_nodes" if nodes < auto["min_nodes"] else ""


def reason_without_pool(state: State, of_node: dict[str, Any]) -> str:
    name = set_name(of_node)
    auto = json.loads(state.config["auto"])
    if not name:
        return "no_languages"
    if name in state.pools:
        return "name_taken" if state.pools[name]["origin"] == "declared" else "services_missing"
    if not set(auto["require_services"] or ()) <= set(of_node.get("services", ())):
        return "services_missing"
    return denial(state, waiting_sets(state)[name].nodes)


def overdue(state: State) -> list[str]:
    """Language sets that could have their pool by the policy and have none."""
    return [name for name, waiting in waiting_sets(state).items() if not denial(state, waiting.nodes)]


def facts_of_node(state: State, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = state.class_facts[state.members[node_id]]
    return found


def pool_of(state: State, node_id: str) -> str:
    return state.classes[state.members[node_id]]


def epoch_of(state: State, node_id: str) -> int:
    return int(state.sessions[node_id].split(":")[0])


def is_offline(state: State, node_id: str) -> bool:
    return state.sessions[node_id].split(":")[2] == "o"


def now_of(state: State) -> int:
    return EPOCH_MS + int(state.config.get("test_offset_ms", 0))


# --- the machine ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tenure:
    """One socket's tenure of a node id, as its process knows it."""

    session_id: str
    session: Session
    report: NodeReport


class Histories(RuleBasedStateMachine):
    redis_url = ""
    namespace = ""
    number = itertools.count()

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

    @initialize(
        document=st.none() | documents,
        there=st.lists(st.tuples(st.sampled_from(NODES), reports), max_size=3, unique_by=lambda one: one[0]),
    )
    def open(self, document: PoolDocument | None, there: list[tuple[str, NodeReport]]) -> None:
        name = f"{self.namespace}-{next(self.number)}"
        allocator = self.run(Allocator.open(self.redis_url, namespace=name, script_overrides=STANDING_CLOCK))
        self.cell = Cell(allocator, allocator._store)
        self.allocator = allocator
        self.state = self.run(read_state(self.cell.store))
        if document is not None:
            self.sync(document, force=True, allow_empty=True, stale=False)
        for node_id, report in there:
            self._connect(node_id, report, takeover=True)

    def teardown(self) -> None:
        async def close() -> None:
            keys = [self.cell.store.key(name) for name in KEY_NAMES]
            await self.cell.store.command("DEL", *keys, *(f"{key}:replica" for key in keys))
            await self.allocator.aclose()

        if hasattr(self, "cell"):
            self.run(close())
        self._runner.close()

    # --- after each step ---

    def step(self, *, changes: bool = True, loses: bool = False) -> State:
        """Takes the state after a step, and holds it against the one before.

        ``changes`` is false for a step that must have changed nothing, ``loses`` true for one that lost writes.
        """
        before, after = self.state, self.run(read_state(self.cell.store))
        self.state = after
        assert not violations(after)
        report = self.run(self.allocator.check())
        assert report.ok, report.violations
        if not changes:
            assert after == before
        if not loses:
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
            assert self.state.ready[node_id] == self.state.members[node_id] * 2 + report.load

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
                or (epoch_of(self.state, node_id) == one.session.epoch and is_offline(self.state, node_id))
            )
        ]

    def lost(self) -> list[Tenure]:
        """Tenures that the store has forgotten, or of which it holds an earlier state."""
        return [one for one in self.tenures if one not in self.current() and one not in self.ended()]

    def _register(self, node_id: str, report: NodeReport, session_id: str, **options: Any) -> Registration:
        defaults = {"session_id": session_id, "instance": "test", "lease_ms": LEASE_MS}
        return self.run(self.allocator.register(node_id, report, **(defaults | options)))

    def _keep(self, tenure: Tenure, registration: Registration, report: NodeReport) -> None:
        if tenure in self.tenures:
            self.tenures.remove(tenure)
        self.tenures.append(replace(tenure, session=registration.session, report=report))
        self._is_stored(self.tenures[-1])

    # --- nodes ---

    def _connect(self, node_id: str, report: NodeReport, takeover: bool) -> None:
        held = (
            node_id in self.state.sessions
            and not is_offline(self.state, node_id)
            and self.state.leases[node_id] > now_of(self.state)
        )
        session_id = f"socket-{next(self._socket)}"
        if held and not takeover:
            with pytest.raises(NodeIdConflict):
                self._register(node_id, report, session_id, takeover=False)
            self.step(changes=False)
            return
        highest = self.newest.get(node_id, 0)
        registration = self._register(node_id, report, session_id, takeover=takeover)
        self.step()
        assert registration.session.epoch > highest
        self._keep(Tenure(session_id, registration.session, report), registration, report)
        self._is_placed(registration)

    @precondition(lambda self: self.current())
    @rule(data=st.data())
    def register_again(self, data: st.DataObject) -> None:
        tenure = data.draw(st.sampled_from(self.current()))
        again = self._register(tenure.session.node_id, tenure.report, tenure.session_id)
        self.step()
        assert again.session == tenure.session

    def _update(self, tenure: Tenure, report: NodeReport) -> None:
        registration = self.run(self.allocator.update(tenure.session, report, lease_ms=LEASE_MS))
        self.step()
        assert registration.session.epoch == tenure.session.epoch
        self._keep(tenure, registration, report)
        self._is_placed(registration)

    @precondition(lambda self: self.current())
    @rule(load=st.sampled_from([None, 0.5, 1.0]))
    def heartbeats(self, load: float | None) -> None:
        """Of every node that is there."""

        async def beat() -> None:
            await asyncio.gather(
                *(self.allocator.heartbeat(one.session, lease_ms=LEASE_MS, load=load) for one in self.current())
            )

        before = self.state
        self.run(beat())
        self.step()
        assert self.state.events == before.events
        for one in self.current():
            node_id = one.session.node_id
            assert self.state.leases[node_id] == now_of(self.state) + LEASE_MS
            assert load is None or self.state.usage[node_id].startswith(f"{load:.4f} ")
            if load is not None and node_id in self.state.ready:
                assert self.state.ready[node_id] == self.state.members[node_id] * 2 + load

    @precondition(lambda self: self.current())
    @rule(data=st.data(), grace_ms=st.sampled_from([0, 30_000]))
    def close(self, data: st.DataObject, grace_ms: int) -> None:
        self._close(data.draw(st.sampled_from(self.current())), grace_ms)

    def _close(self, tenure: Tenure, grace_ms: int) -> None:
        node_id = tenure.session.node_id
        lease_end = min(self.state.leases[node_id], now_of(self.state) + grace_ms)
        assert self.run(self.allocator.release(tenure.session, grace_ms=grace_ms, reason="closed"))
        self.step()
        assert is_offline(self.state, node_id)
        assert self.state.leases[node_id] == lease_end

    def _speak_too_late(self, tenure: Tenure, how: str, report: NodeReport) -> None:
        session = tenure.session
        if how == "release":
            ours = epoch_of(self.state, session.node_id) == session.epoch
            assert self.run(self.allocator.release(session, grace_ms=0, reason="late")) is ours
        else:
            late: dict[str, Callable[[], object]] = {
                "heartbeat": lambda: self.run(self.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.5)),
                "update": lambda: self.run(self.allocator.update(session, report, lease_ms=LEASE_MS)),
                "put back": lambda: self._register(session.node_id, report, tenure.session_id, epoch=session.epoch),
            }
            with pytest.raises(SessionLost) as lost:
                late[how]()
            assert not lost.value.unknown
        self.step(changes=False)

    @precondition(lambda self: self.lost())
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        tenure = data.draw(st.sampled_from(self.lost()))
        with pytest.raises(SessionLost) as lost:
            self.run(self.allocator.heartbeat(tenure.session, lease_ms=LEASE_MS))
        assert lost.value.unknown
        self.step(changes=False)
        registration = self._register(
            tenure.session.node_id, tenure.report, tenure.session_id, epoch=tenure.session.epoch
        )
        self.step()
        assert registration.session.epoch >= tenure.session.epoch
        self._keep(tenure, registration, tenure.report)
        self._is_placed(registration)

    @rule(node_id=st.sampled_from(NODES), report=reports, takeover=st.booleans())
    def connect(self, node_id: str, report: NodeReport, takeover: bool) -> None:
        self._connect(node_id, report, takeover)

    @rule(node_id=st.sampled_from(NODES), report=reports)
    def take_over(self, node_id: str, report: NodeReport) -> None:
        self._connect(node_id, report, True)

    @rule(node_id=st.sampled_from(NODES), report=reports)
    def connect_and_close(self, node_id: str, report: NodeReport) -> None:
        self._connect(node_id, report, True)
        self._close(self.tenures[-1], 30_000)

    @precondition(lambda self: self.current())
    @rule(data=st.data(), report=reports)
    def update(self, data: st.DataObject, report: NodeReport) -> None:
        self._update(data.draw(st.sampled_from(self.current())), report)

    @precondition(lambda self: self.current())
    @rule(report=reports)
    def update_all(self, report: NodeReport) -> None:
        for tenure in self.current():
            self._update(tenure, report)

    @precondition(lambda self: self.ended())
    @rule(report=reports)
    def speak_too_late(self, report: NodeReport) -> None:
        for tenure in self.ended():
            for how in ("heartbeat", "update", "release", "put back"):
                self._speak_too_late(tenure, how, report)

    # --- operators ---

    @rule(
        document=documents, force=st.booleans(), allow_empty=st.booleans(), stale=st.sampled_from([False, False, True])
    )
    def sync(self, document: PoolDocument, force: bool, allow_empty: bool, stale: bool) -> None:
        in_force = int(self.state.config["document_version"])
        unchanged = self.state.config.get("document_digest") == document.digest
        declared = [one for one in self.state.pools.values() if one["origin"] == "declared"]
        options = {"allow_empty": allow_empty, "force": force}
        if stale and not unchanged:
            with pytest.raises(VersionConflict):
                self.run(self.allocator.sync(document, expect_version=in_force + 1, **options))
            self.step(changes=False)
            return
        if declared and not document.pools and not allow_empty and not unchanged:
            with pytest.raises(GuardRefused):
                self.run(self.allocator.sync(document, expect_version=in_force, **options))
            self.step(changes=False)
            return
        planned = self.run(self.allocator.sync(document, allow_empty=allow_empty, force=True, dry_run=True))
        self.step(changes=False)
        lost = sum(
            1
            for move in planned.moves
            for node_id in self.state.ready
            if move.to_pool is None and self.state.members[node_id] == move.node_class
        )
        if not force and lost * 1000 > document.guard.max_unassigned_permille * len(self.state.ready):
            with pytest.raises(GuardRefused):
                self.run(self.allocator.sync(document, expect_version=in_force, **options))
            self.step(changes=False)
            return
        done = self.run(self.allocator.sync(document, expect_version=in_force, **options))
        self.step(changes=not unchanged)
        assert done == replace(planned, dry_run=False)
        assert done.unassigned_nodes == sum(1 for node_id in self.state.members if not pool_of(self.state, node_id))
        if not unchanged:
            assert not overdue(self.state)

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(1, int(self.state.config["version"])))
        earlier = [fields["document"] for number, fields in self.state.history if number <= version]
        document = next((found for found in reversed(earlier) if found), "")
        if not document:
            with pytest.raises(NotFound):
                self.run(self.allocator.rollback(version, force=True))
            self.step(changes=False)
            return
        self.run(self.allocator.rollback(version, force=True))
        self.step()
        assert self.state.config["document"] == document

    @rule(node_id=st.sampled_from(NODES), owner=st.sampled_from(OWNERS), reason=st.sampled_from(["x", "y"]))
    def hold(self, node_id: str, owner: str, reason: str) -> None:
        result = self.run(self.allocator.hold(node_id, owner=owner, reason=reason, allow_unknown=True))
        self.step(changes=result.changed)
        assert self.state.holds[node_id][owner]["reason"] == reason

    @precondition(lambda self: self.state.holds)
    @rule(node_id=st.sampled_from(NODES), owner=st.sampled_from(OWNERS))
    def lift(self, node_id: str, owner: str) -> None:
        owners = self.state.holds.get(node_id, {})
        if owner in owners:
            assert self.run(self.allocator.lift(node_id, owner=owner, reason="done")).changed
            self.step()
            assert owner not in self.state.holds.get(node_id, {})
            return
        assert not self.run(self.allocator.lift(node_id, owner=owner, reason="done")).changed
        self.step(changes=False)

    @rule(
        src=st.sampled_from(LANGUAGES),
        tgt=st.sampled_from(LANGUAGES),
        services=st.sampled_from([[], ["asr"], ["asr", "tts"]]),
    )
    def look(self, src: str, tgt: str, services: list[str]) -> None:
        """Every way of reading says the same, also with scripts that have just been flushed."""
        self.run(self.cell.store.command("SCRIPT", "FLUSH"))
        state = self.state
        wanted = {
            number
            for number, of_class in state.class_facts.items()
            if src in of_class.get("asr", ())
            and tgt in of_class.get("semantic", ())
            and set(services) <= set(of_class.get("services", ()))
            and ("tts" not in services or tgt in of_class.get("tts", ()))
        }
        found = self.run(self.allocator.find(src, tgt, services))
        assert {one.node_class: (one.pool or "") for one in found} == {n: state.classes[n] for n in wanted}
        table = self.run(self.allocator.pools())
        assert {row.name for row in table.pools} == set(state.pools)
        for row in table.pools:
            members = [node_id for node_id in state.members if pool_of(state, node_id) == row.name]
            assert row.nodes == len(members)
            assert row.ready == sum(1 for node_id in members if node_id in state.ready)
            page = self.run(self.allocator.nodes(pool=row.name))
            assert sorted(node.node_id for node in page.nodes) == sorted(members)
        for node_id in state.members:
            explanation = self.run(self.allocator.explain(node_id))
            of_node = facts_of_node(state, node_id)
            for decision in explanation.decisions:
                one = state.pools[decision.pool]
                if one["origin"] == "declared":
                    assert decision.matches is meets(one["match"], of_node), decision
                assert decision.chosen is (decision.pool == pool_of(state, node_id))
            if explanation.node.state.pool is None and explanation.reason != "awaiting_reconcile":
                assert explanation.reason == reason_without_pool(state, of_node)
        self.step(changes=False)

    # --- time and trouble ---

    @rule(milliseconds=st.sampled_from([1, 1_000, 20_000, LEASE_MS, 600_000, -60_000]), upkeep=st.booleans())
    def time_passes(self, milliseconds: int, upkeep: bool) -> None:
        self.run(self.cell.advance(milliseconds if self.clock_goes_back else abs(milliseconds)))
        self.step()
        if upkeep:
            self._reconcile(expire=200, scan=256, share=0.3, floor=20)

    @rule(
        milliseconds=st.sampled_from([10_000, LEASE_MS, 60_000]),
        alive=st.sets(st.sampled_from(NODES)),
        expire=st.sampled_from([1, 200]),
        scan=st.sampled_from([1, 256]),
        share=st.sampled_from([0.3, 1.0]),
    )
    def upkeep(self, milliseconds: int, alive: set[str], expire: int, scan: int, share: float) -> None:
        """Time passes while upkeep runs and some nodes are heard of."""

        async def live() -> None:
            await self.cell.advance(milliseconds)
            now_ms = now_of(self.state) + milliseconds
            config = self.cell.store.key("config")
            await self.cell.store.command("HSET", config, "ticked_at", now_ms, "suspended_until", 0, "went_back", 0)
            for one in self.current():
                if one.session.node_id in alive:
                    await self.allocator.heartbeat(one.session, lease_ms=LEASE_MS)

        self.run(live())
        self.step()
        self._reconcile(expire=expire, scan=scan, share=share, floor=1)

    def _reconcile(self, expire: int, scan: int, share: float, floor: int) -> None:
        before = self.state
        limits = ReconcileLimits(expire=expire, scan=scan, brake_share=share, brake_floor=floor, brake_expire=1)
        report = self.run(self.allocator.reconcile(lease_ms=LEASE_MS, force=True, limits=limits))
        self.step()
        lapsed = [node_id for node_id, lease_end in before.leases.items() if lease_end <= now_of(before)]
        braked = len(lapsed) > floor and len(lapsed) * 1000 > round(share * 1000) * len(before.members)
        allowed = 0 if report.suspended_ms else 1 if braked else expire
        assert report.expired == len(before.members) - len(self.state.members) == min(allowed, len(lapsed))
        assert report.violations == 0
        assert not overdue(self.state)

    @precondition(lambda self: self.replica is None)
    @rule()
    def replicate(self) -> None:
        self.replica = self.run(Replica.of(self.cell))
        self.replicated_events = self.state.events

    @precondition(lambda self: self.replica is not None and self.state.events != self.replicated_events)
    @rule()
    def fail_over(self) -> None:
        assert self.replica is not None
        self.run(self.replica.fail_over())
        self.replica = None
        # It takes time. Were the new server's clock behind, epochs that the old one gave could be given again.
        highest = max([now_of(self.state), *(tenure.session.epoch for tenure in self.tenures)])
        self.run(self.cell.advance(highest + 1 - now_of(self.state)))
        self.clock_goes_back = False
        self.step(loses=True)
        self.newest = {node_id: epoch_of(self.state, node_id) for node_id in self.state.sessions}


def test_random_histories(redis_url: str, namespace: str) -> None:
    Histories.redis_url, Histories.namespace = redis_url, namespace
    settings = hypothesis.settings(
        max_examples=HISTORIES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    print(f"replay the run: PYSCHEDULER_TEST_SEED={SEED} with {HISTORIES} histories of {STEPS} steps")
    machine = hypothesis.seed(SEED)(Histories)
    run_state_machine_as_test(machine, settings=settings)
