"""What a path of the operator door is: how it is asked, what it answers, and how that is described to programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

import pyscheduler
from pyscheduler.errors import InvalidInput
from pyscheduler.registry.logs import visible
from pyscheduler.registry.shared import Shared
from pyscheduler.registry.views import ErrorView

_COMPONENT = "#/components/schemas/{model}"


class Query(BaseModel):
    """What a request asks with: the parameters of its path and of its query. Unknown ones mean nothing."""

    model_config = ConfigDict(frozen=True, defer_build=True)


@dataclass(frozen=True, slots=True)
class Path:
    """One path. GET is the only method.

    Args:
        path: such as ``/api/v1/nodes/{node_id}``; what is in braces is a parameter.
        summary: what it answers, in one line.
        call: answers. May return a response of its own instead of a model.
        query: its parameters.
        answer: what it answers with: a model, ``dict`` for any JSON object, ``str`` for plain text.
        errors: model of the answer by status, where it cannot answer.
    """

    path: str
    summary: str
    call: Callable[[Shared, Any], Awaitable[BaseModel | Response]]
    query: type[Query] = Query
    answer: type[BaseModel | dict[str, Any] | str] = str
    errors: Mapping[int, type[BaseModel]] = field(default_factory=dict)

    async def respond(self, shared: Shared, request: Request) -> Response:
        """The response to a request.

        Raises:
            InvalidInput: a parameter is missing, malformed or out of its bounds.
        """
        answer = await self.call(shared, self._asked(request))
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

    models = dict.fromkeys((ErrorView, *(model for path in paths for model in (path.answer, *path.errors.values()))))
    _, components = models_json_schema(
        [(model, "serialization") for model in models if issubclass(model, BaseModel)], ref_template=_COMPONENT
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyscheduler",
            "description": "What a pyscheduler process knows. Read-only; every change is a command.",
            "version": pyscheduler.__version__,
        },
        "paths": {path.path: {"get": _operation(path)} for path in paths},
        "components": {"schemas": components["$defs"]},
    }


def _operation(path: Path) -> dict[str, Any]:
    kind = "text/plain" if path.answer is str else "application/json"
    return {
        "tags": ["namespace" if path.path.startswith("/api/") else "process"],
        "summary": path.summary,
        "operationId": path.call.__name__.removeprefix("_"),
        "parameters": _parameters(path),
        "responses": {
            "200": _response(200, kind, path.answer),
            **{str(status): _response(status, "application/json", model) for status, model in path.errors.items()},
        },
    }


def _response(status: int, kind: str, answer: type) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {kind: {"schema": _schema(answer)}}}


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
