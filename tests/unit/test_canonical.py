"""JSON in its one form, and JSON objects of bounded size."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.canonical import canonical_json, canonical_json_of_parsed, compact_json, json_object
from pyscheduler.errors import InvalidInput


@pytest.mark.parametrize("filling", ["y" * 12, "é" * 6, "\ud800" * 4], ids=["ascii", "two bytes each", "half a pair"])
def test_an_object_is_bounded_in_bytes(filling: str) -> None:
    text = f'{{"x":"{filling}"}}'
    assert json_object(text, what="it", max_bytes=20) == {"x": filling}
    with pytest.raises(InvalidInput, match="it is longer than 19 bytes"):
        json_object(text, what="it", max_bytes=19)


@pytest.mark.parametrize(
    ("text", "error"), [("{", "it is not JSON"), ("[" * 100_000, "not JSON"), ("[]", "must be a JSON")]
)
def test_what_is_no_object_is_said(text: str, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        json_object(text, what="it", max_bytes=1_000_000)


@pytest.mark.parametrize("text", ["x", "é", "\U0001f600", "\ud800", "\x7f"])
def test_what_is_sent_is_ascii_in_the_order_of_its_members(text: str) -> None:
    sent = compact_json({"type": text, "a": [1, None, 0.5]})
    assert sent.isascii()
    assert sent.startswith('{"type":"')
    assert sent.endswith('","a":[1,null,0.5]}')
    assert json.loads(sent) == {"type": text, "a": [1, None, 0.5]}


def _values(text: st.SearchStrategy[str], number: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | number | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


_ASCII = st.text(st.characters(max_codepoint=0x7E))
_NO_DELETE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"))  # one writer escapes it
_ANY_NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def _turned_round(value: Any) -> Any:
    """The same value, with the members of every object in another order."""
    if isinstance(value, dict):
        return {key: _turned_round(inner) for key, inner in reversed(value.items())}
    return [_turned_round(one) for one in value] if isinstance(value, list) else value


@given(_values(_ASCII, _ANY_NUMBER) | _values(st.text(), _ANY_NUMBER))
def test_what_was_parsed_has_one_text_that_says_it(value: Any) -> None:
    text = canonical_json_of_parsed(value)
    assert text == canonical_json_of_parsed(_turned_round(value))
    assert text.isascii()
    assert json.loads(text) == value


@given(_values(_ASCII, st.integers()) | _values(_NO_DELETE, st.integers()))
def test_without_fractions_the_text_of_what_was_parsed_is_that_of_any_value(value: Any) -> None:
    assert canonical_json_of_parsed(value) == canonical_json(value)
