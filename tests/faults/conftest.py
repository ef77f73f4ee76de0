"""What tests of servers that belong together share: the program that the servers are run by."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines import PROGRAMS

_OTHERS = [name for name in PROGRAMS if name != "embedded"]


@pytest.fixture(
    scope="module", params=["embedded", *(pytest.param(name, marks=pytest.mark.faults) for name in _OTHERS)]
)
def program(request: pytest.FixtureRequest) -> Path:
    """The program of each engine, those of the others as part of the fault matrix."""
    found = PROGRAMS[request.param]()
    if found is None:
        pytest.skip(f"the program of {request.param} is not here")
    return found
