"""Errors of the package as the operator door tells them: a status, and a document that says what to do next."""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.responses import Response

from pyscheduler.errors import (
    Conflict,
    EventsLost,
    FutureAttempt,
    InvalidInput,
    JobEnded,
    LimitExceeded,
    NoNode,
    NotFound,
    NotOwner,
    OutcomeUnknown,
    PyschedulerError,
    RequestChanged,
    StaleAttempt,
    StoreError,
    StoreUnavailable,
)
from pyscheduler.registry.views import ErrorBody, ErrorView

RETRY_AFTER_S: Final = 1
"""What an answer 503 asks for: whatever it waits for may be there within a second."""

_STATUS: Final[tuple[tuple[type[PyschedulerError], int], ...]] = (
    (NotFound, 404),
    (InvalidInput, 422),
    (Conflict, 409),
    (NoNode, 503),
    (LimitExceeded, 503),
    (EventsLost, 503),
    (StoreUnavailable, 503),
    (StoreError, 502),
)


class RefusedRequest(PyschedulerError):
    """The door refuses a request before anybody has looked at what it asks for.

    Args:
        status: HTTP status of the answer.
        code: name of the error.
        problem: what is wrong.
        next_step: what to do about it.
    """

    def __init__(self, status: int, code: str, problem: str, next_step: str) -> None:
        self.status, self.code, self.next_step = status, code, next_step
        super().__init__(problem)


def code_of(error: PyschedulerError) -> str:
    """The name of an error for programs, such as ``stale_attempt``."""
    if isinstance(error, RefusedRequest):
        return error.code
    kind = next((one for one in type(error).__mro__ if one.__module__ == PyschedulerError.__module__), type(error))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def status_of(error: PyschedulerError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RefusedRequest):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def body_of(error: PyschedulerError) -> ErrorBody:
    """An error as a document."""
    told: dict[str, Any] = {"code": code_of(error), "message": str(error)}
    if step := getattr(error, "next_step", "") or _next(error):
        told["next"] = step
    match error:
        case StaleAttempt():
            told |= {"attempt": error.attempt, "state": error.state}
        case FutureAttempt() | RequestChanged():
            told |= {"attempt": error.attempt}
        case NotOwner():
            told |= {"owner": error.owner}
        case JobEnded():
            told |= {"state": error.state}
        case NoNode():
            told |= {"reasons": dict(error.reasons), "missing": error.missing, "version": error.version}
    return ErrorBody(**told)


def response_of(error: PyschedulerError) -> Response:
    """An error as a response."""
    status = status_of(error)
    headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else None
    view = ErrorView(error=body_of(error))
    return Response(
        view.model_dump_json(by_alias=True, exclude_unset=True), status, headers, media_type="application/json"
    )


def _next(error: PyschedulerError) -> str:
    match error:
        case StaleAttempt():
            return f"attempt {error.attempt} has taken this one's place: drop what was done for it"
        case FutureAttempt():
            return f"speak of attempt {error.attempt}; the one that can be asked for next is {error.attempt + 1}"
        case NotOwner():
            return f"let {error.owner} say it; to take the job over, ask for a further attempt of it"
        case RequestChanged():
            return f"repeat the request as it was, or ask for attempt {error.attempt + 1}"
        case JobEnded(state="finished"):
            return "a finished job has no further attempt: new work needs a job id of its own"
        case JobEnded():
            return "a further attempt gets the job a node again"
        case NoNode(reasons=reasons, missing=missing) if reasons and missing:
            return "check the codes and services: no node has those that are missing, and waiting brings none"
        case NoNode():
            return "try again, or wait with wait_ms; POST /api/v1/jobs/explain says what is against each node"
        case OutcomeUnknown():
            return "repeat the same request: it is safe, and answers what has become of it"
        case LimitExceeded() | StoreUnavailable() | EventsLost():
            return "try again in a while"
    return ""
