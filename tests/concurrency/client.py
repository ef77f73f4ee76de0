"""One client of a namespace: it calls the public API, and records each call and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyscheduler import Allocator, Facts, JobRequest, NodeReport, PoolDocument
from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.jobs import Reservation
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.errors import (
    Conflict,
    NodeIdConflict,
    NoNode,
    NotFound,
    NotOwner,
    OutcomeUnknown,
    SessionLost,
    StoreUnavailable,
    VersionConflict,
)
from pyscheduler.store import Store
from tests.concurrency.history import Recorder
from tests.oracle import State, read_state

LEASE_MS = 600_000
"""Longer than any run: such a lease does not lapse by itself."""

BRIEF_MS = 1
"""So short that the lease has soon lapsed, though the node is not taken away before upkeep comes."""

JOB_STATES = {
    "v": "reserved",
    "r": "running",
    "f": "finished",
    "x": "failed",
    "c": "released",
    "e": "lapsed",
    "l": "lost",
}
_STATUS = {"g": "registering", "r": "ready", "d": "degraded"}

Cut = Callable[[asyncio.Task[Any]], Awaitable[None]]
"""Does something to a call that is under way."""


@dataclass(frozen=True)
class Tenure:
    """A session as its client knows it."""

    name: str
    session: Session
    facts: str


class Client:
    """
    Args:
        name: unique in the history.
        allocator: what is tried.
        recorder: where it is written down.
    """

    def __init__(self, name: str, allocator: Allocator, recorder: Recorder) -> None:
        self.name = name
        self.allocator = allocator
        self.recorder = recorder
        self.cut: Cut | None = None
        self.count = 0

    def next_id(self) -> str:
        self.count += 1
        return f"{self.name}-{self.count}"

    async def _call(
        self,
        kind: str,
        args: Mapping[str, Any],
        call: Callable[[], Awaitable[Any]],
        result: Callable[[Any], Mapping[str, Any]],
        *,
        operation_id: str = "",
    ) -> Any:
        """What the call returns; ``None`` if it was refused or its outcome is unknown."""
        operation_id = operation_id or self.next_id()
        self.recorder.invoke(operation_id, kind, args)
        try:
            task = asyncio.ensure_future(call())
            cut, self.cut = self.cut, None
            if cut is not None:
                await cut(task)
            answer = await task
        except (OutcomeUnknown, asyncio.CancelledError):
            return None
        except StoreUnavailable:
            self.recorder.forget(operation_id)
            return None
        except (SessionLost, Conflict, NotFound, NoNode) as error:
            self.recorder.complete(operation_id, refusal(error))
            return None
        self.recorder.complete(operation_id, result(answer))
        return answer

    # --- nodes -------------------------------------------------------------------------------------------------------

    async def register(
        self,
        node: str,
        facts: Facts,
        status: NodeStatus,
        *,
        takeover: bool = True,
        session: str = "",
        epoch: int = 0,
        brief: bool = False,
    ) -> Tenure | None:
        """``session``: to repeat a call of before, or, with its epoch, to put the session back."""
        operation_id = self.next_id()
        session = session or operation_id
        report = NodeReport.of(facts, status=status)
        args = {"node": node, "session": session, "epoch": epoch, "takeover": takeover, "brief": brief}
        done: Registration | None = await self._call(
            "register",
            {**args, **_told(report)},
            # Each session claims an instance of its own: by that, readers can tell whose session they see.
            lambda: self.allocator.register(
                node,
                report,
                session_id=session,
                instance=session,
                lease_ms=BRIEF_MS if brief else LEASE_MS,
                epoch=epoch,
                takeover=takeover,
            ),
            _registered,
            operation_id=operation_id,
        )
        return Tenure(session, done.session, facts.json) if done else None

    async def update(self, tenure: Tenure, facts: Facts, status: NodeStatus) -> Tenure | None:
        operation_id = self.next_id()
        report = NodeReport.of(facts, status=status)
        done: Registration | None = await self._call(
            "update",
            {**_shown(tenure), **_told(report)},
            lambda: self.allocator.update(tenure.session, report, lease_ms=LEASE_MS, reason=operation_id),
            _registered,
            operation_id=operation_id,
        )
        return Tenure(tenure.name, done.session, facts.json) if done else None

    async def heartbeat(self, tenure: Tenure) -> int | None:
        _, node_class, letter, digest = tenure.session.token.split(":")
        version: int | None = await self._call(
            "heartbeat",
            {**_shown(tenure), "node_class": int(node_class), "status": _STATUS[letter], "digest": digest},
            lambda: self.allocator.heartbeat(tenure.session, lease_ms=LEASE_MS, load=0.5),
            lambda seen: {"version": seen},
        )
        return version

    async def release(self, tenure: Tenure, grace_ms: int) -> None:
        operation_id = self.next_id()
        await self._call(
            "release",
            {**_shown(tenure), "grace_ms": grace_ms},
            lambda: self.allocator.release(tenure.session, grace_ms=grace_ms, reason=operation_id),
            lambda released: {"released": released},
            operation_id=operation_id,
        )

    async def hold(self, node: str, owner: str, *, lift: bool) -> None:
        operation_id = self.next_id()
        operation = self.allocator.lift if lift else self.allocator.hold
        await self._call(
            "lift" if lift else "hold",
            {"node": node, "owner": owner},
            lambda: operation(node, owner=owner, reason=operation_id),
            lambda done: {
                "changed": done.changed,
                "live": done.live,
                "holds": sorted(one.owner for one in done.holds),
            },
            operation_id=operation_id,
        )

    async def read_node(self, node: str) -> None:
        await self._call(
            "read_node",
            {"node": node},
            lambda: self.allocator.node(node),
            lambda seen: {
                **_state(seen.state),
                "facts": canonical_json(dict(seen.facts)),
                "version": seen.state.version,
            },
        )

    async def read_nodes(self) -> None:
        await self._call(
            "read_nodes",
            {},
            lambda: self.allocator.nodes(),
            lambda page: {"version": page.version, "nodes": {one.node_id: _state(one) for one in page.nodes}},
        )

    # --- the configuration -------------------------------------------------------------------------------------------

    async def sync(self, document: PoolDocument, expect_version: int | None) -> None:
        operation_id = self.next_id()
        await self._call(
            "sync",
            {"document": document.canonical(), "expect_version": expect_version},
            lambda: self.allocator.sync(
                document, expect_version=expect_version, allow_empty=True, author=self.name, reason=operation_id
            ),
            lambda done: {
                "before": done.version_before,
                "after": done.version_after,
                "document_version": done.document_version,
                "changes": {change.pool: change.change for change in done.changes},
            },
            operation_id=operation_id,
        )

    async def read_version(self) -> None:
        await self._call("read_version", {}, lambda: self.allocator.version(), lambda version: {"version": version})

    async def read_document(self) -> int:
        """Returns the document version."""
        done = await self._call(
            "read_document", {}, lambda: self.allocator.document(), lambda seen: {"of": seen.version, "json": seen.json}
        )
        return done.version if done else 0

    async def read_pools(self) -> None:
        await self._call(
            "read_pools",
            {},
            lambda: self.allocator.pools(),
            lambda table: {
                "version": table.version,
                "document_version": table.document_version,
                "nodes": table.nodes,
                "unmatched_nodes": table.unmatched_nodes,
                "pools": [
                    {"name": pool.name, "origin": pool.origin, "nodes": pool.nodes, "ready": pool.ready}
                    for pool in table.pools
                ],
            },
        )

    async def reconcile(self) -> None:
        await self._call(
            "reconcile",
            {},
            lambda: self.allocator.reconcile(lease_ms=LEASE_MS, force=True),
            lambda done: {
                "version": done.version,
                "expired": done.expired,
                "created_pools": list(done.created_pools),
                "removed_pools": list(done.removed_pools),
                "violations": done.violations,
                "ended_jobs": done.ended_jobs,
            },
        )

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def reserve(
        self, job: str, request: JobRequest, attempt: int, *, owner: str, brief: bool = False
    ) -> Reservation | None:
        lease_ms = BRIEF_MS if brief else LEASE_MS
        wanted = {"src": request.src, "tgt": request.tgt, "slots": request.slots, "tenant": request.tenant}
        done: Reservation | None = await self._call(
            "reserve",
            {"job": job, "attempt": attempt, "owner": owner, "request": canonical_json(wanted), "brief": brief},
            lambda: self.allocator.reserve(job, request, owner=owner, lease_ms=lease_ms, attempt=attempt),
            lambda found: {
                "attempt": found.attempt,
                "state": found.state.value,
                "node": found.node_id,
                "epoch": found.epoch,
                "pool": found.pool,
                "version": found.version,
                "fresh": found.fresh,
            },
        )
        return done

    async def update_job(self, what: str, job: str, attempt: int, *, owner: str, brief: bool = False) -> None:
        """``what``: renew, start, finish, fail or release."""
        operation_id = self.next_id()
        renews = what in ("renew", "start")
        options = {"lease_ms": BRIEF_MS if brief else LEASE_MS} if renews else {"reason": operation_id}
        await self._call(
            f"{what}_job",
            {"job": job, "attempt": attempt, "owner": owner, "brief": brief and renews},
            lambda: getattr(self.allocator, f"{what}_job")(job, attempt, owner=owner, **options),
            lambda done: {"state": done.state.value},
            operation_id=operation_id,
        )

    async def read_jobs(self) -> None:
        """All of them, and what nodes and tenants have, in one look at the store itself."""
        await self._call("read_jobs", {}, lambda: read_state(self.allocator._store), _jobs)


def refusal(error: Exception) -> dict[str, Any]:
    """A refusal as it stands in a history."""
    found: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, SessionLost):
        found["unknown"] = error.unknown
    if isinstance(error, NodeIdConflict):
        found["instance"] = error.instance
    if isinstance(error, VersionConflict):
        found["actual"] = error.actual
    if isinstance(error, NoNode):
        found["version"] = error.version
    if isinstance(error, NotOwner):
        found["owner"] = error.owner
    found |= {name: getattr(error, name) for name in ("attempt", "state") if hasattr(error, name)}
    return found


def _told(report: NodeReport) -> dict[str, Any]:
    return {"facts": report.facts.json, "status": report.status.value, "digest": report.digest}


def _shown(tenure: Tenure) -> dict[str, Any]:
    return {"node": tenure.session.node_id, "session": tenure.name, "epoch": tenure.session.epoch}


def _registered(done: Registration) -> dict[str, Any]:
    return {
        "epoch": done.session.epoch,
        "node_class": done.node_class,
        "pool": done.pool,
        "version": done.version,
        "status": done.status.value,
    }


def _jobs(state: State) -> dict[str, Any]:
    return {
        "jobs": {
            job_id: {
                "attempt": job.attempt,
                "state": JOB_STATES[job.state],
                "owner": job.owner,
                "node": job.node,
                "epoch": job.epoch,
                "pool": job.pool,
            }
            for job_id, job in state.jobs.items()
        },
        "slots": {node: int(used) for node, (used, *_) in state.reserved.items()},
        "tenants": state.tenants,
    }


def _state(seen: Any) -> dict[str, Any]:
    return {
        "instance": seen.instance,
        "epoch": seen.epoch,
        "status": seen.status.value,
        "pool": seen.pool,
        "node_class": seen.node_class,
        "holds": sorted(hold.owner for hold in seen.holds),
    }


def cancel(turns: int) -> Cut:
    """Gives a call up after some turns of the loop. It may leave all the same."""

    async def cut(task: asyncio.Task[Any]) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    return cut


async def kill_connection(allocator: Allocator, other: Store) -> Cut:
    """Has the server close the allocator's connection while a call is under way on it."""
    number = await allocator._store.command("CLIENT", "ID")

    async def cut(task: asyncio.Task[Any]) -> None:
        await other.command("CLIENT", "KILL", "ID", number)

    return cut
