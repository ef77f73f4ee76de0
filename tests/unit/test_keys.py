"""The keys of a namespace."""

from __future__ import annotations

from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts import load_scripts


def test_the_keys_of_the_scripts_are_the_keys_there_are() -> None:
    named = {key for script in load_scripts().values() for key in script.header.keys}
    assert named == set(KEY_NAMES)
    assert load_scripts()["check"].header.keys == KEY_NAMES, "the check looks at each"
