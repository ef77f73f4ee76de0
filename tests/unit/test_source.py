"""The text of a document: which values it has, what is said of a text that has none, and its bounds."""

from __future__ import annotations

import math

import pytest

from pyscheduler.core.limits import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_ENTRIES, MAX_DOCUMENT_VALUES
from pyscheduler.core.source import Mapping, Scalar, Sequence, Value, path_text, read_source
from pyscheduler.errors import DocumentInvalid, Problem


def value(text: str) -> Value:
    """What stands behind the key "a"."""
    root = read_source(text).root
    assert isinstance(root, Mapping)
    (_, node) = root.members["a"]
    assert isinstance(node, Scalar)
    return node.value


def problems(text: str | bytes) -> list[Problem]:
    """What keeps a text from being read, or else what is to be mended in it."""
    try:
        return list(read_source(text).problems)
    except DocumentInvalid as error:
        return list(error.problems)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("", "~", "null", "Null", "NULL")),
        *((word, word) for word in ("yes", "no", "on", "off", "tRue", "0x10", "007", "a1")),
        ("-7", -7),
        *((word, 0.5) for word in (".5", "0.5", "+5e-1", "5E-1")),
        *((word, -math.inf) for word in ("-.inf", "-.INF")),
    ],
)
def test_a_word_of_yaml_is_what_the_core_schema_says(word: str, meaning: Value) -> None:
    assert value(f"a: {word}") == meaning
    assert type(value(f"a: {word}")) is type(meaning)
    assert value(f"a: '{word}'") == word


@pytest.mark.parametrize(("word", "meaning"), [("true", True), ("false", False), ("null", None), ("-1.5e1", -15.0)])
def test_a_word_of_json_is_itself(word: str, meaning: Value) -> None:
    assert repr(value(f'{{"a": {word}}}')) == repr(meaning)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "the document is empty: one that declares no pool is written 'pools: []'"),
        (b"\n\xff", 2, "the document is not UTF-8 text: save it as UTF-8"),
        ("\ra: 1\rx\x00", 3, r"the document has the character '\x00', which no text has: is it a text file?"),
        ("\na: 1\r\n\r%b", 4, "a line that begins with % is a YAML directive, which is not allowed here"),
        ("a: 1\n---\nb: 1", 2, "a second YAML document begins here: give each document a file of its own"),
        ("? [x]\n: 1\n", 1, "a key must be plain text, not a list or mapping"),
        ("a: b:\tc", 1, "not valid YAML: mapping values are not allowed in this context"),
        (
            "a: 1 # a comment longer than the next line\n\tb: []",
            2,
            "not valid YAML: the line is indented with a tab, YAML allows only spaces",
        ),
        ("a: @x", 1, "not valid YAML: found character that cannot start any token"),
        ("a: [1", 1, "not valid YAML: did not find expected ',' or ']'"),
        (
            "a: 1\nb:\n  - x\n  c: 1\n",
            4,
            "not valid YAML: did not find expected '-' indicator "
            "(while parsing a block collection that begins on line 3)",
        ),
        ('{"a" 1}', 1, "not valid JSON: expected ':', found '1'"),
        ('{\r"b": 1,\r"a" 1}', 3, "not valid JSON: expected ':', found '1'"),
        ('{"a":', 1, "not valid JSON: expected a value, found the end"),
        ('{"a":1', 1, "not valid JSON: expected ',' or '}', found the end"),
        ('{"a":\n"x', 2, "not valid JSON: '\"' cannot stand here"),
        ('{"a": 1, 2: 3', 1, "not valid JSON: expected a key in double quotes, found '2'"),
        ('{"a": 1}\n2', 2, "not valid JSON: expected the end, found '2'"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_in_full(text: str | bytes, line: int | None, message: str) -> None:
    assert problems(text) == [Problem("", message, line)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029"])
def test_a_directive_is_refused_whatever_ends_the_line_before_it(line_end: str) -> None:
    for text in (f" {line_end}%TAG !a! b\n--- a", "%YAML 1.2\n--- a"):
        (problem,) = problems(text)
        assert problem.message == "a line that begins with % is a YAML directive, which is not allowed here"
    assert value("a: 50%\n") == "50%"


def test_what_stands_below_a_key_that_is_none_is_looked_at_too() -> None:
    assert [problem.where for problem in problems("a:\n  ? [x]\n  : &b {c: &d 1}\n")] == ["a", "a", "a.c"]


def test_a_path_reads_like_an_expression() -> None:
    assert path_text(("pools", 3, "match", "a b", "labels")) == "pools[3].match['a b'].labels"


def test_a_text_of_the_greatest_size_is_read() -> None:
    text = "a: 1\n#".ljust(MAX_DOCUMENT_BYTES)
    assert value(text) == 1
    assert problems(text + " ") == problems(text.encode() + b" ") != []


@pytest.mark.parametrize("item", ["1", "[]", "{}"])
def test_a_list_of_the_greatest_length_is_read(item: str) -> None:
    fits = f"[{','.join([item] * MAX_DOCUMENT_ENTRIES)}]"
    root = read_source(fits).root
    assert isinstance(root, Sequence)
    assert len(root.items) == MAX_DOCUMENT_ENTRIES
    for text in (f"[{item},{fits[1:]}", f'{{"a": {fits}, "b": [{item},{fits[1:]}}}'):
        (problem,) = problems(text)
        assert problem.message == "has more than 2000 entries, the most that any list may have"
        assert problem.where == ("b" if "b" in text else "")


def test_a_text_has_so_many_values_at_most() -> None:
    # The outer list, lists, and what is in them.
    lists, rest = divmod(MAX_DOCUMENT_VALUES - 1, 1001)
    inner = [f"[{','.join(['1'] * 1000)}]"] * lists
    assert problems(f"[{','.join(inner + ['1'] * rest)}]") == []
    (problem,) = problems(f"[{','.join(inner + ['1'] * (rest + 1))}]")
    assert problem.message == "more than 200000 values: declare fewer pools"
