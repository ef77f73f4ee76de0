"""The servers that are crashed: the embedded one always, the others in the fault matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pyscheduler.embedded import find_server
from tests import engines
from tests.crash.rig import Rig

PROGRAMS = {"embedded": find_server, "redis-plain": engines.redis_on_path, "redis-6.2": engines.redis_6_2}


Rigs = Callable[[str], Rig]


@pytest.fixture(scope="session")
def rigs() -> Iterator[Rigs]:
    """A server of each program, crashed by one test after another."""
    made: dict[str, Rig] = {}

    def rig_of(name: str) -> Rig:
        found = PROGRAMS[name]()
        if found is None:
            pytest.skip(f"nothing was tested on {name}: {engines.why_not(name)}")
        if name not in made:
            made[name] = Rig(found)
        return made[name]

    yield rig_of
    for rig in made.values():
        rig.close()


@pytest.fixture(
    params=[name if name == "embedded" else pytest.param(name, marks=pytest.mark.faults) for name in PROGRAMS]
)
def rig(request: pytest.FixtureRequest, rigs: Rigs) -> Rig:
    """The embedded server; in the fault matrix also the others."""
    return rigs(request.param)
