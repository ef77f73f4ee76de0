"""Registrations and updates that come together leave in one ``upsert_node_to_pool``."""

from __future__ import annotations

from collections.abc import Sequence

from pyscheduler.allocator.coalescing import Coalescer
from pyscheduler.allocator.namespace import unexpected
from pyscheduler.allocator.replies import Reply
from pyscheduler.core.limits import MAX_UPSERT_BATCH, MAX_WAITING_UPSERTS
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.errors import AdmissionChanged, LimitExceeded, NodeIdConflict, PyschedulerError, SessionLost
from pyscheduler.scripts import calls


class Upserts(Coalescer[calls.Call, Registration]):
    """Calls of ``upsert_node_to_pool`` for one node each."""

    what = "registrations"
    max_batch = MAX_UPSERT_BATCH
    max_waiting = MAX_WAITING_UPSERTS

    def joins(self, batch: Sequence[calls.Call], item: calls.Call) -> bool:
        """A call has a node once."""
        return all(item.argv[0] != before.argv[0] for before in batch)

    async def send(self, batch: Sequence[calls.Call]) -> list[Registration | PyschedulerError]:
        reply = Reply(await self._run(calls.Call.joined(batch)))
        outcomes: list[Registration | PyschedulerError] = []
        for call in batch:
            outcomes.append(_outcome(call.argv[0], reply))
            # A node whose class has no pool is taken alone; those after it are to be sent again.
            if not reply.next_row():
                break
        return outcomes


def _outcome(node_id: str, reply: Reply) -> Registration | PyschedulerError:
    match reply.status:
        case "OK":
            epoch, node_class = reply.integer(), reply.integer()
            pool, pool_id, version = reply.optional(), reply.integer(), reply.integer()
            session = Session(node_id, epoch, reply.text())
            status, why, cloned = NodeStatus(reply.text()), reply.text(), reply.text() == "1"
            return Registration(session, node_class, pool, pool_id or None, version, status, why, cloned)
        case "STALE" | "UNKNOWN":
            return SessionLost(node_id, unknown=reply.status == "UNKNOWN")
        case "CONFLICT":
            return NodeIdConflict(node_id, reply.text())
        case "ADMISSION":
            return AdmissionChanged(reply.text())
        case "CLASSES_FULL":
            return LimitExceeded(
                f"{reply.text()} capability classes are in use: a node with facts of its own cannot be added; "
                "labels that differ from node to node belong under 'unique.'"
            )
    return unexpected(reply)
