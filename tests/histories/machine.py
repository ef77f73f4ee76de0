"""Random histories of nodes, operators, time and trouble, on the real store and held against the rules.

After every single step: no invariant is broken, the events replay to the state, no node has left its pool without a
reason, no ended session has changed anything, and every placement is the one that the rules say.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from msgspec.structs import replace

from pyscheduler import Allocator, Facts, NodeReport, PoolDocument
from pyscheduler.core.results import ReconcileLimits, Registration
from pyscheduler.errors import GuardRefused, NodeIdConflict, NotFound, SessionLost, VersionConflict
from tests.cells import Replica, lose_everything
from tests.harness import EPOCH_MS, GRACE_MS, LEASE_MS, Cell, document_of
from tests.histories.expected import (
    epoch_of,
    facts_of_node,
    idle_pools,
    is_offline,
    now_of,
    overdue,
    pool_of,
    reason_without_pool,
    suspended_ms,
)
from tests.histories.jobs import JobSteps
from tests.histories.vocabulary import (
    LANGUAGES,
    NODES,
    ONE_LANGUAGE,
    OWNERS,
    documents,
    reports,
)
from tests.histories.watched import Tenure
from tests.oracle import State, meets, read_state, slots_of


class Histories(JobSteps):
    """What nodes, operators, time and trouble do."""

    @initialize(
        document=st.none() | documents,
        there=st.lists(st.tuples(st.sampled_from(NODES), reports), max_size=3, unique_by=lambda one: one[0]),
    )
    def open(self, document: PoolDocument | None, there: list[tuple[str, NodeReport]]) -> None:
        name = f"{self.namespace}-{next(self.number)}"
        allocator = self.run(Allocator.open(self.redis_url, namespace=name, script_overrides=self.overrides))
        self.cell = Cell(allocator, allocator._store)
        self.allocator = allocator
        self.state = self.run(read_state(self.cell.store))
        if document is not None:
            self.sync(document, force=True, allow_empty=True, stale=False)
        for node_id, report in there:
            self._connect(node_id, report, takeover=True)

    def _register(self, node_id: str, report: NodeReport, session_id: str, **options: Any) -> Registration:
        defaults = {"session_id": session_id, "instance": "test", "lease_ms": LEASE_MS}
        return self.run(self.allocator.register(node_id, report, **(defaults | options)))

    def _keep(self, tenure: Tenure, registration: Registration, report: NodeReport) -> None:
        if tenure in self.tenures:
            self.tenures.remove(tenure)
        self.tenures.append(dataclasses.replace(tenure, session=registration.session, report=report))
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
        self._is_marked(node_id)
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
                assert (
                    self.state.ready[node_id]
                    == self.state.members[node_id] * 1024 + 2 * slots_of(self.state, node_id) + load
                )

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

    @rule(there=st.permutations(ONE_LANGUAGE), min_nodes=st.integers(1, 3))
    def connect_a_fleet_of_one_language(self, there: list[Facts], min_nodes: int) -> None:
        """Of several classes, which wait for one pool until they are enough."""
        policy = {"require_services": [], "min_nodes": min_nodes}
        self.sync(document_of(auto=policy), force=True, allow_empty=True, stale=False)
        for node_id, facts in zip(NODES, there, strict=True):
            self._connect(node_id, NodeReport.of(facts), True)

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
        before = self.state
        done = self.run(self.allocator.sync(document, expect_version=in_force, **options))
        self.step(changes=not unchanged)
        self._auto_pools_survive(before)
        assert done == replace(planned, dry_run=False)
        assert done.unassigned_nodes == sum(1 for node_id in self.state.members if not pool_of(self.state, node_id))
        if not unchanged:
            assert not overdue(self.state)

    def _auto_pools_survive(self, before: State) -> None:
        """A document has no say in auto pools, but that it may take their names."""
        autos = {name: one["id"] for name, one in before.pools.items() if one["origin"] == "auto"}
        assert {name: self.state.pools[name]["id"] for name in autos} == autos

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
        planned = self.run(self.allocator.rollback(version, force=True, dry_run=True))
        self.step(changes=False)
        before = self.state
        done = self.run(self.allocator.rollback(version, force=True))
        self.step(changes=done.version_after != done.version_before)
        self._auto_pools_survive(before)
        assert done == replace(planned, dry_run=False)
        assert self.state.config["document"] == document

    @rule(node_id=st.sampled_from(NODES), owner=st.sampled_from(OWNERS), reason=st.sampled_from(["x", "y"]))
    def hold(self, node_id: str, owner: str, reason: str) -> None:
        result = self.run(self.allocator.hold(node_id, owner=owner, reason=reason, allow_unknown=True))
        self.step(changes=result.changed)
        assert self.state.holds[node_id][owner]["reason"] == reason
        if result.changed:
            self._is_marked(node_id)

    @rule(node_id=st.sampled_from(NODES), owners=st.permutations(OWNERS))
    def hold_by_all_and_lift_each(self, node_id: str, owners: list[str]) -> None:
        for owner in OWNERS:
            self.hold(node_id, owner, "x")
        for owner in owners:
            self.lift(node_id, owner)

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

    @precondition(lambda self: self.clock_goes_back)
    @rule(node_id=st.sampled_from(NODES), report=reports)
    def clock_goes_back_and_a_node_comes_and_goes(self, node_id: str, report: NodeReport) -> None:
        """Its next epoch is still greater than the last, of which nothing is left but the floor."""
        self._connect(node_id, report, True)
        self.time_passes(-60_000, upkeep=True)
        self.upkeep(LEASE_MS, alive=set(), expire=200, scan=256, share=1.0)
        self._connect(node_id, report, True)

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

    @rule(first=st.sampled_from(NODES), second=st.sampled_from(NODES), report=reports)
    def leases_end_one_after_the_other(self, first: str, second: str, report: NodeReport) -> None:
        """A step of upkeep comes in between."""
        self._connect(first, report, True)
        self.time_passes(1, upkeep=False)
        self._connect(second, report, True)
        self.upkeep(LEASE_MS - 1, alive=set(), expire=200, scan=256, share=1.0)

    def _reconcile(self, expire: int, scan: int, share: float, floor: int) -> None:
        before = self.state
        limits = ReconcileLimits(expire=expire, scan=scan, brake_share=share, brake_floor=floor, brake_expire=1)
        report = self.run(self.allocator.reconcile(lease_ms=LEASE_MS, force=True, limits=limits))
        self.step(jobs=None)
        self._reservations_ended(before, report)
        lapsed = [node_id for node_id, lease_end in before.leases.items() if lease_end <= now_of(before)]
        braked = len(lapsed) > floor and len(lapsed) * 1000 > round(share * 1000) * len(before.members)
        allowed = 0 if report.suspended_ms else 1 if braked else expire
        assert report.suspended_ms == suspended_ms(before)
        assert report.braked is (braked and not report.suspended_ms)
        assert report.expired == len(before.members) - len(self.state.members)
        assert report.expired + report.released == min(allowed, len(lapsed))
        new = self.state.events[len(before.events) :]
        lost = [event["node_id"] for event in new if event["type"] == "node.released"]
        assert len(lost) == report.released
        for node_id in lost:
            assert not is_offline(before, node_id), "the grace is given once"
            assert self.state.leases[node_id] == now_of(before) + GRACE_MS
            assert node_id not in self.state.ready
        # A step that leaves lapsed nodes to the next one, and is not braked, looks at nothing else.
        is_full = not braked and not report.suspended_ms and len(lapsed) > expire
        assert set(report.removed_pools) == (set() if is_full else idle_pools(before))
        if now_of(before) < int(before.config.get("ticked_at", 0)):
            # The clock went back, and no node has been given a longer lease since.
            assert max(self.state.leases.values(), default=0) <= now_of(before) + LEASE_MS
        assert report.violations == 0
        assert is_full or not overdue(self.state)

    @rule(lease_ms=st.sampled_from([1, LEASE_MS // 3, 100 * LEASE_MS]))
    def instance_renews(self, lease_ms: int) -> None:
        self.run(self.allocator.renew_instance("test", lease_ms=lease_ms, info={}))
        self.step(changes=False)

    @rule()
    def scripts_are_flushed(self) -> None:
        self.run(self.cell.store.command("SCRIPT", "FLUSH"))

    @rule()
    def all_data_is_lost(self) -> None:
        """The store restarts without its data, and everybody finds out."""

        async def lose() -> None:
            await lose_everything(self.cell)
            assert (await self.allocator.pools()).version == 1

        now_ms = now_of(self.state)
        self.run(lose())
        self._go_on_after_a_loss(now_ms)
        assert (self.state.members, self.state.holds) == ({}, {})

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
        self._go_on_after_a_loss(now_of(self.state))

    def _go_on_after_a_loss(self, now_ms: int) -> None:
        # It takes time. Were the new server's clock behind, epochs that the old one gave could be given again.
        highest = max([now_ms, *(tenure.session.epoch for tenure in self.tenures)])
        config = self.cell.store.key("config")
        self.run(self.cell.store.command("HSET", config, "test_offset_ms", highest + 1 - EPOCH_MS))
        self.clock_goes_back = False
        self.step(loses=True)
        self.newest = {node_id: epoch_of(self.state, node_id) for node_id in self.state.sessions}
