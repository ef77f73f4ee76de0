"""Histories: what each client asked, when, and what it was answered.

They are written to a file as it happens, so that the end of a process loses nothing. An operation whose answer never
came stays open.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEVER = 1 << 62
"""Later than every time of a history, in ns."""


@dataclass(frozen=True)
class Operation:
    """One call of one client.

    Args:
        id: unique, begins with the client's name.
        kind: what was called.
        args: with what.
        invoked_ns: just before the call, on the monotonic clock that all processes of a machine share.
        completed_ns: just after the answer; ``NEVER`` if it is unknown whether and when the call was executed.
        result: the answer, ``{"error": ...}`` for a refusal; ``None`` if the outcome is unknown.
    """

    id: str
    kind: str
    args: Mapping[str, Any]
    invoked_ns: int
    completed_ns: int = NEVER
    result: Mapping[str, Any] | None = field(default=None)

    @property
    def is_open(self) -> bool:
        return self.result is None

    @property
    def error(self) -> str:
        """Name of the refusal; empty for an answer."""
        return str(self.result.get("error", "")) if self.result else ""

    def opened(self) -> Operation:
        """The same call, its answer forgotten. What was possible with the answer is possible without."""
        return Operation(self.id, self.kind, self.args, self.invoked_ns)

    def __str__(self) -> str:
        args = ", ".join(f"{name}={shown(value)}" for name, value in self.args.items())
        answer = "?" if self.result is None else shown(self.result)
        until = "..." if self.is_open else f"{self.completed_ns / 1e6:.3f}"
        return f"[{self.invoked_ns / 1e6:.3f} .. {until} ms] {self.id} {self.kind}({args}) -> {answer}"


def shown(value: object) -> str:
    """A value on part of a line. Long texts are cut; a digest tells them apart."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {shown(item)}" for name, item in value.items()) + "}"
    text = str(value)
    return text if len(text) <= 48 else f"{text[:40]}..{hashlib.sha1(text.encode()).hexdigest()[:6]}"


class Recorder:
    """Appends to the history file of one process: a line when a call begins, another when it is answered."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self._file)

    def invoke(self, operation_id: str, kind: str, args: Mapping[str, Any]) -> None:
        self._write({"id": operation_id, "kind": kind, "args": args, "invoked_ns": time.monotonic_ns()})

    def complete(self, operation_id: str, result: Mapping[str, Any]) -> None:
        self._write({"id": operation_id, "completed_ns": time.monotonic_ns(), "result": result})

    def forget(self, operation_id: str) -> None:
        """The call was certainly not executed."""
        self._write({"id": operation_id, "forgotten": True})

    def _write(self, line: Mapping[str, Any]) -> None:
        # One write for one line: a process may be killed between two, not within one.
        os.write(self._file, json.dumps(line, sort_keys=True).encode() + b"\n")


def read_recorded(paths: Iterable[Path]) -> list[Operation]:
    """The operations that recorders have written, in the order of their calls."""
    begun: dict[str, dict[str, Any]] = {}
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if "kind" in line:
                begun[line["id"]] = line
            elif line.get("forgotten"):
                del begun[line["id"]]
            else:
                begun[line["id"]].update(line)
    return sorted((Operation(**line) for line in begun.values()), key=lambda one: one.invoked_ns)


def save(path: Path, operations: Iterable[Operation], **about: object) -> None:
    """Writes a history as one JSON file, an operation a line."""
    lines = [json.dumps(vars(one), sort_keys=True) for one in operations]
    head = json.dumps(about, sort_keys=True)
    path.write_text(f'{{"about": {head}, "operations": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


def load(path: Path) -> tuple[list[Operation], dict[str, Any]]:
    """The operations of a file, and what else it says."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [Operation(**line) for line in content["operations"]], content["about"]
