"""The session machine: which nodes are admitted, and what one that is not is told."""

from __future__ import annotations

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode
from pyscheduler.core.gate import MAX_ROUNDS
from pyscheduler.core.session import (
    Action,
    Close,
    ReadAdmission,
    Register,
    Release,
    Touch,
)
from pyscheduler.errors import (
    AdmissionChanged,
    SessionLost,
)
from tests.fixtures.clients import HEAD, State
from tests.fixtures.node_sessions import EIGHT_GB_ONLY, NODE, notes, only_error, ready
from tests.fixtures.node_socket import Socket, policy, sent, store_action


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
