"""A node as one client alone would find it: who holds it, under which epoch, with which facts and holds.

A node on a socket is told neither its epoch nor its class: in what it records they are 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from tests.concurrency.history import NEVER, Operation

REMEMBERED = 4
"""Earlier sessions whose late calls are known to be late: docs/data-model.md, FORMER_SESSIONS."""

READS = {"read_node", "read_nodes", "superseded"}
BRIEF_NS = 3_000_000
"""A brief lease, 1 ms, has lapsed this long after it was given: more than it takes, as the clocks are not the same."""

CHANGES_EVERY_NODE = {"reconcile"}
SHOWS_EVERY_NODE = {"read_nodes"}


class NodeState(NamedTuple):
    """State. Each session is an instance of its own here, so that an answer which names the instance names the session.

    Args:
        live: whether the store knows the node.
        floor: every epoch so far is at most this, as far as known; the next one is greater.
        session: who registered last.
        epoch: its epoch; 0 while nobody has been told it.
        node_class: its class; 0 while nobody has been told it.
        former: sessions before it, newest first.
        offline: it has been released.
        brief: its lease may have lapsed, so that it may be taken from it, and upkeep may take the node away ...
        lapsed_ns: ... and has lapsed for sure at this time of the history.
        status: what the node reports.
        holds: owners.
    """

    live: bool = False
    floor: int = 0
    session: str = ""
    epoch: int = 0
    node_class: int = 0
    former: tuple[str, ...] = ()
    offline: bool = False
    brief: bool = False
    lapsed_ns: int = NEVER
    status: str = ""
    digest: str = ""
    facts: str = ""
    holds: frozenset[str] = frozenset()

    @property
    def shown(self) -> str:
        """The status that readers see."""
        if self.offline:
            return "offline"
        return "draining" if self.holds else self.status

    @property
    def takes_work(self) -> bool:
        return self.live and self.shown == "ready"

    def lapsed(self, operation: Operation) -> tuple[bool, ...]:
        """Whether its lease has lapsed when the operation is executed: yes, no, or perhaps."""
        if not self.brief:
            return (False,)
        return (True,) if operation.invoked_ns >= self.lapsed_ns else (False, True)

    def leased(self, operation: Operation) -> NodeState:
        """The state with the lease that the operation gives."""
        brief = bool(operation.args.get("brief"))
        known = brief and not operation.is_open
        return self._replace(brief=brief, lapsed_ns=operation.completed_ns + BRIEF_NS if known else NEVER)

    def under(self, epoch: int) -> NodeState | None:
        """The state, given that an answer shows this epoch to be the holder's; ``None`` if it cannot be."""
        if not self.live:
            return None
        if not epoch:
            return self
        if self.epoch:
            return self if self.epoch == epoch else None
        return self._replace(epoch=epoch, floor=epoch) if epoch > self.floor else None

    def in_class(self, node_class: int) -> NodeState | None:
        if self.node_class and node_class:
            return self if self.node_class == node_class else None
        return self if self.node_class else self._replace(node_class=node_class)


class NodeModel:
    """
    Args:
        node_id: which node. Operations on others are not for this model.
        repeated: sessions that are registered more than once. Of the others nobody asks again, so they are not told
            apart once they are over: that there were some is all that is remembered.
    """

    initial = NodeState()

    def __init__(self, node_id: str, repeated: Collection[str]) -> None:
        self.node_id = node_id
        self._repeated = repeated

    def reads(self, operation: Operation) -> bool:
        result = operation.result or {}
        without_effect = result.get("released", True) is False or result.get("changed", True) is False
        return operation.kind in READS or operation.kind == "sync" or without_effect or bool(operation.error)

    def step(self, state: NodeState, operation: Operation) -> Iterator[NodeState]:
        yield from getattr(self, f"_{operation.kind}")(state, operation)

    def _register(self, state: NodeState, operation: Operation) -> _States:
        args, result = operation.args, operation.result
        if state.live and args["session"] == state.session:
            if state.offline:
                yield from _refused(state, result, {"error": "SessionLost", "unknown": False})
            else:
                yield from _reported(state, operation)
        elif state.live and (args["session"] in state.former or args["epoch"]):
            # Every epoch that a caller can show here is of a session before the holder's.
            yield from _refused(state, result, {"error": "SessionLost", "unknown": False})
        else:
            stands_back = state.live and not state.offline and not args["takeover"]
            if stands_back and False in state.lapsed(operation):
                yield from _refused(state, result, {"error": "NodeIdConflict", "instance": state.session})
            if not stands_back or True in state.lapsed(operation):
                yield from self._begin(state, operation)

    def _begin(self, state: NodeState, operation: Operation) -> _States:
        epoch = operation.result.get("epoch", 0) if operation.result else 0
        if epoch == 0 or epoch > state.floor:
            last = state.session if state.session in self._repeated else ""
            former = (last, *state.former)[:REMEMBERED] if state.live else ()
            begun = NodeState(live=True, floor=max(state.floor, epoch), epoch=epoch, former=former, holds=state.holds)
            yield from _reported(begun._replace(session=operation.args["session"]), operation)

    def _update(self, state: NodeState, operation: Operation) -> _States:
        fence = _fence(state, operation.args)
        if fence is not None:
            yield from _refused(state, operation.result, fence)
        elif (under := state.under(operation.args["epoch"])) is not None:
            yield from _reported(under, operation)

    def _heartbeat(self, state: NodeState, operation: Operation) -> _States:
        args, result = operation.args, operation.result
        fence = _fence(state, args)
        if fence is not None:
            yield from _refused(state, result, fence)
            return
        under = state.under(args["epoch"])
        if under is None:
            return
        if result and result.get("error"):
            # A session's older token: its latest report was not answered, so its class may be one it does not know.
            older = (under.status, under.digest) != (args["status"], args["digest"]) or under.in_class(
                args["node_class"]
            ) != under
            if older and result == {"error": "SessionLost", "unknown": True}:
                yield under
        elif (under.status, under.digest) == (args["status"], args["digest"]):
            same = under.in_class(args["node_class"])
            if same is not None:
                yield same.leased(operation)

    def _release(self, state: NodeState, operation: Operation) -> _States:
        args, result = operation.args, operation.result
        if not state.live or not _holds(state, args):
            if result in (None, {"released": False}):
                yield state
        elif result in (None, {"released": True}):
            under = state.under(args["epoch"])
            if under is not None:
                # Its lease is shortened to the grace; without one, it has lapsed.
                ended = under._replace(brief=True, lapsed_ns=0) if args["grace_ms"] == 0 else under
                yield under if under.offline else ended._replace(offline=True)

    def _hold(self, state: NodeState, operation: Operation) -> _States:
        args, result = operation.args, operation.result
        if not state.live and not state.holds:
            yield from _refused(state, result, {"error": "NotFound"})
            return
        after = state._replace(holds=state.holds | {args["owner"]})
        if result in (None, {"changed": True, "live": state.live, "holds": sorted(after.holds)}):
            yield after

    def _lift(self, state: NodeState, operation: Operation) -> _States:
        args, result = operation.args, operation.result
        if args["owner"] in state.holds:
            after = state._replace(holds=state.holds - {args["owner"]})
            if result in (None, {"changed": True, "live": state.live, "holds": sorted(after.holds)}):
                yield after
        elif result in (None, {"changed": False, "live": state.live, "holds": sorted(state.holds)}):
            yield state

    def _read_node(self, state: NodeState, operation: Operation) -> _States:
        result = operation.result
        assert result is not None, "open reads are left out"
        if not state.live or result.get("error"):
            if not state.live and result == {"error": "NotFound"}:
                yield state
            return
        seen = (result["instance"], result["status"], result["facts"], result["holds"])
        if seen != (state.session, state.shown, state.facts, sorted(state.holds)):
            return
        under = state.under(result["epoch"])
        known = under and under.in_class(result["node_class"])
        if known:
            yield known

    def _superseded(self, state: NodeState, operation: Operation) -> _States:
        """A socket was closed because another has its node. From then on that is so."""
        if state.session != operation.args["session"]:
            yield state

    def _read_nodes(self, state: NodeState, operation: Operation) -> _States:
        result = operation.result
        assert result is not None, "open reads are left out"
        seen = result["nodes"].get(self.node_id)
        if seen is None or not state.live:
            if seen is None and not state.live:
                yield state
        elif (seen["instance"], seen["status"], seen["holds"]) == (state.session, state.shown, sorted(state.holds)):
            under = state.under(seen["epoch"])
            known = under and under.in_class(seen["node_class"])
            if known:
                yield known

    def _reconcile(self, state: NodeState, operation: Operation) -> _States:
        for lapsed in state.lapsed(operation) if state.live else (False,):
            yield NodeState(floor=state.floor, holds=state.holds) if lapsed else state


_States = Iterator[NodeState]


def _refused(state: NodeState, result: Mapping[str, Any] | None, refusal: Mapping[str, Any]) -> _States:
    if result is None or result == refusal:
        yield state


def _reported(state: NodeState, operation: Operation) -> _States:
    """The holder's session after a report that was accepted."""
    args, result = operation.args, operation.result
    after = state.leased(operation)._replace(facts=args["facts"], status=args["status"], digest=args["digest"])
    if result is None:
        # Equal facts keep their class: it is not dropped while the node is in it.
        yield after if state.facts == args["facts"] else after._replace(node_class=0)
    elif not result.get("error") and result["status"] == after.shown:
        under = after.under(result["epoch"])
        if state.facts != args["facts"]:
            under = under and under._replace(node_class=0)
        known = under and under.in_class(result["node_class"])
        if known:
            yield known


def _holds(state: NodeState, args: Mapping[str, Any]) -> bool:
    """Whether the caller's session is the holder's. By its name where nobody has been told the holder's epoch."""
    return bool(state.epoch == args["epoch"] if state.epoch and args["epoch"] else state.session == args["session"])


def _fence(state: NodeState, args: Mapping[str, Any]) -> dict[str, Any] | None:
    """The refusal of a session that is not the holder's, or is over; ``None`` for the holder's."""
    if not state.live:
        return {"error": "SessionLost", "unknown": True}
    if not _holds(state, args) or state.offline:
        return {"error": "SessionLost", "unknown": False}
    return None
