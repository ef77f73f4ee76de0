"""NodeSession: what one node socket may say when, and what is done about it. Pure: no clock, no socket, no store.

An adapter feeds in what happens (a frame, a tick, the outcome of a store call, the close) and executes the actions that
come back, in order. What the store has to be told is the ledger's business (see ledger.py); this module knows what a
socket may say, what it is answered, and when it ends.

What the adapter promises:

- It executes actions in order. A store action (:data:`StoreAction`) is followed by exactly one outcome:
  ``on_registered`` / ``on_refused`` for Register and Update, ``on_touched`` / ``on_touch_failed`` for Touch,
  ``on_admission`` / ``on_refused`` for ReadAdmission; also after ``on_close``. ``Release`` has no outcome.
- After ``Close`` it closes the socket and calls ``on_close``, once, as for any other close.
- It calls ``on_tick`` every second or so, and ``resume`` when the store is back.
"""

from __future__ import annotations

from enum import Enum

from pyscheduler.core import ids, protocol
from pyscheduler.core.actions import (
    Action,
    Close,
    Level,
    Note,
    ReadAdmission,
    Register,
    Release,
    Send,
    StoreAction,
    Touch,
    Update,
)
from pyscheduler.core.admission import AdmissionPolicy, Missing
from pyscheduler.core.codes import CloseCode, ErrorCode
from pyscheduler.core.gate import AdmissionGate
from pyscheduler.core.ids import shown
from pyscheduler.core.ledger import Flight, Ledger
from pyscheduler.core.lifecycle import Lifecycle
from pyscheduler.core.limits import MAX_CLOSE_REASON_BYTES, MAX_REASON_CHARS, MAX_SHOWN_CHARS
from pyscheduler.core.profile import NodeProfile
from pyscheduler.core.protocol import Frame, FrameError, JobMessage, NodeError, NodeHeartbeat, NodeRegister
from pyscheduler.core.repeat import Repeat
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.core.session_policy import SessionPolicy
from pyscheduler.errors import (
    AdmissionChanged,
    InvalidInput,
    LimitExceeded,
    NodeIdConflict,
    PyschedulerError,
    SessionLost,
    StoreUnavailable,
)

__all__ = [
    "Action",
    "Close",
    "NodeSession",
    "Note",
    "ReadAdmission",
    "Register",
    "Release",
    "Send",
    "SessionPolicy",
    "StoreAction",
    "Touch",
    "Update",
]

_OUTAGE = "the scheduler's store cannot be reached; the node stays connected and is stored when it is back"
_TAKEN_OVER = "another connection has taken over this node id"


class _Phase(Enum):
    OPEN = "open"
    CLOSING = "closing"  # we have asked for the close, or the socket is gone and a store call is still in flight
    ENDED = "ended"


class NodeSession:
    """One node socket.

    Args:
        session_id: unique name of this socket's tenure; the allocator makes registering idempotent by it.
        policy: see :class:`SessionPolicy`.
        now_ms: time of the opening. All times are ms of one clock that only grows.
    """

    __slots__ = (
        "_bad_frames",
        "_bad_in_a_row",
        "_gate",
        "_gone",
        "_ledger",
        "_opened_ms",
        "_other_id_noted",
        "_phase",
        "_policy",
        "_pushed",
        "_release_reason",
        "_repeat",
        "_version",
        "heard_ms",
        "session_id",
    )

    def __init__(self, session_id: str, policy: SessionPolicy, now_ms: int) -> None:
        self.session_id = session_id
        self._policy = policy
        self._opened_ms = now_ms
        self.heard_ms = now_ms
        self._phase = _Phase.OPEN
        self._gone = False
        self._release_reason = "socket_closed"
        self._bad_frames = 0
        self._bad_in_a_row = 0
        self._other_id_noted = False
        self._repeat: Repeat | None = None
        self._ledger: Ledger | None = None  # from the first good registration on
        self._gate = AdmissionGate(policy.admission)
        self._pushed: tuple[NodeStatus, str | None, int | None] | None = None
        self._version = 0

    # --- what the adapter may look at ---

    @property
    def node_id(self) -> str | None:
        """The node's id, from its first registration on, stored or not."""
        return self._ledger.node_id if self._ledger is not None else None

    @property
    def session(self) -> Session | None:
        """The store's session; ``None`` before the first acknowledgement and once another session has the node."""
        return self._ledger.session if self._ledger is not None else None

    @property
    def status(self) -> NodeStatus | None:
        """Status by this socket's own heartbeats."""
        return self._ledger.status if self._ledger is not None else None

    @property
    def in_flight(self) -> bool:
        """True while a store action's outcome is awaited."""
        return self._ledger is not None and self._ledger.flight is not None

    @property
    def only_renews(self) -> bool:
        """True while a touch is in flight and nothing is due that messages to come might pass over."""
        return self._ledger is not None and self._ledger.only_renews

    @property
    def closed(self) -> bool:
        """True from a ``Close`` or the socket's end on."""
        return self._phase is not _Phase.OPEN

    # --- frames ---

    def on_text(self, text: str | bytes, now_ms: int) -> list[Action]:
        """A text frame came."""
        if self.closed:
            return []
        self.heard_ms = now_ms
        repeat, ledger = self._repeat, self._ledger
        if repeat is not None and ledger is not None and isinstance(text, str) and (told := repeat.read(text)):
            ledger.beat_again(*told, now_ms)
            self._bad_in_a_row = 0
            return self._next()
        try:
            frame = protocol.parse_frame(text)
            actions = self._on_frame(frame, now_ms)
        except FrameError as error:
            return self._bad(error)
        if isinstance(frame.body, NodeHeartbeat) and isinstance(text, str) and self._ledger is not None:
            self._repeat = Repeat.of(text, frame)
        self._bad_in_a_row = 0
        return actions

    def on_binary(self, now_ms: int) -> list[Action]:
        """A binary frame came: the protocol has none."""
        if self.closed:
            return []
        self.heard_ms = now_ms
        return self._bad(FrameError(ErrorCode.INVALID_MESSAGE, "binary frames are not used: send JSON in text frames"))

    def on_oversize(self, size: int, now_ms: int) -> list[Action]:
        """A frame of ``size`` bytes came, or at least so many, and was not read."""
        if self.closed:
            return []
        self.heard_ms = now_ms
        return self._bad(protocol.too_large(size))

    def _bad(self, error: FrameError) -> list[Action]:
        self._bad_frames += 1
        self._bad_in_a_row += 1
        actions: list[Action] = []
        if self._bad_frames & (self._bad_frames - 1) == 0:  # 1, 2, 4, 8 ...: a broken client must not fill the log
            actions.append(self._note("warning", "message_refused", error=str(error), count=self._bad_frames))
        actions.append(Send(protocol.error_reply(error.code, str(error), error.problems)))
        if self._bad_in_a_row >= self._policy.max_bad_frames:
            actions.append(self._close(CloseCode.PROTOCOL_ABUSE, f"{self._bad_in_a_row} bad messages in a row"))
        return actions

    def _on_frame(self, frame: Frame, now_ms: int) -> list[Action]:
        match frame.body:
            case NodeHeartbeat():
                return self._on_heartbeat(frame, frame.body, now_ms)
            case NodeRegister():
                return self._on_register(frame, frame.body, now_ms)
            case JobMessage(job_id=job_id):
                return self._on_job(frame.type, job_id)
            case NodeError(code=code, message=message):
                return [self._note("warning", "node_error", code=shown(code), message=shown(message, MAX_REASON_CHARS))]

    def _on_register(self, frame: Frame, body: NodeRegister, now_ms: int) -> list[Action]:
        ledger = self._ledger
        if ledger is not None and body.node_id not in (None, ledger.node_id):
            message = f"this connection is node {ledger.node_id}: register {body.node_id} on a connection of its own"
            return [Send(protocol.error_reply(ErrorCode.NODE_ID_CONFLICT, message))]
        profile = NodeProfile.registered(frame)
        if ledger is None:
            node_id = ids.node_id(self._policy.new_node_id() if body.node_id is None else body.node_id)
            ledger = self._ledger = Ledger(node_id, profile, Lifecycle(self._policy.lifecycle, now_ms))
        ledger.registered(profile)
        self._repeat = None  # what a heartbeat declared may no longer be in force
        self._gate.asks()
        return self._next()

    def _on_heartbeat(self, frame: Frame, body: NodeHeartbeat, now_ms: int) -> list[Action]:
        ledger = self._ledger
        if ledger is None:
            # Normal on a reconnect, where it may overtake the registration: it is answered, and changes nothing.
            return [Send(protocol.error_reply(ErrorCode.INVALID_MESSAGE, "register first: send node_register"))]
        ledger.beat(frame, body, now_ms)
        actions: list[Action] = []
        if body.node_id != ledger.node_id and not self._other_id_noted:
            self._other_id_noted = True
            actions.append(self._note("warning", "heartbeat_claims_other_id", claimed=shown(body.node_id)))
        return actions + self._next()

    def _on_job(self, kind: str, job_id: str) -> list[Action]:
        message = f"{kind} for job {shown(job_id)}: this scheduler has assigned no such job to this node"
        return [
            self._note("debug", "job_message", type=kind, job_id=shown(job_id)),
            Send(protocol.error_reply(ErrorCode.INVALID_SESSION, message)),
        ]

    # --- time ---

    def on_tick(self, now_ms: int) -> list[Action]:
        """Time has passed: keep the deadlines."""
        if self.closed:
            return []
        ledger = self._ledger
        if ledger is None:
            waited = now_ms - self._opened_ms
            if waited < self._policy.registration_timeout_ms:
                return []
            message = f"no node_register within {self._policy.registration_timeout_ms / 1000:g} s"
            return [
                self._note("info", "registration_timed_out"),
                Send(protocol.error_reply(ErrorCode.INVALID_MESSAGE, message)),
                self._close(CloseCode.PROTOCOL_ABUSE, message),
            ]
        # A client sends nothing before it has its ack: its silence counts from then on.
        if ledger.session is not None and now_ms - self.heard_ms >= self._policy.silence_ms:
            message = f"no message for {self._policy.silence_ms / 1000:g} s"
            self._release_reason = "silent"
            return [self._note("info", "silent"), self._close(CloseCode.PROTOCOL_ABUSE, message)]
        ledger.pass_time(now_ms, self._policy.retry_ms)
        return self._next()

    # --- outcomes of store calls ---

    def on_registered(self, registration: Registration, now_ms: int) -> list[Action]:
        """Register or Update succeeded."""
        ledger = self._ledger
        if ledger is None or ledger.flight is None or not isinstance(ledger.flight.action, Register | Update):
            return [self._note("error", "unexpected_outcome", outcome="registered")]
        flight, first = ledger.flight, ledger.session is None
        ledger.succeeded(flight, registration.session)
        # A store that came back without its data counts its versions anew; all that it says now is about these.
        began = isinstance(flight.action, Register)
        self._version = registration.version if began else max(self._version, registration.version)
        if self.closed:
            return self._after_close()
        actions: list[Action] = []
        if registration.cloned_id:
            actions.append(self._note("warning", "cloned_id"))
        if first:
            self.heard_ms = max(self.heard_ms, now_ms)
            actions.append(self._note("info", "registered", pool=registration.pool or "", reason=registration.reason))
        if flight.ack:
            actions.append(Send(protocol.register_ack(ledger.node_id, registration.status)))
        actions += self._push(ledger, registration.status, registration.pool, registration.pool_id, registration.reason)
        return actions + self._next()

    def on_refused(self, error: PyschedulerError, now_ms: int) -> list[Action]:
        """Register, Update or ReadAdmission failed."""
        return self._failed(error, now_ms)

    def on_admission(self, policy: AdmissionPolicy, now_ms: int) -> list[Action]:
        """ReadAdmission succeeded. Also good for telling the machine a policy that became known otherwise."""
        ledger = self._ledger
        if ledger is None or ledger.flight is None or not isinstance(ledger.flight.action, ReadAdmission):
            self._gate.policy = policy
            return []
        ledger.succeeded(ledger.flight)
        self._gate.read(policy)
        return self._after_close() if self.closed else self._next()

    def on_touched(self, version: int, now_ms: int) -> list[Action]:
        """Touch succeeded."""
        ledger = self._ledger
        if ledger is None or ledger.flight is None or not isinstance(ledger.flight.action, Touch):
            return [self._note("error", "unexpected_outcome", outcome="touched")]
        ledger.succeeded(ledger.flight)
        self._version = max(self._version, version)
        return self._after_close() if self.closed else self._next()

    def on_touch_failed(self, error: PyschedulerError, now_ms: int) -> list[Action]:
        """Touch failed."""
        return self._failed(error, now_ms)

    def _failed(self, error: PyschedulerError, now_ms: int) -> list[Action]:
        ledger = self._ledger
        if ledger is None or ledger.flight is None:
            return [self._note("error", "unexpected_outcome", outcome=type(error).__name__)]
        flight = ledger.flight
        ledger.failed(flight)
        return self._after_close() if self.closed else self._after_failure(ledger, flight, error, now_ms)

    def _after_failure(self, ledger: Ledger, flight: Flight, error: PyschedulerError, now_ms: int) -> list[Action]:
        message = f"the scheduler's store refused the node; it stays connected and is tried again: {error}"
        code = ErrorCode.INTERNAL_ERROR
        match error:
            case NodeIdConflict():
                return self._superseded(ledger, str(error))
            case SessionLost(unknown=False):
                return self._superseded(ledger, _TAKEN_OVER)
            case SessionLost() if ledger.session is not None and not isinstance(flight.action, Register):
                ledger.register_again()
                return [self._note("info", "lost_by_store"), *self._next()]
            case LimitExceeded() if ledger.keeps_known_facts(flight):
                reply = self._answer(ledger, code, f"the change is not stored: {error}")
                return [self._note("warning", "update_refused", error=str(error)), *reply, *self._next()]
            case AdmissionChanged(policy_json=policy_json):
                try:
                    if self._gate.changed(AdmissionPolicy.from_json(policy_json)):
                        return self._next()
                    message = "the admission policy keeps changing; the registration is kept and tried again"
                except InvalidInput as problem:
                    message = f"the admission policy in the store cannot be read: {problem}"
            case StoreUnavailable():
                code, message = ErrorCode.SCHEDULER_DEPENDENCY_DOWN, _OUTAGE
        ledger.wait(now_ms)
        reply = self._answer(ledger, code, message)
        return [self._note("warning" if reply else "debug", "store_call_failed", error=str(error)), *reply]

    def _answer(self, ledger: Ledger, code: ErrorCode, message: str) -> list[Action]:
        return [Send(protocol.error_reply(code, message))] if ledger.takes_answer() else []

    # --- what the store says by itself ---

    def on_state(
        self, status: NodeStatus, pool: str | None, pool_id: int | None, version: int, now_ms: int
    ) -> list[Action]:
        """What the store says of the node now; what differs from the last push is pushed to the node.

        Ignored while a write is in flight, whose outcome is newer, and if ``version`` is older than one already seen.
        """
        ledger = self._ledger
        if self.closed or ledger is None or ledger.session is None or version < self._version:
            return []
        if ledger.flight is not None and not isinstance(ledger.flight.action, Touch):
            return []
        self._version = version
        return self._push(ledger, status, pool, pool_id, "")

    def on_taken_over(self, now_ms: int) -> list[Action]:
        """Another connection has registered the node under a newer epoch."""
        ledger = self._ledger
        if self.closed or ledger is None or ledger.session is None:
            return []
        return self._superseded(ledger, _TAKEN_OVER)

    def resume(self, now_ms: int) -> list[Action]:
        """The store is back, maybe without its data: register again what this socket holds, under its epoch."""
        if self.closed or self._ledger is None:
            return []
        self._ledger.register_again()
        return self._next()

    # --- the end ---

    def on_close(self, now_ms: int, reason: str = "") -> list[Action]:
        """The socket is closed, by whoever. ``reason`` (such as ``server_restart``) goes into the release."""
        if self._gone:
            return []
        self._gone = True
        self._release_reason = reason or self._release_reason
        self._phase = _Phase.CLOSING
        return self._after_close()

    def _after_close(self) -> list[Action]:
        """Release once the socket is gone and no call is in flight that could still register the node."""
        if not self._gone or self.in_flight or self._phase is _Phase.ENDED:
            return []
        self._phase = _Phase.ENDED
        if self._ledger is None or self._ledger.session is None:
            return []
        self._ledger.session = None
        return [Release(self._release_reason)]

    def _superseded(self, ledger: Ledger, message: str) -> list[Action]:
        ledger.session = None  # nothing of this node is ours to release any more
        return [
            self._note("warning", "superseded", reason=message),
            Send(protocol.error_reply(ErrorCode.NODE_ID_CONFLICT, message)),
            self._close(CloseCode.SUPERSEDED, message),
        ]

    def _not_admitted(self, missing: list[Missing]) -> list[Action]:
        self._release_reason = "registration_refused"
        codes = ", ".join(item.code for item in missing)
        return [
            self._note("warning", "registration_refused", codes=codes, missing="; ".join(m.message for m in missing)),
            *(Send(protocol.error_reply(item.code, item.message)) for item in missing),
            self._close(CloseCode.REGISTRATION_REFUSED, f"registration refused: {codes}"),
        ]

    def _close(self, code: CloseCode, reason: str) -> Close:
        self._phase = _Phase.CLOSING
        text = ascii(reason)[1:-1] if not reason.isascii() else reason
        return Close(code, text[:MAX_CLOSE_REASON_BYTES])

    # --- what to do next ---

    def _next(self) -> list[Action]:
        ledger, gate = self._ledger, self._gate
        if ledger is None or not ledger.may_call:
            return []
        if gate.due or ledger.begins:
            # Checked anew before each attempt to begin a session: the policy may have become known to be another.
            missing = gate.check(ledger.profile)
            if missing is None:
                return [ledger.read_admission()]
            if missing:
                return self._not_admitted(missing)
        call = ledger.next_call(gate.policy.digest if gate.policy is not None else "")
        return [] if call is None else [call]

    def _push(
        self, ledger: Ledger, status: NodeStatus, pool: str | None, pool_id: int | None, reason: str
    ) -> list[Action]:
        current, last = (status, pool, pool_id), self._pushed
        if current == last:
            return []
        self._pushed = current
        before = last[0] if last is not None else None
        if status is before:
            why = reason or ("In no pool now" if pool is None else "In another pool now")
        elif status is NodeStatus.DRAINING:
            why = "Held: takes no new work"
        elif before is NodeStatus.DRAINING:
            why = "No hold is left"
        else:
            why = (ledger.status_reason if status is ledger.status else "") or reason or status.value
        text = protocol.node_status(
            ledger.node_id,
            status=status,
            reason=why[:MAX_REASON_CHARS],
            timestamp=self._policy.clock(),
            pool=pool,
            pool_id=pool_id,
            version=self._version,
        )
        return [Send(text)]

    def _note(self, level: Level, event: str, **fields: str | int) -> Note:
        cut = {
            name: value if isinstance(value, int) else value[: 8 * MAX_SHOWN_CHARS] for name, value in fields.items()
        }
        named = {"node_id": self._ledger.node_id} if self._ledger is not None else {}
        return Note(level, event, {**named, **cut})
