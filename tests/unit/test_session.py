"""The session machine: what one node socket may say when, and what it gets."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode, ErrorCode
from pyscheduler.core.gate import MAX_ROUNDS
from pyscheduler.core.lifecycle import LifecyclePolicy
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.core.session import (
    Action,
    Close,
    NodeSession,
    Note,
    ReadAdmission,
    Register,
    Release,
    SessionPolicy,
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
    StoreUnavailable,
)
from tests.fixtures.clients import HEAD, REVISIONS, Client, State
from tests.fixtures.node_socket import CLOCK_S, Socket, policy, sent, store_action

NODE = "node-0A1B2C3D"
OUTAGE = StoreUnavailable("connection refused")
EIGHT_GB_ONLY = AdmissionPolicy.model_validate({"gpu": {"min_memory_gb": 13}})


def registered(socket: Socket | None = None, state: State | None = None) -> Socket:
    """A socket whose node is registered and acknowledged."""
    socket = socket or Socket()
    socket.send(HEAD.register(state))
    socket.succeed()
    return socket


def ready(socket: Socket | None = None) -> Socket:
    """A socket whose node is ready, with nothing due."""
    socket = registered(socket)
    socket.send(HEAD.heartbeat(NODE))
    socket.succeed()
    assert status_of(socket) is NodeStatus.READY
    return socket


def status_of(socket: Socket) -> NodeStatus | None:
    return socket.session.status


def beat(**usage: Any) -> dict[str, Any]:
    message = HEAD.heartbeat(NODE)
    message["resource_usage"] |= usage
    return message


def only_error(actions: Any) -> dict[str, Any]:
    (message,) = sent(actions)
    assert message["type"] == "error"
    return message


def notes(socket: Socket, event: str) -> list[Note]:
    return [action for action in socket.actions if isinstance(action, Note) and action.event == event]


def test_a_new_session_knows_its_name_and_the_time_and_nothing_of_a_node() -> None:
    session = NodeSession("a-1-x", policy(), 1_000)
    assert (session.session_id, session.heard_ms) == ("a-1-x", 1_000)
    assert (session.node_id, session.session, session.status) == (None, None, None)
    assert (session.in_flight, session.only_renews, session.closed) == (False, False, False)


def test_a_heartbeat_may_come_as_bytes() -> None:
    socket = ready()
    for _ in range(2):
        assert socket.send(json.dumps(HEAD.heartbeat(NODE)).encode()) == [Touch(None, None)]
        socket.succeed()


def test_a_status_that_is_not_the_nodes_own_is_pushed_with_the_reason_of_the_store() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    _, status = sent(socket.succeed(status=NodeStatus.DEGRADED))
    assert (status["status"], status["reason"]) == ("degraded", "language set de-en")


def test_a_socket_that_is_closed_without_a_reason_says_so() -> None:
    socket = ready()
    assert socket.session.on_close(socket.now_ms) == [Release("socket_closed")]
    assert socket.session.on_close(socket.now_ms) == []


def test_a_registration_that_the_store_calls_lost_is_not_repeated_at_once() -> None:
    socket = ready()
    socket.resume()
    assert store_action(socket.fail(SessionLost(NODE, unknown=True))) is None
    assert isinstance(store_action(socket.tick(60_000)), Register)


@pytest.mark.parametrize(("touched", "stale", "newer"), [(5, 4, 5), (1, 2, 3)])
def test_what_is_older_than_the_newest_version_that_is_known_is_not_pushed(
    touched: int, stale: int, newer: int
) -> None:
    """A registration has said version 3, then a heartbeat another."""
    socket = ready()
    socket.send(HEAD.heartbeat(NODE))
    socket.succeed(version=touched)
    assert socket.state(NodeStatus.READY, "other", 2, stale) == []
    (pushed,) = sent(socket.state(NodeStatus.READY, "other", 2, newer))
    assert (pushed["pool"], pushed["version"]) == ("other", newer)


def test_time_means_nothing_to_a_socket_that_is_gone_while_a_call_is_in_flight() -> None:
    socket = ready()
    socket.send(HEAD.heartbeat(NODE))
    socket.close("server_restart")
    assert socket.tick(10_000_000) == []
    assert socket.close("late") == []
    assert socket.succeed() == [Release("server_restart")]


# --- registering -----------------------------------------------------------------------------------------------------


def test_a_node_without_an_id_gets_one_and_is_acknowledged_with_it_before_anything_else() -> None:
    socket = Socket()
    (call,) = socket.send(HEAD.register())
    assert isinstance(call, Register)
    assert (call.node_id, call.epoch, call.admission_digest) == (NODE, 0, AdmissionPolicy().digest)
    assert call.report.status is NodeStatus.REGISTERING
    assert call.report.load == 0
    ack, status = sent(socket.succeed())
    assert ack == {"type": "node_register_ack", "node_id": NODE, "message": "registered", "status": "registering"}
    assert status == {
        "type": "node_status",
        "node_id": NODE,
        "status": "registering",
        "reason": "language set de-en",
        "timestamp": CLOCK_S,
        "pool": "de-en",
        "pool_id": 1,
        "version": 3,
    }
    assert socket.session.node_id == NODE
    assert socket.session.session is not None
    assert socket.session.session.epoch == 7


def test_a_node_keeps_the_id_that_it_brings() -> None:
    socket = Socket()
    call = store_action(socket.send(HEAD.register(node_id="my.node:1")))
    assert isinstance(call, Register)
    assert call.node_id == "my.node:1"


def test_a_node_that_matches_no_pool_is_acknowledged_and_told_so() -> None:
    socket = Socket(pool=None)
    socket.send(HEAD.register())
    _, status = sent(socket.succeed())
    assert (status["pool"], status["pool_id"], status["reason"]) == (None, None, "language set de-en")
    (note,) = notes(socket, "registered")
    assert note.fields == {"node_id": NODE, "pool": "", "reason": "language set de-en"}


def test_a_heartbeat_before_the_registration_is_answered_and_changes_nothing() -> None:
    socket = Socket()
    error = only_error(socket.send(HEAD.heartbeat("node-from-before")))
    assert (error["code"], error["message"]) == ("INVALID_MESSAGE", "register first: send node_register")
    assert socket.session.node_id is None
    assert isinstance(store_action(socket.send(HEAD.register(node_id="node-from-before"))), Register)
    assert not socket.closes


def test_a_bad_registration_is_answered_and_may_be_followed_by_a_good_one() -> None:
    socket = Socket()
    for message in (
        HEAD.register(node_id="{tag}"),
        HEAD.register() | {"hardware": {}},
        HEAD.register() | {"labels": 1},
    ):
        assert only_error(socket.send(message))["code"] == "INVALID_MESSAGE"
    bad_code = HEAD.register(State(languages=("en", "\x00")))
    assert r"'\x00' is no language code" in only_error(socket.send(bad_code))["message"]
    assert isinstance(store_action(socket.send(HEAD.register())), Register)


def test_a_second_registration_of_the_same_node_updates_it_and_is_acknowledged_again() -> None:
    socket = ready()
    for node_id in (None, NODE):
        call = store_action(socket.send(HEAD.register(node_id=node_id)))
        assert isinstance(call, Update)
        assert call.reason == "registered_again"
        acks = [message for message in sent(socket.succeed()) if message["type"] == "node_register_ack"]
        assert len(acks) == 1
    call = store_action(socket.send(HEAD.register(State(languages=("de", "en", "zh")))))
    assert isinstance(call, Update)
    assert call.reason == "facts_changed"
    assert call.report.facts.semantic == ("de", "en", "zh")
    assert call.report.status is NodeStatus.READY  # it does not begin anew


def test_a_registration_for_another_id_on_the_same_socket_is_refused_and_changes_nothing() -> None:
    socket = ready()
    error = only_error(socket.send(HEAD.register(node_id="someone-else")))
    assert error["code"] == "NODE_ID_CONFLICT"
    assert NODE in error["message"]
    assert not socket.closes
    assert store_action(socket.send(HEAD.heartbeat(NODE))) == Touch(None, None)


# --- admission -------------------------------------------------------------------------------------------------------


def test_a_node_without_a_gpu_gets_its_error_and_is_then_closed() -> None:
    socket = Socket()
    assert socket.send(HEAD.register(State(gpus=()))) == [ReadAdmission()]
    *errors, close = socket.succeed()
    error = only_error(errors)
    assert error["code"] == "NO_GPU_AVAILABLE"
    assert "a node must have at least 1 GPU; reported: no GPU" in error["message"]
    assert close == Close(CloseCode.REGISTRATION_REFUSED, "registration refused: NO_GPU_AVAILABLE")
    assert socket.close() == []  # nothing of it is in the store: nothing to release


def test_everything_that_is_missing_is_told_before_the_close() -> None:
    socket = Socket()
    socket.send(HEAD.register(State(gpus=())) | {"capability_schema_version": "9"})
    actions = socket.succeed()
    assert [error["code"] for error in sent(actions)] == ["INVALID_CAPABILITY_SCHEMA", "NO_GPU_AVAILABLE"]
    assert isinstance(actions[-1], Close)


def test_a_node_that_lacks_several_things_is_told_each() -> None:
    demanding = AdmissionPolicy.model_validate({"gpu": {"min_memory_gb": 13}, "schema_versions": ["9.9"]})
    socket = Socket(policy(admission=demanding))
    socket.send(HEAD.register())
    codes = [message["code"] for message in sent(socket.succeed(admission=demanding))]
    assert len(codes) == 2
    (close,) = socket.closes
    assert close.reason == f"registration refused: {codes[0]}, {codes[1]}"
    (note,) = notes(socket, "registration_refused")
    assert note.fields["codes"] == f"{codes[0]}, {codes[1]}"


def test_a_policy_that_is_not_known_yet_is_read_first() -> None:
    socket = Socket(policy(admission=None))
    assert socket.send(HEAD.register()) == [ReadAdmission()]
    (call,) = socket.succeed(admission=EIGHT_GB_ONLY.model_copy(update={"gpu": AdmissionPolicy().gpu}))
    assert isinstance(call, Register)


def test_nobody_is_refused_under_a_policy_that_is_out_of_date() -> None:
    socket = Socket(policy(admission=EIGHT_GB_ONLY))
    assert socket.send(HEAD.register()) == [ReadAdmission()]
    call = store_action(socket.succeed(admission=AdmissionPolicy()))
    assert isinstance(call, Register)
    assert call.admission_digest == AdmissionPolicy().digest


def test_nobody_is_admitted_under_a_policy_that_is_out_of_date() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    actions = socket.fail(AdmissionChanged(EIGHT_GB_ONLY.to_json()))
    assert only_error(actions)["code"] == "NO_GPU_AVAILABLE"
    assert "needs 13 GB" in only_error(actions)["message"]
    assert isinstance(actions[-1], Close)


def test_a_node_that_a_changed_policy_admits_is_registered_under_it() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    changed = AdmissionPolicy(schema_versions=("2.0",))
    call = store_action(socket.fail(AdmissionChanged(changed.to_json())))
    assert isinstance(call, Register)
    assert call.admission_digest == changed.digest
    assert len(sent(socket.succeed())) == 2


def test_a_policy_that_never_rests_makes_no_endless_loop() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    actions: list[Action] = []
    for count in range(1, MAX_ROUNDS + 1):
        actions = socket.fail(AdmissionChanged(AdmissionPolicy(schema_versions=("2.0", str(count))).to_json()))
        assert (store_action(actions) is None) == (count == MAX_ROUNDS)
    error = only_error(actions)
    assert error["code"] == "INTERNAL_ERROR"
    assert error["message"] == "the admission policy keeps changing; the registration is kept and tried again"
    assert isinstance(store_action(socket.tick(15_000)), Register)


def test_a_policy_that_cannot_be_read_is_an_honest_error_and_is_tried_again() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    assert only_error(socket.fail(AdmissionChanged("{}}")))["code"] == "INTERNAL_ERROR"
    assert store_action(socket.tick(15_000)) is not None


def test_a_second_registration_that_is_not_admitted_ends_the_session_and_releases_the_node() -> None:
    socket = ready()
    assert socket.send(HEAD.register(State(gpus=()))) == [ReadAdmission()]
    assert isinstance(socket.succeed()[-1], Close)
    assert socket.close() == [Release("registration_refused")]


def test_a_policy_that_changes_later_does_not_touch_a_registered_node() -> None:
    socket = ready()
    assert socket.session.on_admission(EIGHT_GB_ONLY, socket.now_ms) == []
    assert store_action(socket.send(HEAD.heartbeat(NODE))) == Touch(None, None)
    socket.fail(SessionLost(NODE, unknown=True))
    assert isinstance(socket.call, Register)
    assert (socket.call.epoch, socket.call.admission_digest) == (7, "")


# --- heartbeats ------------------------------------------------------------------------------------------------------


def test_a_heartbeat_that_says_nothing_new_only_renews_the_lease() -> None:
    socket = ready()
    assert socket.send(HEAD.heartbeat(NODE, timestamp=1)) == [Touch(None, None)]
    assert socket.succeed() == []


def test_while_a_lease_is_renewed_and_nothing_else_is_due_more_heartbeats_may_come() -> None:
    """By ``only_renews`` the adapter takes further messages while the store is asked: they may pass over nothing."""
    socket = Socket()
    assert not socket.session.only_renews, "nothing is known of the node"
    socket.send(HEAD.register())
    assert not socket.session.only_renews, "a registration is in flight"
    socket.succeed()
    assert not socket.session.only_renews, "nothing is in flight"
    socket.send(HEAD.heartbeat(NODE))
    assert isinstance(socket.call, Update)
    assert not socket.session.only_renews, "the status is in flight"
    socket.succeed()

    for message, what in (
        (HEAD.register(), "an acknowledgement"),
        (HEAD.register(State(languages=("en", "ja"))), "other facts"),
        (HEAD.heartbeat(NODE, State(languages=("en", "zh"))), "other facts in a heartbeat"),
    ):
        socket = ready()
        socket.send(beat(mem_percent=50))
        assert isinstance(socket.call, Touch)
        assert socket.session.only_renews
        socket.send(message)
        assert not socket.session.only_renews, f"{what} is due"

    socket = ready()
    socket.send(beat(mem_percent=50))
    assert socket.session.only_renews
    assert socket.resume() == []
    assert not socket.session.only_renews, "the node is to be registered again"


def test_load_and_usage_are_written_only_where_they_changed() -> None:
    socket = ready()
    (touch,) = socket.send(beat(mem_percent=50))
    assert isinstance(touch, Touch)
    assert touch.load is None
    assert touch.usage is not None
    assert json.loads(touch.usage)["mem_percent"] == 50
    socket.succeed()
    (touch,) = socket.send(beat(mem_percent=50, gpu_percent=80))
    assert isinstance(touch, Touch)
    assert touch.load == 0.8


def test_what_the_store_did_not_acknowledge_is_sent_again() -> None:
    socket = ready()
    (lost,) = socket.send(beat(gpu_percent=80))
    socket.fail(OutcomeUnknown("timed out"))
    assert socket.send(beat(gpu_percent=80)) == [lost]
    socket.succeed()
    assert socket.send(beat(gpu_percent=80)) == [Touch(None, None)]


def test_changed_languages_are_one_update_and_the_push_tells_the_new_pool() -> None:
    socket = ready()
    (update,) = socket.send(HEAD.heartbeat(NODE, State(languages=("en", "zh"))))
    assert isinstance(update, Update)
    assert update.reason == "facts_changed"
    assert update.report.facts.languages == ("en", "zh")
    socket.pool = "en-zh"
    (status,) = sent(socket.succeed(version=4))
    assert (status["type"], status["pool"], status["version"]) == ("node_status", "en-zh", 4)


def test_a_change_that_matching_does_not_look_at_is_an_update_of_the_record() -> None:
    socket = ready()
    message = HEAD.heartbeat(NODE)
    message["installed_services"][0]["version"] = "9.9"
    (update,) = socket.send(message)
    assert isinstance(update, Update)
    assert update.reason == "record_changed"
    assert sent(socket.succeed()) == []


def test_a_heartbeat_without_languages_does_not_wipe_them() -> None:
    socket = ready()
    message = HEAD.heartbeat(NODE)
    del message["language_capabilities"]
    assert socket.send(message) == [Touch(None, None)]
    socket.succeed()
    (update,) = socket.send(HEAD.heartbeat(NODE, State(stopped=("asr", "nmt", "tts"))))
    assert isinstance(update, Update)
    assert update.report.facts.languages == ()


def test_a_heartbeat_counts_for_the_node_of_its_own_socket() -> None:
    socket = ready()
    for _ in range(3):
        assert socket.send(HEAD.heartbeat("someone-else")) == [Touch(None, None)]
        socket.succeed()
    assert socket.send(HEAD.heartbeat("yet-another")) == [Touch(None, None)]
    assert socket.session.node_id == NODE
    (note,) = notes(socket, "heartbeat_claims_other_id")  # said once, not every 15 s
    assert note.fields["claimed"] == "'someone-else'"


def test_a_bad_heartbeat_is_answered_and_changes_nothing() -> None:
    socket = ready()
    bad = HEAD.heartbeat(NODE, State(languages=("{tag}",)))
    message = only_error(socket.send(bad))["message"]
    assert "'{tag}' is no language code" in message
    assert "more" not in message
    assert only_error(socket.send(beat(cpu_percent="x")))["code"] == "INVALID_MESSAGE"
    assert socket.tick() == []  # not even its lease is renewed
    assert socket.send(HEAD.heartbeat(NODE)) == [Touch(None, None)]


def test_a_message_that_comes_while_a_call_is_in_flight_waits_for_its_outcome() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    assert socket.send(HEAD.heartbeat(NODE)) == []
    assert socket.send(HEAD.register(State(languages=("en", "zh")))) == []
    actions = socket.succeed()
    assert [message["type"] for message in sent(actions)] == ["node_register_ack", "node_status"]
    update = store_action(actions)
    assert isinstance(update, Update)
    assert update.report.status is NodeStatus.READY
    assert update.report.facts.languages == ("en", "zh")
    assert update.reason == "facts_changed; Health check passed"
    assert [message["type"] for message in sent(socket.succeed())] == ["node_register_ack", "node_status"]
    assert socket.call is None


# --- lifecycle -------------------------------------------------------------------------------------------------------


def test_status_changes_are_written_and_pushed_with_their_reason() -> None:
    socket = registered()
    (update,) = socket.send(HEAD.heartbeat(NODE))
    assert isinstance(update, Update)
    assert (update.report.status, update.reason) == (NodeStatus.READY, "Health check passed")
    (status,) = sent(socket.succeed())
    assert (status["status"], status["reason"], status["pool"]) == ("ready", "Health check passed", "de-en")

    sick = beat(gpu_percent=130)
    for _ in range(2):
        assert isinstance(store_action(socket.send(sick)), Touch)
        socket.succeed()
    (update,) = socket.send(sick)
    assert isinstance(update, Update)
    assert update.report.status is NodeStatus.DEGRADED
    assert "gpu_percent is 130" in sent(socket.succeed())[0]["reason"]
    (update,) = socket.send(HEAD.heartbeat(NODE))
    assert isinstance(update, Update)
    assert update.reason == "Health recovered"


def test_a_node_that_does_not_get_ready_is_degraded_by_time_alone() -> None:
    socket = registered(state=State(stopped=("tts",)))
    socket.send(HEAD.heartbeat(NODE, State(stopped=("tts",))))
    socket.settle()
    assert status_of(socket) is NodeStatus.REGISTERING
    assert socket.tick(59_999) == []
    (update,) = socket.tick(1)
    assert isinstance(update, Update)
    assert update.reason == "Not ready within 60 s: not running: tts"
    assert sent(socket.succeed())[0]["status"] == "degraded"


def test_a_head_client_on_which_nothing_is_installed_stays_registered_but_gets_not_ready() -> None:
    nothing = State(services=())
    socket = registered(state=nothing)
    for _ in range(4):
        socket.send(HEAD.heartbeat(NODE, nothing))
        socket.settle()
        socket.tick(15_000)
    socket.settle()
    assert status_of(socket) is NodeStatus.DEGRADED
    socket.send(HEAD.heartbeat(NODE))
    socket.settle()
    assert status_of(socket) is NodeStatus.READY


# --- the store is away -----------------------------------------------------------------------------------------------


def test_a_registration_that_meets_an_outage_is_answered_kept_and_acknowledged_when_the_store_is_back() -> None:
    socket = Socket()
    (call,) = socket.send(HEAD.register())
    error = only_error(socket.fail(OUTAGE))
    assert error["code"] == "SCHEDULER_DEPENDENCY_DOWN"
    assert error["message"] == (
        "the scheduler's store cannot be reached; the node stays connected and is stored when it is back"
    )
    assert not socket.closes
    assert socket.tick(14_999) == []
    assert socket.resume() == [call]
    assert [message["type"] for message in sent(socket.succeed())] == ["node_register_ack", "node_status"]


def test_every_message_during_an_outage_gets_an_honest_error_and_none_is_lost() -> None:
    socket = ready()
    for languages in (("en", "zh"), ("en", "fr"), ("en", "fr")):
        assert store_action(socket.send(HEAD.heartbeat(NODE, State(languages=languages)))) is not None
        assert only_error(socket.fail(OUTAGE))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
    (call,) = socket.resume()
    assert isinstance(call, Register)
    assert call.epoch == 7
    assert call.report.facts.languages == ("en", "fr")
    assert [message["type"] for message in sent(socket.succeed())] == []  # not a new registration: no ack
    assert socket.call is None


def test_attempts_that_no_message_caused_fail_silently() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    socket.fail(OUTAGE)
    for _ in range(3):
        assert isinstance(store_action(socket.tick(15_000)), Register)
        assert socket.fail(OUTAGE) == []
    socket.resume()
    assert socket.fail(OUTAGE) == []
    socket.tick(15_000)
    assert len(sent(socket.succeed())) == 2


def test_a_failed_call_is_a_warning_if_a_message_waits_for_it_and_its_error_is_cut() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    socket.fail(StoreUnavailable("x" * 1000))
    socket.tick(15_000)
    socket.fail(StoreUnavailable("y"))
    first, second = notes(socket, "store_call_failed")
    assert first == Note("warning", "store_call_failed", {"node_id": NODE, "error": "x" * 480})
    assert second == Note("debug", "store_call_failed", {"node_id": NODE, "error": "y"})


def test_the_times_and_counts_of_a_socket_are_those_that_are_documented() -> None:
    usual = SessionPolicy(clock=int, new_node_id=str)
    assert (usual.registration_timeout_ms, usual.silence_ms) == (30_000, 135_000)
    assert (usual.retry_ms, usual.max_bad_frames) == (15_000, 1000)
    assert (usual.admission, usual.lifecycle) == (None, LifecyclePolicy())


def test_the_policy_may_be_what_cannot_be_read() -> None:
    socket = Socket(policy(admission=None))
    socket.send(HEAD.register())
    assert only_error(socket.fail(OUTAGE))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
    assert socket.resume() == [ReadAdmission()]
    assert isinstance(store_action(socket.succeed()), Register)
    assert len(sent(socket.succeed())) == 2


def test_a_try_that_no_message_caused_is_answered_by_nothing() -> None:
    socket = Socket(policy(admission=None))
    socket.send(HEAD.register())
    assert only_error(socket.fail(OUTAGE))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
    for _ in range(3):
        assert store_action(socket.tick(15_000)) == ReadAdmission()
        assert sent(socket.fail(OUTAGE)) == []


def test_a_registration_is_answered_whichever_of_its_calls_fails() -> None:
    socket = Socket(policy(admission=None))
    socket.send(HEAD.register())
    socket.succeed()
    assert only_error(socket.fail(OUTAGE))["code"] == "SCHEDULER_DEPENDENCY_DOWN"


def test_a_policy_that_admitted_a_node_is_read_anew_before_it_refuses_the_same_node() -> None:
    socket = Socket(policy(admission=None))
    socket.send(HEAD.register())
    socket.succeed(admission=AdmissionPolicy(schema_versions=("2.0",)))
    socket.succeed()
    other = HEAD.register() | {"capability_schema_version": "1.0"}
    assert socket.send(other) == [ReadAdmission()]
    assert isinstance(store_action(socket.succeed()), Update)


def test_a_policy_read_before_an_outage_refuses_nobody_after_it() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    call = socket.fail(AdmissionChanged(AdmissionPolicy(schema_versions=("2.0",)).to_json()))
    assert isinstance(store_action(call), Register)
    socket.fail(OUTAGE)
    socket.resume()
    socket.fail(AdmissionChanged("not a policy"))
    socket.session.on_admission(EIGHT_GB_ONLY, socket.now_ms)
    assert store_action(socket.tick(15_000)) == ReadAdmission()
    assert isinstance(store_action(socket.succeed(admission=AdmissionPolicy())), Register)


def test_resume_registers_every_node_that_the_socket_holds_under_its_epoch() -> None:
    socket = ready()
    (call,) = socket.resume()
    assert isinstance(call, Register)
    assert (call.node_id, call.epoch, call.report.status) == (NODE, 7, NodeStatus.READY)
    assert socket.resume() == []  # it is on its way
    assert socket.succeed() == []
    assert Socket().resume() == []


def test_a_node_that_the_store_does_not_know_any_more_is_registered_under_its_old_epoch() -> None:
    socket = ready()
    socket.send(beat(gpu_percent=70))
    (call,) = socket.fail(SessionLost(NODE, unknown=True))
    assert len(notes(socket, "lost_by_store")) == 1
    assert isinstance(call, Register)
    assert call.epoch == 7
    assert call.report.load == 0.7
    socket.epoch = 9
    assert sent(socket.succeed()) == []
    assert socket.session.session is not None
    assert socket.session.session.epoch == 9
    assert socket.send(beat(gpu_percent=70)) == [Touch(None, None)]


def test_an_update_may_find_out_that_the_store_lost_the_node() -> None:
    socket = ready()
    socket.send(HEAD.heartbeat(NODE, State(languages=("en", "zh"))))
    (call,) = socket.fail(SessionLost(NODE, unknown=True))
    assert isinstance(call, Register)
    assert call.report.facts.languages == ("en", "zh")
    assert only_error(socket.fail(OUTAGE))["code"] == "SCHEDULER_DEPENDENCY_DOWN"  # the heartbeat still gets its answer


@pytest.mark.parametrize("error", [StoreError("WRONGTYPE"), PyschedulerError("?"), SessionLost(NODE, unknown=True)])
def test_a_registration_that_the_store_cannot_take_is_answered_and_tried_again(error: PyschedulerError) -> None:
    socket = Socket()
    socket.send(HEAD.register())
    assert only_error(socket.fail(error))["code"] == "INTERNAL_ERROR"
    assert socket.call is None  # at once would be an endless loop
    assert isinstance(store_action(socket.tick(15_000)), Register)


def test_a_limit_keeps_a_new_node_waiting() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    error = only_error(socket.fail(LimitExceeded("more than 4096 classes")))
    assert error["code"] == "INTERNAL_ERROR"
    assert "more than 4096 classes" in error["message"]
    assert isinstance(store_action(socket.tick(15_000)), Register)
    assert len(sent(socket.succeed())) == 2


def test_facts_that_a_limit_keeps_out_cost_the_node_neither_its_lease_nor_its_status() -> None:
    socket = ready(Socket(policy(lifecycle=LifecyclePolicy(failures_to_degrade=1))))
    message = HEAD.heartbeat(NODE, State(languages=("en", "zh")))
    socket.send(message)
    actions = socket.fail(LimitExceeded("more than 4096 classes"))
    assert "the change is not stored: more than 4096 classes" in only_error(actions)["message"]
    assert isinstance(store_action(actions), Touch)
    socket.succeed()
    # The next heartbeat tries again. Its status change is written even if the facts are refused again.
    message["resource_usage"]["gpu_percent"] = 130
    update = store_action(socket.send(message))
    assert isinstance(update, Update)
    assert update.report.facts.languages == ("en", "zh")
    update = store_action(socket.fail(LimitExceeded("more than 4096 classes")))
    assert isinstance(update, Update)
    assert update.report.facts.languages == ("de", "en")
    assert update.report.status is NodeStatus.DEGRADED
    socket.settle()
    assert isinstance(store_action(socket.send(message)), Update)
    socket.settle()
    assert isinstance(socket.stored, Update)
    assert socket.stored.report.facts.languages == ("en", "zh")


def test_a_second_registration_that_a_limit_keeps_out_is_answered_once() -> None:
    socket = ready()
    socket.send(HEAD.register(State(languages=("en", "zh"))))
    actions = socket.fail(LimitExceeded("more than 4096 classes"))
    assert only_error(actions)["code"] == "INTERNAL_ERROR"
    assert store_action(actions) is None


# --- another session has the node ------------------------------------------------------------------------------------


def ends_as_superseded(socket: Socket, actions: Any) -> None:
    assert only_error(actions)["code"] == "NODE_ID_CONFLICT"
    assert actions[-1].code is CloseCode.SUPERSEDED
    assert len(notes(socket, "superseded")) == 1
    assert socket.close() == []  # the node is not ours to release


def test_a_stale_heartbeat_ends_the_session_without_releasing_the_node() -> None:
    socket = ready()
    socket.send(HEAD.heartbeat(NODE))
    ends_as_superseded(socket, socket.fail(SessionLost(NODE, unknown=False)))


def test_a_stale_update_ends_the_session_without_releasing_the_node() -> None:
    socket = ready()
    socket.send(HEAD.heartbeat(NODE, State(languages=("en", "zh"))))
    ends_as_superseded(socket, socket.fail(SessionLost(NODE, unknown=False)))


def test_a_takeover_ends_the_session_without_releasing_the_node() -> None:
    socket = ready()
    actions = socket.taken_over()
    assert only_error(actions)["message"] == "another connection has taken over this node id"
    ends_as_superseded(socket, actions)
    assert socket.taken_over() == []


def test_a_refused_id_ends_the_session() -> None:
    socket = Socket()
    socket.send(HEAD.register(node_id="taken"))
    actions = socket.fail(NodeIdConflict("taken", "other-instance"))
    assert "held by a live session on instance other-instance" in only_error(actions)["message"]
    ends_as_superseded(socket, actions)


def test_a_close_says_what_is_not_ascii_in_ascii() -> None:
    socket = Socket()
    socket.send(HEAD.register(node_id="taken"))
    socket.fail(NodeIdConflict("taken", "gehört-uns"))
    (close,) = socket.closes
    assert close.reason.isascii()
    assert close.reason == ascii(str(NodeIdConflict("taken", "gehört-uns"))).strip("'")[:123]
    assert "geh\\xf6rt-uns" in close.reason


def test_a_takeover_does_not_concern_a_socket_that_is_not_registered() -> None:
    socket = Socket()
    assert socket.taken_over() == []
    socket.send(HEAD.register())
    assert socket.taken_over() == []
    assert len(sent(socket.succeed())) == 2


# --- pushes ----------------------------------------------------------------------------------------------------------


def test_what_the_store_says_is_pushed_if_it_differs_from_the_last_push() -> None:
    socket = ready()
    assert socket.state(NodeStatus.READY, "de-en", 1, 3) == []
    assert socket.state(NodeStatus.READY, "de-en", 1, 4) == []  # a version alone is no news
    (status,) = sent(socket.state(NodeStatus.DRAINING, "de-en", 1, 4))
    assert (status["status"], status["reason"], status["version"]) == ("draining", "Held: takes no new work", 4)
    (status,) = sent(socket.state(NodeStatus.READY, "de-en", 1, 4))
    assert status["reason"] == "No hold is left"
    (status,) = sent(socket.state(NodeStatus.READY, "other", 2, 5))
    assert (status["pool"], status["pool_id"], status["reason"]) == ("other", 2, "In another pool now")
    (status,) = sent(socket.state(NodeStatus.READY, None, None, 6))
    assert (status["pool"], status["reason"]) == (None, "In no pool now")
    assert socket.state(NodeStatus.READY, None, None, 6) == []


def test_what_is_older_than_what_the_socket_knows_is_not_pushed() -> None:
    socket = ready()
    assert socket.state(NodeStatus.READY, "other", 2, 2) == []
    socket.send(HEAD.heartbeat(NODE, State(languages=("en", "zh"))))
    assert socket.state(NodeStatus.READY, "other", 2, 9) == []  # the update in flight will say it
    socket.pool = "en-zh"
    assert [status["pool"] for status in sent(socket.succeed(version=9))] == ["en-zh"]
    assert Socket().state(NodeStatus.READY, "x", 1, 1) == []


def test_a_store_that_lost_its_data_counts_its_versions_anew_and_is_still_believed() -> None:
    socket = ready()
    socket.state(NodeStatus.READY, "other", 2, 900)
    socket.resume()
    (status,) = sent(socket.succeed(version=1))
    assert (status["pool"], status["version"]) == ("de-en", 1)
    (status,) = sent(socket.state(NodeStatus.DRAINING, "de-en", 1, 2))
    assert (status["status"], status["version"]) == ("draining", 2)


def test_a_cloned_id_is_noted() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    call, socket.call = socket.call, None
    assert isinstance(call, Register)
    cloned = Registration(
        Session(NODE, 7, "t"), 1, "de-en", 1, 3, NodeStatus.REGISTERING, "language set de-en", cloned_id=True
    )
    socket._did(socket.session.on_registered(cloned, socket.now_ms))
    assert len(notes(socket, "cloned_id")) == 1


# --- other messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["job_result", "asr_partial", "job_ack", "job_started"])
@pytest.mark.parametrize("known", [True, False])
def test_job_messages_are_answered_since_no_job_was_assigned(kind: str, known: bool) -> None:
    socket = ready() if known else Socket()
    error = only_error(socket.send({"type": kind, "job_id": "job-7", "attempt_id": 1, "session_id": "s"}))
    assert error["code"] == "INVALID_SESSION"
    assert "job-7" in error["message"]
    assert len(notes(socket, "job_message")) == 1
    assert socket.call is None


def test_a_node_error_is_logged() -> None:
    socket = ready()
    assert socket.send({"type": "node_error", "node_id": NODE, "code": "OOM", "message": "no memory\n" * 500}) == []
    (note,) = notes(socket, "node_error")
    assert note.fields["code"] == "'OOM'"
    assert len(str(note.fields["message"])) < 300


@pytest.mark.parametrize("known", [True, False])
def test_bad_frames_are_answered_and_leave_the_socket_usable(known: bool) -> None:
    socket = ready() if known else Socket()
    for actions in (
        socket.send("hello"),
        socket.send(b"\xff"),
        socket.send('{"type":"dance"}'),
        socket.send('{"a":1,"a":1}'),
        socket.binary(),
        socket.oversize(10_000_000),
    ):
        assert only_error(actions)["code"] == "INVALID_MESSAGE"
    assert only_error(socket.binary())["message"] == "binary frames are not used: send JSON in text frames"
    assert "at most 1048576" in only_error(socket.oversize(10_000_000))["message"]
    assert isinstance(store_action(socket.send(HEAD.heartbeat(NODE) if known else HEAD.register())), Touch | Register)


def test_endless_bad_frames_fill_no_log_and_end_the_socket() -> None:
    socket = Socket(policy(max_bad_frames=100))
    for _ in range(99):
        socket.send("hello")
    assert [note.fields["count"] for note in notes(socket, "message_refused")] == [1, 2, 4, 8, 16, 32, 64]
    socket.send({"type": "job_ack", "job_id": "j"})  # something readable: the count begins anew
    for _ in range(99):
        socket.send("hello")
    assert not socket.closes
    *_, close = socket.send("hello")
    assert close == Close(CloseCode.PROTOCOL_ABUSE, "100 bad messages in a row")
    assert socket.send(HEAD.register()) == []


def test_after_a_repeated_heartbeat_bad_frames_are_counted_anew() -> None:
    socket = ready(Socket(policy(max_bad_frames=3)))
    for _ in range(3):
        for _ in range(2):
            socket.send("hello")
        socket.send(HEAD.heartbeat(NODE))
        socket.succeed()
    assert not socket.closes


# --- time and the end ------------------------------------------------------------------------------------------------


def test_a_socket_that_does_not_register_in_time_is_told_and_closed() -> None:
    socket = Socket()
    assert socket.tick(20_000) == []
    socket.send("not a registration")
    assert socket.tick(9_999) == []
    error, close = socket.tick(1)
    assert only_error([error])["message"] == "no node_register within 30 s"
    assert close == Close(CloseCode.PROTOCOL_ABUSE, "no node_register within 30 s")
    assert notes(socket, "registration_timed_out") == [Note("info", "registration_timed_out", {})]
    assert socket.close() == []


def test_a_registered_node_that_falls_silent_is_closed_and_released() -> None:
    socket = ready()
    socket.tick(134_999)
    assert not socket.closes
    (close,) = socket.tick(1)
    assert close == Close(CloseCode.PROTOCOL_ABUSE, "no message for 135 s")
    assert notes(socket, "silent") == [Note("info", "silent", {"node_id": NODE})]
    assert socket.close() == [Release("silent")]


@pytest.mark.parametrize("say", [lambda s: s.send("hello"), lambda s: s.binary(), lambda s: s.oversize(10_000_000)])
def test_a_node_that_says_what_is_no_message_is_not_silent(say: Callable[[Socket], object]) -> None:
    socket = ready()
    socket.tick(134_999)
    say(socket)
    socket.tick(134_999)
    assert not socket.closes
    socket.tick(1)
    assert socket.closes


def test_a_client_that_waits_for_its_ack_is_not_silent() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    socket.fail(OUTAGE)
    for _ in range(40):
        socket.tick(15_000)
        socket.fail(OUTAGE)
    assert not socket.closes
    socket.resume()
    socket.succeed()
    socket.tick(134_999)
    socket.settle()
    assert not socket.closes


def test_a_closed_socket_is_released_once() -> None:
    socket = ready()
    assert socket.close() == [Release("socket_closed")]
    assert socket.close() == []
    assert socket.session.closed
    socket = ready()
    assert socket.close("server_restart") == [Release("server_restart")]
    assert Socket().close() == []


def test_a_socket_that_closes_while_a_call_is_in_flight_is_released_after_its_outcome() -> None:
    socket = Socket()
    socket.send(HEAD.register())
    assert socket.close() == []
    assert socket.succeed() == [Release("socket_closed")]

    socket = ready()
    socket.send(HEAD.heartbeat(NODE))
    socket.close()
    assert socket.fail(OUTAGE) == [Release("socket_closed")]

    socket = ready()
    socket.send(HEAD.heartbeat(NODE))
    socket.close()
    assert socket.succeed() == [Release("socket_closed")]

    for socket in (Socket(), Socket(policy(admission=None))):
        socket.send(HEAD.register())
        socket.close()
        assert socket.fail(OUTAGE) == []

    socket = Socket(policy(admission=None))
    socket.send(HEAD.register())
    socket.close()
    assert socket.succeed() == []


def test_nothing_is_said_after_a_close() -> None:
    socket = ready()
    socket.close()
    assert socket.send(HEAD.heartbeat(NODE)) == []
    assert socket.binary() == []
    assert socket.oversize(1) == []
    assert socket.tick(600_000) == []
    assert socket.resume() == []
    assert socket.taken_over() == []
    assert socket.state(NodeStatus.READY, "x", 1, 99) == []


def test_outcomes_that_nobody_awaits_are_noted_and_change_nothing() -> None:
    socket = ready()
    answer = Registration(Session(NODE, 99, "t"), 1, "x", 9, 9, NodeStatus.READY, "")
    for outcome, actions in (
        ("registered", socket.session.on_registered(answer, socket.now_ms)),
        ("touched", socket.session.on_touched(9, socket.now_ms)),
        ("StoreUnavailable", socket.session.on_refused(OUTAGE, socket.now_ms)),
        ("SessionLost", socket.session.on_touch_failed(SessionLost(NODE, unknown=False), socket.now_ms)),
    ):
        assert actions == [Note("error", "unexpected_outcome", {"node_id": NODE, "outcome": outcome})]
    assert socket.send(HEAD.heartbeat(NODE)) == [Touch(None, None)]


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


# --- repeats of a heartbeat ------------------------------------------------------------------------------------------


def test_a_repeat_with_another_load_renews_the_lease_with_it() -> None:
    socket = ready()
    loads = []
    for percent in (20.0, 20.0, 70.0):
        action = store_action(socket.send(beat(gpu_percent=percent)))
        assert isinstance(action, Touch)
        loads.append(action.load)
        socket.succeed()
    assert loads == [0.2, None, 0.7]


def test_a_heartbeat_from_before_a_registration_declares_again_after_it() -> None:
    socket = ready()
    socket.send(HEAD.register(State(languages=("fr",))))
    socket.settle()
    assert isinstance(store_action(socket.send(beat())), Update)
