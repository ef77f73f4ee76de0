"""How long the fuzzers run, and from which seed: a fixed one in the normal suite, a fresh one in a soak."""

from __future__ import annotations

import os
import random

import pytest

SEED = 20_260_101


@pytest.fixture
def fuzz_seconds(request: pytest.FixtureRequest) -> float:
    """Seconds of one target, from the environment."""
    if request.node.get_closest_marker("soak"):
        return float(os.environ.get("PYSCHEDULER_TEST_SOAK_SECONDS", "60"))
    return float(os.environ.get("PYSCHEDULER_TEST_FUZZ_SECONDS", "10"))


@pytest.fixture
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    """Where all chance comes from: ``PYSCHEDULER_TEST_SEED`` replays one."""
    fresh = random.SystemRandom().randrange(2**32) if request.node.get_closest_marker("soak") else SEED
    return int(os.environ.get("PYSCHEDULER_TEST_SEED", fresh))
