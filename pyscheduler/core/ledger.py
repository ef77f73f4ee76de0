"""Ledger: a node as it should be in the store, beside the node as the store has acknowledged it.

The difference between the two decides the next store call. At most one call is in flight; what changes meanwhile is a
new difference when its outcome comes. So no message is lost, none starts a second call, and after an outage nothing has
to be remembered but the two sides.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from pyscheduler.core.actions import ReadAdmission, Register, StoreAction, Touch, Update
from pyscheduler.core.facts import Facts
from pyscheduler.core.lifecycle import Lifecycle, StatusChange, Vitals
from pyscheduler.core.limits import MAX_REASON_CHARS
from pyscheduler.core.profile import NodeProfile, Usage, load_of, usage_of
from pyscheduler.core.protocol import Frame, NodeHeartbeat
from pyscheduler.core.report import NodeReport
from pyscheduler.core.results import NodeStatus, Session


class Stored(Struct, frozen=True):
    """What the store has of a node, or will have when a call succeeds."""

    facts: Facts
    record: str
    digest: str
    status: NodeStatus
    load: float
    usage: str

    def report(self) -> NodeReport:
        return NodeReport.of_checked(self.facts, self.record, self.digest, self.status, self.load, self.usage)


class Flight(Struct, frozen=True):
    """A store call in flight, and what its outcome settles.

    Args:
        action: the call.
        stored: what the store has of the node if it succeeds; ``None`` if it writes nothing.
        ack: a registration is acknowledged to the node if it succeeds.
        answer: a message gets an error if it fails.
        heartbeat: a heartbeat is done if it succeeds.
    """

    action: StoreAction
    stored: Stored | None
    ack: bool
    answer: bool
    heartbeat: bool


class Ledger:
    """Both sides of one node.

    Args:
        node_id: the node's id.
        profile: what it registered with.
        lifecycle: its lifecycle, which has just begun.
    """

    __slots__ = (
        "_ack_owed",
        "_answer_owed",
        "_blocked_ms",
        "_heartbeat_owed",
        "_known",
        "_lifecycle",
        "_load",
        "_refused_digest",
        "_register_due",
        "_usage",
        "flight",
        "node_id",
        "profile",
        "session",
        "status_reason",
    )

    def __init__(self, node_id: str, profile: NodeProfile, lifecycle: Lifecycle) -> None:
        self.node_id = node_id
        self.profile = profile
        self.status_reason = ""
        self._lifecycle = lifecycle
        self._load = 0.0
        self._usage: str | Callable[[], str] = "{}"
        self.session: Session | None = None
        self._known: Stored | None = None
        self._refused_digest = ""
        self.flight: Flight | None = None
        self._blocked_ms: int | None = None
        self._register_due = True
        self._heartbeat_owed = False
        self._ack_owed = False
        self._answer_owed = False

    @property
    def status(self) -> NodeStatus:
        """The node's status by its own heartbeats."""
        return self._lifecycle.status

    # --- what the node should be ---

    def registered(self, profile: NodeProfile) -> None:
        """A registration of the node is to be stored and acknowledged."""
        self.profile = profile
        self._ack_owed = True
        self._asked()

    def beat(self, frame: Frame, heartbeat: NodeHeartbeat, now_ms: int) -> None:
        """A heartbeat of the node is to be stored.

        Raises:
            FrameError: see :meth:`NodeProfile.merged`; nothing has changed then.
        """
        self.profile = self.profile.merged(frame)
        self.beat_again(heartbeat.resource_usage, usage_of(frame), now_ms)

    def beat_again(self, usage: Usage, usage_json: str | Callable[[], str], now_ms: int) -> None:
        """A heartbeat that declares nothing is to be stored. ``usage_json``: see :func:`usage_of`; or what makes it."""
        self._usage, self._load = usage_json, load_of(usage)
        profile = self.profile
        vitals = Vitals(len(profile.gpus), usage.gpu_percent, profile.running)
        self._note_change(self._lifecycle.on_heartbeat(vitals, now_ms))
        self._heartbeat_owed = True
        self._refused_digest = ""
        self._asked()

    def pass_time(self, now_ms: int, retry_ms: int) -> None:
        """Time has passed: the lifecycle may change, and what failed ``retry_ms`` ago may be tried again."""
        self._note_change(self._lifecycle.on_time(now_ms))
        if self._blocked_ms is not None and now_ms - self._blocked_ms >= retry_ms:
            self._blocked_ms = None

    def register_again(self) -> None:
        """The store has lost the node, or may have."""
        self._blocked_ms = None
        self._register_due = True

    def _asked(self) -> None:
        """A message needs the store: try at once, whatever failed before, and answer if that fails."""
        self._blocked_ms = None
        self._answer_owed = True

    def _note_change(self, change: StatusChange | None) -> None:
        if change is not None:
            self.status_reason = change.reason

    # --- the next store call ---

    @property
    def may_call(self) -> bool:
        """Whether a store call may start now."""
        return self.flight is None and self._blocked_ms is None

    @property
    def only_renews(self) -> bool:
        """Whether a touch is in flight and, as things stand, nothing but another one is to follow it."""
        flight, known = self.flight, self._known
        return (
            flight is not None
            and isinstance(flight.action, Touch)
            and known is not None
            and not self._ack_owed
            and not self._register_due
            and self.profile.digest == known.digest
            and self.status is known.status
        )

    @property
    def begins(self) -> bool:
        """Whether the next call begins the node's session, which is when admission applies."""
        return self._register_due and self.session is None

    def read_admission(self) -> ReadAdmission:
        """Start reading the admission policy."""
        self.flight = Flight(ReadAdmission(), None, ack=False, answer=self._answer_owed, heartbeat=False)
        self._answer_owed = False
        return ReadAdmission()

    def next_call(self, admission_digest: str) -> StoreAction | None:
        """Start the call that makes the store agree; ``None`` if it does agree.

        Args:
            admission_digest: that of the policy which the node was checked under, if the call begins its session.
        """
        stored, known = self._wanted(), self._known
        if self._register_due:
            epoch = self.session.epoch if self.session is not None else 0
            return self._fly(Register(self.node_id, stored.report(), epoch, "" if epoch else admission_digest), stored)
        if known is not None and (self._ack_owed or stored.digest != known.digest or stored.status != known.status):
            return self._fly(Update(stored.report(), self._reason(stored, known)), stored)
        if known is not None and self._heartbeat_owed:
            load = stored.load if stored.load != known.load else None
            usage = stored.usage if stored.usage != known.usage else None
            return self._fly(Touch(load, usage), stored)
        return None

    def _wanted(self) -> Stored:
        known, profile, usage = self._known, self.profile, self._usage
        if not isinstance(usage, str):
            usage = self._usage = usage()
        if known is not None and profile.digest == self._refused_digest:
            return Stored(known.facts, known.record, known.digest, self.status, self._load, usage)
        return Stored(profile.facts, profile.record, profile.digest, self.status, self._load, usage)

    def _reason(self, stored: Stored, known: Stored) -> str:
        reasons = []
        if stored.facts != known.facts:
            reasons.append("facts_changed")
        elif stored.digest != known.digest:
            reasons.append("record_changed")
        if stored.status != known.status:
            reasons.append(self.status_reason)
        return ("; ".join(reasons) or "registered_again")[:MAX_REASON_CHARS]

    def _fly(self, action: StoreAction, stored: Stored) -> StoreAction:
        """Start a call that writes. It takes along what is owed; if it fails, ``failed`` takes that back."""
        acks = self._ack_owed and not isinstance(action, Touch)
        self.flight = Flight(action, stored, acks, self._answer_owed, self._heartbeat_owed)
        self._ack_owed = self._ack_owed and not acks
        self._answer_owed = self._heartbeat_owed = False
        return action

    # --- its outcome ---

    def succeeded(self, flight: Flight, session: Session | None = None) -> None:
        """The call in flight succeeded; ``session`` is what Register and Update answer."""
        self.flight = None
        if flight.stored is None:
            self._answer_owed = self._answer_owed or flight.answer  # to read is only the first half of an answer
            return
        self._known = flight.stored
        if session is not None:
            self.session = session
        if isinstance(flight.action, Register):
            self._register_due = False

    def failed(self, flight: Flight) -> None:
        """The call in flight failed: all that it was to do is owed again."""
        self.flight = None
        self._ack_owed = self._ack_owed or flight.ack
        self._answer_owed = self._answer_owed or flight.answer
        self._heartbeat_owed = self._heartbeat_owed or flight.heartbeat

    def keeps_known_facts(self, flight: Flight) -> bool:
        """A limit refused what ``flight`` wanted to write: go on with the facts that the store has.

        So the node keeps its lease and its status. The next heartbeat tries again. False if the store has no other
        facts of the node.
        """
        if flight.stored is None or self._known is None or flight.stored.digest == self._known.digest:
            return False
        self._refused_digest = flight.stored.digest
        self._ack_owed = False  # the error is the answer to a registration that was refused
        return True

    def wait(self, now_ms: int) -> None:
        """Keep what is due until a message, ``pass_time`` or ``register_again`` allows another call."""
        self._blocked_ms = now_ms

    def takes_answer(self) -> bool:
        """Whether a message waits for the answer that is about to be given; it does so no longer."""
        owed, self._answer_owed = self._answer_owed, False
        return owed
