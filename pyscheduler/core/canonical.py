"""Canonical JSON: one text for one value, so that texts and their hashes can stand for values."""

from __future__ import annotations

import hashlib
import json
from typing import NoReturn

import msgspec

from pyscheduler.errors import InvalidInput

_ENCODE = msgspec.json.Encoder().encode
_ENCODE_ASCII = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
_ENCODE_PARSED = msgspec.json.Encoder(order="sorted").encode
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: object) -> str:
    """``value`` as JSON with sorted keys, no spaces and ASCII only.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON has not.
        TypeError: the value holds something that is no JSON value, or keys that are not all strings.
    """
    return _ENCODER.encode(value)


def canonical_json_of_parsed(value: object) -> str:
    """The same of a value that was read from JSON, several times as fast: what JSON has not is not looked for.

    The two may write a number with an exponent, or DEL, differently: never compare a text of one with one of the other.
    """
    text = _ENCODE_PARSED(value)
    return text.decode() if text.isascii() else _ENCODER.encode(value)


def compact_json(value: object) -> str:
    """``value`` as JSON without spaces and ASCII only, its members in their order: to be sent, never compared."""
    try:
        text = _ENCODE(value)
    except UnicodeEncodeError:  # half a character: json writes it as an escape
        return _ENCODE_ASCII(value)
    return text.decode() if text.isascii() else _ENCODE_ASCII(value)


def short_digest(text: str) -> str:
    """The first 16 hex digits of the SHA-1 of ``text``: names a content, protects nothing."""
    return hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()[:16]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def json_object(text: str, *, what: str, max_bytes: int) -> dict[str, object]:
    """The JSON object that ``text`` holds.

    Args:
        text: the text to decode.
        what: how an error message names it.
        max_bytes: bound of the text in UTF-8 bytes.

    Raises:
        InvalidInput: too long, not JSON, or not an object.
    """
    # A text never has fewer bytes than characters: the cheap look spares encoding one that is far too long.
    if len(text) > max_bytes or (not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > max_bytes):
        raise InvalidInput(f"{what} is longer than {max_bytes} bytes")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object")
    return value
