"""Puts one fault after another into the pure parts of the package, and tells which of them the unit tests don't notice.

    python -m pytest tests/unit -p tools.durations --cov --cov-context=test
    python -m tools.mutate_python [--seed N] [--sample N] [--seconds N] [FILE ...]

Each mutant is tried by a child of this process, which has the libraries loaded already, but nothing of the package: the
child takes the mutated text in place of the file. Which tests run a line comes from the data of the first command.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import select
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import coverage
import hypothesis
import pytest

from tools import durations
from tools.mutation_run import KILLED, ROOT, SURVIVED, UNTESTED, Options, choose, parse_options, run, say
from tools.mutations import Mutant

MUTATED = ("pyscheduler/core", "pyscheduler/keys.py", "pyscheduler/scripts")

TABLES = {f"pyscheduler/core/{name}.py" for name in ("actions", "codes", "limits", "results")}
TABLES.add("pyscheduler/scripts/__init__.py")
"""Names, numbers and shapes of results, and no decisions: tests/docs compares them with what is documented."""

CHILD_LIMIT_S = 60

_PASSED = b"passed"
_RECENT_KILLERS = 5
_TEST_ITSELF_MS = 5

# What takes long to load and is no part of the package. A mutant's child must not have to.
_LIBRARIES = (
    "_hypothesis_pytestplugin",
    "anyio._backends._asyncio",
    "anyio.pytest_plugin",
    "hypothesis.strategies",
    "jsonschema",
    "prometheus_client",
    "pydantic.json_schema",
    "pydantic.main",
    "pydantic.type_adapter",
    "pytest_asyncio",
    "pytest_cov.plugin",
    "redis.asyncio",
    "rich_click",
    "uvicorn",
    "websockets",
    "xdist.looponfail",
    "xdist.plugin",
    "yaml",
)


def sources() -> dict[str, str]:
    """Path below the top of the tree -> text."""
    paths = [
        path for name in MUTATED for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}
    return {file: text for file, text in texts.items() if file not in TABLES}


class _InPlace(MetaPathFinder):
    """Loads one module from another text than that of its file."""

    def __init__(self, file: str, text: str) -> None:
        self._path, self._text = ROOT / file, text
        self._name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return spec_from_file_location(fullname, self._path, loader=self._loader(fullname))

    def _loader(self, fullname: str) -> Loader:
        text = self._text

        class Mutated(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return compile(text, self.path, "exec")

        return Mutated(fullname, str(self._path))


class Runner:
    def __init__(self, options: Options, tests: dict[tuple[str, int], set[str]]) -> None:
        self._options, self._tests, self._files = options, tests, sources()
        self._killers: dict[str, list[str]] = defaultdict(list)
        self._sound: set[str] = set()
        self._taken_ms = durations.read()

    def run(self) -> int:
        for name in _LIBRARIES:
            importlib.import_module(name)
        gc.freeze()  # no child has to look through what is loaded here
        return run(choose(self._files, self._options), self._options, self._try)

    def _try(self, mutant: Mutant, budget_s: float) -> tuple[str, str]:
        # A statement of several lines may be known by an earlier one of them.
        lines = [line for file, line in self._tests if file == mutant.file and line <= mutant.line]
        reaching = self._tests[mutant.file, max(lines)] if lines else set()
        if not reaching:
            return UNTESTED, "no unit test runs it"
        killers = [test for test in self._killers[mutant.file] if test in reaching]
        tests = self._affordable(_subject(mutant.file), reaching, killers, budget_s)
        if mutant.file not in self._sound:
            self._sound.add(mutant.file)
            if failed := self._child(replace(mutant, start=0, end=0, text=""), tests):
                raise SystemExit(f"with nothing wrong in {mutant.file} this fails: {failed}")
        failed = self._child(mutant, tests)
        if not failed:
            return SURVIVED, f"{len(tests)} tests"
        self._killers[mutant.file].insert(0, failed)
        return KILLED, failed

    def _affordable(self, subject: str, reaching: set[str], first: list[str], budget_s: float) -> list[str]:
        tests: dict[str, None] = dict.fromkeys(first[:_RECENT_KILLERS])
        spent_ms = 0
        # Those of the same subject first: they find most, and few files of tests are read for them.
        for test in sorted(reaching, key=lambda name: (_subject(name) != subject, self._taken_ms.get(name, 0), name)):
            spent_ms += self._taken_ms.get(test, 0) + _TEST_ITSELF_MS
            if tests and spent_ms > budget_s * 1000:
                break
            tests[test] = None
        return list(tests)

    def _child(self, mutant: Mutant, tests: list[str]) -> str:
        """The first test that fails with the mutant in place, or nothing."""
        # Ten times what they take when nothing is wrong: a busy machine kills no mutant.
        limit_s = CHILD_LIMIT_S + sum(self._taken_ms.get(test, 0) for test in tests) / 100
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            failed = "the module cannot be loaded"
            try:
                failed = _test(mutant.file, mutant.applied(self._files[mutant.file]), tests)
            finally:
                os.write(writing, failed.encode() or _PASSED)
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer_of_child:
            if not select.select([answer_of_child], [], [], limit_s)[0]:
                os.kill(pid, signal.SIGKILL)
            answer = answer_of_child.read()
        os.waitpid(pid, 0)
        return "" if answer == _PASSED else answer.decode() or "hangs or crashes"


class _FirstFailure:
    nodeid = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.nodeid:
            self.nodeid = report.nodeid


def _test(file: str, text: str, tests: list[str]) -> str:
    sys.meta_path.insert(0, _InPlace(file, text))
    # What fails need not be made small, nor be remembered.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutants", deadline=None, database=None, derandomize=True, max_examples=20, phases=phases
    )
    first, unseen = _FirstFailure(), io.StringIO()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "--hypothesis-profile", "mutants"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen):
        status = pytest.main([*tests, *options], plugins=[first])
    return "" if status == pytest.ExitCode.OK else first.nodeid or f"pytest ended with {status!r}"


def tests_by_line() -> dict[tuple[str, int], set[str]]:
    """(file, line) -> the tests that run it, from the latest run that took that down."""
    data = coverage.CoverageData(str(ROOT / ".coverage"))
    data.read()
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    every_test = set(durations.read())
    for file in sources():
        lines = data.contexts_by_lineno(str(ROOT / file))
        by_line = {line: {context.rpartition("|")[0] for context in contexts} for line, contexts in lines.items()}
        # "" is the loading of the module: every test of it depends on that, also one that calls nothing in it.
        own = {test for test in every_test if _subject(test) == _subject(file)}
        everything = set().union(*by_line.values()) - {""} | own
        for line, tests in by_line.items():
            found[file, line] = everything if "" in tests else tests
    return found


def _subject(path: str) -> str:
    """What a file, or a test in one, is about: ``session`` for all tests of sessions, and for their policy."""
    return Path(path.partition("::")[0]).stem.removeprefix("test_").partition("_")[0]


def main() -> int:
    options = parse_options("python -m tools.mutate_python", "Which faults in the core do the unit tests not notice?")
    data = ROOT / ".coverage"
    if not data.is_file() or data.stat().st_mtime < max((ROOT / file).stat().st_mtime for file in sources()):
        say("first run, on the code as it is: python -m pytest tests/unit -p tools.durations --cov --cov-context=test")
        return 2
    return Runner(options, tests_by_line()).run()


if __name__ == "__main__":
    sys.exit(main())
