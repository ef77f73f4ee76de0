"""The operator door: HTTP for health, metrics, and a read-only JSON view of the namespace."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Annotated, Any, Final

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import pyscheduler
from pyscheduler.core.limits import MAX_NODE_ID_CHARS
from pyscheduler.errors import InvalidInput, NotFound, PyschedulerError, StoreError, StoreUnavailable
from pyscheduler.registry import metrics, views
from pyscheduler.registry.logs import visible
from pyscheduler.registry.shared import Shared

READY_TIMEOUT_S: Final = 2.0
"""How long a readiness check waits for the store."""

FLEET_TIMEOUT_S: Final = 2.0
"""How long a scrape of the metrics waits for the fleet's numbers; without them it shows the last ones."""

_STATUS: Final[tuple[tuple[type[PyschedulerError], int], ...]] = (
    (NotFound, 404),
    (InvalidInput, 422),
    (StoreUnavailable, 503),
    (StoreError, 502),
)
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 422: "invalid_input"}

_Limit = Annotated[int, Query(ge=1, le=1000, description="Entries at most.")]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": views.ErrorView} for status in statuses}


def make_app(shared: Shared) -> FastAPI:
    """The ASGI application of the operator door.

    Args:
        shared: what connections share; the door only reads from it.
    """
    app = FastAPI(
        title="pyscheduler",
        version=pyscheduler.__version__,
        description="What a pyscheduler process knows. Read-only; everything that changes something is a command.",
        docs_url=None,
        redoc_url=None,
        # A redirect would go to whatever host the request names.
        redirect_slashes=False,
    )
    app.include_router(_process_routes(shared))
    app.include_router(_api_routes(shared))
    _answer_errors(app, shared)
    return app


# --- errors ----------------------------------------------------------------------------------------------------------


def _failure(status: int, code: str, message: str) -> JSONResponse:
    body = views.ErrorView(error=views.ErrorBody(code=code, message=message))
    return JSONResponse(body.model_dump(), status_code=status)


def _answer_errors(app: FastAPI, shared: Shared) -> None:
    @app.exception_handler(PyschedulerError)
    async def _known(_request: Request, error: PyschedulerError) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
        return _failure(status, code, str(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        problems = (f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()[:5])
        return _failure(422, "invalid_input", visible("; ".join(problems)))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "http_error")
        message = f"no such path: {visible(request.url.path, 128)}" if error.status_code == 404 else str(error.detail)
        return _failure(error.status_code, code, message)

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> JSONResponse:
        shared.log.error("operator_door_defect", path=request.url.path, exc_info=error)
        return _failure(500, "internal_error", "internal error: see the log of this process")


# --- this process ----------------------------------------------------------------------------------------------------


def _process_routes(shared: Shared) -> APIRouter:
    router = APIRouter(tags=["process"])
    started = time.monotonic()

    @router.get("/health", summary="Whether this process is alive")
    async def health() -> views.HealthView:
        return views.HealthView(
            status="ok",
            instance=shared.instance,
            version=pyscheduler.__version__,
            uptime_s=round(time.monotonic() - started, 3),
            connections=len(shared.sockets),
            nodes=shared.sockets.registered,
        )

    @router.get(
        "/ready", summary="Whether it can do its work: the store answers", responses={503: {"model": views.ReadyView}}
    )
    async def ready(response: Response) -> views.ReadyView:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                seconds = await shared.allocator.ping()
        except TimeoutError:
            response.status_code = 503
            return views.ReadyView(
                ready=False, reason=f"the store did not answer in {READY_TIMEOUT_S:g} s", store_ms=None
            )
        except PyschedulerError as error:
            response.status_code = 503
            return views.ReadyView(ready=False, reason=str(error), store_ms=None)
        return views.ReadyView(ready=True, reason="", store_ms=round(seconds * 1000, 3))

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def expose() -> Response:
        await _look_at_fleet(shared)
        return Response(shared.metrics.expose(), headers={"content-type": metrics.CONTENT_TYPE})

    return router


async def _look_at_fleet(shared: Shared) -> None:
    try:
        async with asyncio.timeout(FLEET_TIMEOUT_S):
            table = await shared.allocator.pools()
    except (TimeoutError, PyschedulerError):
        return
    shared.metrics.set_fleet(
        version=table.version,
        nodes=table.nodes,
        ready=sum(pool.ready for pool in table.pools),
        unmatched=table.unmatched_nodes,
        empty=sum(pool.nodes == 0 for pool in table.pools),
        pools=Counter(pool.origin for pool in table.pools),
    )


# --- the namespace ---------------------------------------------------------------------------------------------------


def _api_routes(shared: Shared) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["namespace"], responses=_errors(502, 503))
    _add_pools(router, shared)
    _add_nodes(router, shared)
    _add_configuration(router, shared)
    return router


def _add_pools(router: APIRouter, shared: Shared) -> None:
    @router.get("/pools", summary="Every pool, in one look")
    async def pools() -> views.PoolTableView:
        return views.PoolTableView.of(await shared.allocator.pools())

    @router.get(
        "/pools/{name}", summary="One pool: its rule, classes, and what is ready in it", responses=_errors(404, 422)
    )
    async def pool(name: str) -> views.PoolDetailView:
        return views.PoolDetailView.of_detail(await shared.allocator.pool(name))

    @router.get("/find", summary="Every pool and class that can serve a language pair", responses=_errors(422))
    async def find(
        src: Annotated[str, Query(max_length=64)],
        tgt: Annotated[str, Query(max_length=64)],
        service: Annotated[
            list[str] | None, Query(max_length=64, description="Service types that must be ready.")
        ] = None,
    ) -> views.CandidatesView:
        return views.CandidatesView.of(await shared.allocator.find(src, tgt, service or ()))


def _add_nodes(router: APIRouter, shared: Shared) -> None:
    @router.get("/nodes", summary="A page of the live nodes", responses=_errors(404, 422))
    async def nodes(
        limit: _Limit = 100,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        pool: Annotated[str | None, Query(max_length=128, description="Only nodes of this pool.")] = None,
    ) -> views.NodePageView:
        page = await shared.allocator.nodes(limit=limit, offset=offset, pool=pool)
        return views.NodePageView(
            version=page.version,
            total=page.total,
            limit=limit,
            offset=offset,
            nodes=tuple(views.NodeView.of(one) for one in page.nodes),
        )

    @router.get("/nodes/{node_id}", summary="All that is known of a node", responses=_errors(404, 422))
    async def node(node_id: str) -> views.NodeDetailView:
        return views.NodeDetailView.of_detail(await shared.allocator.node(_bounded(node_id)))

    @router.get("/nodes/{node_id}/explain", summary="Why a node is where it is", responses=_errors(404, 422))
    async def explain(node_id: str) -> views.ExplanationView:
        return views.ExplanationView.of(await shared.allocator.explain(_bounded(node_id)))


def _add_configuration(router: APIRouter, shared: Shared) -> None:
    @router.get("/config", summary="The configuration document", responses=_errors(404, 422))
    async def config(
        version: Annotated[int | None, Query(ge=1, le=2**53, description="The one in force at this version.")] = None,
    ) -> views.ConfigView:
        from pyscheduler.core.document import PoolDocument

        stored = await shared.allocator.document(version)
        document = PoolDocument.from_canonical(stored.json) if stored.json else PoolDocument()
        return views.ConfigView(version=stored.version, digest=document.digest, document=document.to_data())

    @router.get("/config/schema", summary="JSON Schema of the configuration document, for editors")
    async def schema() -> dict[str, Any]:
        from pyscheduler.core.reader import document_schema

        return dict(document_schema())

    @router.get("/history", summary="The newest configuration versions", responses=_errors(422))
    async def history(limit: _Limit = 50) -> views.HistoryView:
        entries = await shared.allocator.history(limit=limit)
        return views.HistoryView(entries=tuple(views.HistoryEntryView.of(one) for one in entries))

    @router.get("/events", summary="Events after an id", response_model_exclude_unset=True, responses=_errors(422))
    async def events(
        since: Annotated[str, Query(max_length=41, description="Id after which to begin; '-': the oldest kept.")] = "-",
        limit: _Limit = 100,
    ) -> views.EventsView:
        found = await shared.allocator.events(since=since, limit=limit)
        return views.EventsView(
            events=tuple(views.EventView.of(one) for one in found), next=found[-1].id if found else since
        )

    @router.get("/instances", summary="The scheduler processes that share the namespace")
    async def instances() -> views.InstancesView:
        found = await shared.allocator.instances()
        return views.InstancesView(
            instances=tuple(
                views.InstanceView(instance=one.instance, lease_ms=one.lease_ms, info=one.info) for one in found
            )
        )


def _bounded(node_id: str) -> str:
    # The allocator says what is wrong with an id; this keeps a huge one from getting that far.
    return node_id[: MAX_NODE_ID_CHARS + 1]
