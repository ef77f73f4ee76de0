"""Nodes: sessions, heartbeats, releases, holds."""

from __future__ import annotations

from collections.abc import Callable

from pyscheduler.allocator.heartbeats import Heartbeat, Heartbeats
from pyscheduler.allocator.namespace import Namespace, unexpected
from pyscheduler.allocator.replies import STATUS_LETTERS, holds_of
from pyscheduler.allocator.upserts import Upserts
from pyscheduler.core import ids
from pyscheduler.core.canonical import json_object
from pyscheduler.core.limits import MAX_EVENT_REASON_BYTES, MAX_USAGE_BYTES
from pyscheduler.core.report import NodeReport
from pyscheduler.core.results import HoldResult, Registration, Session
from pyscheduler.errors import (
    InvalidInput,
    LimitExceeded,
    NotFound,
    PyschedulerError,
)
from pyscheduler.scripts import calls
from pyscheduler.store import Store, encodable


class Nodes(Namespace):
    """The calls that write nodes."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._heartbeats = Heartbeats(self._run)
        self._upserts = Upserts(self._run)

    async def aclose(self) -> None:
        """Closes the connection; calls that still wait end with StoreUnavailable."""
        await self._heartbeats.aclose()
        await self._upserts.aclose()
        await super().aclose()

    async def register(
        self,
        node_id: str,
        report: NodeReport,
        *,
        session_id: str,
        instance: str,
        lease_ms: int,
        epoch: int = 0,
        admission_digest: str = "",
        takeover: bool = True,
    ) -> Registration:
        """Begins a session of a node and puts the node into its pool, in one step.

        Args:
            node_id: 1..128 characters of ``A-Z a-z 0-9 . _ : -``.
            report: what the node is and does.
            session_id: the caller's unique name of this socket's tenure; registering again with the same one returns
                the same epoch.
            instance: id of the scheduler instance that holds the socket.
            lease_ms: how long the node counts as alive without a heartbeat, 1..86,400,000 ms.
            epoch: 0 for a new session; the session's epoch to put it back after the store lost it.
            admission_digest: digest of the admission policy that the node was checked under; empty if it was not.
            takeover: whether a live session of the same id gives way.

        Raises:
            AdmissionChanged: another admission policy is in force; nothing was changed.
            NodeIdConflict: ``takeover`` is false and the id is held.
            SessionLost: the session to put back has been superseded.
            LimitExceeded: too many capability classes.
        """
        return await self._upsert(
            "new" if epoch == 0 else "resume",
            node_id,
            report,
            session_id=session_id,
            instance=instance,
            epoch=epoch,
            lease_ms=lease_ms,
            admission_digest=admission_digest,
            takeover=takeover,
            reason="",
        )

    async def update(
        self,
        session: Session,
        report: NodeReport,
        *,
        lease_ms: int,
        reason: str = "facts_changed",
    ) -> Registration:
        """Replaces what is known of a node, and so its pool, in one step. The returned session replaces the caller's.

        Args:
            session: the session, as last returned.
            report: what the node is and does now.
            lease_ms: as in :meth:`register`.
            reason: why, for the events; one line of 1..128 characters.

        Raises:
            InvalidInput: the reason is more than one line.
            SessionLost: the session is no longer the node's.
            LimitExceeded: too many capability classes.
        """
        return await self._upsert(
            "update",
            session.node_id,
            report,
            session_id="",
            instance="",
            epoch=session.epoch,
            lease_ms=lease_ms,
            admission_digest="",
            takeover=True,
            reason=reason,
        )

    async def _upsert(
        self,
        mode: str,
        node_id: str,
        report: NodeReport,
        *,
        session_id: str,
        instance: str,
        epoch: int,
        lease_ms: int,
        admission_digest: str,
        takeover: bool,
        reason: str,
    ) -> Registration:
        return await self._upserts.outcome(
            calls.upsert_node_to_pool(
                node_id=ids.node_id(node_id),
                session_id=session_id,
                instance=instance and ids.instance_id(instance),
                mode=mode,
                epoch=epoch,
                facts=report.facts.json,
                record=report.record,
                digest=report.digest,
                status=STATUS_LETTERS[report.status],
                load=float(report.load),
                usage=report.usage,
                lease_ms=lease_ms,
                admission_digest=admission_digest,
                takeover=takeover,
                reason=_reason(reason),
            )
        )

    async def heartbeat(
        self, session: Session, *, lease_ms: int, load: float | None = None, usage: str | None = None
    ) -> int:
        """Renews the lease of a node of which nothing but load and usage changed.

        Calls that come together are sent together.

        Args:
            session: the session, as last returned.
            lease_ms: the new lease, 1..86,400,000 ms.
            load: 0..1; ``None`` = unchanged.
            usage: JSON object of the latest resource usage, at most 4 KiB, with a load only; ``None`` = unchanged.

        Returns:
            The config version.

        Raises:
            InvalidInput: load or usage is out of its bounds.
            SessionLost: the session is over; or ``unknown``: the store lost the node, or the session's latest state.
            LimitExceeded: too many heartbeats wait.
        """
        if usage is not None and load is None:
            raise InvalidInput("usage is given with its load")
        if load is not None and not 0 <= load <= 1:
            raise InvalidInput(f"load must be 0 to 1, not {load!r}")
        # Checked one by one: the script refuses a batch as a whole, and one caller's mistake must not be another's.
        ids.node_id(session.node_id)
        if usage is not None:
            json_object(usage, what="usage", max_bytes=MAX_USAGE_BYTES)
            if not usage.startswith("{") or not encodable(usage):
                raise InvalidInput("usage must be Unicode text that begins with the brace of its JSON object")
        return await self._heartbeats.outcome(_heartbeat(session, lease_ms, load, usage))

    def heartbeat_soon(
        self,
        session: Session,
        *,
        lease_ms: int,
        load: float | None,
        usage: str | None,
        done: Callable[[int | PyschedulerError], None],
    ) -> None:
        """What :meth:`heartbeat` does, without a task or a future, for a caller with many nodes.

        Args:
            session: the session, as last returned.
            lease_ms: as there.
            load: as there; not checked.
            usage: as there, as canonical JSON; not checked.
            done: gets the config version, or the error that :meth:`heartbeat` would raise, later. Must not raise.
        """
        self._heartbeats.add(_heartbeat(session, lease_ms, load, usage), done)

    async def release(self, session: Session, *, grace_ms: int, reason: str) -> bool:
        """Says that a socket closed.

        The node takes no new work, and leaves its pool if it is not back within the grace.

        Args:
            session: the session, as last returned.
            grace_ms: the reconnect grace, 0..86,400,000 ms.
            reason: why, for the event.

        Returns:
            False if the session was no longer the node's; nothing was changed then.
        """
        reply = await self._reply(
            calls.release_node(node_id=session.node_id, epoch=session.epoch, grace_ms=grace_ms, reason=_reason(reason))
        )
        if reply.status not in ("OK", "STALE", "UNKNOWN"):
            raise unexpected(reply)
        return reply.status == "OK"

    async def hold(self, node_id: str, *, owner: str, reason: str, allow_unknown: bool = False) -> HoldResult:
        """Keeps a node from new work until the owner lifts the hold. Holds outlive sessions.

        Args:
            node_id: the node.
            owner: who holds it, 1..64 bytes.
            reason: why, 1..256 bytes.
            allow_unknown: also for a node that is not there (yet).

        Raises:
            NotFound: no such node.
            LimitExceeded: too many holds.
        """
        return await self._hold(node_id, "set", owner, reason, allow_unknown)

    async def lift(self, node_id: str, *, owner: str, reason: str) -> HoldResult:
        """Lifts the owner's hold. The node takes work when no hold is left. Arguments as in :meth:`hold`.

        If the owner has none, nothing is changed and the result says so: a lift whose reply was lost can be repeated.
        """
        return await self._hold(node_id, "lift", owner, reason, False)

    async def _hold(self, node_id: str, operation: str, owner: str, reason: str, allow_unknown: bool) -> HoldResult:
        reply = await self._reply(
            calls.hold_node(
                node_id=ids.node_id(node_id),
                operation=operation,
                owner=owner,
                reason=reason,
                allow_unknown=allow_unknown,
            )
        )
        match reply.status:
            case "OK":
                changed, live = reply.text() == "1", reply.text() == "1"
                return HoldResult(node_id, changed, holds_of(reply.text()), live)
            case "UNKNOWN":
                raise NotFound(f"no node {node_id}: see 'pyscheduler node list'")
            case "HOLDS_FULL":
                raise LimitExceeded(f"the bound of {reply.text()} holds is reached")
        raise unexpected(reply)


def _heartbeat(session: Session, lease_ms: int, load: float | None, usage: str | None) -> Heartbeat:
    if load is None:
        return Heartbeat(session, lease_ms, "")
    return Heartbeat(session, lease_ms, f"{load:z.4f} {usage}" if usage else f"{load:z.4f}")


def _reason(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_EVENT_REASON_BYTES].decode("utf-8", "ignore")
