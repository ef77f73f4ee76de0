"""The session machine: what one node socket may say when, and what it gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.core.session import (
    Close,
    NodeSession,
    Note,
    Register,
    Release,
    Touch,
    Update,
)
from pyscheduler.errors import (
    NodeIdConflict,
    SessionLost,
)
from tests.fixtures.clients import HEAD, State
from tests.fixtures.node_sessions import NODE, OUTAGE, notes, only_error, ready
from tests.fixtures.node_socket import CLOCK_S, Socket, policy, sent, store_action


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
