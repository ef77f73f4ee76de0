"""The header of a script: its contract, written in the Lua file and read here.

A header is the comment block at the top of a file. After its purpose it has the sections KEYS, ARGV, REPLY, EVENTS and
COST. An argument numbered ``5..`` stands for all that follow.
"""

from __future__ import annotations

import re

from msgspec import Struct

_SECTION = re.compile(r"-- (KEYS|ARGV|REPLY|EVENTS|COST)\b ?(.*)")
_ENTRY = re.compile(r"--   (\d+)(\.\.)? +(\w+) +(\S.*)")
_TYPES = ("hash", "zset", "stream")


class HeaderError(ValueError):
    """A header does not have the form that this module describes."""


class Header(Struct, frozen=True):
    """Contract of one script.

    Attributes:
        purpose: what the script is for.
        keys: names of its keys, in order.
        key_types: Redis type of each.
        args: names of its arguments, in order.
        variadic: whether the last argument stands for any number.
        reply: the reply lines, as written.
        events: types of the events that it writes.
        cost: its cost, as written.
    """

    purpose: str
    keys: tuple[str, ...]
    key_types: tuple[str, ...]
    args: tuple[str, ...]
    variadic: bool
    reply: tuple[str, ...]
    events: tuple[str, ...]
    cost: str


def parse_header(name: str, source: str) -> Header:
    """Reads the header of a script.

    Args:
        name: the file's name, for errors.
        source: the file's text, which begins with the line ``#!lua``.

    Raises:
        HeaderError: a section is missing or an entry is out of order; the message names file and line.
    """
    sections: dict[str, list[str]] = {"purpose": [], "KEYS": [], "ARGV": [], "REPLY": [], "EVENTS": [], "COST": []}
    numbered: dict[str, list[tuple[str, str, bool]]] = {"KEYS": [], "ARGV": []}
    section = "purpose"
    for number, line in enumerate(source.splitlines()[1:], 2):
        if not line.startswith("--") or line.startswith("--@"):
            break
        if opened := _SECTION.match(line):
            section = opened[1]
            sections[section].append(opened[2].strip())
        elif section in numbered and (entry := _ENTRY.match(line)):
            if int(entry[1]) != len(numbered[section]) + 1:
                raise HeaderError(f"{name}:{number}: entry {entry[1]} of {section} is out of order")
            numbered[section].append((entry[3], entry[4], entry[2] is not None))
        else:
            sections[section].append(line[2:].strip())
    for required in ("purpose", "REPLY", "EVENTS", "COST"):
        if not any(sections[required]):
            raise HeaderError(f"{name}: the header has no {required}")
    types = tuple(kind.split()[0] for _, kind, _ in numbered["KEYS"])
    if wrong := [kind for kind in types if kind not in _TYPES]:
        raise HeaderError(f"{name}: {wrong[0]} is no type of key")
    return Header(
        purpose=" ".join(sections["purpose"]).strip(),
        keys=tuple(key for key, _, _ in numbered["KEYS"]),
        key_types=types,
        args=tuple(arg for arg, _, _ in numbered["ARGV"]),
        variadic=bool(numbered["ARGV"]) and numbered["ARGV"][-1][2],
        reply=tuple(line for line in sections["REPLY"] if line),
        events=tuple(word for line in sections["EVENTS"] for word in line.split() if word != "none"),
        cost=" ".join(sections["COST"]).strip(),
    )
