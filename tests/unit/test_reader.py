"""Reading a document: what is accepted, and that whatever is wrong is said at once, each with its path and line."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pyscheduler.core import ids, languages, reader
from pyscheduler.core.document import PoolDocument
from pyscheduler.core.limits import MAX_DOCUMENT_BYTES, MAX_PROBLEMS
from pyscheduler.core.reader import document_schema, load_document
from pyscheduler.core.source import yaml_text
from pyscheduler.errors import DocumentInvalid, InvalidInput, Problem

POOL = {"name": "a", "match": {"services": ["asr"]}}

VALIDATOR = Draft202012Validator(document_schema())


def problems(text: str | bytes, source: str = "") -> tuple[Problem, ...]:
    with pytest.raises(DocumentInvalid) as caught:
        load_document(text, source=source)
    return caught.value.problems


def places(text: str | bytes) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.where) for problem in problems(text)]


def test_one_of_some_words_is_asked_for_by_name() -> None:
    (problem,) = problems("schema: 1\nselection: {strategy: fastest}\n")
    assert (problem.line, problem.where) == (2, "selection.strategy")
    assert problem.message == ("must be one of 'least_loaded', 'power_of_two', 'random' or 'affinity', not 'fastest'")


# --- what is accepted ------------------------------------------------------------------------------------------------

WRITTEN = """\
# the fleet
schema: 1
auto:
  idle_ttl: 10m
  require_services: [asr]
pools:
  - name: no-sv
    priority: 10
    match:
      semantic: {exact: [no, sv]}
      labels:
        zone: "010"
      gpu: {min_memory_gb: 8}
"""


def test_yaml_and_json_say_the_same() -> None:
    data = {
        "schema": 1,
        "auto": {"idle_ttl": 600, "require_services": ["asr"]},
        "pools": [
            {
                "name": "no-sv",
                "priority": 10,
                "match": {
                    "semantic": {"exact": ["no", "sv"]},
                    "labels": {"zone": "010"},
                    "gpu": {"min_memory_gb": 8},
                },
            }
        ],
    }
    document = load_document(WRITTEN)
    assert document.pools[0].match.semantic is not None
    assert document.pools[0].match.semantic.exact == ("no", "sv")
    assert document.auto.idle_ttl_ms == 600_000
    for text in (
        json.dumps(data),
        json.dumps(data, indent="\t"),
        json.dumps(data, indent=4).replace("\n", "\r\n"),
        yaml.safe_dump(data),
        WRITTEN.encode(),
        b"\xef\xbb\xbf" + WRITTEN.encode(),
        b"\xef\xbb\xbf" + json.dumps(data, indent="\t").encode(),
        "---\n" + WRITTEN + "...\n",
    ):
        assert load_document(text) == document


@pytest.mark.parametrize("text", ["{}", "schema: 1", "pools: []", '{"pools": []}', " {schema: 1} # a comment"])
def test_every_section_may_be_left_out(text: str) -> None:
    assert load_document(text) == PoolDocument()


def test_letters_outside_ascii_arrive_from_either_form() -> None:
    name = "Z\u00fcrich \U0001f600"
    as_json = load_document(json.dumps({"pools": [{"name": "a", "match": {"labels": {"site": name}}}]}))
    as_yaml = load_document(f"pools:\n- name: a\n  match: {{labels: {{site: '{name}'}}}}")
    assert as_json == as_yaml
    assert load_document(b"\xef\xbb\xbf" + json.dumps(as_json.to_data()).encode()) == as_json
    assert as_yaml.pools[0].match.labels["site"] == name
    assert as_yaml.canonical().isascii()


@pytest.mark.parametrize(
    "word", ["no", "NO", "yes", "on", "off", "y", "n", "010", "0x1F", "1_000", "1:30", "2026-01-01", "=", "0o17"]
)
def test_words_that_older_yaml_takes_for_something_else_are_text(word: str) -> None:
    document = load_document(f"pools: [{{name: a, match: {{labels: {{key: {word}}}}}}}]")
    assert document.pools[0].match.labels == {"key": word}


@pytest.mark.parametrize(
    "word", ["1e3", "1.5e3", "+.5", "-5.", "5", "010", "0x1F", "no", "~", "null", "true", ".nan", "", "a: b"]
)
def test_text_that_looks_like_something_else_comes_back_as_text(word: str) -> None:
    document = load_document(json.dumps({"pools": [{"name": "a", "match": {"labels": {"key": word, "no": word}}}]}))
    text = yaml_text(document.to_data())
    assert load_document(text) == document
    assert text.isascii()


# --- what is wrong, and where ----------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, list[tuple[int | None, str, str]]]] = {
    "empty": ("", [(None, "", "'pools: []'")]),
    "only comments": ("# nothing\n\n", [(None, "", "'pools: []'")]),
    "empty YAML document": ("---\n...\n", [(None, "", "'pools: []'")]),
    "prose": ("hello world", [(1, "", "must be a mapping (key: value), not the text 'hello world'")]),
    "list": ("\n- name: a\n", [(2, "", "must be a mapping (key: value), not a list")]),
    "list in JSON": ("[1]", [(1, "", "not a list")]),
    "number": ("5", [(1, "", "not the number 5")]),
    "not YAML": ("a:\n  b: 1\n c: 2\n", [(3, "", "(while parsing a block mapping that begins on line 1)")]),
    "open bracket": ("pools: [\n", [(2, "", "not valid YAML")]),
    "tab": ("pools:\n\t- name: a\n", [(2, "", "indented with a tab")]),
    "not JSON": ('{\n"schema": 1\n"pools": []}', [(3, "", "not valid JSON: expected ',' or '}', found '\"pools\"'")]),
    "JSON that ends too early": ('{"pools": [\n\n', [(3, "", "not valid JSON")]),
    "bad JSON string": ('{"pools": "\\x"}', [(1, "", "not valid JSON")]),
    "JSON and more": ('{"schema": 1}\n{"schema": 1}', [(2, "", "not valid JSON: expected the end")]),
    "binary": ("schema: 1\n\x00\x01", [(2, "", "is it a text file?")]),
    "half of a pair": ("schema: 1\n\n'\ud800'", [(3, "", "is it a text file?")]),
    "several documents": ("schema: 1\n---\nschema: 1\n", [(2, "", "a second YAML document begins here")]),
    "directive": ("%YAML 1.2\n---\nschema: 1\n", [(1, "", "directive")]),
    "nested too deep": ("a: " + "[" * 16, [(1, "", "nested deeper than 16")]),
    "null root": ("null", [(None, "", "the document is empty")]),
    "unknown section": (
        "schema: 1\nadmision: {}\n",
        [(2, "admision", "unknown key 'admision': did you mean admission?")],
    ),
    "unknown keys everywhere": (
        """\
        admission:
          gpus: {}
        auto: {
          idleTTL: 5,
          min-nodes: 1}
        guard: {share: 1}
        pools:
          - nmae: a
            name: a
            mtach: {}
            match:
              Services: [asr]
              tts: {all: [en], exact: [en]}
              gpu: {count: 1, min_count: 1}
        """,
        [
            (2, "admission.gpus", "did you mean gpu?"),
            (4, "auto.idleTTL", "did you mean idle_ttl?"),
            (5, "auto.min-nodes", "did you mean min_nodes?"),
            (6, "guard.share", "the keys here are max_unassigned_share"),
            (8, "pools[0].nmae", "did you mean name?"),
            (10, "pools[0].mtach", "did you mean match?"),
            (12, "pools[0].match.Services", "did you mean services?"),
            (13, "pools[0].match.tts.all", "the keys here are exact, contains, any"),
            (14, "pools[0].match.gpu.count", "did you mean min_count?"),
        ],
    ),
    "keys one level too high": (
        "min_nodes: 1\npools:\n- name: a\n  semantic: {}\n  match: {services: [asr], exact: [en]}\n",
        [
            (1, "min_nodes", "did you mean auto.min_nodes?"),
            (4, "pools[0].semantic", "did you mean match.semantic?"),
            (5, "pools[0].match.exact", "did you mean semantic.exact or asr.exact or tts.exact?"),
        ],
    ),
    "odd keys": (
        'schema: 1\n"a b": 1\n1: 2\n? [x]\n: 3\n<<: {}\n',
        [
            (2, "['a b']", "unknown key 'a b'"),
            (3, "['1']", "unknown key '1'"),
            (4, "", "a key must be plain text"),
            (6, "['<<']", "unknown key '<<'"),
        ],
    ),
    "repeated keys": (
        """\
        auto: {min_nodes: 1,
          min_nodes: 2}
        pools:
          - name: a
            match: {services: [asr]}
            name: b
        auto: {no: 1}
        auto: {}
        """,
        [
            (2, "auto.min_nodes", "key 'min_nodes' is given twice, first on line 1"),
            (6, "pools[0].name", "key 'name' is given twice, first on line 4"),
            (7, "auto", "key 'auto' is given twice, first on line 1"),
            (8, "auto", "key 'auto' is given twice, first on line 1"),
        ],
    ),
    "repeated keys in JSON": (
        '{"guard": {},\n"guard": {}}',
        [(2, "guard", "key 'guard' is given twice, first on line 1")],
    ),
    "anchors, aliases, tags": (
        """\
        auto: &x {min_nodes: 1}
        guard: *x
        pools:
          - &p
            name: !!str a
            match: {services: [*x, asr, !<y> z]}
        """,
        [
            (1, "auto", "anchor '&x' is not allowed"),
            (2, "guard", "alias '*x' is not allowed"),
            (4, "pools[0]", "anchor '&p' is not allowed"),
            (5, "pools[0].name", "tag 'tag:yaml.org,2002:str' is not allowed"),
            (6, "pools[0].match.services[0]", "alias '*x' is not allowed"),
            (6, "pools[0].match.services[2]", "tag 'y' is not allowed"),
        ],
    ),
    "a newer schema": ("schema: 2\n", [(1, "schema", "2 is unknown: this version reads schema 1")]),
    "wrong kinds": (
        """\
        schema: "1"
        admission: []
        auto:
          enabled: yes
          min_nodes: 1.5
          max_pools: "3"
          idle_ttl: true
          require_services: asr
        guard: {max_unassigned_share: "0.5"}
        pools: {a: 1}
        """,
        [
            (1, "schema", "must be a whole number, not the text '1'"),
            (2, "admission", "must be a mapping (key: value), not a list"),
            (4, "auto.enabled", "must be true or false, not the text 'yes'"),
            (5, "auto.min_nodes", "must be a whole number, not the number 1.5"),
            (6, "auto.max_pools", "must be a whole number, not the text '3'"),
            (7, "auto.idle_ttl", "True is no duration"),
            (8, "auto.require_services", "must be a list such as [a, b], not the text 'asr'"),
            (9, "guard.max_unassigned_share", "must be a number from 0 to 1, not '0.5'"),
            (10, "pools", "must be a list such as [a, b], not a mapping"),
        ],
    ),
    "wrong kinds in pools": (
        """\
        pools:
          - hello
          -
          - []
          - name: 5
            priority: high
            match: [asr]
          - name: b
            match: {semantic: en, asr: {exact: en}, tts: {any: [{}]}, services: [1.0], gpu: 8, labels: [a]}
          - name: c
            match: {labels: {a: 1, b: true, c: , d: []}}
        """,
        [
            (2, "pools[0]", "must be a mapping (key: value), not the text 'hello'"),
            (3, "pools[1]", "must be a mapping (key: value), not nothing"),
            (4, "pools[2]", "must be a mapping (key: value), not a list"),
            (5, "pools[3].name", "must be text, not the number 5: put it in quotes"),
            (6, "pools[3].priority", "must be a whole number, not the text 'high'"),
            (7, "pools[3].match", "must be a mapping (key: value), not a list"),
            (9, "pools[4].match.asr.exact", "must be a list such as [a, b], not the text 'en'"),
            (9, "pools[4].match.gpu", "must be a mapping (key: value), not the number 8"),
            (9, "pools[4].match.labels", "must be a mapping (key: value), not a list"),
            (9, "pools[4].match.semantic", "must be a mapping (key: value), not the text 'en'"),
            (9, "pools[4].match.services[0]", "must be text, not the number 1.0: put it in quotes"),
            (9, "pools[4].match.tts.any[0]", "must be text, not a mapping"),
            (11, "pools[5].match.labels.a", "must be text, not the number 1: put it in quotes"),
            (11, "pools[5].match.labels.b", "must be text, not true: put it in quotes"),
            (11, "pools[5].match.labels.c", "must be text, not nothing"),
            (11, "pools[5].match.labels.d", "must be text, not a list"),
        ],
    ),
    "out of range": (
        """\
        admission:
          gpu: {min_count: 0, min_memory_gb: -1}
          schema_versions: []
        auto: {min_nodes: 0, max_pools: -1}
        guard: {max_unassigned_share: 1.01}
        pools:
          - {name: a, priority: 1001, match: {gpu: {min_count: 65, min_memory_gb: 4097}}}
          - {name: b, priority: -1001, match: {services: [asr]}}
        """,
        [
            (2, "admission.gpu.min_count", "must be at least 1, not 0"),
            (2, "admission.gpu.min_memory_gb", "must be at least 0, not -1"),
            (3, "admission.schema_versions", "is empty"),
            (4, "auto.max_pools", "must be at least 0, not -1"),
            (4, "auto.min_nodes", "must be at least 1, not 0"),
            (5, "guard.max_unassigned_share", "must be a number from 0 to 1, not 1.01"),
            (7, "pools[0].match.gpu.min_count", "must be at most 64, not 65"),
            (7, "pools[0].match.gpu.min_memory_gb", "must be at most 4096, not 4097"),
            (7, "pools[0].priority", "must be at most 1000, not 1001"),
            (8, "pools[1].priority", "must be at least -1000, not -1001"),
        ],
    ),
    "durations": (
        "auto: {idle_ttl: 10x}",
        [(1, "auto.idle_ttl", "'10x' is no duration: write whole seconds, or a number and ms, s, m, h or d")],
    ),
    "no duration at all": (
        "auto:\n  idle_ttl:\n",
        [(2, "auto.idle_ttl", "has no value: write a duration such as 10m, or leave the key out")],
    ),
    "a duration out of range": (
        "auto: {idle_ttl: 31d}",
        [(1, "auto.idle_ttl", "must be from 100ms to 30d, not '31d'")],
    ),
    "numbers that are none": (
        "auto: {min_nodes: .nan, max_pools: .inf}\nguard: {max_unassigned_share: .nan}\nschema: " + "9" * 5000,
        [
            (1, "auto.max_pools", "must be a whole number, not the number inf"),
            (1, "auto.min_nodes", "must be a whole number, not the number nan"),
            (2, "guard.max_unassigned_share", "must be a number from 0 to 1, not nan"),
            (3, "schema", "must be a whole number"),
        ],
    ),
    "NaN in JSON": ('{"guard": {"max_unassigned_share": NaN}}', [(1, "guard.max_unassigned_share", "not 'NaN'")]),
    "nothing given": (
        "auto:\nguard:\npools:\n",
        [
            (1, "auto", "must be a mapping (key: value), not nothing"),
            (2, "guard", "must be a mapping (key: value), not nothing"),
            (3, "pools", "must be a list such as [a, b], not nothing"),
        ],
    ),
    "missing": ("pools:\n  - priority: 1\n  - name: a\n", [
        (2, "pools[0].match", "is missing"),
        (2, "pools[0].name", "is missing"),
        (3, "pools[1].match", "is missing"),
    ]),
    "names": (
        f"""\
        pools:
          - {{name: EN, match: {{services: [asr]}}}}
          - {{name: "", match: {{services: [tts]}}}}
          - {{name: {"x" * 129}, match: {{services: [nmt]}}}}
        """,
        [
            (2, "pools[0].name", "'EN' is no pool name"),
            (3, "pools[1].name", "'' is no pool name"),
            (4, "pools[2].name", "(129 characters) is no pool name"),
        ],
    ),
    "repeated names": (
        """\
        pools:
          - {name: a, match: {services: [asr]}}
          - {name: b, match: {services: [tts]}}
          - {name: a, match: {services: [asr]}}
          - {name: a, mtach: {}}
          - {name: b, match: {services: [tts]}}
        """,
        [
            (4, "pools[2].name", "pool name 'a' is taken by pools[0].name on line 2"),
            (5, "pools[3].match", "is missing"),
            (5, "pools[3].mtach", "did you mean match?"),
            (5, "pools[3].name", "pool name 'a' is taken by pools[0].name on line 2"),
            (6, "pools[4].name", "pool name 'b' is taken by pools[1].name on line 3"),
        ],
    ),
    "impossible or void rules": (
        """\
        pools:
          - {name: a, match: {}}
          - {name: b, match: {services: [], labels: {}}}
          - {name: c, match: {semantic: {}}}
          - {name: d, match: {semantic: {exact: []}}}
          - {name: e, match: {semantic: {any: []}}}
          - {name: f, match: {semantic: {exact: [en], contains: [zh]}}}
          - {name: g, match: {gpu: {}}}
          - {name: h, match: {gpu: {min_memory_gb: 0}}}
          - {name: i, match: {labels: {Unique.serial: x}}}
          - {name: j, match: {semantic: , gpu: , services: [asr]}}
          - {name: k, match: {tts: {exact: , any: [en]}}}
        """,
        [
            (2, "pools[0].match", "constrains nothing, so every node would match"),
            (3, "pools[1].match", "constrains nothing"),
            (4, "pools[2].match.semantic", "give one of exact, contains and any"),
            (5, "pools[3].match.semantic.exact", "is empty"),
            (6, "pools[4].match.semantic.any", "is empty"),
            (7, "pools[5].match.semantic", "give one of exact, contains and any, not exact and contains"),
            (8, "pools[6].match.gpu", "constrains nothing"),
            (9, "pools[7].match.gpu", "constrains nothing"),
            (10, "pools[8].match.labels['Unique.serial']", "no node can ever match"),
            (11, "pools[9].match.gpu", "has no value"),
            (11, "pools[9].match.semantic", "has no value"),
            (12, "pools[10].match.tts", "not exact and any"),
            (12, "pools[10].match.tts.exact", "has no value"),
        ],
    ),
    "bad parts of rules": (
        """\
        pools:
          - name: a
            match:
              asr:
                contains:
                  - en
                  - english language
                any: [x]
              services: ["a b"]
              labels:
                Zone: a
                zone: b
                "k k": v
                n: "a\\nb"
        """,
        [
            (4, "pools[0].match.asr", "give one of exact, contains and any, not contains and any"),
            (7, "pools[0].match.asr.contains[1]", "'english language' is no language code"),
            (8, "pools[0].match.asr.any[0]", "'x' is no language code"),
            (9, "pools[0].match.services[0]", "'a b' is no service type"),
            (10, "pools[0].match.labels", "given more than once: 'zone'"),
            (13, "pools[0].match.labels['k k']", "is no label key"),
            (14, "pools[0].match.labels.n", "is no label value"),
        ],
    ),
    "too many of something": (
        f"""\
        pools:
          - {{name: a, match: {{services: {["asr"] * 257}}}}}
          - {{name: b, match: {{asr: {{any: {["en"] * 257}}}}}}}
          - {{name: c, match: {{labels: {{{", ".join(f"k{n}: v" for n in range(33))}}}}}}}
        """,
        [
            (2, "pools[0].match.services", "has 257 entries, at most 256 are allowed"),
            (3, "pools[1].match.asr.any", "has 257 entries, at most 256 are allowed"),
            (4, "pools[2].match.labels", "has 33 entries, at most 32 are allowed"),
        ],
    ),
    "shadowed": (
        """\
        pools:
          - name: narrow
            match: {semantic: {exact: [en, zh]}, services: [asr]}
          - name: other
            match: {semantic: {exact: [de]}}
          - name: wide
            priority: 1
            match: {semantic: {contains: [en]}}
          - name: same-as-other
            match: {semantic: {exact: [DE]}}
        """,
        [
            (2, "pools[0]", "no node can reach pool 'narrow': 'wide' (pools[2] on line 6) is tried earlier"),
            (9, "pools[3]", "no node can reach pool 'same-as-other': 'other' (pools[1] on line 4) is tried earlier"),
        ],
    ),
    "shadowed, though others are wrong": (
        """\
        schema: 3
        pools:
          - {name: a, match: {services: [asr]}}
          - {name: b, match: {service: [asr]}}
          - {name: c, match: {services: [asr]}}
        """,
        [
            (1, "schema", "unknown"),
            (4, "pools[1].match.service", "did you mean services?"),
            (5, "pools[2]", "no node can reach pool 'c': 'a' (pools[0] on line 3)"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_all_that_is_wrong_is_said_at_once(case: str) -> None:
    text, expected = WRONG[case]
    found = problems(textwrap.dedent(text))
    # By path within a line: the order in which things of one line are found means nothing.
    ordered = sorted(found, key=lambda problem: (problem.line or 0, problem.where))
    assert [(problem.line, problem.where) for problem in ordered] == [(line, where) for line, where, _ in expected]
    for problem, (_, _, words) in zip(ordered, expected, strict=True):
        assert words in problem.message


def test_what_a_rule_breaks_is_said_beside_what_is_wrong_in_it() -> None:
    found = problems("pools: [{name: a, match: {asr: {contains: [en], any: [x]}}}]")
    assert {problem.where: problem.message for problem in found} == {
        "pools[0].match.asr": "give one of exact, contains and any, not contains and any",
        "pools[0].match.asr.any[0]": (
            "'x' is no language code: write it like en or zh-cn "
            "(2 to 8 letters, then at most 3 parts of 1 to 8 letters or digits)"
        ),
    }
    labels = ", ".join(["A: x", "a: x", *(f"k{number}: v" for number in range(32))])
    found = problems(f"pools: [{{name: a, match: {{labels: {{{labels}}}}}}}]")
    assert {(problem.where, problem.message) for problem in found} == {
        ("pools[0].match.labels", "has 34 entries, at most 32 are allowed"),
        ("pools[0].match.labels", "given more than once: 'a' (keys are compared in lower case)"),
    }


def test_problems_come_in_the_order_of_the_text() -> None:
    for text, _ in WRONG.values():
        lines = [line or 0 for line, _ in places(textwrap.dedent(text))]
        assert lines == sorted(lines)


def test_the_error_as_text_has_a_line_for_each_problem() -> None:
    with pytest.raises(DocumentInvalid) as caught:
        load_document("schema: 2\nauto: {min_nodes: 0}\n")
    assert str(caught.value).splitlines() == [
        "line 1, schema: 2 is unknown: this version reads schema 1",
        "line 2, auto.min_nodes: must be at least 1, not 0",
    ]
    assert caught.value.exit_code == 2


def test_the_source_is_named_where_the_whole_of_it_is_meant() -> None:
    assert problems("", source="pools.yaml")[0].message.startswith("pools.yaml: the document is empty")
    assert problems("schema: 2", source="pools.yaml")[0].where == "schema"


def test_bytes_that_are_not_utf_8_are_refused_with_their_line() -> None:
    (problem,) = problems(b"schema: 1\npools: \xff\n")
    assert problem.line == 2
    assert "not UTF-8" in problem.message
    (problem,) = problems("schema: 1".encode("utf-16"))
    assert "not UTF-8" in problem.message


def test_hostile_words_are_repeated_shortened_and_escaped() -> None:
    for text in (
        json.dumps({"\x1b[31m" + "x" * 10_000: 1}),
        json.dumps({"pools": [{"name": "\x1b]0;\x07" * 5000, "match": {}}]}),
        json.dumps({"pools": [{"name": "a", "match": {"labels": {"k": "\u202e" * 9000}}}]}),
        json.dumps({"auto": {"idle_ttl": "\ud800" * 9000}}),
        json.dumps({"guard": {"max_unassigned_share": "9" * 9000}}),
    ):
        for problem in problems(text):
            assert str(problem).isprintable()
            assert str(problem).isascii()
            assert len(str(problem)) < 500


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("[]", "", "the document must be a mapping (key: value), not a list"),
        (
            "name: x",
            "name",
            "unknown key 'name': the keys here are schema, admission, auto, guard, selection, tenants, pools",
        ),
        ("auto: {min_pools: 1}", "auto.min_pools", "unknown key 'min_pools': did you mean max_pools?"),
        ("auto: {max-Pools: 1}", "auto.max-Pools", "unknown key 'max-Pools': did you mean max_pools?"),
        ("auto: []", "auto", "must be a mapping (key: value), not a list"),
        ("guard: 5", "guard", "must be a mapping (key: value), not the number 5"),
        ("pools: [{name: a}]", "pools[0].match", "is missing"),
        ("match: {labels: [x]}", "labels", "must be a mapping (key: value), not a list"),
        ("match: {labels: {a: }}", "labels.a", "must be text, not nothing"),
        (
            "match: {labels: {A: x, a: y, B: x, b: y}}",
            "labels",
            "given more than once: 'a', 'b' (keys are compared in lower case)",
        ),
        ("match: {services: {a: 1}}", "services", "must be a list such as [a, b], not a mapping"),
        ("match: {services: asr}", "services", "must be a list such as [a, b], not the text 'asr'"),
        ("match: {services: [1]}", "services[0]", "must be text, not the number 1: put it in quotes"),
        ("match: {services: [[]]}", "services[0]", "must be text, not a list"),
        ("patterns: ['']", "[0]", "is empty: fill it in, or leave the key out"),
        (f"patterns: [{'x' * 129}]", "[0]", "has 129 characters, at most 128 are allowed"),
        (f"patterns: [{'x, ' * 33}]", "", "has 33 entries, at most 32 are allowed"),
        ("admission: {schema_versions: []}", "admission.schema_versions", "is empty: fill it in, or leave the key out"),
        ("admission: {gpu: {min_count: 0}}", "admission.gpu.min_count", "must be at least 1, not 0"),
        ("admission: {gpu: {min_count: 65}}", "admission.gpu.min_count", "must be at most 64, not 65"),
        ("auto: {enabled: 1}", "auto.enabled", "must be true or false, not the number 1"),
        (
            "pools: [{name: a, match: {services: [asr]}}, {name: b, match: {services: [asr]}}]",
            "pools[1]",
            "no node can reach pool 'b': 'a' (pools[0] on line 1) is tried earlier and takes every node that matches; "
            "give this pool a higher priority or remove it",
        ),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_full(text: str, where: str, message: str) -> None:
    if text.startswith("match"):
        text, where = f"pools: [{{name: a, {text}}}]", f"pools[0].match.{where}"
    if text.startswith("patterns"):
        text, where = f"admission: {{gpu: {{name_{text}}}}}", f"admission.gpu.name_patterns{where}"
    assert problems(text) == (Problem(where, message, 1),)


def test_a_problem_of_the_whole_text_names_its_source() -> None:
    with pytest.raises(DocumentInvalid, match=r"^line 1: the document must be a mapping"):
        load_document("[]")
    assert problems("[]", source="a.yaml") == (
        Problem("", "a.yaml: the document must be a mapping (key: value), not a list", 1),
    )


@pytest.mark.parametrize(
    ("key", "folded"), [("minCount", "min_count"), ("Min-Count", "min_count"), ("GPU", "gpu"), ("a" * 65, "a" * 64)]
)
def test_a_key_is_compared_as_it_is_meant(key: str, folded: str) -> None:
    assert reader._folded(key) == folded


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_more_than_200_problems_are_counted() -> None:
    found = problems("".join(f"key{n}: 1\n" for n in range(250)))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == Problem("", "50 more problems are not listed")

    assert problems("".join(f"key{n}: 1\n" for n in range(201)))[-1].message == "1 more problem is not listed"

    pools = [{"name": f"p{n}", "match": {f"key{k}": 1 for k in range(40)}} for n in range(2000)]
    found = problems(json.dumps({"pools": pools}))
    # After 2,000 problems no further pool is looked at.
    assert found[-1].message == "at least 1800 more problems are not listed"


def test_size_is_bounded_in_bytes_not_characters() -> None:
    comment = "#" + "\u20ac" * (MAX_DOCUMENT_BYTES // 3)
    assert load_document(comment[:-10] + "\nschema: 1") == PoolDocument()
    for text in (comment + "\nschema: 1", (comment + "\nschema: 1").encode(), b"\xff" * (MAX_DOCUMENT_BYTES + 1)):
        (problem,) = problems(text)
        assert "longer than 1048576 bytes" in problem.message


def test_what_is_stored_is_bounded_too() -> None:
    # Two bytes a character in the text, six as stored.
    labels = {f"k{n}": "\u00fc" * 128 for n in range(32)}
    pools = [{"name": f"p{n}", "match": {"labels": {**labels, "k0": str(n)}}} for n in range(100)]
    (problem,) = problems(json.dumps({"pools": pools}, ensure_ascii=False))
    assert "bytes as stored" in problem.message


@pytest.mark.parametrize("text", ["pools: [" + "{}, " * 100_000 + "]", json.dumps({"pools": [POOL] * 20_000})])
def test_more_pools_than_there_may_be_get_one_clear_error(text: str) -> None:
    (problem,) = problems(text)
    assert problem.where == "pools"
    assert "more than 2000 entries" in problem.message


def test_a_document_may_be_as_large_as_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(PoolDocument().canonical())
    monkeypatch.setattr(reader, "MAX_DOCUMENT_BYTES", size)
    assert load_document("{}") == PoolDocument()
    monkeypatch.setattr(reader, "MAX_DOCUMENT_BYTES", size - 1)
    assert problems("{}") == (
        Problem("", f"the document takes {size} bytes as stored, at most {size - 1} are allowed", 1),
    )


def test_the_search_ends_where_enough_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_COUNTED_PROBLEMS", 3)
    monkeypatch.setattr(reader, "MAX_PROBLEMS", 2)
    found = problems(f"pools: [{', '.join(f'{{name: p{n}}}' for n in range(9))}]")
    assert found[-1] == Problem("", "at least 1 more problems are not listed")


def _pools(count: int) -> list[dict[str, object]]:
    codes = [a + b for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz"]
    return [
        {
            "name": f"pool-{n}",
            "priority": n % 7,
            "match": {
                "semantic": {"exact": [codes[n % 676], codes[(n + 1 + n // 676) % 676]]},
                "services": ["asr", "nmt"],
                "labels": {"zone": f"z{n % 5}"},
                "gpu": {"min_count": 1, "min_memory_gb": 8},
            },
        }
        for n in range(count)
    ]


def _cpu_to_load(count: int, write: Callable[[object], str]) -> float:
    text = write({"pools": _pools(count)})
    begin = time.thread_time()
    assert len(load_document(text).pools) == count
    return time.thread_time() - begin


@pytest.mark.parametrize("write", [json.dumps, partial(yaml.dump, Dumper=yaml.CSafeDumper)], ids=["json", "yaml"])
def test_what_a_document_costs_to_read_grows_as_it_does(write: Callable[[object], str]) -> None:
    # CPU of this thread alone, one against the other: 8 times as many pools, about 64 times the work if each met each.
    assert _cpu_to_load(2000, write) < 24 * min(_cpu_to_load(250, write) for _ in range(3))


HOSTILE = """
from pyscheduler.core.reader import load_document
from pyscheduler.errors import DocumentInvalid

MIB = 1024 * 1024
units = ["[", "{", "[{a: b}, ", "- ", "? ", "{? a, ", "{a: ", '{"a":', "a: ", "&a ", "*a ", "!t ", "- &a [*a,", "'",
         '"', "#", "---\\n", "a: b\\n", "- a\\n", "<<: ", "a,", "\\\\", "\\n", "\\t",
         "%TAG !a! x\\n", "[a\\n", "| ", '["']
texts = [(unit * (MIB // len(unit) + 1))[:MIB] for unit in units]
directives = "".join(f"%TAG !a{n}! x\\n" for n in range(50000))
texts += [directives, "a: 1\\n...\\n" + directives]
texts += ["schema: " + "9" * (MIB - 10), "schema: 1." + "9" * (MIB - 20), "a: &a [x,x]\\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)},*{chr(97 + n)}]\\n" for n in range(20))]
for text in texts:
    try:
        load_document(text)
    except DocumentInvalid as error:
        assert 1 <= len(error.problems) <= 201
print("refused", len(texts))
"""


def test_hostile_texts_are_refused_in_no_time() -> None:
    # In a process of its own: some of these keep the YAML library busy for hours if they ever reach it whole.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
    limit = limit if sys.platform == "linux" else ""
    done = subprocess.run([sys.executable, "-c", limit + HOSTILE], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused 33\n", done.stderr


# --- whatever the input ----------------------------------------------------------------------------------------------


def outcome(text: str | bytes) -> PoolDocument | None:
    """A document, or None for one that is refused as it should be; anything else is a failure."""
    try:
        return load_document(text)
    except DocumentInvalid as error:
        found = error.problems
    assert 1 <= len(found) <= MAX_PROBLEMS + 1
    for problem in found:
        assert problem.message
        assert problem.line is None or problem.line >= 1
        assert str(problem).isprintable()
    return None


yaml_pieces = st.sampled_from(
    ["schema: 1", "pools:", "- ", "name: a", "match:", "  ", "\n", "{", "}", "[", "]", ",", ": ", "#", "&a ", "*a",
     "!t ", "|", ">", "'", '"', "%", "---\n", "...\n", "\t", "? ", "<<: ", "no", "~", "null", "1", ".inf", "semantic: ",
     "any: ", "en", "\\u"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(yaml_pieces, max_size=30).map("".join), st.binary()))
@example("\ud800")
@example('{"a": "\ud800"}')
@example("? ? ? a")
@example("[{? &a *a : !x {}}]")
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    outcome(text)


@given(st.data())
def test_a_damaged_document_is_read_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([WRITTEN, json.dumps({"pools": [POOL], "auto": {}}, indent=1)]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(start + 10, len(text))))
        text = text[:start] + data.draw(st.one_of(yaml_pieces, st.text(max_size=3))) + text[stop:]
    outcome(text)


KEYS = ["schema", "admission", "auto", "guard", "pools", "gpu", "min_count", "min_memory_gb", "name_patterns",
        "schema_versions", "enabled", "require_services", "min_nodes", "max_pools", "idle_ttl", "max_unassigned_share",
        "name", "priority", "match", "semantic", "asr", "tts", "services", "labels", "exact",
        "contains", "any"]  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.floats(),
    st.sampled_from(["", "a", "en", "10m", "asr"]),
    st.text(),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=15,
)

codes = st.lists(st.from_regex(r"[a-zA-Z]{2,3}([-_][a-z]{2})?", fullmatch=True), min_size=1, max_size=4)
service_lists = st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True), max_size=3)
language_rules = st.one_of(*(st.fixed_dictionaries({mode: codes}) for mode in ("exact", "contains", "any")))
label_maps = st.dictionaries(
    st.from_regex(r"[a-z0-9_./-]{1,8}", fullmatch=True).filter(lambda key: not key.startswith("unique.")),
    st.text(st.characters(categories=["L", "N", "P"]), max_size=5),
    max_size=3,
)
matches = st.fixed_dictionaries(
    {},
    optional={
        "semantic": language_rules,
        "asr": language_rules,
        "tts": language_rules,
        "services": service_lists,
        "gpu": st.fixed_dictionaries(
            {"min_count": st.integers(1, 64)}, optional={"min_memory_gb": st.integers(0, 4096)}
        ),
        "labels": label_maps,
    },
).filter(lambda match: any(match.values()))
documents = st.fixed_dictionaries(
    {},
    optional={
        "schema": st.just(1),
        "admission": st.fixed_dictionaries(
            {},
            optional={
                "gpu": st.fixed_dictionaries(
                    {},
                    optional={
                        "min_count": st.integers(1, 64),
                        "min_memory_gb": st.integers(0, 4096),
                        "name_patterns": st.lists(st.sampled_from(["*RTX*", "A100"]), max_size=2),
                    },
                ),
                "schema_versions": st.lists(st.sampled_from(["1.0", "2.0", "3"]), min_size=1, max_size=3),
            },
        ),
        "auto": st.fixed_dictionaries(
            {},
            optional={
                "enabled": st.booleans(),
                "require_services": service_lists,
                "min_nodes": st.integers(1, 100_000),
                "max_pools": st.integers(0, 4096),
                "idle_ttl": st.integers(1, 2_592_000) | st.sampled_from(["100ms", "30s", "2h", "30d"]),
            },
        ),
        "guard": st.fixed_dictionaries({}, optional={"max_unassigned_share": st.floats(0, 1) | st.integers(0, 1)}),
        "pools": st.lists(
            st.fixed_dictionaries(
                {"name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True), "match": matches},
                optional={"priority": st.integers(-1000, 1000)},
            ),
            max_size=5,
            unique_by=lambda pool: str(pool["name"]),
        ),
    },
)


@given(json_values)
def test_any_json_is_read_or_refused_and_the_schema_accepts_what_the_reader_accepts(data: Any) -> None:
    if outcome(json.dumps(data)) is not None:
        VALIDATOR.validate(data)


@given(documents)
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_documents_are_accepted_by_reader_and_schema_and_survive_the_round_trip(data: dict[str, Any]) -> None:
    VALIDATOR.validate(data)
    document = outcome(json.dumps(data))
    if document is None:
        # The only thing that the strategy does not avoid.
        assert all("no node can reach" in problem.message for problem in problems(json.dumps(data)))
        return
    assert PoolDocument.from_canonical(document.canonical()) == document
    assert load_document(json.dumps(document.to_data())) == document
    assert load_document(yaml_text(document.to_data())) == document
    VALIDATOR.validate(document.to_data())
    assert load_document(json.dumps(data, indent=1, ensure_ascii=False).encode()) == document


@given(documents, st.data())
def test_a_document_with_one_strange_value_is_accepted_by_both_or_refused_by_the_reader(
    data: dict[str, Any], chosen: st.DataObject
) -> None:
    data = json.loads(json.dumps(data))
    spots: list[tuple[Any, Any]] = []
    todo: list[Any] = [data]
    while todo:
        part = todo.pop()
        entries = part.items() if isinstance(part, dict) else enumerate(part)
        spots += [(part, key) for key, _ in entries]
        todo += [
            value for value in (part.values() if isinstance(part, dict) else part) if isinstance(value, dict | list)
        ]
    if not spots:
        return
    part, key = chosen.draw(st.sampled_from(spots))
    part[key] = chosen.draw(scalars | st.just([]) | st.just({}))
    if outcome(json.dumps(data)) is not None:
        VALIDATOR.validate(data)


# --- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_is_valid_and_describes_every_key() -> None:
    schema = document_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    for section in [schema, *schema["$defs"].values()]:
        assert section["additionalProperties"] is False
        assert section["title"]
        for key, member in section["properties"].items():
            referred = schema["$defs"][member["$ref"].rpartition("/")[2]] if "$ref" in member else {}
            assert member["title"], key
            assert member.get("description") or referred.get("description"), key
            assert "``" not in member.get("description", "")
            assert {"type": "null"} not in member.get("anyOf", []), key
            if "default" in member:
                Draft202012Validator({**member, "$defs": schema["$defs"]}).validate(member["default"])


def test_the_schema_says_what_an_editor_is_to_show() -> None:
    schema = document_schema()
    assert schema["title"] == "pyscheduler configuration"
    assert schema["description"] == "Which nodes may register, and which pool each belongs in."
    assert schema["$defs"]["GpuRule"] == {
        "type": "object",
        "title": "GpuRule",
        "description": "GPUs that a node must have: at least `min_count` with at least `min_memory_gb` each.",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "min_count": {  # one that may be left out, but not be null
                "type": "integer",
                "title": "Min count",
                "description": "GPUs that must have that memory; 1 if left out.",
                "minimum": 1,
                "maximum": 64,
            },
            "min_memory_gb": {
                "type": "integer",
                "title": "Min memory GB",
                "description": "Memory in GB that each of these GPUs must have.",
                "minimum": 0,
                "maximum": 4096,
                "default": 0,
            },
        },
    }
    assert schema["properties"]["schema"]["const"] == 1
    defaults = {section: schema["$defs"][section]["properties"] for section in ("AutoPolicy", "GuardPolicy")}
    assert defaults["AutoPolicy"]["idle_ttl"]["default"] == "10m"
    assert defaults["GuardPolicy"]["max_unassigned_share"]["default"] == 0.5
    # What a section holds by default is said at its members.
    with_default = [key for key, member in schema["properties"].items() if "default" in member]
    assert with_default == ["schema", "tenants", "pools"]
    # A choice that stays one: a duration is a number or a text.
    assert [one["type"] for one in schema["$defs"]["AutoPolicy"]["properties"]["idle_ttl"]["anyOf"]] == [
        "integer",
        "string",
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"schema": 2},
        {"admision": {}},
        {"pools": None},
        {"pools": [{"name": "a"}]},
        {"pools": [{"name": "A", "match": {"services": ["asr"]}}]},
        {"pools": [{"name": "a", "match": {}}]},
        {"pools": [{"name": "a", "match": {"semantic": None}}]},
        {"pools": [{"name": "a", "match": {"semantic": {"exact": ["en"], "any": ["en"]}}}]},
        {"pools": [{"name": "a", "match": {"semantic": {"exact": []}}}]},
        {"pools": [{"name": "a", "match": {"gpu": {}}}]},
        {"pools": [{"name": "a", "match": {"gpu": {"min_count": 0}}}]},
        {"pools": [{"name": "a", "match": {"labels": {"unique.id": "x"}}}]},
        {"pools": [{"name": "a", "match": {"labels": []}}]},
        {"pools": [{"name": "a", "match": {"labels": {"zone": 1}}}]},
        {"pools": [{"name": "a", "match": {"labels": {"zone": "x" * 129}}}]},
        {"pools": [{"name": "a", "match": {"labels": {"x" * n: "" for n in range(1, 34)}}}]},
        {"pools": [{"name": "a", "match": {"asr": {"any": ["e"]}}}]},
        {"pools": [{"name": "a", "match": {"services": [1]}}]},
        {"auto": {"idle_ttl": "10x"}},
        {"auto": {"idle_ttl_ms": 5}},
        {"guard": {"max_unassigned_permille": 5}},
    ],
    ids=json.dumps,
)
def test_an_editor_sees_the_common_mistakes(data: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(data)
    assert outcome(json.dumps(data)) is None


@given(st.one_of(st.text(max_size=12), st.from_regex(r"[A-Za-z0-9_./-]{0,12}", fullmatch=True)))
@example("en")
@example("en-")
@example("\u212aa")
@example("unique.x")
def test_the_patterns_of_the_schema_agree_with_the_functions_that_check(text: str) -> None:
    def accepts(pool: dict[str, Any]) -> bool:
        return VALIDATOR.is_valid({"pools": [{**POOL, **pool}]})

    def passes(check: Any) -> bool:
        try:
            check(text)
        except InvalidInput:
            return False
        return True

    if text.endswith("\n"):
        return  # Python's $ also matches before a last line end; ECMAScript's, which the schema means, does not
    assert accepts({"name": text}) == passes(ids.pool_name)
    assert accepts({"match": {"services": [text]}}) == passes(ids.service_type)
    assert accepts({"match": {"asr": {"any": [text]}}}) == passes(languages.language)
    unique = text.lower().startswith("unique.")
    assert accepts({"match": {"labels": {text: ""}}}) == (passes(ids.label_key) and not unique)


def test_the_schema_calls_each_key_by_a_title_that_reads_well() -> None:
    schema = document_schema()
    titles = {
        member["title"] for section in [schema, *schema["$defs"].values()] for member in section["properties"].values()
    }
    assert {"ASR", "TTS", "GPU", "Min memory GB", "Idle TTL", "Priority", "Semantic"} <= titles


@pytest.mark.parametrize(("given", "said"), [("false", "false"), ("true", "true"), ("'1'", "the text '1'")])
def test_what_stands_there_in_place_of_a_number_is_shown(given: str, said: str) -> None:
    text = f"pools:\n  - {{name: a, match: {{services: [asr]}}, priority: {given}}}\n"
    with pytest.raises(DocumentInvalid) as refused:
        load_document(text)
    (problem,) = refused.value.problems
    assert problem.message == f"must be a whole number, not {said}"


def test_a_refused_tag_is_the_one_problem_of_its_value() -> None:
    with pytest.raises(DocumentInvalid) as refused:
        load_document("pools:\n  - {name: a, match: {services: [asr]}, priority: !!str x}\n")
    (problem,) = refused.value.problems
    assert "tag 'tag:yaml.org,2002:str' is not allowed" in problem.message
