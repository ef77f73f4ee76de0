"""What tests of faults share: the program that servers are run by, and a network of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines import PROGRAMS
from tests.faults.lan import lan, network

__all__ = ["lan", "network", "program"]

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
