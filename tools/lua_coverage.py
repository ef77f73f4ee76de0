"""A pytest plugin: which lines and branches of ``lua/`` the tests run, each test by itself, in the real engine.

    python -m pytest -p tools.lua_coverage tests/lua tests/integration --engine embedded

Scripts are loaded with counters in them. What a run has counted comes back through the log of its server, since a
script may touch no key that it has not declared. Servers and allocators of the test process are seen, those of other
processes are not. The run fails if a line or branch is missed that ``lua_uncovered.toml`` does not excuse, or one is
reached that it does excuse.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pyscheduler.embedded.process import Child
from pyscheduler.scripts import loader
from tools.lua_points import MARK, Point, instrument

ROOT = Path(__file__).parents[1]
DATA = ROOT / ".coverage-lua.json"
EXCUSES = Path(__file__).with_name("lua_uncovered.toml")

_COUNTED = re.compile(rb" " + MARK.encode() + rb" ([\d ]+)$", re.MULTILINE)


def lua_files() -> dict[str, str]:
    """Path below the top of the tree -> text."""
    return {f"lua/{path}": text for path, text in loader._shipped_files().items()}


def use_files(files: Mapping[str, str]) -> None:
    """Lets every store of this process that is opened from now on load these instead."""
    shipped = {path.removeprefix("lua/"): text for path, text in files.items()}
    loader._shipped_files = lambda: shipped  # type: ignore[assignment]
    loader._shipped_scripts.cache_clear()


def digest_of(files: Mapping[str, str]) -> str:
    return hashlib.sha1(json.dumps(sorted(files.items())).encode()).hexdigest()


@dataclass
class Coverage:
    """What one run of the tests has reached.

    Attributes:
        digest: of the Lua files that were counted.
        points: every point; its number is its place.
        tests: node id -> milliseconds that it took, and the numbers of the points that it reached.
    """

    digest: str
    points: list[Point]
    tests: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def reached(self) -> set[int]:
        return {number for _, numbers in self.tests.values() for number in numbers}

    def save(self) -> None:
        content = {"digest": self.digest, "points": [astuple(point) for point in self.points], "tests": self.tests}
        DATA.write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls) -> Coverage | None:
        """That of the latest run, if there is one, and the Lua files have not changed since."""
        if not DATA.is_file():
            return None
        content = json.loads(DATA.read_text(encoding="utf-8"))
        if content["digest"] != digest_of(lua_files()):
            return None
        return cls(content["digest"], [Point(*point) for point in content["points"]], content["tests"])


class _Logs:
    """The logs of the servers that this process starts."""

    def __init__(self) -> None:
        self._open: list[BinaryIO] = []
        start = Child.__init__

        def opening(child: Child, program: Path, home: Path, *args: Any, **options: Any) -> None:
            start(child, program, home, *args, **options)
            # Opened now: its server's folder may be gone when the test ends.
            self._open.append((home / "log").open("rb"))

        Child.__init__ = opening  # type: ignore[method-assign,assignment]

    def counted(self) -> set[int]:
        """Numbers of the points that were reached since this was last asked."""
        found: set[int] = set()
        for log in self._open:
            start = log.tell()
            text = log.read()
            complete = text.rfind(b"\n") + 1
            log.seek(start + complete)
            for line in _COUNTED.findall(text[:complete]):
                found.update(map(int, line.split()))
        return found


class Plugin:
    """Puts the counters in, and takes down what each test reached."""

    def __init__(self) -> None:
        self.files = lua_files()
        self.coverage = Coverage(digest_of(self.files), [])
        instrumented = {}
        for path, text in self.files.items():
            instrumented[path], points = instrument(path, text, len(self.coverage.points))
            self.coverage.points += points
        use_files(instrumented)
        self.logs = _Logs()
        self.verdict: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begun = time.monotonic()
        result = yield
        taken_ms = round((time.monotonic() - begun) * 1000)
        self.coverage.tests[item.nodeid] = (taken_ms, sorted(self.logs.counted()))
        return result

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.coverage.save()
        excuses = tomllib.loads(EXCUSES.read_text(encoding="utf-8"))["uncovered"]
        self.verdict = judge(self.coverage, self.files, excuses)
        if self.verdict and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("coverage of lua/")
        for line in table(self.coverage):
            terminalreporter.line(line)
        for line in self.verdict:
            terminalreporter.line(line, red=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Plugin(), "lua-coverage-of-this-run")


def table(coverage: Coverage) -> list[str]:
    """A row a file, and one for all of them: lines, branches, each with the share that was reached."""
    reached = coverage.reached()
    total, met = Counter[tuple[str, bool]](), Counter[tuple[str, bool]]()
    for number, point in enumerate(coverage.points):
        for name in (point.file, "all"):
            total[name, point.what == ""] += 1
            met[name, point.what == ""] += number in reached
    rows = [f"{'file':34}{'lines':>12}{'':>8}{'branches':>12}"]
    for name in [*dict.fromkeys(point.file for point in coverage.points), "all"]:
        shares = [(met[name, lines], total[name, lines]) for lines in (True, False)]
        rows.append(f"{name:34}" + "".join(f"{f'{a}/{b}':>12} {100 * a / b if b else 100:6.1f}%" for a, b in shares))
    return rows


def judge(coverage: Coverage, files: Mapping[str, str], excuses: list[dict[str, str]]) -> list[str]:
    """What is missed without an excuse, and each excuse that nothing needs."""
    texts = {path: text.splitlines() for path, text in files.items()}
    reached, excused = coverage.reached(), {(each["file"], each["code"], each["what"]) for each in excuses}
    missed, needed = [], set()
    for number, point in enumerate(coverage.points):
        if number in reached:
            continue
        code = texts[point.file][point.line - 1].strip()
        if (point.file, code, point.what) in excused:
            needed.add((point.file, code, point.what))
        else:
            missed.append(f"{point.file}:{point.line}: never {point.what or 'run'}: {code}")
    return missed + [
        f"{EXCUSES.name} excuses what is reached or not there: {each}" for each in sorted(excused - needed)
    ]
