"""The servers that are crashed: the embedded one always, the others in the fault matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyscheduler.embedded import find_server
from tests import engines
from tests.crash.rig import Rig

PROGRAMS = {"embedded": find_server, "redis-plain": engines.redis_on_path, "redis-6.2": engines.redis_6_2}


@pytest.fixture(
    scope="session",
    params=[name if name == "embedded" else pytest.param(name, marks=pytest.mark.faults) for name in PROGRAMS],
)
def program(request: pytest.FixtureRequest) -> Path:
    """The server program."""
    found = PROGRAMS[request.param]()
    if found is None:
        pytest.skip(f"nothing was tested on {request.param}: {engines.why_not(request.param)}")
    return found


@pytest.fixture(scope="session")
def rig(program: Path) -> Iterator[Rig]:
    """A server that is crashed by one test after another."""
    rig = Rig(program)
    yield rig
    rig.close()
