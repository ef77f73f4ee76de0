"""The script loader: includes, refusals, and the contract between each header and its wrapper."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path

import pytest

from pyscheduler.core.results import EVENT_TYPES
from pyscheduler.errors import InvalidInput
from pyscheduler.keys import KEY_NAMES, key, namespace
from pyscheduler.scripts import ScriptError, calls, load_scripts, loader
from pyscheduler.scripts.header import Header, HeaderError, parse_header
from pyscheduler.scripts.loader import expand, lua_directory

SCRIPTS = load_scripts()


def test_an_include_is_replaced_by_its_file() -> None:
    files = {"a.lua": "one\n--@include lib/b.lua\nthree", "lib/b.lua": "two"}
    assert expand("a.lua", files) == "one\ntwo\nthree\n"


def test_a_file_included_on_two_ways_stands_there_once() -> None:
    files = {
        "a.lua": "--@include lib/b.lua\n--@include lib/c.lua\na",
        "lib/b.lua": "--@include lib/d.lua\nb",
        "lib/c.lua": "--@include lib/d.lua\nc",
        "lib/d.lua": "d",
    }
    assert expand("a.lua", files) == "d\nb\nc\na\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.lua": "x\n--@include lib/b.lua"}, "a.lua:2: included file lib/b.lua does not exist"),
        ({"a.lua": "--@include a.lua"}, "a.lua:1: include cycle: a.lua -> a.lua"),
        (
            {
                "a.lua": "--@include lib/b.lua",
                "lib/b.lua": "x\n--@include lib/c.lua",
                "lib/c.lua": "--@include lib/b.lua",
            },
            "lib/c.lua:1: include cycle: a.lua -> lib/b.lua -> lib/c.lua -> lib/b.lua",
        ),
        (
            {"a.lua": "--@include lib/b.lua\n--@include lib/b.lua", "lib/b.lua": ""},
            "a.lua:2: lib/b.lua is included twice",
        ),
        ({"a.lua": "--@inclode lib/b.lua"}, "a.lua:1: unknown directive '--@inclode lib/b.lua'"),
    ],
)
def test_a_wrong_include_is_refused_with_its_line(files: dict[str, str], message: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(message)):
        expand("a.lua", files)


def test_a_script_without_its_first_line_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"a\.lua:1: a script begins with #!lua"):
        load_scripts({"a.lua": "return 1"})


def test_an_override_changes_the_hash_of_the_scripts_that_include_it() -> None:
    changed = load_scripts({"lib/clock.lua": "local function now_ms() return 1 end"})
    assert changed["touch_nodes"].sha != SCRIPTS["touch_nodes"].sha
    assert changed["check"].sha == SCRIPTS["check"].sha


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda script: script.name)
def test_the_text_for_old_engines_differs_in_its_first_line_only(script) -> None:
    assert script.source.startswith("#!lua")
    assert script.plain_source.startswith("--\n")
    assert script.source.split("\n")[1:] == script.plain_source.split("\n")[1:]
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda script: script.name)
def test_a_header_says_what_the_body_does(script) -> None:
    """The keys that the body binds, the events that it emits and the statuses that it replies: as in the header."""
    body = (lua_directory() / f"{script.name}.lua").read_text()
    binds = {
        int(number): name
        for names, numbers in re.findall(r"^local ([A-Z_, ]+) = ((?:KEYS\[\d+\](?:, )?)+)$", body, re.M)
        for name, number in zip(names.split(", "), re.findall(r"\d+", numbers), strict=True)
    }
    for number, name in binds.items():
        assert name.lower() == script.header.keys[number - 1]
    if script.name != "open_namespace":
        assert sorted(binds) == list(range(1, len(script.header.keys) + 1))
    assert set(script.header.keys) <= set(KEY_NAMES)
    assert f"#KEYS ~= {len(script.header.keys)}" in body

    ledger = (lua_directory() / "lib/ledger.lua").read_text() if "lib/ledger.lua" in body else ""
    emitted = set(re.findall(r"emit\(\s*now, \w+(?:\([\w.]+\))?, '([a-z.]+)'", body + ledger))
    assert emitted == set(script.header.events) <= set(EVENT_TYPES)

    fence = (lua_directory() / "lib/fence.lua").read_text() if "lib/fence.lua" in body else ""
    status = r"(?:return (?:nil, )?\{\s*'|reply\('|local reply = \{\s*'|local flat = \{ '|^  reply\[.* = ')([A-Z_]+)'"
    replied = set(re.findall(status, body + fence, re.M))
    assert replied, "the body replies no status"
    documented = set(re.findall(r"\b[A-Z][A-Z_]+\b", " ".join(script.header.reply)))
    assert replied <= documented
    assert not documented - replied - {"NO_NAMESPACE", "SCHEMA", "JSON"}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda script: script.name)
def test_a_body_writes_only_after_it_has_validated(script) -> None:
    """Nothing may refuse after the first write: from there on there is one return, the reply."""
    body = (lua_directory() / f"{script.name}.lua").read_text()
    first_write = re.search(
        r"^( *)(?:bulk\('|redis\.call\(\s*'(?:HSET|HDEL|ZADD|ZREM|XADD)|record_history|emit\()", body, re.M
    )
    if first_write is None:
        assert "no-writes" in script.source.split("\n")[0]
        return
    assert "redis.error_reply" not in body[first_write.start() :]
    assert "badarg" not in body[first_write.start() :]


def test_every_wrapper_has_its_script_and_every_script_its_wrapper() -> None:
    wrappers = {
        name for name, value in vars(calls).items() if inspect.isfunction(value) and value.__module__ == calls.__name__
    }
    assert {name for name in wrappers if not name.startswith("_")} == set(SCRIPTS)


def test_a_wrapper_that_disagrees_with_its_header_fails_at_import() -> None:
    def release_node(*, node: str, epoch: int) -> None: ...

    with pytest.raises(ScriptError, match=r"release_node: the wrapper takes \('node', 'epoch'\)"):
        calls._verb(release_node)

    def no_such_script() -> None: ...

    with pytest.raises(ScriptError, match=r"there is no lua/no_such_script\.lua"):
        calls._verb(no_such_script)


def test_arguments_are_encoded_as_the_scripts_read_them() -> None:
    call = calls.touch_nodes(lease_ms=45000, nodes=["n", "t", ""])
    assert call.argv == ("45000", "n", "t", "")
    assert calls.hold_node(node_id="n", operation="set", owner="o", reason="r", allow_unknown=True).argv[-1] == "1"
    with pytest.raises(TypeError):
        calls.check(nonsense=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        calls.renew_instance(instance="i", lease_ms=None, info="{}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("#!lua\n-- Purpose.\n--\n-- KEYS\n--   2 config hash\n", "^a.lua:5: entry 2 of KEYS is out of order"),
        (
            "#!lua\n-- Purpose.\n-- KEYS\n--   1 config list\n-- REPLY\n--   OK\n-- EVENTS none\n-- COST O(1)\n",
            "list is no type",
        ),
        ("#!lua\n-- Purpose.\n-- REPLY\n--   OK\n-- COST O(1)\n", "the header has no EVENTS"),
        ("#!lua\nreturn 1", "the header has no purpose"),
    ],
)
def test_a_malformed_header_is_refused(source: str, message: str) -> None:
    with pytest.raises(HeaderError, match=message):
        parse_header("a.lua", source)


@pytest.mark.parametrize("body", ["\nreturn 1\n-- A comment.", "--@include lib/a.lua"])
@pytest.mark.parametrize(("last", "variadic"), [("2", False), ("2..", True)])
def test_a_header_is_read_up_to_the_body(body: str, last: str, variadic: bool) -> None:
    source = f"""#!lua
-- Does
-- much.
--
-- KEYS
--   1 config  hash
--   2 events  stream
-- ARGV
--   1 now     integer ms
--   {last} items  text
-- REPLY
--   OK
--   BUSY
-- EVENTS node.one node.two
-- COST O(1);
--   twice
{body}
"""
    assert parse_header("a.lua", source) == Header(
        purpose="Does much.",
        keys=("config", "events"),
        key_types=("hash", "stream"),
        args=("now", "items"),
        variadic=variadic,
        reply=("OK", "BUSY"),
        events=("node.one", "node.two"),
        cost="O(1); twice",
    )


def test_a_script_needs_neither_keys_nor_arguments_nor_events() -> None:
    header = parse_header("a.lua", "#!lua\n-- Purpose.\n-- REPLY OK\n-- EVENTS none\n-- COST O(1)\n")
    assert header == Header("Purpose.", (), (), (), False, ("OK",), (), "O(1)")


def test_the_lua_files_are_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pyscheduler"
    monkeypatch.setattr(loader, "__file__", str(package / "scripts" / "loader.py"))
    with pytest.raises(ScriptError, match=f"neither {package / '_lua'} nor {tmp_path / 'lua'} is there; reinstall"):
        lua_directory()
    for folder in (tmp_path / "lua", package / "_lua"):
        folder.mkdir(parents=True)
        assert lua_directory() == folder


def test_every_key_of_a_namespace_is_in_one_slot() -> None:
    assert {key("cell", name).split("}")[0] for name in KEY_NAMES} == {"{cell"}
    assert key("cell", "config") == "{cell}:config"


@pytest.mark.parametrize("name", ["", "a b", "{x}", "a" * 65, "é", "a\n"])
def test_a_malformed_namespace_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        namespace(name)
