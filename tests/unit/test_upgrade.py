"""The request by which a connection becomes a WebSocket, and every way in which it is none."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.utils import accept_key

from pyscheduler.registry.http_bounds import MAX_HEAD_BYTES, MAX_HEADERS
from pyscheduler.registry.upgrade import Refused, UpgradeRequest
from tests.peers import TEXT, frame, upgrade

PATH = "/ws/node"
KEY = base64.b64encode(b"sixteen bytes ..")
AFTER = frame(TEXT, b"{}")


def _request(
    line: bytes = b"GET /ws/node HTTP/1.1", *, without: bytes = b"-", headers: tuple[bytes, ...] = ()
) -> bytes:
    fixed = (b"Host: x", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
    kept = [one for one in (*fixed, b"Sec-WebSocket-Key: " + KEY) if not one.startswith(without)]
    return b"\r\n".join((line, *kept, *headers)) + b"\r\n\r\n"


def _feed(pieces: list[bytes]) -> tuple[bytes, bytes]:
    """What the request is answered, and what is left after it."""
    request, rest = UpgradeRequest(PATH), b""
    for number, piece in enumerate(pieces):
        if (done := request.feed(piece)) is not None:
            answer, rest = done
            return answer, rest + b"".join(pieces[number + 1 :])
    raise AssertionError("the request is not complete")


def _refusal(request: bytes) -> tuple[int, bytes]:
    with pytest.raises(Refused) as refused:
        UpgradeRequest(PATH).feed(request)
    head, _, body = refused.value.answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    return int(head.split()[1]), body


@given(st.lists(st.integers(0, 300), max_size=12))
def test_however_it_is_cut_it_is_answered_and_what_follows_is_left(cuts: list[int]) -> None:
    data = _request() + AFTER
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    answer, rest = _feed([data[start:end] for start, end in itertools.pairwise(places)])
    head = answer.split(b"\r\n")
    assert head[0] == b"HTTP/1.1 101 Switching Protocols"
    assert f"sec-websocket-accept: {accept_key(KEY.decode())}".encode() in head
    assert rest == AFTER


@pytest.mark.parametrize(
    "request_",
    [
        _request(b"GET /ws/node?token=x HTTP/1.1"),
        _request(b"GET http://example.org/ws/node HTTP/1.1"),
        _request(without=b"Upgrade", headers=(b"upgrade: WebSocket",)),
        _request(without=b"Connection", headers=(b"Connection: keep-alive, Upgrade",)),
        _request(headers=(b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Protocol: chat")),
        _request(without=b"Upgrade", headers=(b"Upgrade:\t websocket \t",)),
        _request(without=b"Sec-WebSocket-V", headers=(b"Sec-WebSocket-Version:  13 \t",)),
        _request(without=b"Sec-WebSocket-K", headers=(b"Sec-WebSocket-Key:  " + KEY + b" \t",)),
        _request(headers=(b"Content-Length: 0", b"X:")),
        b"\r\n" + _request(),
        _request(headers=(b"X: \xff\xfe",)),
        _request(headers=tuple(b"X-%d: y" % number for number in range(MAX_HEADERS - 5))),
        _request(headers=(b"X: " + b"y" * (MAX_HEAD_BYTES - 300),)),
    ],
    ids=[
        "query",
        "absolute",
        "case",
        "list",
        "extensions",
        "blanks about the upgrade",
        "blanks about the version",
        "blanks about the key",
        "nothing in a body",
        "after an empty line",
        "not ASCII",
        "as many headers as may",
        "as large as may be",
    ],
)
def test_what_is_an_upgrade(request_: bytes) -> None:
    answer, rest = _feed([request_])
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert (b"extensions" in answer.lower(), b"protocol:" in answer.lower(), rest) == (False, False, b"")


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        (_request(b"GET / HTTP/1.1"), 404, b"nodes connect to /ws/node"),
        (_request(b"GET /ws/node/ HTTP/1.1"), 404, b"nodes connect to /ws/node"),
        (_request(b"GET //ws/node HTTP/1.1"), 404, b"nodes connect to /ws/node"),
        (_request(b"OPTIONS * HTTP/1.1"), 404, b"nodes connect to /ws/node"),
        (_request(without=b"Upgrade"), 426, b"a WebSocket endpoint"),
        (_request(without=b"Connection"), 426, b"a WebSocket endpoint"),
        (_request(without=b"Upgrade", headers=(b"Upgrade: h2c",)), 426, b"a WebSocket endpoint"),
        (b"POST /ws/node HTTP/1.1\r\nContent-Length: 5\r\n\r\n01234", 426, b"a WebSocket endpoint"),
        (_request(b"POST /ws/node HTTP/1.1"), 405, b"GET"),
        (_request(b"GET /ws/node HTTP/1.0"), 400, b"HTTP/1.1"),
        (_request(b"GET /ws/node HTTP/2.0"), 400, b"HTTP/1.1"),
        (_request(headers=(b"Content-Length: 2",)) + AFTER, 400, b"no body"),
        (_request(headers=(b"Transfer-Encoding: chunked",)) + b"0\r\n\r\n", 400, b"no body"),
        (_request(without=b"Sec-WebSocket-V"), 426, b"version 13"),
        (_request(without=b"Sec-WebSocket-V", headers=(b"Sec-WebSocket-Version: 8",)), 426, b"version 13"),
        (_request(headers=(b"Sec-WebSocket-Version: 13",)), 426, b"version 13"),
        (_request(without=b"Sec-WebSocket-K"), 400, b"16 bytes in base64"),
        (_request(headers=(b"Sec-WebSocket-Key: " + KEY,)), 400, b"16 bytes in base64"),
        (_request(without=b"Sec-WebSocket-K", headers=(b"Sec-WebSocket-Key: c2hvcnQ=",)), 400, b"16 bytes in base64"),
        (_request(without=b"Sec-WebSocket-K", headers=(b"Sec-WebSocket-Key: \xff",)), 400, b"16 bytes in base64"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, b"no HTTP request"),
        (b"GET /ws/node HTTP/1.1\r\nHost x\r\n", 400, b"no HTTP request"),
        (_request(headers=(b"X: y",) * MAX_HEADERS), 431, b"more than 100 headers"),
        (_request(headers=(b"X: " + b"y" * MAX_HEAD_BYTES,)), 431, b"more than 64 KiB"),
        (b"GET /" + b"w" * MAX_HEAD_BYTES, 431, b"more than 64 KiB"),
        (b"GET /ws/node HTTP/1.1\r\nX: " + b"y" * MAX_HEAD_BYTES, 431, b"more than 64 KiB"),
    ],
)
def test_what_is_none(request_: bytes, status: int, says: bytes) -> None:
    answered, body = _refusal(request_)
    assert answered == status
    assert says in body


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (b"GET /ws HTTP/1.1\r\n\r\n", _request(b"GET /node HTTP/1.1"), 404),
        (b"GET /ws/node HTTP/1.1\r\n\r\n", _request(), 426),
        (b"GET /ws/node HTTP/1.1\r\n\r\n", b"X: y\r\n" * (MAX_HEADERS + 1), 426),
    ],
)
def test_the_first_request_alone_is_answered(first: bytes, second: bytes, status: int) -> None:
    assert _refusal(first + second) == _refusal(first)
    assert _refusal(first)[0] == status


def test_the_answer_to_head_has_no_body() -> None:
    assert _refusal(b"HEAD /ws/node HTTP/1.1\r\nHost: x\r\n\r\n") == (426, b"")
    assert _refusal(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n") == (404, b"")


def test_what_is_sent_with_it_does_not_count() -> None:
    assert _feed([upgrade() + b"\x00" * 2 * MAX_HEAD_BYTES])[0].startswith(b"HTTP/1.1 101 ")
