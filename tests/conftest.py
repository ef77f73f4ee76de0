"""Fixtures for every test: the engines, a namespace of one's own, servers to break. Says aloud what ran on what."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import engines
from tests.engines import Engine
from tests.servers import PlainServer

# Two slow cores are no bug; a failing example must replay from what the run printed.
hypothesis.settings.register_profile("pyscheduler", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pyscheduler")

_STARTED = pytest.StashKey[dict[str, str]]()
_SKIPPED = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        metavar="NAME,...",
        default="",
        help=f"engines to run the integration tests on: {', '.join(engines.NAMES)}. "
        f"By default all of {', '.join(engines.USUAL)} that can be had here; one that is named must be there. "
        "'all' stands for every name.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell does that to what it starts in the background, and every process that a test starts would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_STARTED] = {}
    config.stash[_SKIPPED] = {}
    unknown = set(_named(config)) - set(engines.NAMES)
    if unknown:
        raise pytest.UsageError(f"--engine: {', '.join(sorted(unknown))}: choose from {', '.join(engines.NAMES)}")
    # What somebody has set up for themselves must not decide what a test does.
    for name in [name for name in os.environ if name.startswith("PYSCHEDULER_") and "_TEST_" not in name]:
        del os.environ[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", _usable(metafunc.config), indirect=True, scope="session")


def _named(config: pytest.Config) -> list[str]:
    written = config.getoption("--engine")
    return list(engines.NAMES) if written == "all" else [name.strip() for name in written.split(",") if name.strip()]


def _usable(config: pytest.Config) -> list[str]:
    named = _named(config)
    missing = {name: reason for name in named or engines.USUAL if (reason := engines.why_not(name))}
    if named and missing:
        raise pytest.UsageError("--engine: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    config.stash[_SKIPPED].update(missing)
    return [name for name in named or engines.USUAL if name not in missing]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The server that the test runs on: once for each engine that is to be had."""
    with engines.running(request.param, tmp_path_factory.mktemp(request.param)) as started:
        request.config.stash[_STARTED][started.name] = started.version
        yield started


@pytest.fixture
def redis_url(engine: Engine) -> str:
    """URL of the engine. Tests share its server, so each keeps to its own ``namespace``."""
    return engine.url


@pytest.fixture
def namespace(engine: Engine) -> Iterator[str]:
    """A namespace that nothing has been written to, and that is emptied afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    engine.forget(name)


@pytest.fixture
def make_server() -> Iterator[Callable[..., PlainServer]]:
    """Makes and starts servers of the test's own, for tests that stop, kill or misconfigure one. See PlainServer."""
    made: list[PlainServer] = []

    def make(program: Path | None = None, **settings: str) -> PlainServer:
        server = PlainServer(program, {name.replace("_", "-"): value for name, value in settings.items()})
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="session", autouse=True)
def _own_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps whatever forgets to name a state directory away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    # With xdist, the workers tell the process that prints.
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["engines"] = (session.config.stash[_STARTED], session.config.stash[_SKIPPED])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    started, skipped = getattr(node, "workeroutput", {}).get("engines", ({}, {}))
    node.config.stash[_STARTED].update(started)
    node.config.stash[_SKIPPED].update(skipped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    started, skipped = config.stash[_STARTED], config.stash[_SKIPPED]
    if not started and not skipped:
        return
    terminalreporter.section("engines")
    for name in engines.NAMES:
        if name in started:
            terminalreporter.line(f"{name}: ran on {started[name]}", green=True)
        elif name in skipped:
            terminalreporter.line(f"{name}: SKIPPED, nothing was tested on it: {skipped[name]}", yellow=True, bold=True)
