"""A recorded history, checked: the configuration and each node by itself, which finds small faults fast, then all of it
as one object, which also holds the counts and the pools of all nodes together."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.concurrency.configuration_model import TOUCHED_BY, Configuration, ConfigurationModel, pool_of
from tests.concurrency.history import Operation, load, save, shown
from tests.concurrency.linearizability import Model, Verdict, check, smallest
from tests.concurrency.node_model import CHANGES_EVERY_NODE, SHOWS_EVERY_NODE, NodeModel, NodeState

SHOWN = 12
"""Operations of a failing part that are printed. The file has all of them."""


class Everything(NamedTuple):
    """State of the configuration and of every node."""

    configuration: Configuration
    nodes: tuple[NodeState, ...]


class EverythingModel:
    """A namespace as a whole: an operation does what it does to the configuration and to its nodes at one instant."""

    def __init__(self, configuration: ConfigurationModel, nodes: Sequence[NodeModel]) -> None:
        self._configuration, self._nodes = configuration, nodes
        self.initial = Everything(configuration.initial, tuple(node.initial for node in nodes))

    def reads(self, operation: Operation) -> bool:
        if operation.kind == "reconcile":
            return operation.result is not None and operation.result["expired"] == 0
        return all(model.reads(operation) for model in (self._configuration, self._nodes[0]))

    def step(self, state: Everything, operation: Operation) -> Iterator[Everything]:
        steps = [
            tuple(model.step(before, operation)) if concerns(model.node_id, operation) else (before,)
            for model, before in zip(self._nodes, state.nodes, strict=True)
        ]
        for configuration in self._configuration.step(state.configuration, operation):
            for nodes in itertools.product(*steps):
                if operation.is_open or _agree(configuration, state.nodes, nodes, operation):
                    yield Everything(configuration, nodes)


def _agree(
    configuration: Configuration, before: Sequence[NodeState], after: Sequence[NodeState], operation: Operation
) -> bool:
    """What an answer says of the configuration and the nodes together."""
    result: Mapping[str, Any] = operation.result or {}
    if operation.kind == "reconcile":
        return bool(result["expired"] == sum(one.live and not two.live for one, two in zip(before, after, strict=True)))
    if operation.kind == "read_pools":
        live = [node for node in after if node.live]
        counted = Counter(pool_of(configuration, node.facts) for node in live)
        ready = Counter(pool_of(configuration, node.facts) for node in live if node.takes_work)
        return bool(
            result["nodes"] == len(live)
            and result["unmatched_nodes"] == counted[""]
            and all(
                (one["nodes"], one["ready"]) == (counted[one["name"]], ready[one["name"]]) for one in result["pools"]
            )
        )
    if operation.kind == "read_nodes":
        pools = {one.session: pool_of(configuration, one.facts) for one in after if one.live}
        return pools == {seen["instance"]: seen["pool"] or "" for seen in result["nodes"].values()}
    return True


def concerns(node_id: str, operation: Operation) -> bool:
    if operation.kind in CHANGES_EVERY_NODE | SHOWS_EVERY_NODE:
        return True
    return bool(operation.args.get("node") == node_id)


@dataclass(frozen=True)
class Finding:
    """A part of a history that cannot be, or could not be decided.

    Args:
        subject: the object: ``configuration``, ``node n1`` or ``everything``.
        text: what is wrong, to read.
        part: the operations of it.
    """

    subject: str
    text: str
    part: tuple[Operation, ...]


def find_fault(
    operations: Sequence[Operation],
    changes_at: Mapping[int, Mapping[str, str]] | None = None,
    likely: Sequence[str] = (),
    *,
    subject: str = "",
) -> Finding | None:
    """The first thing in a history that no order explains; ``None`` if there is nothing.

    Args:
        operations: the history.
        changes_at: see :class:`ConfigurationModel`.
        likely: see :func:`check`.
        subject: look at this object alone.
    """
    configuration = ConfigurationModel(changes_at)
    registered = Counter(one.args["session"] for one in operations if one.kind == "register")
    repeated = {session for session, count in registered.items() if count > 1}
    node_ids = sorted({one.args["node"] for one in operations if "node" in one.args})
    nodes = [NodeModel(node_id, repeated) for node_id in node_ids]
    objects: list[tuple[str, Model[Any], list[Operation]]] = [
        ("configuration", configuration, [one for one in operations if one.kind in TOUCHED_BY])
    ]
    for node in nodes:
        objects.append((f"node {node.node_id}", node, [one for one in operations if concerns(node.node_id, one)]))
    if nodes:
        objects.append(("everything", EverythingModel(configuration, nodes), list(operations)))
    happened = set(likely)
    for name, model, part in objects:
        if subject in ("", name):
            verdict = check(model, [one for one in part if not one.is_open or one.id in happened], likely=likely)
            # What happened of that whose outcome is unknown is nearly always known by now. If not, all of it is tried.
            verdict = verdict if verdict.ok else check(model, part, likely=likely)
            if not verdict.ok:
                return _finding(name, model, part, verdict)
            happened |= {one.id for one in verdict.order}
    return None


def _finding(subject: str, model: Model[Any], operations: Sequence[Operation], verdict: Verdict[Any]) -> Finding:
    if verdict.ok is None:
        text = f"{subject}: undecided after {verdict.looked_at} sets of operations"
        return Finding(subject, text, tuple(operations))
    part = smallest(model, operations)
    verdict = check(model, part)
    lines = [
        f"{subject}: no order of these {len(part)} operations explains their answers "
        f"({len(operations)} were recorded, {verdict.looked_at} sets of operations were looked at).",
        f"The longest beginning of one has {len(verdict.order)} and ends with",
        *(f"  {one}" for one in verdict.order[-SHOWN:]),
        f"in the state {_state(verdict.state)},",
        "where none of these can come next:",
        *(f"  {one}" for one in verdict.stuck[:SHOWN]),
    ]
    return Finding(subject, "\n".join(lines), tuple(part))


def _state(state: object) -> str:
    if isinstance(state, Everything):
        return ", ".join(map(_state, (state.configuration, *state.nodes)))
    fields: Mapping[str, Any] = state._asdict() if hasattr(state, "_asdict") else {"": state}
    return f"{type(state).__name__} {shown(fields)}"


def assert_linearizable(
    operations: Sequence[Operation],
    changes_at: Mapping[int, Mapping[str, str]] | None = None,
    likely: Sequence[str] = (),
    *,
    keep_in: Path | None = None,
    **about: object,
) -> None:
    """Fails with the smallest part that cannot be, and with a file of the whole history that can be checked again.

    Args:
        keep_in: see :func:`keep`.
        about: what else the file is to say, such as the seed.
    """
    found = find_fault(operations, changes_at, likely)
    if found is None:
        return
    about = {"changes_at": changes_at or {}, "likely": likely, **about}
    path = keep(operations, keep_in, **about)
    part = path.with_name("smallest.json")
    save(part, found.part, subject=found.subject, **about)
    again = f"python -m tests.concurrency {path}"
    raise AssertionError(f"{found.text}\nhistory: {path}\nsmallest part: {part}\nagain: {again}")


def keep(operations: Sequence[Operation], folder: Path | None = None, **about: object) -> Path:
    """Writes a history to a file; by default into a folder that outlives the run."""
    path = (folder or Path(tempfile.mkdtemp(prefix="pyscheduler-history-"))) / "history.json"
    save(path, operations, **about)
    return path


def check_file(path: Path) -> str:
    """Checks a kept history again. Returns what is wrong with it; empty if nothing is."""
    operations, about = load(path)
    changes_at = {int(version): changes for version, changes in about.get("changes_at", {}).items()}
    found = find_fault(operations, changes_at, about.get("likely", ()), subject=about.get("subject", ""))
    return found.text if found else ""


def summary(operations: Sequence[Operation]) -> str:
    """A line that says how much of what a history holds."""
    kinds = Counter(one.kind for one in operations)
    with contextlib.suppress(ValueError):
        span_ms = (max(one.invoked_ns for one in operations) - min(one.invoked_ns for one in operations)) / 1e6
        overlaps = sum(one.invoked_ns < two.completed_ns for two, one in itertools.pairwise(operations))
        refused = sum(bool(one.error) for one in operations)
        unknown = sum(one.is_open for one in operations)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return (
            f"{len(operations)} operations in {span_ms:.0f} ms ({counts}): {overlaps} began while another ran, "
            f"{refused} refused, {unknown} with an unknown outcome"
        )
    return "no operations"
