"""One node socket: runs the pure session machine against the store and a transport.

The machine says what to do, in order; this module does it and reports the outcomes back. Three parties feed a
connection: its reader (frames), the process's timer (deadlines) and the background work (what the store says). All of
them only append actions, which are executed one after the other, so there is never more than one store call in flight
for a socket, and a reader that waits until all is done is the backpressure. Heartbeats that only renew the lease are
most of what happens: they need no task, and the reader does not wait for them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode
from pyscheduler.core.results import NodeState, Registration, Session
from pyscheduler.core.session import (
    Action,
    Close,
    NodeSession,
    Note,
    ReadAdmission,
    Register,
    Release,
    Send,
    StoreAction,
    Touch,
    Update,
)
from pyscheduler.errors import (
    AdmissionChanged,
    InvalidInput,
    NodeIdConflict,
    OutcomeUnknown,
    PyschedulerError,
    SessionLost,
    StoreUnavailable,
)
from pyscheduler.registry.shared import Shared, now_ms

MAX_QUEUED_ACTIONS: Final = 256
"""Actions that wait for a transport that does not move; beyond them the socket is cut."""

_INTERNAL_ERROR: Final = 1011
_NOTE_BURST: Final = 32
_NOTES_PER_SECOND: Final = 1.0

_CALL_NAMES: Final = {ReadAdmission: "admission", Register: "register", Update: "update"}


class Transport(Protocol):
    """What a connection needs of the WebSocket under it."""

    async def send(self, text: str) -> None:
        """Send a text frame; waits while the peer does not read. Raises OSError once the socket is gone."""

    async def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake. Raises OSError once the socket is gone."""

    def abort(self) -> None:
        """Drop the socket at once, with whatever is still to be sent."""


class Connection:
    """One node socket.

    Args:
        shared: see :class:`Shared`.
        transport: the socket.
        peer: the address of the other side, for the log.
        when_ready: called when the reader may go on that was told to wait.
    """

    __slots__ = (
        "__weakref__",
        "_actions",
        "_busy",
        "_failing",
        "_load",
        "_notes_at_ms",
        "_notes_left",
        "_notes_lost",
        "_reader_waits",
        "_resting",
        "_runner",
        "_sending_since_ms",
        "_session",
        "_shared",
        "_touch_load",
        "_touched_at",
        "_transport",
        "_transport_gone",
        "machine",
        "node_class",
        "peer",
        "pool",
        "when_ready",
    )

    def __init__(self, shared: Shared, transport: Transport, peer: str, when_ready: Callable[[], None]) -> None:
        self.machine = NodeSession(_new_session_id(), shared.policy, now_ms())
        self.peer = peer
        self.when_ready = when_ready
        self.node_class: int | None = None
        self.pool: str | None = None
        self._shared = shared
        self._transport = transport
        self._transport_gone = False
        self._session: Session | None = None
        self._load = 0.0
        self._actions: list[Action] = []  # few, and a deque takes half a kilobyte when it is empty
        self._busy = False
        self._touched_at = 0.0
        self._touch_load: float | None = None
        self._reader_waits = False
        self._resting: list[asyncio.Future[None]] = []
        self._runner: asyncio.Task[None] | None = None
        self._failing: asyncio.Task[None] | None = None
        self._sending_since_ms: int | None = None
        self._notes_left = float(_NOTE_BURST)
        self._notes_at_ms = now_ms()
        self._notes_lost = 0

    @property
    def node_id(self) -> str | None:
        """The node's id, once it has registered or tries to."""
        return self.machine.node_id

    @property
    def epoch(self) -> int:
        """Epoch of the session that the store gave this socket last; 0 before the first."""
        return self._session.epoch if self._session is not None else 0

    @property
    def waits_for_store(self) -> bool:
        """Whether the node has asked to be registered, never was, and nothing is under way about it."""
        machine = self.machine
        return machine.node_id is not None and not self.epoch and not machine.in_flight and not machine.closed

    @property
    def is_silent(self) -> bool:
        """Whether the node has said nothing for a lease. A socket may look open long after its node has gone."""
        return now_ms() - self.machine.heard_ms >= self._shared.lease_ms

    # --- the reader --------------------------------------------------------------------------------------------------

    def on_text(self, text: str) -> bool:
        """A text frame came.

        Returns:
            Whether the next frame may come now. If not, ``when_ready`` is called once it may, when everything that this
            one led to is done. A heartbeat that only renews the lease holds nothing up: what comes while it is on its
            way to the store is part of the next one, or waits for its turn.
        """
        return self._read(self.machine.on_text(text, now_ms()))

    def on_binary(self) -> bool:
        """A binary frame came. Returns what :meth:`on_text` does."""
        return self._read(self.machine.on_binary(now_ms()))

    def on_oversize(self, size: int) -> bool:
        """A frame of ``size`` bytes came, more than a message may have. Returns what :meth:`on_text` does."""
        return self._read(self.machine.on_oversize(size, now_ms()))

    async def on_closed(self, reason: str = "") -> None:
        """The socket is closed. Returns when the node is released, or cannot be."""
        self._transport_gone = True
        self._do(self.machine.on_close(now_ms(), reason))
        await self.rest()
        self._tell_lost_notes()

    def fail(self, error: Exception) -> None:
        """A defect of ours: say so, and close the socket."""
        self._shared.log.error("connection_defect", node_id=self.node_id, peer=self.peer, exc_info=error)
        self._failing = asyncio.create_task(self._close_quietly(), name="pyscheduler-connection")

    async def _close_quietly(self) -> None:
        try:
            await self._transport.close(_INTERNAL_ERROR, "internal error")
        except (OSError, RuntimeError):
            self._transport.abort()

    # --- timer and background ----------------------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """Keep the deadlines: the machine's, and that of a message on its way out. ``now``: ms, monotonic."""
        since = self._sending_since_ms
        if since is not None and now - since >= self._shared.send_timeout_ms:
            self._cut("peer_does_not_read")
            return
        self._do(self.machine.on_tick(now))

    def taken_over(self) -> None:
        """Another socket has this node id now."""
        self._do(self.machine.on_taken_over(now_ms()))

    def on_state(self, state: NodeState) -> None:
        """What the store says of the node."""
        self.node_class, self.pool = state.node_class, state.pool
        self._do(self.machine.on_state(state.status, state.pool, state.pool_id, state.version, now_ms()))

    async def put_back(self) -> bool:
        """The store has lost the node: register it again under its epoch.

        Returns:
            Whether the node is registered afterwards.
        """
        self._do(self.machine.resume(now_ms()))
        await self.rest()
        return self.machine.session is not None

    async def shut_down(self) -> None:
        """The process stops: release the node, then close the socket so that the node goes elsewhere."""
        actions = self.machine.on_close(now_ms(), "server_restart")
        self._do([*actions, Close(CloseCode.SERVER_RESTART, "server restart")])
        await self.rest()

    def abort(self) -> None:
        """Drop the socket at once."""
        self._transport_gone = True
        self._transport.abort()

    # --- the runner --------------------------------------------------------------------------------------------------

    def _do(self, actions: list[Action]) -> None:
        """Queue actions, and begin if nothing is under way."""
        self._actions.extend(actions)
        if len(self._actions) > MAX_QUEUED_ACTIONS:
            self._cut("too_much_to_send")
        if not self._busy and self._actions:
            self._go_on()

    def _read(self, actions: list[Action]) -> bool:
        self._do(actions)
        self._reader_waits = not self._may_read
        return not self._reader_waits

    @property
    def _may_read(self) -> bool:
        return not self._busy or (not self._actions and self.machine.only_renews)

    def _go_on(self) -> None:
        """Execute what is queued: a touch has its outcome called back, a task does the rest up to the next touch."""
        self._busy = bool(self._actions)
        if self._busy:
            if isinstance(first := self._actions[0], Touch):
                self._actions.pop(0)
                self._touch(first)
            else:
                self._runner = asyncio.create_task(self._run(), name="pyscheduler-connection")
        else:
            self._runner = None
            while self._resting:
                if not (future := self._resting.pop()).done():
                    future.set_result(None)
        if self._reader_waits and self._may_read:
            self._reader_waits = False
            self.when_ready()

    async def _run(self) -> None:
        actions = self._actions
        try:
            while actions and not isinstance(actions[0], Touch):
                # An outcome's actions come before what was queued meanwhile: they belong to the action before.
                actions[:0] = await self._execute(actions.pop(0))
        except Exception as error:
            self.fail(error)
        self._go_on()

    async def rest(self) -> None:
        """Returns when everything that is queued is done."""
        if self._busy:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._resting.append(future)
            await future

    async def _execute(self, action: Action) -> list[Action]:
        match action:
            case Register():
                return await self._call(action, self._register(action))
            case Update():
                return await self._call(action, self._update(action))
            case ReadAdmission():
                return await self._call(action, self._read_admission())
            case Send(text=text):
                await self._send(text)
            case Close(code=code, reason=reason):
                await self._close(code, reason)
            case Release(reason=reason):
                await self._release(reason)
            case Note():
                self._note(action)
        return []

    async def _call(
        self,
        action: StoreAction,
        call: Awaitable[list[Action]],
    ) -> list[Action]:
        failed = self.machine.on_refused
        name = _CALL_NAMES[type(action)]
        metrics, started, outcome = self._shared.metrics, time.perf_counter(), "ok"
        try:
            return await call
        except AdmissionChanged as error:
            outcome = "admission_changed"
            self._learn(error)
            return failed(error, now_ms())
        except PyschedulerError as error:
            outcome = _outcome(error)
            return failed(error, now_ms())
        except Exception as error:
            # A defect of ours. The machine must have its outcome all the same, or the socket would hang for good.
            outcome = "defect"
            self._shared.log.error("store_call_defect", call=name, node_id=self.node_id, exc_info=error)
            return failed(PyschedulerError(f"internal error in {name}"), now_ms())
        finally:
            metrics.count_call(name, outcome, time.perf_counter() - started)

    def _learn(self, error: AdmissionChanged) -> None:
        try:
            self._shared.learn_admission(AdmissionPolicy.from_json(error.policy_json))
        except InvalidInput:
            return  # the machine says so

    async def _read_admission(self) -> list[Action]:
        policy = await self._shared.allocator.admission()
        self._shared.learn_admission(policy)
        return self.machine.on_admission(policy, now_ms())

    async def _register(self, action: Register) -> list[Action]:
        shared = self._shared
        shared.sockets.remember(action.node_id)
        registration = await shared.allocator.register(
            action.node_id,
            action.report,
            session_id=self.machine.session_id,
            instance=shared.instance,
            lease_ms=shared.lease_ms,
            epoch=action.epoch,
            admission_digest=action.admission_digest,
            takeover=shared.takeover,
        )
        self._load = action.report.load
        return self._registered(registration)

    async def _update(self, action: Update) -> list[Action]:
        registration = await self._shared.allocator.update(
            self._held(), action.report, lease_ms=self._shared.lease_ms, reason=action.reason
        )
        self._load = action.report.load
        return self._registered(registration)

    def _registered(self, registration: Registration) -> list[Action]:
        self._session = registration.session
        self.node_class, self.pool = registration.node_class, registration.pool
        if registration.cloned_id:
            self._shared.metrics.cloned_ids.inc()
        actions = self.machine.on_registered(registration, now_ms())
        if self.machine.session is not None:
            loser = self._shared.sockets.claim(registration.session.node_id, self)
            if loser is self:
                actions += self.machine.on_taken_over(now_ms())
            elif loser is not None:
                loser.taken_over()
        return actions

    def _touch(self, action: Touch) -> None:
        load = action.load
        if load is None and action.usage is not None:
            load = self._load  # the store takes usage together with its load only
        self._touch_load, self._touched_at = load, time.perf_counter()
        shared, session = self._shared, self._session
        if session is None:
            asyncio.get_running_loop().call_soon(self._on_touched, PyschedulerError("no session to act for"))
            return
        shared.allocator.heartbeat_soon(
            session, lease_ms=shared.lease_ms, load=load, usage=action.usage, done=self._on_touched
        )

    def _on_touched(self, outcome: int | PyschedulerError) -> None:
        metrics = self._shared.metrics
        metrics.observe_heartbeat(time.perf_counter() - self._touched_at)
        try:
            if isinstance(outcome, int):
                if self._touch_load is not None:
                    self._load = self._touch_load
                metrics.count_heartbeat()
                actions = self.machine.on_touched(outcome, now_ms())
            else:
                metrics.store_calls.labels("heartbeat", _outcome(outcome)).inc()
                actions = self.machine.on_touch_failed(outcome, now_ms())
            self._actions[:0] = actions
        except Exception as error:
            self.fail(error)
        self._go_on()

    def _held(self) -> Session:
        if self._session is None:
            raise PyschedulerError("no session to act for")
        return self._session

    async def _release(self, reason: str) -> None:
        if self._session is None:
            return
        started, outcome = time.perf_counter(), "ok"
        try:
            if not await self._shared.allocator.release(self._session, grace_ms=self._shared.grace_ms, reason=reason):
                outcome = "stale"
        except PyschedulerError as error:
            # Nothing is lost: without a heartbeat the lease ends by itself, only later.
            outcome = _outcome(error)
            self._shared.log.warning("release_failed", node_id=self.node_id, error=str(error))
        finally:
            self._shared.metrics.count_call("release", outcome, time.perf_counter() - started)

    # --- the transport -----------------------------------------------------------------------------------------------

    async def _send(self, text: str) -> None:
        if self._transport_gone:
            return
        self._sending_since_ms = now_ms()
        try:
            await self._transport.send(text)
            self._shared.metrics.count_reply(text)
        except OSError:
            self._transport_gone = True
        finally:
            self._sending_since_ms = None

    async def _close(self, code: int, reason: str) -> None:
        if self._transport_gone:
            return
        self._transport_gone = True
        self._shared.metrics.closed.labels(str(int(code))).inc()
        self._sending_since_ms = now_ms()
        try:
            await self._transport.close(code, reason)
        except OSError:
            pass
        finally:
            self._sending_since_ms = None

    def _cut(self, why: str) -> None:
        self._shared.log.info("connection_cut", node_id=self.node_id, peer=self.peer, reason=why)
        # What waits is still executed: messages go nowhere now, but a store call owes its outcome to the machine.
        self.abort()

    # --- log lines ---------------------------------------------------------------------------------------------------

    def _note(self, note: Note) -> None:
        # One node must not fill the log: a burst, then one line a second.
        now = now_ms()
        self._notes_left = min(
            float(_NOTE_BURST), self._notes_left + (now - self._notes_at_ms) / 1000 * _NOTES_PER_SECOND
        )
        self._notes_at_ms = now
        if self._notes_left < 1:
            self._notes_lost += 1
            return
        self._notes_left -= 1
        # A registration is told by the store's own event, with its reason; this line would be the second.
        level = "debug" if note.event == "registered" else note.level
        fields = {"peer": self.peer, **note.fields}
        getattr(self._shared.log, level)(note.event, **fields)

    def _tell_lost_notes(self) -> None:
        if self._notes_lost:
            self._shared.log.warning("log_lines_left_out", node_id=self.node_id, peer=self.peer, lines=self._notes_lost)
            self._notes_lost = 0


def _new_session_id() -> str:
    """A name for one socket's tenure that no other process and no later start of this one makes again."""
    return secrets.token_hex(8)


def _outcome(error: PyschedulerError) -> str:
    match error:
        case SessionLost():
            return "unknown_session" if error.unknown else "stale"
        case NodeIdConflict():
            return "conflict"
        case OutcomeUnknown():
            return "unknown_outcome"
        case StoreUnavailable():
            return "unavailable"
    return "refused"
