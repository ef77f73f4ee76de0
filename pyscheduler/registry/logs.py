"""Structured logs on the error stream, as text or as one JSON object a line.

Nodes can put text into a log line, so every value is cut to a bound and everything that a terminal or a line-based
reader could act on is written as an escape. Known secrets are replaced wherever they turn up.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from pyscheduler.core.canonical import compact_json

Fields = dict[str, Any]

MAX_VALUE_CHARS = 256
MAX_TRACEBACK_CHARS = 16 * 1024

LIBRARY_BURST = 32
"""Lines of libraries that are logged at once."""

LIBRARY_PER_S = 1.0
"""Lines of libraries that are logged in the long run, a second."""

# The advice to install a WebSocket library, at a door that has none on purpose.
_NO_NEWS = ("No supported WebSocket library detected",)

_NEEDS_QUOTES = re.compile(r'[ "=\[\],\\]')

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LEVEL_NAMES = {level: name for name, level in _LEVELS.items()}
_OWN = {"at", "level", "event"}  # first in every line, and no field takes their place
_HIDDEN = "***"
_NUMBERS, _LISTS = (bool, int, float), (list, tuple)


class TextStream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class Log:
    """Where a process says what happens: one line for an event, with its fields. Made by :func:`make`.

    A field ``exc_info`` becomes the traceback of the exception that it is, or, if true, of the one being handled.
    """

    def __init__(self, lines: _Lines, least: int, bound: Fields) -> None:
        self._lines = lines
        self._least = least
        self._bound = {name: value for name, value in bound.items() if name not in _OWN}

    def bind(self, **fields: object) -> Log:
        """The same log with further fields in every line."""
        return Log(self._lines, self._least, {**self._bound, **self._lines.safe(fields)})

    def writes(self, level: int) -> bool:
        """Whether lines of a level of the standard library's ``logging`` are written."""
        return level >= self._least

    def debug(self, event: str, /, **fields: object) -> None:
        """A line for those who look for a defect."""
        self.log(logging.DEBUG, event, **fields)

    def info(self, event: str, /, **fields: object) -> None:
        """A line about what is as it should be."""
        self.log(logging.INFO, event, **fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """A line about what may need somebody's attention."""
        self.log(logging.WARNING, event, **fields)

    def error(self, event: str, /, **fields: object) -> None:
        """A line about what needs somebody's attention."""
        self.log(logging.ERROR, event, **fields)

    def log(self, level: int, event: str, /, **fields: object) -> None:
        """A line of a level of the standard library's ``logging``."""
        if level < self._least:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines = self._lines
        line: Fields = {
            "at": at,
            "level": _LEVEL_NAMES[level],
            "event": lines.safe_value("event", event),
            **self._bound,
        }
        for name, value in _traced(fields).items():
            if name not in _OWN:
                line[name] = lines.safe_value(name, value)
        lines.write(line)


def make(
    form: Literal["text", "json"] = "text",
    level: Literal["debug", "info", "warning", "error"] = "info",
    *,
    secrets: Iterable[str] = (),
    stream: TextStream | None = None,
    **bound: object,
) -> Log:
    """A log.

    Args:
        form: ``text`` for people, ``json`` for programs.
        level: least important lines that are written.
        secrets: texts that are replaced by stars in every value.
        stream: where to write; the error stream if not given.
        bound: fields of every line.
    """
    lines = _Lines(_RENDERERS[form], secrets, stream)
    return Log(lines, _LEVELS[level], lines.safe(bound))


def capture_library_logs(log: Log) -> Callable[[], None]:
    """Let warnings of libraries (the event loop, the HTTP server) come out in the form of ``log``.

    Returns:
        a call that undoes it.
    """
    handler = _Forward(log)
    root = logging.getLogger()
    root.addHandler(handler)

    def undo() -> None:
        root.removeHandler(handler)

    return undo


def visible(text: str, limit: int = MAX_VALUE_CHARS) -> str:
    """``text`` cut to ``limit`` characters, with everything that is not printable written as an escape."""
    if len(text) <= limit and text.isprintable():
        return text
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
    return cut if len(text) <= limit else f"{cut}... ({len(text)} characters)"


class _Forward(logging.Handler):
    """Passes on what libraries log, in bounds: a peer can make an HTTP server complain as often as it likes."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._left = float(LIBRARY_BURST)
        self._at = 0.0
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        if any(text in str(record.msg) for text in _NO_NEWS):
            return
        self._left = min(float(LIBRARY_BURST), self._left + max(0.0, record.created - self._at) * LIBRARY_PER_S)
        self._at = record.created
        if self._left < 1:
            self._left_out += 1
            return
        self._left -= 1
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            self._log.warning("log_lines_left_out", library=record.name, lines=left_out)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        first, *_ = message.strip().splitlines() or [""]
        failed = record.exc_info[1] if record.exc_info else None
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        if isinstance(failed, UnicodeDecodeError):
            # A peer's doing, as often as it likes: one line is enough.
            failed, level = None, logging.WARNING
        self._log.log(level, "library", library=record.name, message=first, exc_info=failed)


def _traced(fields: Fields) -> Fields:
    if "exc_info" not in fields:
        return fields
    given = fields.pop("exc_info", None)
    failed = sys.exception() if given is True else given
    if isinstance(failed, BaseException):
        fields["exception"] = "".join(traceback.format_exception(failed))
    return fields


class _Lines:
    """Where lines go, in one form, and what of a field may stand in them."""

    def __init__(self, render: Callable[[Fields], str], secrets: Iterable[str], stream: TextStream | None) -> None:
        self._render = render
        # A very short one would turn up everywhere by chance, and stars would tell where.
        self._secrets = tuple(secret for secret in secrets if len(secret) >= 3)
        self._stream = stream

    def write(self, fields: Fields) -> None:
        """Write a line of safe fields. A log that cannot be written must not end the process that writes it."""
        line, stream = self._render(fields), self._stream or sys.stderr
        if stream is None:  # the error stream was closed when the process began
            return
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    def safe(self, fields: Mapping[str, object]) -> Fields:
        """The fields as they may be written."""
        return {key: self.safe_value(key, value) for key, value in fields.items()}

    def safe_value(self, key: str, value: object) -> object:
        """The value of a field as it may be written."""
        if type(value) is str:
            text = value
        elif value is None or isinstance(value, _NUMBERS):
            return value
        elif isinstance(value, _LISTS):
            return [self.safe_value(key, one) for one in value[:32]]
        else:
            text = str(value)
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _HIDDEN)
        if key == "exception":
            return [visible(line) for line in text[-MAX_TRACEBACK_CHARS:].splitlines()]
        return visible(text)


def _text(fields: Fields) -> str:
    at, level, event = fields.pop("at"), fields.pop("level"), fields.pop("event")
    trace = fields.pop("exception", ())
    pairs = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if value is not None)
    lines = [f"{at} {level:<7} {event:<28} {pairs}".rstrip(), *(f"    | {line}" for line in trace)]
    return "\n".join(lines)


def _quoted(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_quoted(one) for one in value) + "]"
    text = str(value)
    if not text or _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '\\"') + '"'
    return text


_RENDERERS: dict[str, Callable[[Fields], str]] = {"text": _text, "json": compact_json}
