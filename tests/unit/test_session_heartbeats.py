"""The session machine: heartbeats, repeats of them, and the status that follows."""

from __future__ import annotations

import json

from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.core.session import (
    Register,
    Touch,
    Update,
)
from pyscheduler.errors import (
    OutcomeUnknown,
)
from tests.fixtures.clients import HEAD, State
from tests.fixtures.node_sessions import NODE, beat, notes, only_error, ready, registered, status_of
from tests.fixtures.node_socket import Socket, sent, store_action

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


def test_metrics_too_long_for_a_report_are_in_none() -> None:
    socket = registered()
    message = beat(mem_percent=50)
    message["processing_metrics"] = {"x": "x" * 5000}
    update = store_action(socket.send(message))
    assert isinstance(update, Update)
    assert json.loads(update.report.usage) == message["resource_usage"]


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
