"""The paths of the operator door, and what each of them answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Annotated, Final

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

import pyscheduler
from pyscheduler.core.limits import MAX_NODE_ID_CHARS
from pyscheduler.errors import PyschedulerError
from pyscheduler.registry import metrics, views
from pyscheduler.registry.http_paths import Path, Query, respond
from pyscheduler.registry.job_paths import JOB_PATHS
from pyscheduler.registry.shared import Shared

READY_TIMEOUT_S: Final = 2.0
"""How long a readiness check waits for the store."""

FLEET_TIMEOUT_S: Final = 2.0
"""How long a scrape of the metrics waits for the fleet's numbers; without them it shows the last ones."""

_Limit = Annotated[int, Field(ge=1, le=1000, description="Entries at most.")]


# --- this process ----------------------------------------------------------------------------------------------------


async def _health(shared: Shared, _query: Query) -> views.HealthView:
    return views.HealthView(
        status="ok",
        instance=shared.instance,
        version=pyscheduler.__version__,
        uptime_s=round(time.monotonic() - shared.started_s, 3),
        connections=len(shared.sockets),
        nodes=shared.sockets.registered,
    )


async def _ready(shared: Shared, _query: Query) -> views.ReadyView | Response:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            seconds = await shared.allocator.ping()
    except TimeoutError:
        return _not_ready(f"the store did not answer in {READY_TIMEOUT_S:g} s")
    except PyschedulerError as error:
        return _not_ready(str(error))
    return views.ReadyView(ready=True, reason="", store_ms=round(seconds * 1000, 3))


def _not_ready(reason: str) -> Response:
    return respond(views.ReadyView(ready=False, reason=reason, store_ms=None), 503)


async def _metrics(shared: Shared, _query: Query) -> Response:
    await _look_at_fleet(shared)
    return Response(shared.metrics.expose(), headers={"content-type": metrics.CONTENT_TYPE})


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


# --- pools -----------------------------------------------------------------------------------------------------------


class PoolQuery(Query):
    name: str


class FindQuery(Query):
    src: Annotated[str, Field(max_length=64)]
    tgt: Annotated[str, Field(max_length=64)]
    service: list[str] = Field(default_factory=list, max_length=64, description="Service types that must be ready.")


async def _pools(shared: Shared, _query: Query) -> views.PoolTableView:
    return views.PoolTableView.of(await shared.allocator.pools())


async def _pool(shared: Shared, query: PoolQuery) -> views.PoolDetailView:
    return views.PoolDetailView.of(await shared.allocator.pool(query.name))


async def _find(shared: Shared, query: FindQuery) -> views.CandidatesView:
    return views.CandidatesView.of(await shared.allocator.find(query.src, query.tgt, query.service))


# --- nodes -----------------------------------------------------------------------------------------------------------


class NodesQuery(Query):
    limit: _Limit = 100
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    pool: Annotated[str | None, Field(max_length=128, description="Only nodes of this pool.")] = None


class NodeQuery(Query):
    node_id: str

    @property
    def bounded_id(self) -> str:
        """The id, no longer than it takes for the allocator to say what is wrong with it."""
        return self.node_id[: MAX_NODE_ID_CHARS + 1]


async def _nodes(shared: Shared, query: NodesQuery) -> views.NodePageView:
    page = await shared.allocator.nodes(limit=query.limit, offset=query.offset, pool=query.pool)
    return views.NodePageView(
        version=page.version,
        total=page.total,
        limit=query.limit,
        offset=query.offset,
        nodes=tuple(views.NodeView.of(one) for one in page.nodes),
    )


async def _node(shared: Shared, query: NodeQuery) -> views.NodeDetailView:
    return views.NodeDetailView.of_detail(await shared.allocator.node(query.bounded_id))


async def _explain(shared: Shared, query: NodeQuery) -> views.ExplanationView:
    return views.ExplanationView.of(await shared.allocator.explain(query.bounded_id))


# --- configuration and what happened ---------------------------------------------------------------------------------


class ConfigQuery(Query):
    version: Annotated[int | None, Field(ge=1, le=2**53, description="The one in force at this version.")] = None


class HistoryQuery(Query):
    limit: _Limit = 50


class EventsQuery(Query):
    since: Annotated[str, Field(max_length=41, description="Id after which to begin; '-': the oldest kept.")] = "-"
    limit: _Limit = 100


async def _config(shared: Shared, query: ConfigQuery) -> views.ConfigView:
    from pyscheduler.core.document import PoolDocument

    stored = await shared.allocator.document(query.version)
    document = PoolDocument.from_canonical(stored.json) if stored.json else PoolDocument()
    return views.ConfigView(version=stored.version, digest=document.digest, document=document.to_data())


async def _schema(_shared: Shared, _query: Query) -> Response:
    from pyscheduler.core.schema import document_schema

    return JSONResponse(document_schema())


async def _history(shared: Shared, query: HistoryQuery) -> views.HistoryView:
    entries = await shared.allocator.history(limit=query.limit)
    return views.HistoryView(entries=tuple(views.HistoryEntryView.of(one) for one in entries))


async def _events(shared: Shared, query: EventsQuery) -> views.EventsView:
    found = await shared.allocator.events(since=query.since, limit=query.limit)
    return views.EventsView(
        events=tuple(views.EventView.of(one) for one in found), next=found[-1].id if found else query.since
    )


async def _instances(shared: Shared, _query: Query) -> views.InstancesView:
    found = await shared.allocator.instances()
    return views.InstancesView(
        instances=tuple(
            views.InstanceView(instance=one.instance, lease_ms=one.lease_ms, info=one.info) for one in found
        )
    )


# --- all of them -----------------------------------------------------------------------------------------------------


def _errors(*statuses: int) -> dict[int, type[BaseModel]]:
    # Of whatever asks the store: it can be away, or hold something else.
    return dict.fromkeys((*statuses, 502, 503), views.ErrorView)


PATHS: Final = (
    Path("/health", "Whether this process is alive", _health, answer=views.HealthView),
    Path(
        "/ready",
        "Whether it can do its work: the store answers",
        _ready,
        answer=views.ReadyView,
        errors={503: views.ReadyView},
    ),
    Path("/metrics", "Metrics for Prometheus", _metrics, answer=str),
    Path("/api/v1/pools", "Every pool, in one look", _pools, answer=views.PoolTableView, errors=_errors()),
    Path(
        "/api/v1/pools/{name}",
        "One pool: its rule, classes, and what is ready in it",
        _pool,
        PoolQuery,
        views.PoolDetailView,
        _errors(404, 422),
    ),
    Path(
        "/api/v1/find",
        "Every pool and class that can serve a language pair",
        _find,
        FindQuery,
        views.CandidatesView,
        _errors(422),
    ),
    Path("/api/v1/nodes", "A page of the live nodes", _nodes, NodesQuery, views.NodePageView, _errors(404, 422)),
    Path(
        "/api/v1/nodes/{node_id}",
        "All that is known of a node",
        _node,
        NodeQuery,
        views.NodeDetailView,
        _errors(404, 422),
    ),
    Path(
        "/api/v1/nodes/{node_id}/explain",
        "Why a node is where it is",
        _explain,
        NodeQuery,
        views.ExplanationView,
        _errors(404, 422),
    ),
    *JOB_PATHS,
    Path("/api/v1/config", "The configuration document", _config, ConfigQuery, views.ConfigView, _errors(404, 422)),
    Path(
        "/api/v1/config/schema",
        "JSON Schema of the configuration document, for editors",
        _schema,
        answer=dict,
        errors=_errors(),
    ),
    Path(
        "/api/v1/history",
        "The newest configuration versions",
        _history,
        HistoryQuery,
        views.HistoryView,
        _errors(422),
    ),
    Path("/api/v1/events", "Events after an id", _events, EventsQuery, views.EventsView, _errors(422)),
    Path(
        "/api/v1/instances",
        "The scheduler processes that share the namespace",
        _instances,
        answer=views.InstancesView,
        errors=_errors(),
    ),
)
