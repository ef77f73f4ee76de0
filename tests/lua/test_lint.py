"""Each script as the server gets it, includes expanded: it names nothing that is not there."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pyscheduler.scripts import load_scripts
from pyscheduler.scripts.loader import Script

LUACHECK = shutil.which("luacheck")
PROVIDED = ("redis", "KEYS", "ARGV", "cjson")
UNDEFINED = "11"


def undefined(text: str) -> str:
    assert LUACHECK is not None
    command = [LUACHECK, "-", "--no-config", "--no-color", "--quiet", "--std", "lua51", "--only", UNDEFINED]
    done = subprocess.run([*command, "--read-globals", *PROVIDED], input=text, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


pytestmark = pytest.mark.skipif(LUACHECK is None, reason="luacheck is not installed (Debian: lua-check)")


@pytest.mark.parametrize("script", load_scripts().values(), ids=lambda script: script.name)
def test_a_script_names_nothing_that_is_not_there(script: Script) -> None:
    assert undefined(script.plain_source) == ""


def test_what_is_not_there_would_be_found() -> None:
    assert "no_such_helper" in undefined("return no_such_helper(KEYS[1])\n")
    assert "leaked" in undefined("leaked = 1\n")
