"""Identifiers are bounded, and what is refused is named in a way that can go into a log."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core import ids
from pyscheduler.errors import InvalidInput

HOSTILE = [
    "",
    " ",
    "a b",
    "{tag}",
    "a\nb",
    "a\x00",
    "x" * 10_000,
    "n\u043ede",  # Cyrillic o
    "\uff4eode",  # full-width n
    "node\u200b",  # zero-width space
    "node\u202e",  # right-to-left override
    "\ud800",
    "../etc/passwd",
    "node-1\n",
    None,
    1,
    True,
    ["node"],
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "check",
    [ids.node_id, ids.instance_id, ids.pool_name, ids.service_type, ids.job_id, ids.tenant, ids.session, ids.owner],
)
def test_hostile_ids_are_refused_with_a_short_printable_message(check: Callable[[object], str], value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(value)
    message = str(refused.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize("value", ["a", "A" * 128, "node-0A1B2C3D", "__proto__", "a.b_c:d-e", "127.0.0.1:5010"])
def test_node_ids_are_kept_as_given(value: str) -> None:
    assert ids.node_id(value) == value


def test_bounds_are_exact() -> None:
    assert ids.node_id("n" * 128)
    assert ids.instance_id("i" * 64)
    assert ids.pool_name("p" * 128)
    assert ids.service_type("s" * 64)
    assert ids.job_id("j" * 128)
    assert ids.session("s" * 128)
    assert ids.tenant("t" * 64)
    assert ids.owner("o" * 64) == "o" * 64
    assert ids.label_key("k" * 64)
    long = (ids.node_id, ids.pool_name, ids.job_id, ids.session)
    short = (ids.instance_id, ids.service_type, ids.tenant, ids.owner, ids.label_key)
    for check, size in [*((one, 129) for one in long), *((one, 65) for one in short)]:
        with pytest.raises(InvalidInput, match=f"{size} characters"):
            check("x" * size)


@pytest.mark.parametrize("value", ["EN-ZH", "-en", ".en", "_en", "en zh", "en/zh", "__proto__"])
def test_pool_names_are_lower_case_and_begin_with_a_letter_or_digit(value: str) -> None:
    with pytest.raises(InvalidInput, match="pool name"):
        ids.pool_name(value)


def test_service_types_and_label_keys_are_lower_cased_but_look_alikes_are_not_folded_into_the_alphabet() -> None:
    assert ids.service_type("ASR") == "asr"
    assert ids.label_key("Example.org/Zone") == "example.org/zone"
    kelvin = "\u212a"  # str.lower() makes an ordinary k of it
    for check in (ids.service_type, ids.label_key):
        with pytest.raises(InvalidInput):
            check(kelvin)


def test_labels_are_sorted_and_their_values_are_printable_text() -> None:
    assert ids.labels({"Zone": "eu", "a": ""}) == {"a": "", "zone": "eu"}
    assert list(ids.labels({"b": "1", "a": "2"})) == ["a", "b"]
    assert ids.labels({"name": "Zu\u0308rich"}) == {"name": "Z\u00fcrich"}  # one form for one text
    for value in ["x" * 129, "a\nb", "\x1b[31m", "\ud800", 1, None]:
        with pytest.raises(InvalidInput, match="label 'zone'"):
            ids.labels({"zone": value})  # type: ignore[arg-type]


def test_a_label_value_is_bounded_as_it_is_given_and_in_its_one_form() -> None:
    grows = "\u0958"  # two characters in Unicode form NFC
    assert ids.label_value("x" * 128) == "x" * 128
    assert len(ids.label_value(grows * 64)) == 128
    for value in ("x" * 129, grows * 65, "u\u0308" * 65):
        with pytest.raises(InvalidInput, match="is no label value: it must be text of at most 128 printable"):
            ids.label_value(value)


def test_labels_are_bounded_and_a_key_is_given_once() -> None:
    assert len(ids.labels({f"k{i}": "v" for i in range(32)})) == 32
    with pytest.raises(InvalidInput, match="33 labels: at most 32"):
        ids.labels({f"k{i}": "v" for i in range(33)})
    with pytest.raises(InvalidInput, match="'zone' is given twice"):
        ids.labels({"zone": "a", "ZONE": "b"})


@given(st.text(max_size=300), st.integers(1, 80))
def test_shown_is_short_printable_ascii_whatever_the_value(value: str, limit: int) -> None:
    text = ids.shown(value, limit)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= limit + 30


def test_shown_leaves_a_short_value_readable_and_tells_the_length_of_a_long_one() -> None:
    assert ids.shown("en") == "'en'"
    assert ids.shown("x" * 10_000) == "'" + "x" * 60 + "...' (10000 characters)"
    assert ids.shown({"a": 1}) == "dict"
    assert ids.shown(10**70).endswith("...")


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (12345, 5, "12345"),
        (123456, 5, "12345..."),
        ("x" * 5, 5, "'xxxxx'"),
        ("x" * 6, 5, "'xxxxx...' (6 characters)"),
        ("xxxx\n", 5, "'xxxx\\...' (5 characters)"),  # as long as may be, but not when it is escaped
    ],
)
def test_shown_cuts_what_is_longer_than_its_limit(value: object, limit: int, text: str) -> None:
    assert ids.shown(value, limit) == text


@pytest.mark.parametrize(
    ("check", "what"),
    [
        (ids.node_id, "node id"),
        (ids.instance_id, "instance id"),
        (ids.pool_name, "pool name"),
        (ids.service_type, "service type"),
        (ids.label_key, "label key"),
        (ids.job_id, "job id"),
        (ids.tenant, "tenant"),
        (ids.session, "session"),
        (ids.owner, "owner"),
    ],
)
def test_what_is_refused_is_called_by_its_name(check: Callable[[str], object], what: str) -> None:
    with pytest.raises(InvalidInput, match=f"{what}\\b"):
        check("\n")
