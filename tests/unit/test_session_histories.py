"""The session machine from the first connect to the end: transcripts of each revision, and random histories."""

from __future__ import annotations

import gc
import json
from types import FunctionType, ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode, ErrorCode
from pyscheduler.core.results import NodeStatus
from pyscheduler.core.session import (
    NodeSession,
    ReadAdmission,
    Register,
    Release,
    Touch,
    Update,
)
from pyscheduler.errors import (
    AdmissionChanged,
    LimitExceeded,
    NodeIdConflict,
    OutcomeUnknown,
    PyschedulerError,
    SessionLost,
    StoreError,
)
from tests.fixtures.clients import HEAD, REVISIONS, Client, State
from tests.fixtures.node_sessions import EIGHT_GB_ONLY, NODE, OUTAGE, only_error, registered, status_of
from tests.fixtures.node_socket import Socket, policy, sent

# --- transcripts: what a client of each revision says and gets, from its first connect to its end ---------------------


@pytest.mark.parametrize("client", REVISIONS, ids=lambda client: client.name)
def test_transcript(client: Client) -> None:
    socket = Socket()
    # It connects, registers, gets an id and its pool.
    (call,) = socket.send(client.register())
    assert isinstance(call, Register)
    facts = call.report.facts
    assert facts.languages == ("de", "en")
    assert facts.services == ("asr", "nmt", "tts")
    assert facts.gpu_memory_gb == (12,)
    assert facts.asr[:2] == ("de", "en") or client.commit == "29a05c0"
    ack, status = sent(socket.succeed())
    assert (ack["type"], ack["status"], status["pool"]) == ("node_register_ack", "registering", "de-en")
    node_id = ack["node_id"]
    # It sends a heartbeat at once, which makes it ready.
    (update,) = socket.send(client.heartbeat(node_id))
    assert isinstance(update, Update)
    assert update.report.status is NodeStatus.READY
    assert update.report.facts == facts
    assert [message["status"] for message in sent(socket.succeed())] == ["ready"]
    # It goes on every 15 s, with nothing new.
    for _ in range(5):
        socket.tick(15_000)
        assert socket.send(client.heartbeat(node_id)) == [Touch(None, None)]
        assert socket.succeed() == []
    # A model or service is added that brings a language.
    more = State(languages=("de", "en", "fr"))
    (update,) = socket.send(client.heartbeat(node_id, more))
    assert isinstance(update, Update)
    assert update.reason == "facts_changed"
    assert update.report.facts.languages == ("de", "en", "fr")
    socket.pool = "de-en-fr"
    assert [message["pool"] for message in sent(socket.succeed(version=4))] == ["de-en-fr"]
    # All of its services stop: three such heartbeats, and it is degraded; they start again, and it is ready.
    stopped = State(languages=("de", "en", "fr"), stopped=("asr", "nmt", "tts"))
    for _ in range(3):
        socket.send(client.heartbeat(node_id, stopped))
        socket.settle()
    assert status_of(socket) is NodeStatus.DEGRADED
    assert isinstance(socket.stored, Update)
    assert socket.stored.report.facts.services == ()
    socket.send(client.heartbeat(node_id, more))
    socket.settle()
    assert status_of(socket) is NodeStatus.READY
    # It drops, and reconnects with its id; its heartbeat may overtake the registration.
    assert socket.close() == [Release("socket_closed")]
    again = Socket(epoch=8)
    assert only_error(again.send(client.heartbeat(node_id, more)))["code"] == "INVALID_MESSAGE"
    (call,) = again.send(client.register(more, node_id=node_id))
    assert isinstance(call, Register)
    assert (call.node_id, call.epoch) == (node_id, 0)
    assert call.report.digest == socket.stored.report.digest
    assert sent(again.succeed())[0]["node_id"] == node_id
    # Without a GPU it is refused, told why, and put off the socket, since it ignores every error.
    poor = Socket()
    poor.send(client.register(State(gpus=())))
    assert [message["code"] for message in sent(poor.succeed())] == ["NO_GPU_AVAILABLE"]
    assert [close.code for close in poor.closes] == [CloseCode.REGISTRATION_REFUSED]


def test_transcript_of_a_head_client_that_reports_a_lexicon_service_and_waiting_work() -> None:
    state = State(services=("asr", "nmt", "tts", "lexicon"), stopped=("lexicon",))
    socket = registered(state=state)
    message = HEAD.heartbeat(NODE, State(services=state.services, stopped=state.stopped, queue=3))
    message["installed_services"][3]["device"] = "auto"
    (update,) = socket.send(message)
    assert isinstance(update, Update)
    assert update.report.status is NodeStatus.READY
    assert update.report.load == 1.0
    assert "lexicon" not in update.report.facts.services
    assert "lexicon" in update.report.record


def test_the_capability_state_of_an_old_client_decides_whether_its_services_run() -> None:
    client = REVISIONS[0]
    socket = Socket()
    socket.send(client.register(State(stopped=("nmt",))))
    socket.settle()
    socket.send(client.heartbeat(NODE, State(stopped=("nmt",))))
    socket.settle()
    assert status_of(socket) is NodeStatus.REGISTERING
    socket.send(client.heartbeat(NODE))
    socket.settle()
    assert status_of(socket) is NodeStatus.READY


def test_an_old_client_that_never_says_what_is_ready_is_judged_by_its_enabled_models() -> None:
    register, message = REVISIONS[0].register(), REVISIONS[0].heartbeat(NODE)
    del register["capability_state"], message["capability_state"]
    socket = Socket()
    socket.send(register)
    socket.settle()
    socket.send(message)
    socket.settle()
    assert status_of(socket) is NodeStatus.READY


# --- fuzz ------------------------------------------------------------------------------------------------------------

states = st.builds(
    State,
    languages=st.sampled_from([("de", "en"), ("en", "zh"), (), ("en", "{bad}")]),
    services=st.sampled_from([("asr", "nmt", "tts"), ("asr",), (), ("lexicon",)]),
    stopped=st.sampled_from([(), ("asr",)]),
    gpus=st.sampled_from([({"name": "g", "memory_gb": 12},), ({"name": "g", "memory_gb": 1},), ()]),
    gpu_percent=st.sampled_from([40.0, 80.0, 140.0]),
)
clients = st.sampled_from(REVISIONS)
errors = st.sampled_from(
    [
        OUTAGE,
        OutcomeUnknown("timed out"),
        StoreError("WRONGTYPE"),
        LimitExceeded("classes"),
        SessionLost(NODE, unknown=True),
        SessionLost(NODE, unknown=False),
        NodeIdConflict(NODE, "b"),
        AdmissionChanged(AdmissionPolicy().to_json()),
        AdmissionChanged(EIGHT_GB_ONLY.to_json()),
        AdmissionChanged("?"),
        PyschedulerError("?"),
    ]
)
policies = st.sampled_from([AdmissionPolicy(), EIGHT_GB_ONLY])
junk = st.text(max_size=20) | st.binary(max_size=20) | st.sampled_from(['{"type":"job_ack","job_id":"j"}', "[]", "{}"])


class AnySession(RuleBasedStateMachine):
    """Whatever comes in whatever order: the session never raises, keeps what every adapter relies on (see Socket), and
    once the store answers again, the store holds exactly what the node last declared."""

    socket: Socket

    @initialize(known=st.booleans())
    def opens(self, known: bool) -> None:
        self.socket = Socket(policy(admission=AdmissionPolicy() if known else None, max_bad_frames=6))
        self.declared = ""

    @rule(
        client=clients,
        state=states,
        node_id=st.sampled_from([None, None, NODE, "other"]),
    )
    def registers(self, client: Client, state: State, node_id: str | None) -> None:
        self.socket.send(client.register(state, node_id=node_id))

    @rule(client=clients, state=states, node_id=st.sampled_from([NODE, "other"]))
    def beats(self, client: Client, state: State, node_id: str) -> None:
        answered = self.socket.send(client.heartbeat(node_id, state))
        if self.socket.session.session is None and not self.socket.session.closed:
            assert all(not isinstance(action, Touch | Update) for action in answered)

    @rule(frame=junk)
    def sends_junk(self, frame: str | bytes) -> None:
        was_open = not self.socket.session.closed
        actions = self.socket.send(frame)
        assert not was_open or actions, "a message was swallowed"

    @rule()
    def sends_binary(self) -> None:
        self.socket.binary()

    @precondition(lambda self: self.socket.call is not None)
    @rule(admission=policies, pool=st.sampled_from(["de-en", None]), version=st.integers(1, 9))
    def store_succeeds(self, admission: AdmissionPolicy, pool: str | None, version: int) -> None:
        self.socket.pool = pool
        self.socket.succeed(admission=admission, version=version)

    @precondition(lambda self: self.socket.call is not None)
    @rule(error=errors)
    def store_fails(self, error: PyschedulerError) -> None:
        was_open = not self.socket.session.closed
        self.socket.fail(error)
        if was_open and isinstance(error, NodeIdConflict):
            assert self.socket.closes

    @rule(ms=st.sampled_from([0, 1000, 15_000, 31_000, 61_000, 140_000]))
    def time_passes(self, ms: int) -> None:
        self.socket.tick(ms)

    @rule(
        status=st.sampled_from([NodeStatus.READY, NodeStatus.DRAINING]),
        pool=st.sampled_from(["a", None]),
        version=st.integers(1, 9),
    )
    def store_says(self, status: NodeStatus, pool: str | None, version: int) -> None:
        self.socket.state(status, pool, None if pool is None else 2, version)

    @rule()
    def store_is_back(self) -> None:
        self.socket.resume()

    @rule(admission=policies)
    def policy_is_known(self, admission: AdmissionPolicy) -> None:
        if not isinstance(self.socket.call, ReadAdmission):
            assert self.socket.session.on_admission(admission, self.socket.now_ms) == []

    @precondition(lambda self: self.socket.session.session is not None)
    @rule()
    def is_taken_over(self) -> None:
        self.socket.taken_over()

    @precondition(lambda self: not self.socket.gone and self.socket.closes)
    @rule()
    def adapter_closes(self) -> None:
        had = self.socket.session.session is not None
        self.socket.close()
        assert self.socket.call is not None or len(self.socket.released) == had

    @precondition(lambda self: not self.socket.gone)
    @rule(chance=st.integers(0, 5))
    def peer_closes(self, chance: int) -> None:
        if chance == 0:
            self.socket.close()

    @invariant()
    def a_refused_registration_ends_with_a_close(self) -> None:
        if not hasattr(self, "socket"):
            return
        messages = sent(self.socket.actions)
        refused = any(
            message["type"] == "error" and message["code"] in ("NO_GPU_AVAILABLE", "INVALID_CAPABILITY_SCHEMA")
            for message in messages
        )
        assert not refused or [close.code for close in self.socket.closes] == [CloseCode.REGISTRATION_REFUSED]

    def teardown(self) -> None:
        if not hasattr(self, "socket"):
            return
        socket = self.socket
        if not socket.session.closed and socket.session.node_id is not None:
            socket.resume()
            for _ in range(10):
                if socket.call is None:
                    break
                socket.succeed()
            assert socket.call is None, "the session never rests"
            if not socket.closes:
                last = [action for action in socket.actions if isinstance(action, Register | Update)][-1]
                assert socket.stored == last
                assert socket.session.status is last.report.status
                # Nothing is due: neither time nor another return of the store has anything to add.
                assert socket.tick(0) == []
        if not socket.gone:
            socket.close()
        if socket.call is not None:
            socket.succeed()
        assert len(socket.released) <= 1


AnySession.TestCase.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
TestAnySession = AnySession.TestCase


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(clients, states), min_size=2, max_size=6), st.data())
def test_the_digest_changes_exactly_when_facts_or_record_do(
    beats: list[tuple[Client, State]], data: st.DataObject
) -> None:
    socket = Socket()
    socket.send(beats[0][0].register(State(languages=("de", "en"))))
    socket.succeed()
    assert isinstance(socket.stored, Register)
    before = socket.stored.report
    for client, state in beats:
        message = client.heartbeat(NODE, state)
        message["resource_usage"]["mem_percent"] = data.draw(st.integers(0, 100))
        socket.send(message)
        call = socket.call
        socket.settle()
        if not isinstance(call, Update):
            continue
        after = call.report
        same = after.facts == before.facts and after.record == before.record
        assert (after.digest == before.digest) == same
        assert not same or after.status is not before.status
        before = after


def test_a_session_holds_no_more_after_many_messages() -> None:
    """Bounded: whatever is sent, the machine keeps one profile, one usage, one call."""
    session = NodeSession("s", policy(), 0)
    session.on_text(json.dumps(HEAD.register()), 0)

    def held() -> int:
        """Number of objects that the session keeps alive."""
        found: dict[int, object] = {}
        waiting: list[object] = [session]
        while waiting:
            one = waiting.pop()
            if id(one) not in found and not isinstance(one, type | ModuleType | FunctionType):
                found[id(one)] = one
                waiting += gc.get_referents(one)
        return len(found)

    def beats() -> None:
        for index in range(100):
            state = State(languages=("en", "zh") if index % 2 else ("de", "en"))
            session.on_text(json.dumps(HEAD.heartbeat(NODE, state)), index)
            session.on_text("not a message", index)

    beats()
    before = held()
    beats()
    assert held() == before


def test_error_codes_are_those_that_the_fleet_knows() -> None:
    assert len(ErrorCode) == 21
