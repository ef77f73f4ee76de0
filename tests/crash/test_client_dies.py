"""A client that dies at any moment of its call leaves all of it done or nothing, and another one may repeat it."""

from __future__ import annotations

import pytest

from tests.crash import points
from tests.crash.points import Moment
from tests.crash.rig import Rig
from tests.crash.scenarios import WRITING

_GO_ON = ("upkeep_that_brakes", "upkeep_that_leaves_nodes_to_the_next_step")
"""Steps that leave something go on where they stopped when they are repeated."""


@pytest.mark.parametrize("name", [name for name in WRITING if name not in _GO_ON])
def test_a_call_that_is_repeated_does_nothing_more_and_is_not_refused(rig: Rig, name: str) -> None:
    points.repeats(rig.prepare(WRITING[name]))


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment.BEFORE_SENDING, marks=pytest.mark.faults),
        Moment.IN_THE_MIDDLE,
        Moment.BEFORE_READING,
        pytest.param(Moment.AFTER_THE_REPLY, marks=pytest.mark.faults),
    ],
)
def test_a_client_that_dies(rig: Rig, name: str, moment: Moment) -> None:
    points.client_dies(rig, rig.prepare(WRITING[name]), moment)
