"""A recorded history, checked: the configuration, each node and each job by itself, which finds small faults fast, then
all of it as one object, which also holds what answers say of several of them together."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.concurrency.configuration_model import TOUCHED_BY, ConfigurationModel
from tests.concurrency.everything import Everything, EverythingModel, concerns
from tests.concurrency.history import Operation, load, save, shown
from tests.concurrency.job_model import JobModel
from tests.concurrency.linearizability import Model, Verdict, check, smallest
from tests.concurrency.node_model import NodeModel

SHOWN = 12
"""Operations of a failing part that are printed. The file has all of them."""


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
    attempts: Mapping[str, Mapping[str, str]] | None = None,
    *,
    subject: str = "",
) -> Finding | None:
    """The first thing in a history that no order explains; ``None`` if there is nothing.

    Args:
        operations: the history.
        changes_at: see :class:`ConfigurationModel`.
        likely: see :func:`check`.
        attempts: see :func:`attempts_of`.
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
        objects.append((f"node {node.node_id}", node, [one for one in operations if concerns(node, one)]))
    jobs = [
        JobModel(job_id, attempts or {})
        for job_id in sorted({one.args["job"] for one in operations if "job" in one.args})
    ]
    for job in jobs:
        objects.append((f"job {job.job_id}", job, [one for one in operations if concerns(job, one)]))
    if nodes:
        objects.append(("everything", EverythingModel(configuration, nodes, jobs), list(operations)))
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
        return ", ".join(map(_state, (state.configuration, *state.nodes, *state.jobs)))
    fields: Mapping[str, Any] = state._asdict() if hasattr(state, "_asdict") else {"": state}
    return f"{type(state).__name__} {shown(fields)}"


def assert_linearizable(
    operations: Sequence[Operation],
    changes_at: Mapping[int, Mapping[str, str]] | None = None,
    likely: Sequence[str] = (),
    attempts: Mapping[str, Mapping[str, str]] | None = None,
    *,
    keep_in: Path | None = None,
    **about: object,
) -> None:
    """Fails with the smallest part that cannot be, and with a file of the whole history that can be checked again.

    Args:
        keep_in: see :func:`keep`.
        about: what else the file is to say, such as the seed.
    """
    found = find_fault(operations, changes_at, likely, attempts)
    if found is None:
        return
    about = {"changes_at": changes_at or {}, "likely": likely, "attempts": attempts or {}, **about}
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
    found = find_fault(
        operations, changes_at, about.get("likely", ()), about.get("attempts"), subject=about.get("subject", "")
    )
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
