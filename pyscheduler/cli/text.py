"""Text that came from outside, made safe to print, and short forms of times, shares and lists."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime

# Format characters (bidi overrides, zero-width joiners, tags), controls, surrogates, private use, and the two
# separators that some terminals take for a line's end. All are shown as escapes, since a name that looks like
# another, or moves the cursor, would let a node write on the operator's screen.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe(text: str) -> str:
    """``text`` on one line, with everything that a terminal could act on or not show written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN:
        return char
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clock(at_ms: int) -> str:
    """A time in ms since the epoch, as local date and time; empty for 0."""
    if at_ms <= 0:
        return ""
    try:
        return datetime.fromtimestamp(at_ms / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return str(at_ms)


def span(ms: float) -> str:
    """A length of time in ms, in the largest unit that reads well: ``850 ms``, ``41 s``, ``12 min``, ``3.0 h``."""
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    if ms < 1000:
        return f"{sign}{ms:.0f} ms"
    if ms < 120_000:
        return f"{sign}{ms / 1000:.0f} s"
    if ms < 7_200_000:
        return f"{sign}{ms / 60_000:.0f} min"
    if ms < 172_800_000:
        return f"{sign}{ms / 3_600_000:.1f} h"
    return f"{sign}{ms / 86_400_000:.1f} d"


def few(values: Sequence[str], most: int = 8, separator: str = " ") -> str:
    """The first ``most`` values, made safe, and how many more there are."""
    shown = separator.join(safe(value) for value in values[:most])
    return f"{shown} +{len(values) - most}" if len(values) > most else shown


def counted(number: int, one: str, many: str = "") -> str:
    """``1 node``, ``3 nodes``, ``1,204 classes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
