"""Puts one fault after another into lua/, and tells which of them the tests do not notice.

    python -m tools.mutate_lua [--seed N] [--sample N] [--seconds N] [FILE ...]

One process, one server, for all of them: a mutant is only text that the next test loads. Which tests run a line comes
from ``tools.lua_coverage``, which must have been run since lua/ changed last.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from pyscheduler.embedded.process import Child
from tools.lua_coverage import Coverage, lua_files, use_files
from tools.mutation_run import KILLED, SURVIVED, UNTESTED, Options, choose, parse_options, run, say
from tools.mutations import Mutant

TABLES = {"lua/lib/limits.lua"}
"""Numbers alone: tests/docs compares them with what is documented, and tests of a bound lower it."""

TEST_LIMIT_S = 20
"""A test that takes so much longer than it did hangs: most take a fraction of that, and have deadlines of their own."""

_SLOWER = 20
"""How many times as long as it took a test may take, on a machine that is busy."""

_RECENT_KILLERS = 12
_CONTROLS = 20
_OVERHEAD_MS = 100
"""What each test takes beside its own time, about."""


class _Servers:
    """The servers that this process starts."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        start = Child.__init__

        def starting(child: Child, program: Path, home: Path, *args: Any, **options: Any) -> None:
            start(child, program, home, *args, **options)
            self._children.append(child)

        Child.__init__ = starting  # type: ignore[method-assign,assignment]

    def kill(self) -> None:
        """Ends them all, whatever they are busy with."""
        for child in self._children:
            if child.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
        self._children.clear()


class Runner:
    """A pytest plugin: in place of running the tests once, runs for each mutant those that reach it."""

    def __init__(self, options: Options, coverage: Coverage) -> None:
        self._options, self._coverage, self._files = options, coverage, lua_files()
        self._lines: dict[str, list[int]] = defaultdict(list)
        self._points: dict[tuple[str, int], set[int]] = defaultdict(set)
        for number, point in enumerate(coverage.points):
            self._lines[point.file].append(point.line)
            self._points[point.file, point.line].add(number)
        for lines in self._lines.values():
            lines.sort()
        self._killers: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_RECENT_KILLERS))
        self._items: dict[str, pytest.Item] = {}
        self._ranks: dict[str, dict[str, float]] = {}
        self._servers = _Servers()
        self.status = 2

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        signal.signal(signal.SIGALRM, _hangs)
        self._control()
        mutated = {file: text for file, text in self._files.items() if file not in TABLES}
        self.status = run(choose(mutated, self._options), self._options, self._try)
        return True

    def _control(self) -> None:
        """With nothing wrong the cheapest tests pass, also when they are run a second time."""
        for nodeid in 2 * sorted(self._items.keys() & self._coverage.tests.keys(), key=self._taken)[:_CONTROLS]:
            if self._fails(self._items[nodeid]):
                raise SystemExit(f"with nothing wrong this fails: {nodeid}")

    def _try(self, mutant: Mutant, budget_s: float) -> tuple[str, str]:
        tests = list(self._tests_of(mutant, budget_s))
        if not tests:
            return UNTESTED, "no test runs it"
        use_files({**self._files, mutant.file: mutant.applied(self._files[mutant.file])})
        for number, nodeid in enumerate(tests, 1):
            if self._fails(self._items[nodeid]):
                self._killers[mutant.file].appendleft(nodeid)
                self._recover()
                return KILLED, f"test {number} of {len(tests)}: {nodeid}"
        return SURVIVED, f"{len(tests)} tests"

    def _recover(self) -> None:
        """A script that never ends leaves a server that answers nobody: every later mutant would count as noticed."""
        use_files(self._files)
        cheapest = self._items[min(self._items.keys() & self._coverage.tests.keys(), key=self._taken)]
        if not self._fails(cheapest):
            return
        self._servers.kill()
        with contextlib.suppress(Exception):  # the fixtures find their server dead
            cheapest.session._setupstate.teardown_exact(None)
        if self._fails(cheapest):
            raise SystemExit(f"with nothing wrong this fails: {cheapest.nodeid}")

    def _taken(self, nodeid: str) -> tuple[bool, int, str]:
        taken_ms, reached = self._coverage.tests[nodeid]
        return not reached, taken_ms, nodeid

    def _tests_of(self, mutant: Mutant, budget_s: float) -> Iterator[str]:
        """Those that run the statement: what noticed another mutant of the file, then by rank."""
        lines = self._lines[mutant.file]
        statement = lines[bisect_right(lines, mutant.line) - 1] if lines and lines[0] <= mutant.line else 0
        numbers = self._points[mutant.file, statement]
        reaching = {
            nodeid: taken_ms
            for nodeid, (taken_ms, reached) in self._coverage.tests.items()
            if nodeid in self._items and not numbers.isdisjoint(reached)
        }
        recent = [nodeid for nodeid in dict.fromkeys(self._killers[mutant.file]) if nodeid in reaching]
        rank = self._rank(mutant.file)
        spent_ms = 0
        for nodeid in dict.fromkeys([*recent, *sorted(reaching, key=lambda nodeid: (rank[nodeid], nodeid))]):
            spent_ms += reaching[nodeid]
            if spent_ms > budget_s * 1000 and nodeid not in recent:
                return
            yield nodeid

    def _rank(self, file: str) -> dict[str, float]:
        """Of each test, less for what is to be tried first: what runs much of the file, and takes little time."""
        if file not in self._ranks:
            of_file = {number for number, point in enumerate(self._coverage.points) if point.file == file}
            self._ranks[file] = {
                nodeid: (taken_ms + _OVERHEAD_MS) / (len(of_file.intersection(reached)) + 1) ** 2
                for nodeid, (taken_ms, reached) in self._coverage.tests.items()
            }
        return self._ranks[file]

    def _fails(self, item: pytest.Item) -> bool:
        item._initrequest()  # type: ignore[attr-defined]  # as it was before it ran last
        taken_ms, _ = self._coverage.tests.get(item.nodeid, (0, []))
        # Again and again: what takes the test down may hang, too.
        signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT_S + _SLOWER * taken_ms / 1000, TEST_LIMIT_S)
        try:
            # The session is what comes next: its fixtures, such as the server, stay; all others end.
            reports = runtestprotocol(item, log=False, nextitem=item.session)  # type: ignore[arg-type]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return any(report.failed for report in reports)


def _hangs(number: int, frame: FrameType | None) -> None:
    pytest.fail("still running long after it should have ended")


def main() -> int:
    options = parse_options("python -m tools.mutate_lua", "Which faults in lua/ do the tests not notice?")
    coverage = Coverage.load()
    if coverage is None:
        say("first run the coverage of lua/ as it is now: python -m pytest -p tools.lua_coverage ... --engine embedded")
        return 2
    runner = Runner(options, coverage)
    arguments = [
        "tests/lua",
        "tests/integration",
        # Whoever stops a random history is given the next one.
        "--ignore=tests/integration/test_random_histories.py",
        "--engine",
        "embedded",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-summary",
        "--tb=native",
    ]
    pytest.main(arguments, plugins=[runner])
    return runner.status


if __name__ == "__main__":
    sys.exit(main())
