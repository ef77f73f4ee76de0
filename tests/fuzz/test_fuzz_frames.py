"""Fuzzing of what a node says: frames through the session machine, with a store that succeeds, fails and forgets."""

from __future__ import annotations

import json
import random
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pyscheduler.core import ids, protocol
from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import CloseCode, ErrorCode
from pyscheduler.core.limits import MAX_DEPTH, MAX_ERROR_CHARS, MAX_MESSAGE_BYTES
from pyscheduler.core.protocol import FrameError, NodeRegister
from pyscheduler.core.results import NodeStatus
from pyscheduler.core.session import Action, Close, Note, Register, Send, Touch, Update
from pyscheduler.errors import (
    AdmissionChanged,
    LimitExceeded,
    NodeIdConflict,
    OutcomeUnknown,
    PyschedulerError,
    SessionLost,
    StoreUnavailable,
)
from tests.fixtures.clients import REVISIONS, State
from tests.fixtures.node_socket import Socket, policy
from tests.fuzz.guided import Arcs, Fuzzer, Input
from tests.fuzz.mutate import mutate, of_bytes, of_json

ROOT = Path(__file__).parents[2]
MESSAGES = {"node_register_ack", "node_status", "error"}
NODE = "node-0A1B2C3D"
MAX_FACTS_BYTES = 131_072
STRICTER = AdmissionPolicy.model_validate({"gpu": {"min_memory_gb": 13, "name_patterns": ["*RTX*"]}})

FAILURES: tuple[PyschedulerError, ...] = (
    StoreUnavailable("connection refused"),
    OutcomeUnknown("timed out"),
    SessionLost(NODE, unknown=True),
    SessionLost(NODE, unknown=False),
    NodeIdConflict(NODE, "other"),
    LimitExceeded("classes"),
    AdmissionChanged(STRICTER.to_json() if hasattr(STRICTER, "to_json") else "{}"),
    AdmissionChanged("no policy"),
    PyschedulerError("a defect"),
)


def seeds() -> list[Input]:
    """A life of each client revision, and what else a node may say."""
    states = (State(), State(stopped=("tts",)), State(languages=("en", "zh", "pt-BR"), gpus=()), State(queue=9))
    lives = [
        (client.register(state), client.heartbeat(NODE, state), client.heartbeat(NODE, State(languages=("fr",))))
        for client in REVISIONS
        for state in states
    ]
    job = {"type": "job_result", "job_id": "job-1", "attempt_id": 1, "success": True}
    error = {"type": "node_error", "node_id": NODE, "code": "NMT_TIMEOUT", "message": "too late"}
    lives.append(({**REVISIONS[-1].register(node_id=NODE), "labels": {"zone": "eu"}}, job, error))
    return [tuple(json.dumps(message).encode() for message in life) for life in lives]


def check(tried: Input) -> None:
    """The frames of one socket. What the store does meanwhile follows from the input, so that it replays."""
    chance = random.Random(zlib.crc32(b"\n".join(tried)))
    socket = Socket(policy(admission=chance.choice((AdmissionPolicy(), STRICTER, None)), max_bad_frames=8))
    registered = False
    for piece in tried:
        valid = is_valid_registration(piece)
        registered = registered or valid
        if piece[:1] == b"\x00":
            actions = socket.binary()
        elif chance.random() < 0.02:
            actions = socket.oversize(MAX_MESSAGE_BYTES + 1)
        else:
            # Both as a transport may hand it over: bytes, or a text with what it could not decode.
            actions = socket.send(piece if chance.random() < 0.5 else piece.decode("utf-8", "surrogateescape"))
        check_actions(actions, socket)
        assert registered or socket.call is None, f"{socket.call} without a valid registration"
        assert registered or socket.session.node_id is None
        for _ in range(chance.choice((0, 1, 3))):
            check_actions(happens(socket, chance), socket)
    check_actions(socket.close(), socket)
    if socket.call is not None:
        check_actions(socket.succeed() if chance.random() < 0.5 else socket.fail(chance.choice(FAILURES)), socket)
    for action in socket.actions:
        if isinstance(action, Note):
            check_note(action)


def happens(socket: Socket, chance: random.Random) -> list[Action]:
    """Something besides a frame."""
    if socket.call is not None and chance.random() < 0.8:
        if chance.random() < 0.7:
            return socket.succeed(admission=chance.choice((None, STRICTER)))
        return socket.fail(chance.choice(FAILURES))
    match chance.randrange(6):
        case 0:
            return socket.resume()
        case 1:
            return socket.state(
                chance.choice(tuple(NodeStatus)), chance.choice((None, "en-zh")), 2, chance.randrange(9)
            )
        case 2 if chance.random() < 0.1:
            return socket.taken_over()
        case _:
            return socket.tick(chance.choice((1, 1000, 20_000)))


def check_actions(actions: list[Action], socket: Socket) -> None:
    for action in actions:
        match action:
            case Send(text=text):
                check_message(text)
            case Close(code=code, reason=reason):
                assert code in CloseCode
                assert reason.isascii()
                assert reason.isprintable()
            case Register(node_id=node_id):
                assert ids.node_id(node_id) == socket.session.node_id
                check_report(action)
            case Update():
                check_report(action)
            case Touch(load=load, usage=usage):
                assert load is None or 0 <= load <= 1
                assert usage is None or (usage.startswith("{") and len(usage.encode()) <= 4096)


def check_report(action: Register | Update) -> None:
    """What the scripts would answer with BADARG must never be sent to them."""
    report = action.report
    assert len(report.facts.json) <= MAX_FACTS_BYTES
    assert report.record.startswith("{")
    assert "\n" not in report.record
    assert report.usage.startswith("{")
    assert not isinstance(action, Update) or len(action.reason) <= 200
    for text in (report.facts.json, report.record, report.usage):
        text.encode("utf-8")
        json.loads(text)


def check_message(text: str) -> None:
    """What a node is sent is documented, ASCII, bounded."""
    assert text.isascii()
    message = json.loads(text)
    assert message["type"] in MESSAGES
    if message["type"] == "error":
        assert message["code"] in set(ErrorCode)
        assert len(message["message"]) <= MAX_ERROR_CHARS + 200
        assert message["message"].isprintable(), message


def check_note(note: Note) -> None:
    for name, value in note.fields.items():
        assert isinstance(value, int) or value.isprintable(), f"{note.event}: {name} is {value!r}"
        assert isinstance(value, int) or len(value) <= 480


def is_valid_registration(piece: bytes) -> bool:
    """Whether the frame is one; what the reader accepts is looked at a second time, by rules written down here."""
    try:
        frame = protocol.parse_frame(piece)
    except FrameError as error:
        problem = str(error)
    else:
        check_accepted(piece)
        return isinstance(frame.body, NodeRegister)
    assert problem.isprintable(), f"control characters in {problem!r}"
    return False


def check_accepted(piece: bytes) -> None:
    """An accepted frame is a JSON object without repeated keys, huge numbers, half surrogates, or too much depth."""

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in members}) == len(members), "accepted with a key given twice"
        return dict(members)

    def integer(digits: str) -> int:
        assert len(digits) <= 20, "accepted with a huge integer"
        return int(digits)

    value = json.loads(piece.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer)
    assert isinstance(value, dict)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")  # neither an infinity nor half a surrogate
    level: list[Any] = [value]
    depth = 0
    while level:
        depth += 1
        inner = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        level = [child for child in inner if isinstance(child, dict | list)]
    assert depth <= MAX_DEPTH, "accepted too deep"


def fuzz(seed: int, seconds: float) -> None:
    core = ROOT / "pyscheduler" / "core"
    names = ("session", "protocol", "gate", "ledger", "lifecycle", "profile", "facts", "report", "languages", "ids")
    arcs = Arcs(*(core / f"{name}.py" for name in names))
    fuzzer = Fuzzer("frames", seeds(), partial(mutate, structured=(of_json, of_json, of_bytes)), arcs, seed)
    try:
        fuzzer.run(check, seconds)
    finally:
        print(fuzzer.summary())


def test_whatever_a_node_says_is_answered_by_the_book(fuzz_seed: int, fuzz_seconds: float) -> None:
    fuzz(fuzz_seed, fuzz_seconds)


@pytest.mark.soak
def test_frames_for_as_long_as_told(fuzz_seed: int, fuzz_seconds: float) -> None:
    fuzz(fuzz_seed, fuzz_seconds)
