"""Text from outside, made safe to print, and short forms."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.cli.text import clock, counted, few, safe, span


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("日本語 é", "日本語 é"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("two\nlines\tand a tab\r", r"two\nlines\tand a tab\x0d"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("line\u2028separator", r"line\u2028separator"),
        ("\ud800", r"\ud800"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("[red]not markup[/red]", "[red]not markup[/red]"),
    ],
)
def test_what_a_terminal_could_act_on_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text())
def test_safe_text_is_one_line_of_visible_characters(text: str) -> None:
    shown = safe(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    assert safe(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (41_000, "41 s"),
        (-3_000, "-3 s"),
        (600_000, "10 min"),
        (9_000_000, "2.5 h"),
        (9 * 86_400_000, "9.0 d"),
    ],
)
def test_span(ms: int, shown: str) -> None:
    assert span(ms) == shown


def test_clock_survives_any_number() -> None:
    assert clock(0) == ""
    assert clock(1_767_225_600_000).startswith("202")
    assert clock(10**30) == str(10**30)


def test_few_and_counted() -> None:
    assert few(["a", "b"]) == "a b"
    assert few([str(number) for number in range(10)], 3) == "0 1 2 +7"
    assert [counted(0, "node"), counted(1, "node"), counted(1200, "class", "classes")] == [
        "0 nodes",
        "1 node",
        "1,200 classes",
    ]
