"""What tests of sessions share: a node's report, what its socket sends, and the latest event of a kind."""

from __future__ import annotations

from pyscheduler import NodeReport
from pyscheduler.core.results import Registration, Session
from tests.harness import LEASE_MS, Cell, facts_of
from tests.oracle import read_state

CHINESE = facts_of("en", "zh")
GERMAN = facts_of("de", "fr")


def report(*languages: str, **members: object) -> NodeReport:
    return NodeReport.of(facts_of(*languages), **members)  # type: ignore[arg-type]


async def heartbeat(cell: Cell, session: Session, **what: object) -> int:
    return await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, **what)  # type: ignore[arg-type]


async def put_back(cell: Cell, session: Session, *languages: str, session_id: str, **options: object) -> Registration:
    """The process that still holds the socket registers its session again."""
    return await cell.register(session.node_id, *languages, session_id=session_id, epoch=session.epoch, **options)


async def last_event(cell: Cell, kind: str) -> dict[str, str]:
    return [event for event in (await read_state(cell.store)).events if event["type"] == kind][-1]


async def ready(cell: Cell) -> int:
    return sum(row.ready for row in (await cell.allocator.pools()).pools)
