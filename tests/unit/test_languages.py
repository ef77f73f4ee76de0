"""Language codes have one canonical form; language sets have one name each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.languages import language, language_set_name, languages
from pyscheduler.errors import InvalidInput

codes = st.from_regex(r"[a-z]{2,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("given_code", "canonical"),
    [("en", "en"), ("ZH_cn", "zh-cn"), ("zh-Hant-TW", "zh-hant-tw"), ("yue", "yue"), ("es_419", "es-419")],
)
def test_codes_are_folded_to_one_form(given_code: str, canonical: str) -> None:
    assert language(given_code) == canonical


@pytest.mark.parametrize(
    "value",
    [
        "",
        "e",
        "en-",
        "-en",
        "en--us",
        "toolonglang",
        "en us",
        "en\n",
        "en\x00",
        "x" * 10_000,
        "__proto__",
        "{tag}",
        "\u0435n",  # Cyrillic e
        "\uff45\uff4e",  # full-width
        "\u212aa",  # Kelvin sign, lower-cased to an ordinary k
        "\u0131n",  # dotless i
        "en-a-b-c-d",
        "1n",
        "\ud800\ud800",
        None,
        7,
        ["en"],
    ],
)
def test_what_is_no_code_is_refused_and_named(value: object) -> None:
    with pytest.raises(InvalidInput, match="no language code") as refused:
        language(value)
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 250


def test_a_list_is_sorted_unique_and_bounded() -> None:
    assert languages(["zh", "EN", "en"]) == ("en", "zh")
    many = [f"{a}{b}" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"]
    assert len(languages(many)) == 256
    with pytest.raises(InvalidInput, match="more than 256"):
        languages([*many, "en"])
    with pytest.raises(InvalidInput, match="more than 256"):
        languages("en" for _ in range(10_000))


def test_a_set_is_named_after_its_sorted_codes() -> None:
    assert language_set_name(["zh", "en"]) == "en-zh"
    assert language_set_name(["zh-CN", "en"]) == "en-zh_cn"
    with pytest.raises(InvalidInput):
        language_set_name([])


def test_a_name_that_would_be_too_long_becomes_a_count_and_a_hash() -> None:
    many = [f"{a}{b}" for a in "abcdefghij" for b in "abcde"]
    name = language_set_name(many)
    assert name.startswith("langs-50-")
    assert len(name) == len("langs-50-") + 12
    assert name != language_set_name([*many[:-1], "zz"])
    assert len(language_set_name(many[:43])) == 128  # 43 codes of 2 letters and 42 hyphens just fit
    assert language_set_name(many[:44]).startswith("langs-44-")


@given(st.sets(codes, min_size=1, max_size=6), st.sets(codes, min_size=1, max_size=6))
def test_two_sets_have_one_name_exactly_if_they_are_equal(one: set[str], other: set[str]) -> None:
    assert (language_set_name(one) == language_set_name(other)) == (one == other)


@given(codes)
def test_canonical_codes_stay_as_they_are_and_upper_case_ones_become_them(code: str) -> None:
    assert language(code) == code
    assert language(code.upper().replace("-", "_")) == code
