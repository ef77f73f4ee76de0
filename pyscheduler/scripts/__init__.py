"""The Lua scripts: loading them, reading their headers, and one typed call for each."""

from __future__ import annotations

from pyscheduler.scripts.loader import Script, ScriptError, load_scripts

__all__ = ["Script", "ScriptError", "load_scripts"]
