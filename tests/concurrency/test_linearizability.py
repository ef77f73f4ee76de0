"""The checker itself: it must accept what can have happened, and refuse what cannot."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyscheduler import PoolDocument
from pyscheduler.core.results import Event
from tests.concurrency.checking import find_fault
from tests.concurrency.events import likely_order
from tests.concurrency.history import NEVER, Operation
from tests.concurrency.linearizability import Model, check, smallest, until
from tests.harness import document_of, facts_of, pool

# --- a register, against every order there is -------------------------------------------------------------------------


class Register:
    """An integer that is written, read, and replaced by compare-and-set."""

    initial = 0

    def reads(self, operation: Operation) -> bool:
        return operation.kind == "read" or operation.result == {"swapped": False}

    def step(self, state: int, operation: Operation) -> Iterator[int]:
        args, result = operation.args, operation.result
        if operation.kind == "write":
            yield args["value"]
        elif operation.kind == "read":
            if result in (None, {"value": state}):
                yield state
        elif result in (None, {"swapped": state == args["old"]}):
            yield args["new"] if state == args["old"] else state


def has_order(model: Model[Any], operations: Sequence[Operation]) -> bool:
    """The definition, tried out: some choice of the open operations, in some order."""
    closed = [one for one in operations if not one.is_open]
    still_open = [one for one in operations if one.is_open]
    for count in range(len(still_open) + 1):
        for chosen in itertools.combinations(still_open, count):
            for order in itertools.permutations([*closed, *chosen]):
                in_time = all(one.invoked_ns <= two.completed_ns for one, two in itertools.combinations(order, 2))
                if in_time and _explains(model, order):
                    return True
    return False


def _explains(model: Model[Any], order: Sequence[Operation]) -> bool:
    states = {model.initial}
    for operation in order:
        states = {after for state in states for after in model.step(state, operation)}
    return bool(states)


values = st.integers(0, 2)
calls: st.SearchStrategy[tuple[str, dict[str, Any], dict[str, Any]]] = st.one_of(
    st.tuples(st.just("write"), st.fixed_dictionaries({"value": values}), st.just({})),
    st.tuples(st.just("read"), st.just({}), st.fixed_dictionaries({"value": values})),
    st.tuples(
        st.just("swap"),
        st.fixed_dictionaries({"old": values, "new": values}),
        st.fixed_dictionaries({"swapped": st.booleans()}),
    ),
)


@st.composite
def register_histories(draw: st.DrawFn) -> list[Operation]:
    operations = []
    for number in range(draw(st.integers(1, 5))):
        kind, args, result = draw(calls)
        invoked = draw(st.integers(0, 12))
        if draw(st.integers(0, 4)):
            completed = invoked + draw(st.integers(0, 6))
            operations.append(Operation(f"o{number}", kind, args, invoked, completed, result))
        else:
            operations.append(Operation(f"o{number}", kind, args, invoked))
    return operations


@given(register_histories())
def test_it_says_what_trying_every_order_says(operations: list[Operation]) -> None:
    assert check(Register(), operations).ok == has_order(Register(), operations)


@given(register_histories())
def test_the_smallest_part_is_a_bad_one(operations: list[Operation]) -> None:
    assume(not has_order(Register(), operations))
    part = smallest(Register(), operations)
    assert not has_order(Register(), part)
    last = max(one.completed_ns for one in part if not one.is_open)
    assert has_order(Register(), until(part, last - 1)), "its beginning is good"
    assert {one.id for one in part} <= {one.id for one in operations}


def test_a_search_without_end_is_given_up() -> None:
    writes = [Operation(f"o{number}", "write", {"value": number}, 0, 100, {}) for number in range(12)]
    impossible = Operation("last", "read", {}, 200, 300, {"value": -1})
    assert check(Register(), [*writes, impossible], budget=1000).ok is None
    assert check(Register(), [*writes, impossible]).ok is False


# --- the configuration and nodes, by hand -----------------------------------------------------------------------------

FIRST = document_of(pool("first", semantic={"contains": ["en"]})).canonical()
SECOND = document_of(pool("second", semantic={"contains": ["en"]})).canonical()
ENGLISH, JAPANESE = facts_of("en").json, facts_of("ja").json


def op(when: str, kind: str, result: dict[str, Any] | None, **args: Any) -> Operation:
    """``when``: such as ``2-5``; ``2-`` for an operation with an unknown outcome."""
    begin, end = when.split("-")
    return Operation(f"{kind}@{begin}", kind, args, int(begin), int(end) if end else NEVER, result)


def sync(when: str, document: str, result: tuple[int, int] | str | None, expect: int | None = None) -> Operation:
    """``result``: versions before and after, or the name of a refusal and the actual version."""
    told: dict[str, Any] | None = None
    if isinstance(result, str):
        error, _, actual = result.partition(" ")
        told = {"error": error, "actual": int(actual)}
    elif result:
        changes = {one.name: "added" for one in PoolDocument.from_canonical(document).pools}
        told = {"before": result[0], "after": result[1], "document_version": result[1], "changes": changes}
        if result[0] == result[1]:
            told["changes"] = {}
    return op(when, "sync", told, document=document, expect_version=expect)


def version(when: str, seen: int) -> Operation:
    return op(when, "read_version", {"version": seen})


def register(
    when: str, session: str, epoch: int | str | None, *, facts: str = JAPANESE, takeover: bool = True, **seen: Any
) -> Operation:
    """``epoch``: or the name of the session that the refusal names."""
    told: dict[str, Any] | None = None
    if isinstance(epoch, str):
        told = {"error": "NodeIdConflict", "instance": epoch}
    elif epoch:
        told = {"epoch": epoch, "node_class": 1, "pool": "ja", "version": 2, "status": "ready", **seen}
    args = {"node": "n", "session": session, "epoch": 0, "takeover": takeover}
    return op(when, "register", told, **args, facts=facts, status="ready", digest="d")


def of_session(when: str, kind: str, session: str, epoch: int, result: dict[str, Any], **args: Any) -> Operation:
    return op(when, kind, result, node="n", session=session, epoch=epoch, **args)


def heartbeat(when: str, session: str, epoch: int, result: dict[str, Any], node_class: int = 1) -> Operation:
    return of_session(when, "heartbeat", session, epoch, result, node_class=node_class, status="ready", digest="d")


STALE = {"error": "SessionLost", "unknown": False}
UNKNOWN = {"error": "SessionLost", "unknown": True}

BRIEFLY: dict[str, Any] = {
    "result": {"epoch": 5, "node_class": 1, "pool": "ja", "version": 2, "status": "ready"},
    "args": {
        "node": "n",
        "session": "a",
        "epoch": 0,
        "takeover": True,
        "brief": True,
        "facts": JAPANESE,
        "status": "ready",
        "digest": "d",
    },
}

GOOD: dict[str, list[Operation]] = {
    "one after the other": [sync("1-2", FIRST, (1, 2)), version("3-4", 2), sync("5-6", SECOND, (2, 3), expect=2)],
    "a read beside the write sees before": [sync("1-5", FIRST, (1, 2)), version("2-3", 1), version("6-7", 2)],
    "or after": [sync("1-5", FIRST, (1, 2)), version("2-3", 2), version("4-6", 2)],
    "two writers, one after the other": [sync("1-9", FIRST, (2, 3)), sync("2-8", SECOND, (1, 2))],
    "the loser of a race is refused": [
        sync("1-9", FIRST, "VersionConflict 2", expect=0),
        sync("2-8", SECOND, (1, 2), expect=0),
    ],
    "an unknown outcome that happened": [sync("1-", FIRST, None), version("5-6", 1), version("9-10", 2)],
    "and one that did not": [sync("1-", FIRST, None), version("99-100", 1)],
    "the same document changes nothing": [sync("1-2", FIRST, (1, 2)), sync("3-4", FIRST, (2, 2), expect=7)],
    "a first node makes its pool": [register("1-2", "a", 5), version("3-4", 2)],
    "a takeover, and what the loser is told": [
        register("1-2", "a", 5),
        register("3-4", "b", 9),
        heartbeat("5-6", "a", 5, STALE),
        heartbeat("5-6", "b", 9, {"version": 2}),
    ],
    "a heartbeat beside the takeover": [
        register("1-2", "a", 5),
        register("3-8", "b", 9),
        heartbeat("4-5", "a", 5, {"version": 2}),
    ],
    "refused while the other lives, let in when it is gone": [
        register("1-2", "a", 5),
        register("3-4", "b", "a", takeover=False),
        of_session("5-6", "release", "a", 5, {"released": True}, grace_ms=9),
        register("7-8", "c", 6, takeover=False),
    ],
    "a takeover that nobody was told of": [
        register("1-2", "a", 5),
        register("3-", "b", None),
        heartbeat("5-6", "a", 5, {"version": 2}),
        heartbeat("7-8", "a", 5, STALE),
    ],
    "a brief lease that a heartbeat renewed, though nobody was told": [
        op("1-2", "register", BRIEFLY["result"], **BRIEFLY["args"]),
        op("4-", "heartbeat", None, node="n", session="a", epoch=5, node_class=1, status="ready", digest="d"),
        register("9000000-9000001", "b", "a", takeover=False),
    ],
    "expired, and begun anew": [
        register("1-2", "a", 5),
        of_session("3-4", "release", "a", 5, {"released": True}, grace_ms=0),
        op("5-6", "reconcile", {"version": 2, "expired": 1, "created_pools": [], "removed_pools": [], "violations": 0}),
        heartbeat("7-8", "a", 5, UNKNOWN),
        register("9-10", "b", 6),
    ],
    "a pool by the rules of before or after": [
        register("1-2", "a", 5),
        sync("3-9", FIRST, (2, 3)),
        register("4-6", "b", 7, facts=ENGLISH, pool="first", version=3),
    ],
}

BAD: dict[str, tuple[str, list[Operation]]] = {
    "a stale read": ("configuration", [sync("1-2", FIRST, (1, 2)), version("3-4", 1)]),
    "a read of what is still to come": ("configuration", [version("1-2", 2), sync("3-4", FIRST, (1, 2))]),
    "two readers that disagree on the order": (
        "configuration",
        [sync("1-9", FIRST, (1, 2)), version("2-3", 2), version("4-5", 1)],
    ),
    "a lost update": (
        "configuration",
        [sync("1-9", FIRST, (1, 2), expect=0), sync("2-8", SECOND, (2, 3), expect=0)],
    ),
    "a gap in the versions": ("configuration", [sync("1-2", FIRST, (1, 2)), sync("3-4", SECOND, (3, 4))]),
    "a version given twice": ("configuration", [sync("1-2", FIRST, (1, 2)), sync("3-4", SECOND, (1, 2))]),
    "an older document": (
        "configuration",
        [
            sync("1-2", FIRST, (1, 2)),
            sync("3-4", SECOND, (2, 3)),
            op("5-6", "read_document", {"of": 3, "json": FIRST}),
        ],
    ),
    "a conflict without a rival": (
        "configuration",
        [sync("1-2", FIRST, (1, 2)), sync("3-4", SECOND, "VersionConflict 3", expect=2)],
    ),
    "an unknown outcome that happened twice": (
        "configuration",
        [sync("1-", FIRST, None), version("3-4", 2), version("5-6", 3)],
    ),
    "and one that was undone": ("configuration", [sync("1-", FIRST, None), version("3-4", 2), version("5-6", 1)]),
    "a pool by rules of before": (
        "configuration",
        [register("1-2", "a", 5), sync("3-4", FIRST, (2, 3)), register("5-6", "b", 7, facts=ENGLISH, version=3)],
    ),
    "a pool made twice": ("configuration", [register("1-2", "a", 5), register("3-4", "b", 6, version=3)]),
    "two equal epochs": ("node n", [register("1-2", "a", 5), register("3-4", "b", 5)]),
    "an epoch that goes back": ("node n", [register("1-2", "a", 5), register("3-4", "b", 4)]),
    "a heartbeat after the takeover": (
        "node n",
        [register("1-2", "a", 5), register("3-4", "b", 9), heartbeat("5-6", "a", 5, {"version": 2})],
    ),
    "a release after the takeover": (
        "node n",
        [
            register("1-2", "a", 5),
            register("3-4", "b", 9),
            of_session("5-6", "release", "a", 5, {"released": True}, grace_ms=0),
        ],
    ),
    "the holder refused": ("node n", [register("1-2", "a", 5), heartbeat("3-4", "a", 5, STALE)]),
    "taken over though told not to": ("node n", [register("1-2", "a", 5), register("3-4", "b", 6, takeover=False)]),
    "refused for a holder that is gone": (
        "node n",
        [
            register("1-2", "a", 5),
            of_session("3-4", "release", "a", 5, {"released": True}, grace_ms=9),
            register("5-6", "b", "a", takeover=False),
        ],
    ),
    "refused for a lease that has lapsed": (
        "node n",
        [
            op("1-2", "register", BRIEFLY["result"], **BRIEFLY["args"]),
            register("9000000-9000001", "b", "a", takeover=False),
        ],
    ),
    "a node that went without a word": (
        "node n",
        [register("1-2", "a", 5), op("3-4", "read_node", {"error": "NotFound"}, node="n")],
    ),
    "counts of another moment": (
        "everything",
        [
            register("1-2", "a", 5),
            op(
                "3-4",
                "read_pools",
                {
                    "version": 2,
                    "document_version": 0,
                    "nodes": 0,
                    "unmatched_nodes": 0,
                    "pools": [{"name": "ja", "origin": "auto", "nodes": 0, "ready": 0}],
                },
            ),
        ],
    ),
}
CHANGES_AT = {2: {"first": "added"}, 3: {"first": "added"}}


@pytest.mark.parametrize("what", GOOD)
def test_accepts(what: str) -> None:
    assert find_fault(GOOD[what], CHANGES_AT) is None


@pytest.mark.parametrize("what", BAD)
def test_refuses(what: str) -> None:
    subject, operations = BAD[what]
    found = find_fault(operations, CHANGES_AT)
    assert found is not None
    assert found.subject == subject, found.text


def test_a_call_that_was_cut_off_may_be_the_one_that_registered() -> None:
    """Its repetition has the answer, but readers may have seen the node before that was executed."""
    cut_off = Operation("a-1", "register", {"node": "n1", "session": "a-1"}, 0)
    repeated = Operation("a-2", "register", {"node": "n1", "session": "a-1"}, 5, 9, {"epoch": 7})
    again = Operation("a-3", "register", {"node": "n1", "session": "a-1"}, 10, 12, {"epoch": 7})
    began = Event("1-0", 0, "node.registered", 1, "n1", reason="new", fields={"instance": "a-1", "epoch": "7"})
    assert likely_order([cut_off, repeated, again], [began]) == ["a-1", "a-2"]
