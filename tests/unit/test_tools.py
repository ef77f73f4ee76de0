"""The programs that measure the tests: what they count, what they change, and whether their exceptions are true."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pyscheduler.scripts import load_scripts
from tests.servers import PlainServer
from tools.lua_coverage import EXCUSES, Coverage, judge, lua_files, table
from tools.lua_points import MARK, Point, instrument
from tools.mutate_python import sources
from tools.mutation_run import KILLED, SURVIVED, Options, choose, explained, run
from tools.mutations import Mutant, mutants_of

SCRIPT = """#!lua
-- A script.
local total = 0
for _, item in ipairs(ARGV) do
  if item == 'a' and total < 3 then
    total = total + 1
  elseif item == 'b' then
    return 'b'
  end
end
return total or 0
"""


def test_the_points_of_a_script_are_its_statements_and_each_way_out_of_a_decision() -> None:
    text, points = instrument("lua/script.lua", SCRIPT, 100)
    assert points == [
        Point("lua/script.lua", 3, ""),
        Point("lua/script.lua", 4, ""),
        Point("lua/script.lua", 5, ""),
        Point("lua/script.lua", 5, "if: true"),
        Point("lua/script.lua", 7, "elseif: true"),
        Point("lua/script.lua", 7, "elseif: false"),
        Point("lua/script.lua", 5, "if: none true"),
        Point("lua/script.lua", 5, "and after item == 'a': true"),
        Point("lua/script.lua", 5, "and after item == 'a': false"),
        Point("lua/script.lua", 6, ""),
        Point("lua/script.lua", 8, ""),
        Point("lua/script.lua", 11, ""),
        Point("lua/script.lua", 11, "or after total: true"),
        Point("lua/script.lua", 11, "or after total: false"),
    ]
    lines = text.splitlines()
    assert lines[:2] == SCRIPT.splitlines()[:2], "the header stays a header"
    assert lines[5] == "    _hit(109); total = total + 1"
    assert "_hit(111); return _is(112, total) or 0" in lines[10]


@pytest.mark.parametrize(
    ("arguments", "unreached"),
    [
        ((), {2, 3, 4, 5, 6, 7, 8, 9, 10, 13}),
        (("a", "c", "b"), {11, 12, 13}),
        (("a", "a", "a", "a"), {4, 8, 10, 13}),
    ],
)
def test_a_server_runs_it_and_logs_what_it_reached(
    make_server: Callable[..., PlainServer], arguments: tuple[str, ...], unreached: set[int]
) -> None:
    server = make_server()
    text, points = instrument("lua/script.lua", SCRIPT, 0)
    with redis.Redis.from_url(server.url) as client:
        assert client.eval(text, 0, *arguments) == client.eval(SCRIPT, 0, *arguments)
    logged = [line.split(f" {MARK} ")[1] for line in (server.folder / "log").read_text().splitlines() if MARK in line]
    reached = {int(number) for line in logged for number in line.split()}
    assert set(range(len(points))) - reached == unreached


def test_a_script_that_fails_logs_that_too_and_fails_as_it_would(make_server: Callable[..., PlainServer]) -> None:
    server = make_server()
    text, _ = instrument(
        "lua/script.lua", "#!lua\nredis.call('SET', KEYS[1], 1)\nreturn redis.call('HLEN', KEYS[1])", 0
    )
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.eval(text, 1, "key")
    assert f" {MARK} " in (server.folder / "log").read_text()


def test_every_script_can_be_loaded_with_counters_in_it() -> None:
    instrumented = {path.removeprefix("lua/"): instrument(path, text, 1000)[0] for path, text in lua_files().items()}
    scripts = load_scripts(instrumented)
    assert scripts.keys() == load_scripts().keys()
    assert all(scripts[name].header == script.header for name, script in load_scripts().items())


def test_what_is_no_lua_is_said_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 2: no lua"):
        instrument("lua/script.lua", "local a = 1\nif then\n", 0)


def counted(*reached: int) -> Coverage:
    _, points = instrument("lua/script.lua", SCRIPT, 0)
    return Coverage("", points, {"one": (5, list(reached)), "another": (6, [0])})


def test_the_table_has_a_row_for_each_file_and_one_for_all() -> None:
    header, row, all_of_it = table(counted(0, 1, 2, 3))
    assert header.split() == ["file", "lines", "branches"]
    assert row.split() == ["lua/script.lua", "3/6", "50.0%", "1/8", "12.5%"]
    assert all_of_it.split()[1:] == row.split()[1:]


def test_what_is_missed_needs_an_excuse_and_an_excuse_needs_what_is_missed() -> None:
    files = {"lua/script.lua": SCRIPT}
    most = counted(*(number for number in range(14) if number not in (10, 13)))
    returns_b = {"file": "lua/script.lua", "code": "return 'b'", "what": "", "reason": "why"}
    never_nil = {
        "file": "lua/script.lua",
        "code": "return total or 0",
        "what": "or after total: false",
        "reason": "why",
    }
    assert judge(most, files, []) == [
        "lua/script.lua:8: never run: return 'b'",
        "lua/script.lua:11: never or after total: false: return total or 0",
    ]
    assert judge(most, files, [returns_b, never_nil]) == []
    (stale,) = judge(counted(*range(14)), files, [returns_b])
    assert "excuses what is reached or not there" in stale


def test_an_excuse_has_a_reason() -> None:
    assert all(each["reason"] for each in tomllib.loads(EXCUSES.read_text(encoding="utf-8"))["uncovered"])


def changes(file: str, source: str) -> list[str]:
    return [mutant.key.split(" [")[-1].rstrip("]") for mutant in mutants_of(file, source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "if a <= 1 then f() end",
            ["3: a <= 1 -> false", "5: <= -> <", "5: <= -> >", "8: 1 -> 2", "15: f() -> nothing"],
        ),
        ("return a == b and not c", ["14: and -> or", "9: == -> ~=", "18: not -> nothing"]),
        ("redis.call('DEL', KEYS[2])", ["0: redis.call('DEL', KEYS[2]) -> nothing", "23: 2 -> 3", "23: 2 -> 1"]),
        ("return badarg('it is ' .. 3)", []),
        ("local x = math.min(y, 'ok') -- x < y", ["10: math.min -> math.max", "22: 'ok' -> 'okX'"]),
        ("if a then end", ["3: a -> false", "3: a -> not (a)"]),
        ("return 9007199254740991", []),
    ],
)
def test_the_faults_that_can_be_put_into_lua(source: str, expected: list[str]) -> None:
    assert changes("lua/x.lua", source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            'def f(x: "int") -> int:\n    """A < B."""\n    return x + 1',
            ["7: x + 1 -> None", "9: + -> -", "11: 1 -> 2"],
        ),
        (
            "if x is None: raise E('1 < 2')",
            ["3: x is None -> False", "5: is -> is not", "14: raise E('1 < 2') -> pass"],
        ),
        ("import a\nx: int = 1", ["9: 1 -> 2"]),
        ("self.a = b not in c", ["0: self.a = b not in c -> pass", "11: not in -> in"]),
        ("for x in y:\n    break", ["0: break -> continue"]),
        ("z = a if b else c", ["9: b -> False", "9: b -> not (b)"]),
        ("return False", ["7: False -> True"]),
        ("__all__ = ['f']\nA: TypeAlias = 'int'\nT = TypeVar('T')\nP = ParamSpec('P')", []),
    ],
)
def test_the_faults_that_can_be_put_into_python(source: str, expected: list[str]) -> None:
    assert changes("x.py", source) == expected


def test_a_mutant_is_the_text_with_its_one_change() -> None:
    source = "local é = 'é'\nreturn é < 3\n"
    assert {mutant.applied(source) for mutant in mutants_of("x.lua", source)} == {
        "local é = 'éX'\nreturn é < 3\n",
        "local é = 'é'\nreturn é <= 3\n",
        "local é = 'é'\nreturn é >= 3\n",
        "local é = 'é'\nreturn é < 4\n",
        "local é = 'é'\nreturn é < 2\n",
    }


def all_sources() -> dict[str, str]:
    return {**lua_files(), **sources()}


def test_a_key_names_one_mutant() -> None:
    keys = [mutant.key for file, text in all_sources().items() for mutant in mutants_of(file, text)]
    assert len(keys) == len(set(keys)) > 5000


def test_what_is_explained_is_there() -> None:
    keys = {mutant.key for file, text in all_sources().items() for mutant in mutants_of(file, text)}
    assert sorted(explained().keys() - keys) == []
    assert all(explained().values())


def options(**changed: object) -> Options:
    usual = {"seed": 1, "sample": 3, "seconds": 60, "files": (), "again": None, "budget_s": 1, "verbose": False}
    return Options(**{**usual, **changed})


def test_a_seed_and_a_sample_say_which_mutants_are_tried() -> None:
    some, more = choose(lua_files(), options()), choose(lua_files(), options(sample=5))
    assert some == choose(lua_files(), options())
    assert some == more[: len(some)], "a larger sample goes on where a smaller one ends"
    assert some != choose(lua_files(), options(seed=2))
    assert {mutant.file for mutant in choose(lua_files(), options(files=("lib/args",)))} == {"lua/lib/args.lua"}
    assert {mutant.file for mutant in some} == lua_files().keys()


def test_a_run_fails_exactly_if_something_survives(capfd: pytest.CaptureFixture[str]) -> None:
    mutants = mutants_of("lua/x.lua", "return a < 3")
    looks = []

    def outcome_of(mutant: Mutant, budget_s: float) -> tuple[str, str]:
        looks.append((mutant.text, budget_s))
        survives = mutant.text == "4" or (mutant.text == "2" and budget_s == 1)
        return (SURVIVED if survives else KILLED), ""

    assert run(mutants, options(), outcome_of) == 1
    assert looks == [("<=", 1), (">=", 1), ("4", 1), ("2", 1), ("4", 10), ("2", 10)], "survivors get a second look"
    assert capfd.readouterr().out.count("SURVIVED") == 1
    assert run([mutant for mutant in mutants if mutant.text != "4"], options(), outcome_of) == 0
    assert run(mutants, options(seconds=-1), outcome_of) == 0, "none is tried when there is no time"


def test_the_survivors_of_an_earlier_run_can_be_tried_alone(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sources = {"lua/x.lua": "return a < 3", "lua/y.lua": "return b > 4"}
    output = tmp_path / "output"
    run(choose(sources, options(verbose=True)), options(verbose=True), lambda mutant, _: (KILLED, "by (some) test"))
    output.write_text(capfd.readouterr().out, encoding="utf-8")
    assert choose(sources, options(again=output)) == []
    run(choose(sources, options()), options(), lambda one, _: (SURVIVED if one.text == "5" else KILLED, "3 tests"))
    output.write_text(capfd.readouterr().out, encoding="utf-8")
    assert [mutant.text for mutant in choose(sources, options(again=output))] == ["5"]


def test_the_tools_are_no_part_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "tools" not in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
