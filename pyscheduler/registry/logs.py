"""Structured logs on the error stream, as text or as one JSON object a line.

Nodes can put text into a log line, so every value is cut to a bound and everything that a terminal or a line-based
reader could act on is written as an escape. Known secrets are replaced wherever they turn up.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Fields = MutableMapping[str, Any]

MAX_VALUE_CHARS = 256
MAX_TRACEBACK_CHARS = 16 * 1024

LIBRARY_BURST = 32
"""Lines of libraries that are logged at once."""

LIBRARY_PER_S = 1.0
"""Lines of libraries that are logged in the long run, a second."""

# The advice to install a WebSocket library, at a door that has none on purpose.
_NO_NEWS = ("No supported WebSocket library detected",)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_HIDDEN = "***"


class TextStream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def make(
    form: Literal["text", "json"] = "text",
    level: Literal["debug", "info", "warning", "error"] = "info",
    *,
    secrets: Iterable[str] = (),
    stream: TextStream | None = None,
    **bound: object,
) -> FilteringBoundLogger:
    """A logger.

    Args:
        form: ``text`` for people, ``json`` for programs.
        level: least important lines that are written.
        secrets: texts that are replaced by stars in every value.
        stream: where to write; the error stream if not given.
        bound: fields of every line.
    """
    import structlog

    logger = structlog.wrap_logger(
        _Writer(stream),
        processors=[_timed, structlog.processors.add_log_level, _traced, _Safe(secrets), _RENDERERS[form]],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return cast("FilteringBoundLogger", logger.bind(**bound))


def capture_library_logs(log: FilteringBoundLogger) -> Callable[[], None]:
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
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
    return cut if len(text) <= limit else f"{cut}... ({len(text)} characters)"


class _Writer:
    """Writes finished lines. A log that cannot be written must not end the process that writes it."""

    def __init__(self, stream: TextStream | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream: TextStream | None = self._stream or sys.stderr
        if stream is None:  # the error stream was closed when the process began
            return
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = log = msg


class _Forward(logging.Handler):
    """Passes on what libraries log, in bounds: a peer can make an HTTP server complain as often as it likes."""

    def __init__(self, log: FilteringBoundLogger) -> None:
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
        level = min(record.levelno, logging.ERROR)
        if isinstance(failed, UnicodeDecodeError):
            # A peer's doing, as often as it likes: one line is enough.
            failed, level = None, logging.WARNING
        self._log.log(level, "library", library=record.name, message=first, exc_info=failed)


def _timed(_logger: object, _method: str, fields: Fields) -> Fields:
    fields["at"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return fields


def _traced(_logger: object, _method: str, fields: Fields) -> Fields:
    given = fields.pop("exc_info", None)
    failed = sys.exception() if given is True else given
    if isinstance(failed, BaseException):
        fields["exception"] = "".join(traceback.format_exception(failed))
    return fields


class _Safe:
    def __init__(self, secrets: Iterable[str]) -> None:
        # A very short one would turn up everywhere by chance, and stars would tell where.
        self._secrets = tuple(secret for secret in secrets if len(secret) >= 3)

    def __call__(self, _logger: object, _method: str, fields: Fields) -> Fields:
        return {key: self._value(key, value) for key, value in fields.items()}

    def _value(self, key: str, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._value(key, one) for one in value[:32]]
        text = str(value)
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        if key == "exception":
            return [visible(line) for line in text[-MAX_TRACEBACK_CHARS:].splitlines()]
        return visible(text)


def _text(_logger: object, _method: str, fields: Fields) -> str:
    at, level, event = fields.pop("at"), fields.pop("level"), fields.pop("event", "")
    trace = fields.pop("exception", ())
    pairs = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if value is not None)
    lines = [f"{at} {level:<7} {event:<28} {pairs}".rstrip(), *(f"    | {line}" for line in trace)]
    return "\n".join(lines)


def _quoted(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_quoted(one) for one in value) + "]"
    text = str(value)
    if not text or any(char in ' "=[],\\' for char in text):
        return '"' + text.replace('"', '\\"') + '"'
    return text


def _json(_logger: object, _method: str, fields: Fields) -> str:
    ordered = {key: fields.pop(key) for key in ("at", "level", "event") if key in fields}
    return json.dumps({**ordered, **fields}, ensure_ascii=True, separators=(",", ":"))


_RENDERERS: dict[str, Callable[[object, str, Fields], str]] = {"text": _text, "json": _json}
