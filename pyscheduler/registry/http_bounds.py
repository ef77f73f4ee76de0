"""Bounds on what a peer may make a door hold before it has asked for anything: a request's head, and its time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes of a request's line and headers. What one read of the socket brings may come on top of them."""

MAX_HEADERS: Final = 100
"""Headers of a request."""

REQUEST_TIMEOUT_S: Final = 10.0
"""How long a request may take to arrive whole, and its answer to be taken."""

TOO_LARGE: Final = f"the request has more than {MAX_HEADERS} headers, or more than {MAX_HEAD_BYTES // 1024} KiB"

_TOO_LARGE_STATUS: Final = 431


class _HeadTooLarge(Exception):
    """Ends the parsing of a request."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also refuses a request whose head is too large, and drops a peer that is too slow.

    uvicorn itself collects headers for as long as they come, and waits for a request for ever.

    Args:
        arguments: uvicorn's.
        request_timeout_s: how long a request may take to arrive whole, and its answer to be taken, in seconds.
        options: uvicorn's.
    """

    def __init__(self, *arguments: Any, request_timeout_s: float = REQUEST_TIMEOUT_S, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._request_timeout_s = request_timeout_s
        self._head_bytes = 0
        self._in_head = True
        self._too_large = False
        self._deadlines: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect("request")

    def connection_lost(self, exc: Exception | None) -> None:
        for deadline in tuple(self._deadlines):
            self._done(deadline)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Counted here: the parser hands a header over when it is complete, and an endless one never is.
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response(TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect("request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            self._too_large = True
            raise _HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._done("request")
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._too_large:
            super().send_400_response(msg)
            return
        body = TOO_LARGE.encode()
        head = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[_TOO_LARGE_STATUS] + head.encode() + body)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect("answer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._done("answer")

    def _expect(self, what: str) -> None:
        if what not in self._deadlines:
            self._deadlines[what] = self.loop.call_later(self._request_timeout_s, self.transport.abort)

    def _done(self, what: str) -> None:
        deadline = self._deadlines.pop(what, None)
        if deadline is not None:
            deadline.cancel()
