"""What a path of the operator door is: how it is asked, what it answers, and how that is described to programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_origin

from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

import pyscheduler
from pyscheduler.errors import InvalidInput
from pyscheduler.registry.http_bodies import Body, Client, read_body
from pyscheduler.registry.logs import visible
from pyscheduler.registry.shared import Shared
from pyscheduler.registry.views import ErrorView

_COMPONENT = "#/components/schemas/{model}"


class Query(BaseModel):
    """What a request asks with: the parameters of its path and of its query. Unknown ones mean nothing."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class Path(Struct, frozen=True):
    """One path and its method: POST if it takes a body, else GET.

    Args:
        path: such as ``/api/v1/nodes/{node_id}``; what is in braces is a parameter.
        summary: what it answers, in one line.
        call: answers, given the parameters, and where there is a body that and the client. May return a response of its
            own instead of a model.
        query: its parameters.
        answer: what it answers with: a model, ``dict`` for any JSON object, ``str`` for plain text; several models if
            it answers now with one and now with another.
        errors: model of the answer by status, where it cannot answer.
        bodies: models of the body: see :func:`~pyscheduler.registry.http_bodies.read_body`; empty for none.
    """

    path: str
    summary: str
    call: Callable[..., Awaitable[BaseModel | Response]]
    query: type[Query] = Query
    answer: type[BaseModel | dict[str, Any] | str] | tuple[type[BaseModel], ...] = str
    errors: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    bodies: Mapping[str, type[Body]] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """Its HTTP method."""
        return "POST" if self.bodies else "GET"

    @property
    def answers(self) -> tuple[type[Any], ...]:
        """What it may answer with."""
        return self.answer if isinstance(self.answer, tuple) else (self.answer,)

    async def respond(self, shared: Shared, request: Request) -> Response:
        """The response to a request.

        Raises:
            InvalidInput: a parameter, or a member of the body, is missing, malformed or out of its bounds.
            RefusedRequest: the request may not bring such a body.
        """
        query = self._asked(request)
        if self.bodies:
            answer = await self.call(shared, query, await read_body(request, self.bodies), Client.of(request))
        else:
            answer = await self.call(shared, query)
        return answer if isinstance(answer, Response) else respond(answer)

    def _asked(self, request: Request) -> Query:
        asked = request.query_params
        given = {
            name: asked.getlist(name) if get_origin(info.annotation) is list else asked[name]
            for name, info in self.query.model_fields.items()
            if name in asked
        }
        try:
            return self.query.model_validate({**given, **request.path_params})
        except ValidationError as error:
            problems = (f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:5])
            raise InvalidInput(visible("; ".join(problems))) from None


def respond(answer: BaseModel, status: int = 200) -> Response:
    """A model as a response. Fields that were left out of it do not apply."""
    return Response(answer.model_dump_json(by_alias=True, exclude_unset=True), status, media_type="application/json")


def describe(paths: Sequence[Path]) -> dict[str, Any]:
    """The OpenAPI description of ``paths``."""
    from pydantic.json_schema import models_json_schema

    models: dict[type[Any], None] = dict.fromkeys(
        (ErrorView, *(model for path in paths for model in (*path.answers, *path.errors.values())))
    )
    bodies = dict.fromkeys(model for path in paths for model in path.bodies.values())
    _, components = models_json_schema(
        [
            *((model, "serialization") for model in models if issubclass(model, BaseModel)),
            *((model, "validation") for model in bodies),
        ],
        ref_template=_COMPONENT,
    )
    operations: dict[str, dict[str, Any]] = {}
    for path in paths:
        operations.setdefault(path.path, {})[path.method.lower()] = _operation(path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyscheduler",
            "description": "What a pyscheduler process knows, and what may be said of jobs. "
            "Every other change is a command.",
            "version": pyscheduler.__version__,
        },
        "paths": operations,
        "components": {"schemas": components["$defs"]},
    }


def _operation(path: Path) -> dict[str, Any]:
    kind = "text/plain" if path.answer is str else "application/json"
    body = {"content": {"application/json": {"schema": _any_of(tuple(path.bodies.values()))}}, "required": True}
    return {
        "tags": ["namespace" if path.path.startswith("/api/") else "process"],
        "summary": path.summary,
        "operationId": path.call.__name__.removeprefix("_"),
        "parameters": _parameters(path),
        **({"requestBody": body} if path.bodies else {}),
        "responses": {
            "200": _response(200, kind, *path.answers),
            **{str(status): _response(status, "application/json", model) for status, model in path.errors.items()},
        },
    }


def _response(status: int, kind: str, *answers: type) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {kind: {"schema": _any_of(answers)}}}


def _any_of(models: tuple[type, ...]) -> dict[str, Any]:
    return _schema(models[0]) if len(models) == 1 else {"anyOf": [_schema(model) for model in models]}


def _schema(answer: type) -> dict[str, Any]:
    if issubclass(answer, BaseModel):
        return {"$ref": _COMPONENT.format(model=answer.__name__)}
    return {"type": "string" if answer is str else "object"}


def _parameters(path: Path) -> list[dict[str, Any]]:
    schema = path.query.model_json_schema()
    return [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in path.path else "query",
            "required": name in schema.get("required", ()),
            # That one is not given is no value which a request could give.
            "schema": {key: value for key, value in one.items() if key != "default" or value is not None},
        }
        for name, one in schema.get("properties", {}).items()
    ]
