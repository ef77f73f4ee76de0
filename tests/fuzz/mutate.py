"""Changes to an input: of its pieces, of bytes, and of the JSON or the lines that they hold."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz.guided import Input

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, -(2**63) - 1, 10**19, 10**21, 10**400, 0.0,
    -0.0, 0.5, 1.5, 1e9, 1e10, 1e300, 5e-324, "", " ", "0", "a" * 1025, "x" * 5000, "\x00", "\x1b[31m", "\n",
    "\r\n", "\u202e", "\u2028", "é", "\U0001f600", "\u212a", "İ", "ß", "en", "EN", "en-US", "zh-Hant-TW", "no",
    "ready", "2.0", "../../etc", "{x}", "%s%n", "'\"<&>", [], {}, [[]], [{}], {"": ""}, {"a": {"b": {}}},
    [None] * 300, ["en"] * 257,
)  # fmt: skip

TOKENS: tuple[bytes, ...] = (
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1E400", b"9" * 30, b"0" * 5000, b"-0", b"01", b"1.", b".5", b"+1",
    b"\\ud800", b"\\udc00\\ud800", b"\\ud83d\\ude00", b"\\u0000", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\x00", b"\n", b"\r",
    b"\t", b"\x85", b"\xc2\x85", b"null", b"true", b"[" * 100, b'{"a":' * 100, b"[" * 20000, b"&a ", b"*a",
    b"!!python/object ", b"---\n", b"...\n", b"%YAML 1.1\n", b"<<: ", b"? ", b"- ", b"| \n", b"> \n", b"# ", b"~",
    b"0x1F", b"0o7", b"1_000", b"1:30", b"2026-01-01", b".inf", b".nan", b"yes", b"'",
)  # fmt: skip


def mutate(rng: random.Random, kept: Input, other: Input, *, structured: Sequence[Callable[..., bytes]]) -> Input:
    """One to four changes. ``structured``: what knows what a piece means."""
    pieces = list(kept)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(pieces)) if pieces else 0
        choice = rng.random()
        if not pieces or choice < 0.08:
            pieces.insert(at, rng.choice(other) if other else b"")
        elif choice < 0.12 and len(pieces) > 1:
            del pieces[at]
        elif choice < 0.16:
            pieces.insert(at, pieces[at])
        elif choice < 0.20:
            to = rng.randrange(len(pieces))
            pieces[at], pieces[to] = pieces[to], pieces[at]
        elif choice < 0.70:
            pieces[at] = rng.choice(structured)(rng, pieces[at], rng.choice(other) if other else b"")
        else:
            pieces[at] = of_bytes(rng, pieces[at], rng.choice(other) if other else b"")
    return tuple(pieces)


def of_bytes(rng: random.Random, piece: bytes, other: bytes) -> bytes:
    """Bytes changed, put in, left out, doubled, or taken from another piece."""
    at = rng.randrange(len(piece) + 1)
    to = min(len(piece), at + rng.choice((1, 1, 2, 8, 64, 1000)))
    match rng.randrange(7):
        case 0 if piece:
            at = min(at, len(piece) - 1)
            return piece[:at] + bytes([piece[at] ^ 1 << rng.randrange(8)]) + piece[at + 1 :]
        case 1:
            return piece[:at] + rng.choice(TOKENS) + piece[at:]
        case 2:
            return piece[:at] + rng.choice(TOKENS) + piece[to:]
        case 3:
            return piece[:at] + piece[to:]
        case 4:
            return piece[:at] + piece[at:to] * rng.choice((2, 3, 20, 300)) + piece[to:]
        case 5 if other:
            start = rng.randrange(len(other))
            return piece[:at] + other[start : start + rng.choice((1, 8, 64, 1000))] + piece[to:]
        case _:
            return piece[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + piece[at:]


def of_json(rng: random.Random, piece: bytes, other: bytes) -> bytes:
    """One value of a JSON text replaced, removed, wrapped, doubled or given another's place; bytes where it is none."""
    try:
        value = json.loads(piece)
    except (ValueError, RecursionError):
        return of_bytes(rng, piece, other)
    places = _places(value)
    if not places:
        return piece
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = rng.choice(NASTY)
        case 3:
            del holder[key]
        case 4:
            inner, key_of_inner = rng.choice(places)
            holder[key] = json.loads(json.dumps(inner.get(key_of_inner) if isinstance(inner, dict) else inner[:3]))
        case 5:
            for _ in range(rng.choice((1, 5, 70, 200))):
                holder[key] = rng.choice(([holder[key]], {"a": holder[key]}))
        case 6:
            if isinstance(holder, list):
                holder *= rng.choice((2, 30, 300))
            else:
                holder.update({f"{key}{number}": holder[key] for number in range(rng.choice((1, 40, 300)))})
        case _:
            if isinstance(holder, dict):  # the same key again, with another value
                text = json.dumps(value)
                member = json.dumps(key) + ": "
                return text.replace(member, f"{member}{json.dumps(rng.choice(NASTY[:30]))}, {member}", 1).encode()
            holder.append(rng.choice(NASTY))
    try:
        # Half of a surrogate pair stays one: what is not UTF-8 is for the reader to refuse.
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return piece


def of_lines(rng: random.Random, piece: bytes, other: bytes) -> bytes:
    """A line of a text removed, doubled, moved, indented otherwise, or given another value."""
    lines = piece.split(b"\n")
    at = rng.randrange(len(lines))
    line = lines[at]
    match rng.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, line)
        case 2:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
        case 3:
            lines[at] = b" " * rng.randrange(8) + line.lstrip(b" ")
        case 4:
            key, colon, _ = line.partition(b":")
            lines[at] = key + (colon or b":") + b" " + _flow(rng)
        case 5:
            lines.insert(at, rng.choice(other.split(b"\n")))
        case _:
            lines[at] = line.replace(rng.choice((b"[", b"]", b'"', b"-", b":", b"e", b"1")), rng.choice(TOKENS[:50]))
    return b"\n".join(lines)


def _flow(rng: random.Random) -> bytes:
    value = rng.choice(NASTY)
    try:
        text = json.dumps(value) if rng.random() < 0.6 else str(value)
    except ValueError:  # more digits than are turned into text
        text = "1" * 400
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any, limit: int = 4000) -> list[tuple[Any, Any]]:
    """Every list or object in ``value`` with each of its keys or indexes."""
    found: list[tuple[Any, Any]] = []
    level = [value]
    while level and len(found) < limit:
        below = []
        for holder in level:
            if isinstance(holder, dict):
                found += [(holder, key) for key in holder]
                below += list(holder.values())
            elif isinstance(holder, list):
                found += [(holder, index) for index in range(len(holder))]
                below += holder
        level = below
    return found
