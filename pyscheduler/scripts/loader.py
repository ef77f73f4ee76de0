"""Loads the Lua files: expands their includes, reads their headers, computes the hashes that EVALSHA names them by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from msgspec import Struct

from pyscheduler.scripts.header import Header, parse_header

_INCLUDE = re.compile(r"--@include\s+(\S+)\s*$")


class ScriptError(Exception):
    """A Lua file cannot be loaded; the message names file and line."""


class Script(Struct, frozen=True):
    """One verb, ready to be sent.

    Attributes:
        name: file name without its ending.
        header: its contract.
        source: the text with includes expanded, beginning with ``#!lua``: for engines from Redis 7 on.
        sha: SHA-1 of ``source``.
        plain_source: the same without the first line's text, for Redis 6.2, which cannot read it.
        plain_sha: SHA-1 of ``plain_source``.
    """

    name: str
    header: Header
    source: str
    sha: str
    plain_source: str
    plain_sha: str


def lua_directory() -> Path:
    """Where the Lua files are: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_lua", package.parent / "lua"):
        if candidate.is_dir():
            return candidate
    raise ScriptError(
        f"no Lua files: neither {package / '_lua'} nor {package.parent / 'lua'} is there; reinstall pyscheduler"
    )


def expand(name: str, files: Mapping[str, str]) -> str:
    """The text of ``files[name]`` with every ``--@include PATH`` line replaced by that file, each file once.

    Args:
        name: path of the file to begin with.
        files: path -> text of every file there is.

    Raises:
        ScriptError: an included file is missing, includes itself through others, or is included twice by one file.
    """
    expanded: set[str] = set()

    def lines_of(path: str, chain: tuple[str, ...]) -> list[str]:
        lines: list[str] = []
        included_here: set[str] = set()
        for number, line in enumerate(files[path].splitlines(), 1):
            if not line.startswith("--@"):
                lines.append(line)
                continue
            match = _INCLUDE.match(line)
            if match is None:
                raise ScriptError(f"{path}:{number}: unknown directive {line.strip()!r}; only --@include PATH is known")
            target = match[1]
            if target not in files:
                raise ScriptError(f"{path}:{number}: included file {target} does not exist")
            if target in chain:
                raise ScriptError(f"{path}:{number}: include cycle: {' -> '.join((*chain, target))}")
            if target in included_here:
                raise ScriptError(f"{path}:{number}: {target} is included twice")
            included_here.add(target)
            if target not in expanded:
                expanded.add(target)
                lines.extend(lines_of(target, (*chain, target)))
        return lines

    return "\n".join(lines_of(name, (name,))) + "\n"


def load_scripts(overrides: Mapping[str, str] | None = None) -> dict[str, Script]:
    """Every script, by name.

    Args:
        overrides: path below ``lua/``, such as ``lib/clock.lua``, -> text that replaces the file.

    Raises:
        ScriptError: a file is missing or wrong.
    """
    if not overrides:
        return dict(_shipped_scripts())
    return _build({**_shipped_files(), **overrides})


@cache
def _shipped_files() -> dict[str, str]:
    root = lua_directory()
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.lua"))}


@cache
def _shipped_scripts() -> dict[str, Script]:
    return _build(_shipped_files())


def _build(files: Mapping[str, str]) -> dict[str, Script]:
    scripts: dict[str, Script] = {}
    for path, text in files.items():
        if "/" in path:
            continue
        name = path.removesuffix(".lua")
        if not text.startswith("#!lua"):
            raise ScriptError(f"{path}:1: a script begins with #!lua")
        source = expand(path, files)
        plain = "--" + source[source.index("\n") :]
        scripts[name] = Script(name, parse_header(path, text), source, _sha(source), plain, _sha(plain))
    if not scripts:
        raise ScriptError("no scripts found")
    return scripts


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
