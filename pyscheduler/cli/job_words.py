"""Jobs in words: what is against a node, and what to do about a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyscheduler.cli import output
from pyscheduler.cli.text import counted, safe
from pyscheduler.errors import (
    FutureAttempt,
    JobEnded,
    NoNode,
    NotOwner,
    Problem,
    PyschedulerError,
    RequestChanged,
    StaleAttempt,
)

if TYPE_CHECKING:
    from rich.text import Text

REASONS = {
    "no_pair": "not these languages, or a service is missing",
    "labels": "a label is missing that the job asks for",
    "not_public": "no public jobs taken: --tenant says whose it is",
    "scope": "more languages than these two",
    "no_pool": "in no pool",
    "tenant": "not in the pool that the tenant is kept to",
    "pool_excluded": "in an excluded pool",
    "excluded": "excluded, or had the attempt before",
    "draining": "held: 'pyscheduler node show' says why",
    "not_ready": "not ready, or not connected",
    "lapsed": "its lease has ended",
    "no_slot": "too few slots free",
    "passed_over": "able, and not looked at this time",
    "not_looked_at": "beyond the thousand that were looked at",
    "quota": "the tenant has no slots left",
}
"""What is against a node for a job; ``quota`` is against the job itself."""

STATE_STYLES = {
    "reserved": "cyan",
    "running": "green",
    "finished": "dim",
    "failed": "red",
    "released": "dim",
    "lapsed": "yellow",
    "lost": "red",
}

LIVE = ("reserved", "running")
"""The states that hold slots."""


def state_text(state: str) -> Text:
    """The state of a job in its colour."""
    return output.text(str(state), STATE_STYLES.get(state, ""))


def reason(code: str) -> str:
    """What is against a node in words, or the code itself where there are none for it."""
    return REASONS.get(code, safe(code))


def ordered(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """What most nodes fail first."""
    return sorted(reasons.items(), key=lambda one: (-one[1], one[0]))


def problems_of(error: NoNode) -> tuple[Problem, ...]:
    """Why there is no node: one line for each thing that nodes fail, and for each that none has."""
    told = [] if error.reasons else [Problem("", "there are no nodes")]
    told += [
        Problem(code, reason(code) if code == "quota" else f"{counted(count, 'node')}: {reason(code)}")
        for code, count in ordered(error.reasons)
    ]
    told += [Problem(name, "no node has it") for name in error.missing]
    return tuple(told)


def next_step(error: PyschedulerError) -> str:
    """What to do about a refusal of a job; empty if the error is none."""
    match error:
        case NoNode(reasons=reasons) if not reasons:
            return "connect nodes first: 'pyscheduler node list' shows them; --wait waits for one"
        case NoNode(missing=missing) if missing:
            return "check the codes and the services; 'pyscheduler pool list' shows what the pools speak"
        case NoNode(job_id=job_id):
            return (
                f"'pyscheduler job explain {job_id}' with the same options says it node by node; --wait waits for one"
            )
        case StaleAttempt(job_id=job_id):
            return f"look at the newer attempt with 'pyscheduler job show {job_id}'"
        case FutureAttempt(job_id=job_id, attempt=attempt):
            return f"give --attempt {attempt}; 'pyscheduler job reassign {job_id}' asks for attempt {attempt + 1}"
        case NotOwner(job_id=job_id, owner=owner):
            return (
                f"act for it with --owner {owner}, if you may; 'pyscheduler job reassign {job_id}' takes the job over"
            )
        case RequestChanged(job_id=job_id):
            return f"repeat it as it was, or ask for something else with 'pyscheduler job reassign {job_id}'"
        case JobEnded(state="finished"):
            return "a finished job has no further attempt: new work needs a job id of its own"
        case JobEnded(job_id=job_id):
            return f"'pyscheduler job reassign {job_id}' makes a further attempt"
    return ""
