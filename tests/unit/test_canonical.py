"""JSON in its one form, and JSON objects of bounded size."""

from __future__ import annotations

import pytest

from pyscheduler.core.canonical import json_object
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
