"""The operator door: HTTP for health, metrics, a JSON view of the namespace, and jobs."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pyscheduler.errors import PyschedulerError
from pyscheduler.registry import views
from pyscheduler.registry.http_errors import response_of
from pyscheduler.registry.http_paths import Path, describe, respond
from pyscheduler.registry.logs import visible
from pyscheduler.registry.operator_paths import PATHS
from pyscheduler.registry.shared import Shared

_CODES: Final = {404: "not_found", 405: "method_not_allowed"}


def make_app(shared: Shared) -> Starlette:
    """The ASGI application of the operator door.

    Args:
        shared: what connections share.
    """
    routes = [_only(path.method, Route(path.path, partial(_answer, path, shared))) for path in PATHS]
    handlers: dict[type[Exception], Any] = {
        PyschedulerError: _known,
        HTTPException: _http,
        Exception: partial(_defect, shared),
    }
    app = Starlette(
        routes=[*routes, _only("GET", Route("/openapi.json", _description))],
        exception_handlers=handlers,
    )
    # A redirect would go to whatever host the request names.
    app.router.redirect_slashes = False
    return app


async def _answer(path: Path, shared: Shared, request: Request) -> Response:
    return await path.respond(shared, request)


async def _description(_request: Request) -> Response:
    return JSONResponse(describe(PATHS))


def _only(method: str, route: Route) -> Route:
    # Starlette adds HEAD to GET.
    route.methods = {method}
    return route


# --- errors ----------------------------------------------------------------------------------------------------------


def _failure(status: int, code: str, message: str) -> Response:
    return respond(views.ErrorView(error=views.ErrorBody(code=code, message=message)), status)


async def _known(_request: Request, error: PyschedulerError) -> Response:
    return response_of(error)


async def _http(request: Request, error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, "http_error")
    message = f"no such path: {visible(request.url.path, 128)}" if error.status_code == 404 else str(error.detail)
    return _failure(error.status_code, code, message)


async def _defect(shared: Shared, request: Request, error: Exception) -> Response:
    shared.log.error("operator_door_defect", path=request.url.path, exc_info=error)
    return _failure(500, "internal_error", "internal error: see the log of this process")
