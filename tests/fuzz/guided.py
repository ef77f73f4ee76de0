"""A small coverage-guided fuzzer: it keeps an input that reached an arc no other had, and changes those it has kept.

An arc is a step from one line to another within a function of the modules that are watched. All chance comes from one
seed; a failing input is printed, with the seed, and written to a file.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

Input: TypeAlias = "tuple[bytes, ...]"
"""What is fed in, in order: the frames of a socket, the pieces of a stream, or the one text of a document."""

MAX_INPUT_BYTES = 256 * 1024
MAX_PIECES = 24
MAX_CORPUS = 4000
MAX_CPU_S = 10.0
"""Processor time of one input, traced: far more than any needs, and little enough to find one that never ends."""

_SHOWN_BYTES = 4000


class Arcs:
    """Arcs of the watched files. ``seen``: all so far; ``fresh``: those that came since it was last emptied."""

    def __init__(self, *watched: Path) -> None:
        self._watched = tuple(str(path) for path in watched)
        self._files: dict[str, bool] = {}
        self.seen: set[tuple[Any, int, int]] = set()
        self.fresh = 0

    def _watches(self, name: str) -> bool:
        known = self._files.get(name)
        if known is None:
            known = self._files[name] = name.startswith(self._watched)
        return known

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._watches(frame.f_code.co_filename):
            return None
        code, last, seen = frame.f_code, 0, self.seen

        def step(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                arc = (code, last, frame.f_lineno)
                last = frame.f_lineno
                if arc not in seen:
                    seen.add(arc)
                    self.fresh += 1
            return step

        return step

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    @property
    def lines(self) -> int:
        return len({(code, line) for code, _, line in self.seen})


@dataclass
class Fuzzer:
    """One run.

    Args:
        name: of the target, for the file of a failing input.
        seeds: inputs to begin with.
        mutate: makes an input of one that is kept; the second one given is another to take parts from.
        arcs: what guides it.
        seed: of all chance.
    """

    name: str
    seeds: Sequence[Input]
    mutate: Callable[[random.Random, Input, Input], Input]
    arcs: Arcs
    seed: int
    runs: int = 0
    corpus: list[Input] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._waiting = list(self.seeds)

    def _next(self) -> Input:
        if self._waiting:
            return self._waiting.pop()
        # The newest are looked at more often: what they reached has been looked at least.
        newest = self.corpus[-32:] if self._random.random() < 0.4 else self.corpus
        made = self.mutate(self._random, self._random.choice(newest), self._random.choice(self.corpus))
        return bounded(made)

    def _learn(self, tried: Input) -> None:
        self.runs += 1
        if (self.arcs.fresh or self.runs <= len(self.seeds)) and len(self.corpus) < MAX_CORPUS:
            self.corpus.append(tried)
        self.arcs.fresh = 0

    def run(self, target: Callable[[Input], None], seconds: float) -> None:
        """Feed ``target`` until the time is over. What it raises is a finding."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self._waiting:
            tried = self._next()
            started = time.process_time()
            with self._reporting(tried), self.arcs.watching():
                target(tried)
                assert time.process_time() - started < MAX_CPU_S, "it took too long"
            self._learn(tried)

    async def run_async(self, target: Callable[[Input], Awaitable[None]], seconds: float) -> None:
        """:meth:`run` for a target that waits, such as for a server in the same loop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self._waiting:
            tried = self._next()
            started = time.process_time()
            with self._reporting(tried), self.arcs.watching():
                await target(tried)
                assert time.process_time() - started < MAX_CPU_S, "it took too long"
            self._learn(tried)

    @contextmanager
    def _reporting(self, tried: Input) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            descriptor, path = tempfile.mkstemp(prefix=f"pyscheduler-fuzz-{self.name}-", suffix=".py")
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{tried!r}\n")
            error.add_note(f"input {self.runs} of seed {self.seed}, the whole of it in {path}:")
            error.add_note(repr(tried)[:_SHOWN_BYTES])
            raise

    def summary(self) -> str:
        return (
            f"fuzz {self.name}: seed {self.seed}, {self.runs} inputs, {len(self.corpus)} kept, "
            f"{len(self.arcs.seen)} arcs, {self.arcs.lines} lines"
        )


def bounded(made: Input) -> Input:
    """``made``, cut to what one input may hold."""
    left, kept = MAX_INPUT_BYTES, []
    for piece in made[:MAX_PIECES]:
        kept.append(piece[:left])
        left -= len(kept[-1])
    return tuple(kept)
