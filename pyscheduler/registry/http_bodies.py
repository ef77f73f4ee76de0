"""What a request brings with it: read within bounds, checked, and refused where a web page might have sent it."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import pydantic_core
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from pyscheduler.errors import InvalidInput
from pyscheduler.registry.http_errors import RefusedRequest
from pyscheduler.registry.logs import visible

MAX_BODY_BYTES: Final = 256 * 1024
"""Bytes of a request's body."""

_SHOWN_PROBLEMS: Final = 5
_SHOWN_CHARS: Final = 60
_DESCRIBED: Final = "GET /openapi.json describes what it may hold"


class Body(BaseModel):
    """What a request says in its body: JSON of just these members, each of just its type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class BadBody(InvalidInput):
    """The body of a request breaks a rule."""

    next_step = _DESCRIBED


class Client(Struct, frozen=True):
    """Who asks.

    Attributes:
        peer: address, for the log.
        gone: returns when the client does not wait for the answer any more.
    """

    peer: str
    gone: Callable[[], Awaitable[None]]

    @classmethod
    def of(cls, request: Request) -> Client:
        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return cls(request.client.host if request.client is not None else "", gone)


async def read_body(request: Request, bodies: Mapping[str, type[Body]]) -> Body:
    """The body of a request.

    Args:
        request: the request.
        bodies: model by the member that only it has; that under the empty name is for all other bodies.

    Raises:
        RefusedRequest: it comes from a web page, is not said to be JSON, or is too long.
        BadBody: it is no JSON, or breaks a rule of its model.
    """
    _refuse_pages(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedRequest(
            415,
            "unsupported_media_type",
            "the body is not said to be JSON",
            "send JSON, with the header 'content-type: application/json'",
        )
    try:
        given = pydantic_core.from_json(await _read(request), allow_inf_nan=False)
    except ValueError as error:
        raise BadBody(visible(f"the body is no JSON: {error}")) from None
    if not isinstance(given, dict):
        raise BadBody("the body is no JSON object")
    model = next((model for member, model in bodies.items() if member and member in given), bodies[""])
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise BadBody(visible(_told(error, model))) from None


def _refuse_pages(request: Request) -> None:
    # A browser names the origin of the page with whatever it posts. No page is ours, and one that pretends to be, by a
    # name that it lets point here, is not told from one by its host.
    origin = request.headers.get("origin")
    if origin is not None:
        raise RefusedRequest(
            403,
            "foreign_origin",
            f"a request of a web page ({visible(origin, _SHOWN_CHARS)}) changes nothing here",
            "send it from a program, without the header 'origin'",
        )


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise RefusedRequest(
                    413, "body_too_large", f"the body has more than {MAX_BODY_BYTES} bytes", "send fewer jobs at once"
                )
    except ClientDisconnect:
        raise BadBody("the body did not arrive whole") from None
    return bytes(body)


def _told(error: ValidationError, model: type[Body]) -> str:
    problems = error.errors(include_url=False, include_input=False)
    told = [
        f"{'.'.join(str(part)[:_SHOWN_CHARS] for part in one['loc'])}: {_message(one, model)}"
        for one in problems[:_SHOWN_PROBLEMS]
    ]
    if len(problems) > len(told):
        told.append(f"and {len(problems) - len(told)} more")
    return "; ".join(told)


def _message(problem: Any, model: type[Body]) -> str:
    if problem["type"] != "extra_forbidden":
        return str(problem["msg"])
    name = str(problem["loc"][-1])[:_SHOWN_CHARS]
    near = difflib.get_close_matches(name.lower(), _members(model), n=1)
    return "unknown member" + (f"; did you mean {near[0]}?" if near else "")


def _members(model: type[BaseModel]) -> list[str]:
    members = list(model.model_fields)
    for info in model.model_fields.values():
        for inner in getattr(info.annotation, "__args__", ()):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                members += _members(inner)
    return members
