"""The configuration as one client alone would find it: a document that is replaced by compare-and-set, and a counter.

Where a node belongs is read from it, and is written to it where that is the first node of an automatic pool.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pyscheduler import PoolDocument
from tests.concurrency.history import Operation
from tests.oracle import State, expected_pool, set_name

READS = {"read_version", "read_document", "read_pools", "read_node", "read_nodes", "heartbeat", "reconcile"}
TOUCHED_BY = READS | {"sync", "register", "update"}
"""Kinds of operation whose answers say something of the configuration."""


class Configuration(NamedTuple):
    """State: ``document`` is canonical JSON, empty before the first; ``autos`` are the names of the automatic pools."""

    version: int = 1
    document_version: int = 0
    document: str = ""
    autos: frozenset[str] = frozenset()


class ConfigurationModel:
    """
    Args:
        changes_at: the changes of pools at each version, as the stored history has them. Asked only where an operation
            with an unknown outcome is tried: which pools its document would have created depends on the nodes of then.
    """

    initial = Configuration()

    def __init__(self, changes_at: Mapping[int, Mapping[str, str]] | None = None) -> None:
        self._changes_at = changes_at or {}

    def reads(self, operation: Operation) -> bool:
        result = operation.result or {}
        unchanged = operation.kind == "sync" and "before" in result and result["before"] == result["after"]
        return operation.kind in READS or operation.kind not in TOUCHED_BY or unchanged or bool(operation.error)

    def step(self, state: Configuration, operation: Operation) -> Iterator[Configuration]:
        kind, result = operation.kind, operation.result
        if kind == "sync":
            yield from self._sync(state, operation)
        elif operation.error or kind not in TOUCHED_BY or (result is None and kind in READS):
            yield state
        elif kind in ("register", "update"):
            yield from _place(state, operation)
        elif kind == "read_document":
            if result == {"of": state.document_version, "json": state.document}:
                yield state
        elif result is None or result["version"] != state.version:
            return
        elif kind == "read_pools":
            origins = {pool["name"]: pool["origin"] for pool in result["pools"]}
            if origins == pool_origins(state) and result["document_version"] == state.document_version:
                yield state
        elif kind == "read_node":
            if (result["pool"] or "") == pool_of(state, result["facts"]):
                yield state
        elif kind == "reconcile":
            # Automatic pools are made by whoever comes first, and none is idle for long enough to go.
            if not result["created_pools"] and not result["removed_pools"] and not result["violations"]:
                yield state
        else:
            yield state

    def _sync(self, state: Configuration, operation: Operation) -> Iterator[Configuration]:
        document, expected = operation.args["document"], operation.args["expect_version"]
        result = operation.result
        if document == state.document:
            unchanged = {"before": state.version, "after": state.version, "document_version": state.document_version}
            if result is None or result == {**unchanged, "changes": {}}:
                yield state
            return
        if expected not in (None, state.document_version):
            conflict = {"error": "VersionConflict", "actual": state.document_version}
            if result is None or result == conflict:
                yield state
            return
        version = state.version + 1
        if result is None:
            changes = self._changes_at.get(version)
            if changes is None:
                return
        elif (
            result.get("error")
            or (result["before"], result["after"]) != (state.version, version)
            or result["document_version"] != version
        ):
            return
        else:
            changes = result["changes"]
        names = declared(document)
        gone = {name for name, change in changes.items() if change == "removed"}
        # A declared pool that the document drops may stay on as an automatic one: it is 'changed' then.
        kept = {name for name, change in changes.items() if change != "removed"}
        yield Configuration(version, version, document, (state.autos | kept) - gone - names)


def _place(state: Configuration, operation: Operation) -> Iterator[Configuration]:
    result = operation.result
    facts = operation.args["facts"]
    after, pool = state, pool_of(state, facts)
    if not pool and may_create(state, facts):
        pool = set_name(json.loads(facts))
        after = state._replace(version=state.version + 1, autos=state.autos | {pool})
    # A node whose socket was closed before the answer knows that it was registered, and no more.
    if result is None or "version" not in result or (result["version"], result["pool"] or "") == (after.version, pool):
        yield after


@functools.cache
def declared(document: str) -> frozenset[str]:
    """Names of the pools that a document declares."""
    return frozenset(pool["name"] for pool in json.loads(document)["pools"]) if document else frozenset()


def pool_origins(state: Configuration) -> dict[str, str]:
    return dict.fromkeys(state.autos, "auto") | dict.fromkeys(declared(state.document), "declared")


def pool_of(state: Configuration, facts: str) -> str:
    """The pool of a node with these facts, among those that there are; empty for none."""
    return _pool_of(state.document, state.autos, facts)


@functools.lru_cache(10_000)
def _pool_of(document: str, autos: frozenset[str], facts: str) -> str:
    pools = {name: {"origin": "auto"} for name in autos} | {name: {"origin": "declared"} for name in declared(document)}
    auto = json.loads(document or PoolDocument().canonical())["auto"]
    return expected_pool(State(config={"document": document, "auto": json.dumps(auto)}, pools=pools), json.loads(facts))


@functools.lru_cache(10_000)
def _auto_name(document: str, facts: str) -> str:
    auto = json.loads(document or PoolDocument().canonical())["auto"]
    assert auto["min_nodes"] == 1, "the model knows no pool that waits for a second node"
    return set_name(json.loads(facts)) if auto["enabled"] else ""


def may_create(state: Configuration, facts: str) -> bool:
    """Whether the first node with these facts gets a pool of its own."""
    name = _auto_name(state.document, facts)
    return bool(name) and name not in declared(state.document) and name not in state.autos
