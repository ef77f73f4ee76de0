"""docs/data-model.md has every key with its type, every field of ours, every event with its fields, and every bound."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from pyscheduler.core.results import EVENT_TYPES
from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts.header import Header, parse_header

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data-model.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0].strip(): part.partition("\n")[2] for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "lua").glob("**/*.lua"))}
SCRIPTS = {path.name: SOURCES[path.name] for path in sorted((ROOT / "lua").glob("*.lua"))}

TYPES = {"hash": "hash", "zset": "sorted set", "stream": "stream"}
NO_BOUNDS = {"SCHEMA", "CHUNK"}
"""Constants that are no bounds: the number of the layout, and how many arguments one command gets."""


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a table by each name in their first cell."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([^`]+)`", cells[0]) if line.startswith("| `") else ():
            assert name not in found, f"{name} stands there twice"
            found[name] = cells
    return found


KEYS = rows(PAGE.partition("\n## ")[0])


@cache
def headers() -> dict[str, Header]:
    return {name: parse_header(name, text) for name, text in SCRIPTS.items()}


def calls(text: str, name: str) -> list[list[str]]:
    """The arguments of every call of a function, as written."""
    found = []
    for match in re.finditer(rf"(?<![\w.]){re.escape(name)}\(", text):
        arguments, depth = [""], 1
        for part in re.findall(r"'[^'\n]*'|[^']", text[match.end() :]):
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(part, 0)
            if not depth:
                break
            if part == "," and depth == 1:
                arguments.append("")
            else:
                arguments[-1] += part
        found.append([argument.strip() for argument in arguments])
    return found


# --- keys and fields -------------------------------------------------------------------------------------------------


def test_every_key_is_there_in_order() -> None:
    assert tuple(KEYS) == KEY_NAMES


@pytest.mark.parametrize("name", SCRIPTS)
def test_types_of_keys_are_those_of_the_scripts(name: str) -> None:
    header = headers()[name]
    for key, kind in zip(header.keys, header.key_types, strict=True):
        assert KEYS[key][1].partition(",")[0] == TYPES[kind], key


def test_every_field_of_the_configuration_is_there() -> None:
    written = {
        field.strip("'")
        for text in SCRIPTS.values()
        for call in calls(text, "redis.call")
        if call[:2] == ["'HSET'", "CONFIG"]
        for field in call[2::2]
    }
    assert {"schema", "version", "document", "epoch_floor", "node_cursor"} <= written
    assert set(re.findall(r"`([a-z_]+)`", KEYS["config"][2])) == written


def test_every_word_of_a_node_s_header_is_there_in_order() -> None:
    written = re.findall(r"header\.(\w+)", SOURCES["records.lua"].partition("local function join_record")[2])
    assert written[0] == "session"
    assert list(rows(SECTIONS["The header of a node"])) == written


def test_every_field_of_a_pool_is_there() -> None:
    made = re.findall(r"return \{ (id = [^\n]*) \}", SOURCES["pools.lua"])
    assert len(made) == 1
    fields = set(re.findall(r"(\w+) = ", made[0])) - {"name", "languages"} | {"idle_since"}
    assert sorted(fields - set(re.findall(r"\w+", KEYS["pools"][2]))) == []


# --- events ----------------------------------------------------------------------------------------------------------


def emitted() -> dict[str, set[str]]:
    """Every event that the scripts write, and all fields that it may have."""
    found: dict[str, set[str]] = {}
    for text in (*SCRIPTS.values(), SOURCES["ledger.lua"]):
        for _now, _version, kind, *pairs in calls(text, "emit"):
            found.setdefault(kind.strip("'"), set()).update(field.strip("'") for field in pairs[::2])
    return found


def test_the_table_of_events_is_what_the_scripts_write() -> None:
    table = rows(SECTIONS["Events"])
    events = emitted()
    assert set(events) == set(EVENT_TYPES) == {event for header in headers().values() for event in header.events}
    assert set(table) == set(events)
    for kind, fields in events.items():
        described = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", table[kind][1])))
        assert described == fields, kind


# --- bounds ----------------------------------------------------------------------------------------------------------


def limits() -> dict[str, int]:
    found = dict(re.findall(r"^local (\w+) = '?(\d+)'?", SOURCES["limits.lua"], flags=re.MULTILINE))
    return {name: int(value) for name, value in found.items() if name not in NO_BOUNDS}


def test_every_bound_of_the_scripts_is_there_with_its_value() -> None:
    assert "MAX_CLASSES" in limits()
    found = {name: int(cells[1].replace(",", "").split()[0]) for name, cells in rows(SECTIONS["Bounds"]).items()}
    assert found == limits()


@pytest.mark.parametrize("name", limits())
def test_every_bound_is_used(name: str) -> None:
    assert any(name in text for script, text in SOURCES.items() if script != "limits.lua")
