"""How a failure is told: one clear form on the error stream, one JSON document for programs, one exit code."""

from __future__ import annotations

import re
import sys

import rich_click as click
from msgspec import Struct

from pyscheduler.cli.text import counted
from pyscheduler.errors import (
    Conflict,
    DocumentInvalid,
    EventsLost,
    HoldConflict,
    NoNode,
    OutcomeUnknown,
    Problem,
    PyschedulerError,
    StoreError,
    StoreUnavailable,
)

INTERRUPTED = 130

# What to do next, most specific class first; an error whose message says it already needs none.
_NEXT: tuple[tuple[type[PyschedulerError], str], ...] = (
    (DocumentInvalid, "correct the document; 'pyscheduler config schema' prints what it may hold"),
    (HoldConflict, "act for the owner with --owner OWNER, if you may"),
    (EventsLost, "read the state anew, then follow without --since"),
    (OutcomeUnknown, "look at what is in force, then repeat: every command is safe to repeat"),
    (StoreUnavailable, "check that the store runs and that --redis-url (PYSCHEDULER_REDIS_URL) names it"),
    (StoreError, "check that --redis-url and --namespace name a store of this version of pyscheduler"),
)

# By name: the module of the settings costs more to import than a failure is worth.
_WHAT = {"DocumentInvalid": "the pool configuration has", "SettingsInvalid": "the settings have"}


class Failure(Struct, frozen=True):
    """A failure in the terms of the command line.

    Args:
        code: the error's name for programs, such as ``version_conflict``.
        exit_code: what the process ends with.
        message: what went wrong; may hold outside text.
        next: what to do about it; empty where the message says it.
        problems: each thing wrong with an input.
    """

    code: str
    exit_code: int
    message: str
    next: str = ""
    problems: tuple[Problem, ...] = ()

    def document(self) -> dict[str, object]:
        """``{"error": {...}}``, the document that takes the place of an answer."""
        error: dict[str, object] = {"code": self.code, "exit_code": self.exit_code, "message": self.message}
        if self.next:
            error["next"] = self.next
        if self.problems:
            error["problems"] = [
                {"where": problem.where, "line": problem.line, "message": problem.message} for problem in self.problems
            ]
        return {"error": error}


def describe(error: PyschedulerError) -> Failure:
    """An error of the package as a failure."""
    advice = str(getattr(error, "next_step", "")) or next((text for kind, text in _NEXT if isinstance(error, kind)), "")
    problems = tuple(one for one in getattr(error, "problems", ()) if isinstance(one, Problem))
    message = str(error)
    if isinstance(error, Conflict | NoNode):
        from pyscheduler.cli import job_words

        advice = advice or job_words.next_step(error)
        if isinstance(error, NoNode):
            message, problems = f"no node for job {error.job_id}", job_words.problems_of(error)
    elif problems:
        what = _WHAT.get(type(error).__name__, "the input has")
        message = f"{what} {counted(len(problems), 'problem')}"
    return Failure(_name(type(error)), error.exit_code, message, advice, problems)


def describe_any(error: BaseException) -> Failure:
    """Whatever ends a command early: an error of the package or of the command line; anything else interrupted it."""
    if isinstance(error, PyschedulerError):
        return describe(error)
    if isinstance(error, click.ClickException):
        return _usage(error)
    return Failure("interrupted", INTERRUPTED, "interrupted")


def _usage(error: click.ClickException) -> Failure:
    """An error of the command line itself: an unknown option, a missing argument, a value of the wrong kind."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    advice = f"'{context.command_path} --help' lists the options" if context is not None else ""
    return Failure("usage", error.exit_code, error.format_message(), advice)


def _name(kind: type[PyschedulerError]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def tell(failure: Failure, *, as_json: bool, one_line: bool = False) -> None:
    """Write a failure: always for people on stderr, and with ``as_json`` as a document on stdout too."""
    from pyscheduler.cli import output

    if as_json:
        (output.emit_line if one_line else output.emit)(failure.document())
        sys.stdout.flush()
    from rich.text import Text

    out = output.console(stderr=True)
    lines = failure.message.splitlines() or [""]
    out.print(Text.assemble(("error: ", "bold red"), output.text(lines[0])), soft_wrap=True)
    for line in lines[1:]:
        out.print(Text.assemble("       ", output.text(line)), soft_wrap=True)
    for problem in failure.problems:
        out.print(Text.assemble("  - ", output.text(str(problem))), soft_wrap=True)
    if failure.next:
        out.print(Text.assemble((" next: ", "bold"), output.text(failure.next)), soft_wrap=True)
