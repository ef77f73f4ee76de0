"""The session machine while the store is away."""

from __future__ import annotations

import pytest

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.lifecycle import LifecyclePolicy
from pyscheduler.core.results import NodeStatus
from pyscheduler.core.session import (
    Note,
    ReadAdmission,
    Register,
    SessionPolicy,
    Touch,
    Update,
)
from pyscheduler.errors import (
    AdmissionChanged,
    LimitExceeded,
    PyschedulerError,
    SessionLost,
    StoreError,
    StoreUnavailable,
)
from tests.fixtures.clients import HEAD, State
from tests.fixtures.node_sessions import EIGHT_GB_ONLY, NODE, OUTAGE, beat, notes, only_error, ready
from tests.fixtures.node_socket import Socket, policy, sent, store_action


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
