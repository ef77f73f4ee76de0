"""NodeSession: what one node socket may say when, and what is done about it. Pure: no clock, no socket, no store.

An adapter feeds in what happens (a frame, a tick, the outcome of a store call, the close) and executes the actions that
come back, in order. The machine holds the state that the node *should* have in the store beside the state that the
store has acknowledged; whenever no store call is in flight, the difference decides the next one. So a message that
comes while a call is in flight is never lost and never starts a second call, and after an outage nothing has to be
remembered but that difference.

What the adapter promises:

- It executes actions in order. A store action (:data:`StoreAction`) is followed by exactly one outcome:
  ``on_registered`` / ``on_refused`` for Register and Update, ``on_touched`` / ``on_touch_failed`` for Touch,
  ``on_admission`` / ``on_refused`` for ReadAdmission; also after ``on_close``. ``Release`` has no outcome.
- After ``Close`` it closes the socket and calls ``on_close``, once, as for any other close.
- It calls ``on_tick`` every second or so, and ``resume`` when the store is back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from pyscheduler.core import ids, protocol
from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode, ErrorCode
from pyscheduler.core.facts import Facts
from pyscheduler.core.ids import shown
from pyscheduler.core.lifecycle import Lifecycle, LifecyclePolicy, Vitals
from pyscheduler.core.limits import MAX_CLOSE_REASON_BYTES, MAX_REASON_CHARS, MAX_SHOWN_CHARS
from pyscheduler.core.profile import NodeProfile, load_of, usage_of
from pyscheduler.core.protocol import Frame, FrameError, JobMessage, NodeError, NodeHeartbeat, NodeRegister
from pyscheduler.core.report import NodeReport
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.errors import (
    AdmissionChanged,
    InvalidInput,
    LimitExceeded,
    NodeIdConflict,
    PyschedulerError,
    SessionLost,
    StoreUnavailable,
)

MAX_ADMISSION_ROUNDS = 8
"""Times in a row that the admission policy may change under one registration before it waits for the next tick."""

# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a text frame."""

    text: str


@dataclass(frozen=True, slots=True)
class ReadAdmission:
    """Read the admission policy in force from the store."""


@dataclass(frozen=True, slots=True)
class Register:
    """Register the node. ``epoch`` 0 begins a session; any other is this session's, which the store has lost.

    ``admission_digest`` is that of the policy under which a new session was checked; empty for an old one, to which
    admission does not apply again.
    """

    node_id: str
    report: NodeReport
    epoch: int
    admission_digest: str


@dataclass(frozen=True, slots=True)
class Update:
    """Write a changed report."""

    report: NodeReport
    reason: str


@dataclass(frozen=True, slots=True)
class Touch:
    """Renew the lease. ``None`` means unchanged since the store last acknowledged it."""

    load: float | None
    usage: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """The socket is gone: release the node with its reconnect grace. The last action of a session that has one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket with this code and reason."""

    code: CloseCode
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """Write a log line; the adapter may count by ``event``."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: Mapping[str, str | int] = field(default_factory=dict)


StoreAction = ReadAdmission | Register | Update | Touch
Action = Send | StoreAction | Release | Close | Note


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What all sessions of a process share.

    Args:
        clock: wall-clock time in whole seconds, for ``node_status``.
        new_node_id: makes an id for a node that has none.
        admission: the admission policy as last seen; ``None``: not read yet. It may be out of date: nobody is refused
            under it without reading it anew.
        lifecycle: thresholds of the lifecycle.
        registration_timeout_ms: a socket that has not registered within this time is closed.
        silence_ms: a registered node that sends nothing for this time is closed. Longer than the lease, so that a late
            heartbeat finds its socket open.
        retry_ms: time after which a failed store call is repeated if nothing else has caused it by then.
        max_bad_frames: refused frames in a row after which the socket is closed.
    """

    clock: Callable[[], int]
    new_node_id: Callable[[], str]
    admission: AdmissionPolicy | None = None
    lifecycle: LifecyclePolicy = field(default_factory=LifecyclePolicy)
    registration_timeout_ms: int = 30_000
    silence_ms: int = 135_000
    retry_ms: int = 15_000
    max_bad_frames: int = 1000


# --- the machine -----------------------------------------------------------------------------------------------------


class _Phase(Enum):
    OPEN = "open"  # nothing registered yet
    OPERATING = "operating"  # a registration was accepted; the store may or may not have acknowledged it yet
    CLOSING = "closing"  # we have asked for the close, or the socket is gone and a store call is still in flight
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the store has of a node, or will have when a call succeeds."""

    facts: Facts
    record: str
    digest: str
    status: NodeStatus
    load: float
    usage: str

    def report(self) -> NodeReport:
        return NodeReport(self.facts, self.record, self.status, self.load, self.usage)


@dataclass(slots=True)
class _Flight:
    """The store call in flight, and what is owed to the node by its outcome."""

    action: StoreAction
    stored: _Stored | None
    ack: bool
    answer: bool
    heartbeat: bool


class NodeSession:
    """One node socket.

    Args:
        session_id: unique name of this socket's tenure; the allocator makes registering idempotent by it.
        policy: see :class:`SessionPolicy`.
        now_ms: time of the opening. All times are ms of one clock that only grows.
    """

    __slots__ = (
        "_ack_owed",
        "_acknowledged",
        "_admission",
        "_admission_due",
        "_admission_fresh",
        "_admission_rounds",
        "_answer_owed",
        "_bad_frames",
        "_bad_in_a_row",
        "_blocked_ms",
        "_flight",
        "_gone",
        "_heard_ms",
        "_heartbeat_owed",
        "_lifecycle",
        "_load",
        "_node_id",
        "_opened_ms",
        "_other_id_noted",
        "_phase",
        "_policy",
        "_profile",
        "_pushed",
        "_refused_digest",
        "_register_due",
        "_release_reason",
        "_session",
        "_status_reason",
        "_usage",
        "_version",
        "session_id",
    )

    def __init__(self, session_id: str, policy: SessionPolicy, now_ms: int) -> None:
        self.session_id = session_id
        self._policy = policy
        self._opened_ms = now_ms
        self._heard_ms = now_ms
        self._phase = _Phase.OPEN
        self._gone = False
        self._release_reason = "socket_closed"
        self._bad_frames = 0
        self._bad_in_a_row = 0
        self._other_id_noted = False
        # What the node should be.
        self._node_id = ""
        self._profile: NodeProfile | None = None
        self._lifecycle: Lifecycle | None = None
        self._load = 0.0
        self._usage = "{}"
        self._status_reason = ""
        # What the store has acknowledged, and what was last pushed to the node.
        self._session: Session | None = None
        self._acknowledged: _Stored | None = None
        self._version = 0
        self._pushed: tuple[NodeStatus, str | None, int | None] | None = None
        # What is due, and what is owed to the node when it is done or fails.
        self._flight: _Flight | None = None
        self._blocked_ms: int | None = None
        self._register_due = False
        self._heartbeat_owed = False
        self._ack_owed = False
        self._answer_owed = False
        self._refused_digest = ""
        self._admission = policy.admission
        self._admission_due = False
        self._admission_fresh = False
        self._admission_rounds = 0

    # --- what the adapter may look at ---

    @property
    def node_id(self) -> str | None:
        """The node's id once a registration was accepted for storing."""
        return self._node_id or None

    @property
    def session(self) -> Session | None:
        """The store's session; ``None`` before the first acknowledgement and once another session has the node."""
        return self._session

    @property
    def status(self) -> NodeStatus | None:
        """Status by this socket's own heartbeats."""
        return self._lifecycle.status if self._lifecycle else None

    @property
    def in_flight(self) -> bool:
        """True while a store action's outcome is awaited."""
        return self._flight is not None

    @property
    def closed(self) -> bool:
        """True from a ``Close`` or the socket's end on."""
        return self._phase in (_Phase.CLOSING, _Phase.ENDED)

    # --- frames ---

    def on_text(self, text: str | bytes, now_ms: int) -> list[Action]:
        """A text frame came."""
        if self.closed:
            return []
        self._heard_ms = now_ms
        try:
            frame = protocol.parse_frame(text)
            actions = self._on_frame(frame, now_ms)
        except FrameError as error:
            return self._bad(error)
        self._bad_in_a_row = 0
        return actions

    def on_binary(self, now_ms: int) -> list[Action]:
        """A binary frame came: the protocol has none."""
        if self.closed:
            return []
        self._heard_ms = now_ms
        return self._bad(FrameError(ErrorCode.INVALID_MESSAGE, "binary frames are not used: send JSON in text frames"))

    def on_oversize(self, size: int, now_ms: int) -> list[Action]:
        """A frame of ``size`` bytes came, or at least so many, and was not read."""
        if self.closed:
            return []
        self._heard_ms = now_ms
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
        if self._node_id and body.node_id not in (None, self._node_id):
            message = f"this connection is node {self._node_id}: register {body.node_id} on a connection of its own"
            return [Send(protocol.error_reply(ErrorCode.NODE_ID_CONFLICT, message))]
        profile = NodeProfile.registered(frame)
        self._profile = profile
        if self._lifecycle is None:
            self._node_id = ids.node_id(self._policy.new_node_id() if body.node_id is None else body.node_id)
            self._lifecycle = Lifecycle(self._policy.lifecycle, now_ms)
            self._register_due = True
            self._phase = _Phase.OPERATING
        self._admission_due = True
        self._admission_fresh = False
        self._admission_rounds = 0
        self._ack_owed = True
        return self._asked(now_ms)

    def _on_heartbeat(self, frame: Frame, body: NodeHeartbeat, now_ms: int) -> list[Action]:
        if self._profile is None or self._lifecycle is None:
            # Normal on a reconnect, where it may overtake the registration: it answers, and changes nothing.
            return [Send(protocol.error_reply(ErrorCode.INVALID_MESSAGE, "register first: send node_register"))]
        actions: list[Action] = []
        if body.node_id != self._node_id and not self._other_id_noted:
            self._other_id_noted = True
            actions.append(self._note("warning", "heartbeat_claims_other_id", claimed=shown(body.node_id)))
        profile = self._profile.merged(frame)
        usage = usage_of(frame)
        self._profile, self._usage, self._load = profile, usage, load_of(body)
        vitals = Vitals(len(profile.gpus), body.resource_usage.gpu_percent, profile.running)
        change = self._lifecycle.on_heartbeat(vitals, now_ms)
        if change is not None:
            self._status_reason = change.reason
        self._heartbeat_owed = True
        self._refused_digest = ""
        return actions + self._asked(now_ms)

    def _on_job(self, kind: str, job_id: str) -> list[Action]:
        message = f"{kind} for job {shown(job_id)}: this scheduler has assigned no such job to this node"
        return [
            self._note("debug", "job_message", type=kind, job_id=shown(job_id)),
            Send(protocol.error_reply(ErrorCode.INVALID_SESSION, message)),
        ]

    def _asked(self, now_ms: int) -> list[Action]:
        """A message needs the store: try at once, whatever failed before, and answer if that fails."""
        self._blocked_ms = None
        self._answer_owed = True
        return self._next(now_ms)

    # --- time ---

    def on_tick(self, now_ms: int) -> list[Action]:
        """Time has passed: keep the deadlines."""
        if self.closed:
            return []
        if self._lifecycle is None:
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
        if self._session is not None and now_ms - self._heard_ms >= self._policy.silence_ms:
            message = f"no message for {self._policy.silence_ms / 1000:g} s"
            self._release_reason = "silent"
            return [self._note("info", "silent"), self._close(CloseCode.PROTOCOL_ABUSE, message)]
        change = self._lifecycle.on_time(now_ms)
        if change is not None:
            self._status_reason = change.reason
        if self._blocked_ms is not None and now_ms - self._blocked_ms >= self._policy.retry_ms:
            self._blocked_ms = None
        return self._next(now_ms)

    # --- outcomes of store calls ---

    def on_registered(self, registration: Registration, now_ms: int) -> list[Action]:
        """Register or Update succeeded."""
        flight = self._flight
        if flight is None or not isinstance(flight.action, Register | Update):
            return [self._note("error", "unexpected_outcome", outcome="registered")]
        self._flight = None
        first = self._session is None
        self._session = registration.session
        self._acknowledged = flight.stored
        self._version = max(self._version, registration.version)
        self._admission_rounds = 0
        if isinstance(flight.action, Register):
            self._register_due = False
        if self.closed:
            return self._after_close()
        if first:
            self._heard_ms = max(self._heard_ms, now_ms)
        actions: list[Action] = []
        if registration.cloned_id:
            actions.append(self._note("warning", "cloned_id"))
        if first:
            actions.append(self._note("info", "registered", pool=registration.pool or "", reason=registration.reason))
        if flight.ack:
            actions.append(Send(protocol.register_ack(self._node_id, registration.status)))
        actions += self._push(registration.status, registration.pool, registration.pool_id, registration.reason)
        return actions + self._next(now_ms)

    def on_refused(self, error: PyschedulerError, now_ms: int) -> list[Action]:
        """Register, Update or ReadAdmission failed."""
        return self._failed(error, now_ms)

    def on_admission(self, policy: AdmissionPolicy, now_ms: int) -> list[Action]:
        """ReadAdmission succeeded, or the policy is known to have changed: this is the one in force now."""
        self._admission = policy
        flight = self._flight
        if flight is None or not isinstance(flight.action, ReadAdmission):
            return []
        self._flight = None
        self._owe(flight)
        if self.closed:
            return self._after_close()
        self._admission_fresh = True
        return self._next(now_ms)

    def on_touched(self, version: int, now_ms: int) -> list[Action]:
        """Touch succeeded."""
        flight = self._flight
        if flight is None or not isinstance(flight.action, Touch):
            return [self._note("error", "unexpected_outcome", outcome="touched")]
        self._flight = None
        self._acknowledged = flight.stored
        self._version = max(self._version, version)
        return self._after_close() if self.closed else self._next(now_ms)

    def on_touch_failed(self, error: PyschedulerError, now_ms: int) -> list[Action]:
        """Touch failed."""
        return self._failed(error, now_ms)

    def _failed(self, error: PyschedulerError, now_ms: int) -> list[Action]:
        flight, self._flight = self._flight, None
        if flight is None:
            return [self._note("error", "unexpected_outcome", outcome=type(error).__name__)]
        if self.closed:
            return self._after_close()
        answer = flight.answer
        flight.answer = False
        self._owe(flight)
        match error:
            case AdmissionChanged():
                return self._admission_changed(error, answer, now_ms)
            case NodeIdConflict():
                return self._superseded(str(error))
            case SessionLost(unknown=False):
                return self._superseded("another connection has taken over this node id")
            case SessionLost() if self._session is not None and not isinstance(flight.action, Register):
                self._register_due = True
                self._answer_owed = self._answer_owed or answer
                return [self._note("info", "lost_by_store"), *self._next(now_ms)]
            case LimitExceeded() if flight.stored and self._known_digest not in ("", flight.stored.digest):
                # The node goes on with the facts it had: its lease is renewed, and the next heartbeat tries again.
                self._refused_digest = flight.stored.digest
                self._ack_owed = False
                reply = self._answer(ErrorCode.INTERNAL_ERROR, f"the change is not stored: {error}", answer)
                return [self._note("warning", "update_refused", error=str(error)), *reply, *self._next(now_ms)]
            case StoreUnavailable():
                return self._wait(
                    ErrorCode.SCHEDULER_DEPENDENCY_DOWN,
                    "the scheduler's store cannot be reached; the node stays connected and is stored when it is back",
                    error,
                    answer,
                    now_ms,
                )
            case _:
                message = f"the scheduler's store refused the node; it stays connected and is tried again: {error}"
                return self._wait(ErrorCode.INTERNAL_ERROR, message, error, answer, now_ms)

    def _admission_changed(self, error: AdmissionChanged, answer: bool, now_ms: int) -> list[Action]:
        self._admission_rounds += 1
        try:
            self._admission = AdmissionPolicy.from_json(error.policy_json)
        except InvalidInput as problem:
            message = f"the admission policy in the store cannot be read: {problem}"
            return self._wait(ErrorCode.INTERNAL_ERROR, message, error, answer, now_ms)
        self._admission_due = True
        self._admission_fresh = True
        if self._admission_rounds >= MAX_ADMISSION_ROUNDS:
            self._admission_rounds = 0
            message = "the admission policy keeps changing; the registration is kept and tried again"
            return self._wait(ErrorCode.INTERNAL_ERROR, message, error, answer, now_ms)
        self._answer_owed = self._answer_owed or answer
        return self._next(now_ms)

    def _wait(self, code: ErrorCode, message: str, error: PyschedulerError, answer: bool, now_ms: int) -> list[Action]:
        """Keep what is due until a message, a tick or ``resume`` tries again."""
        self._blocked_ms = now_ms
        self._admission_fresh = False
        note = self._note("warning" if answer else "debug", "store_call_failed", error=str(error))
        return [note, *self._answer(code, message, answer)]

    def _answer(self, code: ErrorCode, message: str, answer: bool) -> list[Action]:
        owed = answer or self._answer_owed
        self._answer_owed = False
        return [Send(protocol.error_reply(code, message))] if owed else []

    def _owe(self, flight: _Flight) -> None:
        """Take back what a call that did not do it owed."""
        self._ack_owed = self._ack_owed or flight.ack
        self._answer_owed = self._answer_owed or flight.answer
        self._heartbeat_owed = self._heartbeat_owed or flight.heartbeat

    # --- what the store says by itself ---

    def on_state(
        self, status: NodeStatus, pool: str | None, pool_id: int | None, version: int, now_ms: int
    ) -> list[Action]:
        """What the store says of the node now; what differs from the last push is pushed to the node.

        Ignored while a write is in flight, whose outcome is newer, and if ``version`` is older than one already seen.
        """
        if self.closed or self._session is None or version < self._version:
            return []
        if self._flight is not None and not isinstance(self._flight.action, Touch):
            return []
        self._version = version
        return self._push(status, pool, pool_id, "")

    def on_taken_over(self, now_ms: int) -> list[Action]:
        """Another connection has registered the node under a newer epoch."""
        if self.closed or self._session is None:
            return []
        return self._superseded("another connection has taken over this node id")

    def resume(self, now_ms: int) -> list[Action]:
        """The store is back, maybe without its data: register again what this socket holds, under its epoch."""
        if self.closed or self._lifecycle is None:
            return []
        self._blocked_ms = None
        self._register_due = True
        return self._next(now_ms)

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
        if not self._gone or self._flight is not None or self._phase is _Phase.ENDED:
            return []
        self._phase = _Phase.ENDED
        session, self._session = self._session, None
        return [Release(self._release_reason)] if session is not None else []

    def _superseded(self, message: str) -> list[Action]:
        self._session = None  # nothing of this node is ours to release any more
        return [
            self._note("warning", "superseded", reason=message),
            Send(protocol.error_reply(ErrorCode.NODE_ID_CONFLICT, message)),
            self._close(CloseCode.SUPERSEDED, message),
        ]

    def _close(self, code: CloseCode, reason: str) -> Close:
        self._phase = _Phase.CLOSING
        text = ascii(reason)[1:-1] if not reason.isascii() else reason
        return Close(code, text[:MAX_CLOSE_REASON_BYTES])

    # --- what to do next ---

    def _next(self, now_ms: int) -> list[Action]:
        profile, lifecycle = self._profile, self._lifecycle
        if self._flight is not None or self._blocked_ms is not None or profile is None or lifecycle is None:
            return []
        if self._admission_due:
            refused = self._check_admission(profile)
            if refused is not None:
                return refused
        known = self._acknowledged
        if known is not None and profile.digest == self._refused_digest:
            facts, record, digest = known.facts, known.record, known.digest
        else:
            facts, record, digest = profile.facts, profile.record, profile.digest
        stored = _Stored(facts, record, digest, lifecycle.status, self._load, self._usage)
        if self._register_due:
            epoch = self._session.epoch if self._session is not None else 0
            checked_under = self._admission.digest if self._admission is not None and epoch == 0 else ""
            return self._fly(Register(self._node_id, stored.report(), epoch, checked_under), stored)
        if known is None:
            return []
        if self._ack_owed or stored.digest != known.digest or stored.status != known.status:
            return self._fly(Update(stored.report(), self._reason(stored, known)), stored)
        if self._heartbeat_owed:
            touch = Touch(
                stored.load if stored.load != known.load else None,
                stored.usage if stored.usage != known.usage else None,
            )
            return self._fly(touch, stored)
        self._answer_owed = False
        return []

    def _check_admission(self, profile: NodeProfile) -> list[Action] | None:
        policy = self._admission
        if policy is None:
            return self._fly(ReadAdmission(), None)
        missing = policy.check(profile.gpus, profile.schema_version)
        if missing and not self._admission_fresh:
            # The policy at hand may be out of date, and a refusal is final for some clients: look first.
            return self._fly(ReadAdmission(), None)
        if not missing:
            self._admission_due = False
            return None
        self._release_reason = "registration_refused"
        codes = ", ".join(item.code for item in missing)
        return [
            self._note("warning", "registration_refused", codes=codes, missing="; ".join(m.message for m in missing)),
            *(Send(protocol.error_reply(item.code, item.message)) for item in missing),
            self._close(CloseCode.REGISTRATION_REFUSED, f"registration refused: {codes}"),
        ]

    def _fly(self, action: StoreAction, stored: _Stored | None) -> list[Action]:
        """Start a store call. It takes along what is owed; if it fails, ``_owe`` takes that back."""
        writes = not isinstance(action, ReadAdmission)
        acks = isinstance(action, Register | Update) and self._ack_owed
        self._flight = _Flight(action, stored, acks, self._answer_owed, writes and self._heartbeat_owed)
        self._answer_owed = False
        if acks:
            self._ack_owed = False
        if writes:
            self._heartbeat_owed = False
        return [action]

    @property
    def _known_digest(self) -> str:
        return self._acknowledged.digest if self._acknowledged is not None else ""

    def _reason(self, stored: _Stored, known: _Stored) -> str:
        reasons = []
        if stored.facts != known.facts:
            reasons.append("facts_changed")
        elif stored.digest != known.digest:
            reasons.append("record_changed")
        if stored.status != known.status:
            reasons.append(self._status_reason)
        return ("; ".join(reasons) or "registered_again")[:MAX_REASON_CHARS]

    def _push(self, status: NodeStatus, pool: str | None, pool_id: int | None, reason: str) -> list[Action]:
        current = (status, pool, pool_id)
        last = self._pushed
        if current == last:
            return []
        self._pushed = current
        why = self._why(last[0] if last is not None else None, status, pool, reason)
        text = protocol.node_status(
            self._node_id,
            status=status,
            reason=why[:MAX_REASON_CHARS],
            timestamp=self._policy.clock(),
            pool=pool,
            pool_id=pool_id,
            version=self._version,
        )
        return [Send(text)]

    def _why(self, before: NodeStatus | None, status: NodeStatus, pool: str | None, reason: str) -> str:
        if status is before:
            return reason or ("In no pool now" if pool is None else "In another pool now")
        if status is NodeStatus.DRAINING:
            return "Held: takes no new work"
        if before is NodeStatus.DRAINING:
            return "No hold is left"
        own = self._status_reason if self._lifecycle is not None and status is self._lifecycle.status else ""
        return own or reason or status.value

    def _note(self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: str | int) -> Note:
        cut = {
            name: value if isinstance(value, int) else value[: 8 * MAX_SHOWN_CHARS] for name, value in fields.items()
        }
        named = {"node_id": self._node_id} if self._node_id else {}
        return Note(level, event, {**named, **cut})
