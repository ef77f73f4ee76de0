"""Histories made from a run of one client after the other, spread out so that they overlap: there is an order, so the
checker must find one. With one answer changed to what was true at no instant of its call, there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.concurrency.checking import find_fault
from tests.concurrency.history import Operation
from tests.harness import document_of, facts_of, pool

DOCUMENTS = tuple(
    document_of(pool(name, semantic={"contains": ["en"]}), auto={"enabled": False}).canonical()
    for name in ("red", "green", "blue")
)
FACTS = (facts_of("en").json, facts_of("ja").json)
STEP_NS = 10


class Sequential:
    """A namespace with one node, for one client at a time. Written apart from the models, and simpler than they are."""

    def __init__(self) -> None:
        self.version, self.document_version, self.document, self.pool = 1, 0, "", ""
        self.session, self.epoch, self.offline, self.facts, self.sessions = "", 0, False, "", 0

    def sync(self, draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        expect = draw(st.sampled_from([None, self.document_version, self.document_version - 1]))
        return self.make(draw(st.sampled_from(DOCUMENTS)), expect)

    def make(self, document: str, expect: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        args = {"document": document, "expect_version": expect}
        if document == self.document:
            version, of = self.version, self.document_version
            return args, {"before": version, "after": version, "document_version": of, "changes": {}}
        if expect not in (None, self.document_version):
            return args, {"error": "VersionConflict", "actual": self.document_version}
        before, name = self.version, ("red", "green", "blue")[DOCUMENTS.index(document)]
        changes = {name: "added"} | ({self.pool: "removed"} if self.pool else {})
        self.version, self.document_version, self.document, self.pool = before + 1, before + 1, document, name
        return args, {"before": before, "after": self.version, "document_version": self.version, "changes": changes}

    def read_version(self, draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"version": self.version}

    def read_document(self, draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"of": self.document_version, "json": self.document}

    def register(self, draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        facts, takeover = draw(st.sampled_from(FACTS)), draw(st.booleans())
        session = f"s{self.sessions}"
        self.sessions += 1
        args = {"node": "n", "session": session, "epoch": 0, "takeover": takeover}
        args |= {"facts": facts, "status": "ready", "digest": "d"}
        if self.session and not self.offline and not takeover:
            return args, {"error": "NodeIdConflict", "instance": self.session}
        self.session, self.epoch, self.offline, self.facts = session, self.epoch + draw(st.integers(1, 3)), False, facts
        pool_name = self.pool if facts == FACTS[0] else ""
        told = {"epoch": self.epoch, "node_class": FACTS.index(facts) + 1, "pool": pool_name or None}
        return args, {**told, "version": self.version, "status": "ready"}

    def heartbeat(self, draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        args = {"node": "n", "session": self.session, "epoch": self.epoch, "status": "ready", "digest": "d"}
        args["node_class"] = FACTS.index(self.facts) + 1 if self.facts else 1
        if not self.session:
            return args, {"error": "SessionLost", "unknown": True}
        if self.offline:
            return args, {"error": "SessionLost", "unknown": False}
        return args, {"version": self.version}

    def release(self, draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        args = {"node": "n", "session": self.session, "epoch": self.epoch, "grace_ms": 1000}
        self.offline = self.offline or bool(self.session)
        return args, {"released": bool(self.session)}


KINDS = ("sync", "sync", "read_version", "read_document", "register", "heartbeat", "release")


@st.composite
def histories(draw: st.DrawFn, *, some_open: bool = True) -> list[Operation]:
    """Each operation takes effect at an instant of its own, and its call lasts from before it until after it."""
    namespace = Sequential()
    # Without a document, the first node of a language set would make a pool of its own.
    args, result = namespace.make(DOCUMENTS[0])
    operations = [Operation("first", "sync", args, 0, 1, result)]
    for number in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(KINDS))
        call: Callable[..., Any] = getattr(namespace, kind)
        args, result = call(draw)
        instant = (number + 5) * STEP_NS
        invoked = instant - draw(st.integers(0, 4 * STEP_NS))
        if some_open and not draw(st.integers(0, 5)):
            operations.append(Operation(f"o{number}", kind, args, invoked))
        else:
            completed = instant + draw(st.integers(0, 4 * STEP_NS))
            operations.append(Operation(f"o{number}", kind, args, invoked, completed, result))
    return operations


def changes_at(operations: list[Operation]) -> dict[int, dict[str, str]]:
    """What the store's own history would say; of an open sync only that its pool is there."""
    found: dict[int, dict[str, str]] = {version: {} for version in range(2, len(operations) + 2)}
    for one in operations:
        if one.kind == "sync" and one.result and one.result.get("changes"):
            found[one.result["after"]] = one.result["changes"]
    return found


@given(histories())
def test_what_happened_in_some_order_is_accepted(operations: list[Operation]) -> None:
    found = find_fault(operations, changes_at(operations))
    assert found is None, found.text


def is_change(operation: Operation) -> bool:
    return operation.kind == "sync" and bool(operation.result and operation.result.get("changes"))


@given(histories(some_open=False), st.data())
def test_a_version_of_another_time_is_refused(operations: list[Operation], data: st.DataObject) -> None:
    reads = [one for one in operations if one.kind in ("read_version", "heartbeat") and not one.error]
    assume(reads)
    read = data.draw(st.sampled_from(reads))
    surely_before = sum(is_change(one) and one.completed_ns < read.invoked_ns for one in operations)
    perhaps_before = sum(is_change(one) and one.invoked_ns <= read.completed_ns for one in operations)
    seen = data.draw(st.sampled_from([surely_before, perhaps_before + 2]))
    spoilt = dataclasses.replace(read, result={"version": seen})
    assert find_fault([spoilt if one is read else one for one in operations]) is not None


@given(histories(some_open=False), st.data())
def test_an_epoch_given_twice_is_refused(operations: list[Operation], data: st.DataObject) -> None:
    registered = [one for one in operations if one.kind == "register" and not one.error]
    assume(len(registered) > 1)
    one, other = data.draw(st.permutations(registered))[:2]
    assert one.result is not None
    assert other.result is not None
    spoilt = dataclasses.replace(one, result={**one.result, "epoch": other.result["epoch"]})
    assert find_fault([spoilt if each is one else each for each in operations]) is not None


@given(histories(some_open=False), st.data())
def test_a_change_that_nobody_made_is_refused(operations: list[Operation], data: st.DataObject) -> None:
    changes = [one for one in operations if is_change(one)]
    assume(changes)
    left_out = data.draw(st.sampled_from(changes))
    assert left_out.result is not None
    end = max(one.completed_ns for one in operations)
    last = Operation("last", "read_version", {}, end + 1, end + 2, {"version": len(changes) + 1})
    assert find_fault([*(one for one in operations if one is not left_out), last]) is not None


@given(histories(some_open=False), st.data())
def test_a_refusal_turned_into_its_opposite_is_refused(operations: list[Operation], data: st.DataObject) -> None:
    """Alone in its time, so that nothing else explains it."""
    end = max(one.completed_ns for one in operations) + 1
    reads = [one for one in operations if one.kind == "heartbeat"]
    assume(reads)
    beat = data.draw(st.sampled_from(reads))
    # The same heartbeat once more after a newcomer: whatever it was told before, it is stale now.
    args = {"node": "n", "session": "newcomer", "epoch": 0, "takeover": True, "facts": FACTS[1], "status": "ready"}
    version = sum(is_change(one) for one in operations) + 1
    told = {"epoch": 10_000, "node_class": 2, "pool": None, "version": version, "status": "ready"}
    newcomer = Operation("newcomer", "register", {**args, "digest": "d"}, end, end + 1, told)
    late = Operation("late", "heartbeat", beat.args, end + 2, end + 3, {"error": "SessionLost", "unknown": False})
    assert find_fault([*operations, newcomer, late]) is None
    accepted = dataclasses.replace(late, result={"version": version})
    assert find_fault([*operations, newcomer, accepted]) is not None
