"""A client of the operator door, as small as a scheduler in another language would have it: JSON over HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

MAX_OPEN_REQUESTS = 32
"""Requests to operator doors at the same time; as many connections."""

_OPEN_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 8.0
# The door drops a connection that has been idle for 5 s.
_IDLE_S = 3.0
_MAX_ANSWER_BYTES = 4 << 20
_READ_BYTES = 1 << 16
_TRIES = 3
_PAUSE_S = 0.2
# It was not carried out, or nobody knows; every request about a job may be repeated.
_WORTH_REPEATING = frozenset({"store_unavailable", "outcome_unknown", "stopping"})


class Answer(Struct, frozen=True):
    """What a door said.

    Attributes:
        status: HTTP status; 0 if no door answered.
        document: what was answered; for an error, its ``error`` object.
        code: name of the error, or why nobody answered; empty without an error.
    """

    status: int
    document: Mapping[str, Any]
    code: str = ""

    @property
    def message(self) -> str:
        return str(self.document.get("message", ""))

    @classmethod
    def of(cls, status: int, body: bytes) -> Answer:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if status == 200 and isinstance(document, dict):
            return cls(status, document)
        error = document.get("error") if isinstance(document, dict) else None
        error = error if isinstance(error, dict) else {}
        return cls(status, error, str(error.get("code") or f"http {status}"))


class _NoAnswer(Exception):
    """Says why."""


class OperatorClient:
    """Asks operator doors, one after another where one fails: the door that answered last is asked first.

    Talks to the given URLs and to nothing else: no proxy, no redirect. At most 32 requests are open at a time, each
    on a connection that is kept for the next one. What may have been carried out is asked again, up to three times.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._at = 0
        self._gate = asyncio.Semaphore(MAX_OPEN_REQUESTS)
        self._idle: deque[tuple[float, _Connection]] = deque()

    async def get(self, path: str) -> Answer:
        """Ask for something; ``path`` may have a query."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: Mapping[str, object]) -> Answer:
        """Have something done. Call it only with what is safe to repeat."""
        return await self._ask("POST", path, json.dumps(body).encode())

    def close(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _ask(self, method: str, path: str, body: bytes) -> Answer:
        answer = Answer(0, {}, "not asked")
        for number in range(_TRIES):
            if number:
                await asyncio.sleep(_PAUSE_S * number)
            at = self._at
            async with self._gate:
                answer = await self._ask_once(at, method, path, body)
            if answer.status and answer.code not in _WORTH_REPEATING:
                break
            if at == self._at:
                self._at = (at + 1) % len(self._urls)
        return answer

    async def _ask_once(self, at: int, method: str, path: str, body: bytes) -> Answer:
        url = self._urls[at]
        try:
            while (kept := self._kept(url)) is not None:
                try:
                    return await self._on(kept, method, path, body)
                except _NoAnswer as error:
                    if str(error) == "time-out":
                        raise
                    # The door had closed it; the request may be repeated.
            return await self._on(await _Connection.open(url), method, path, body)
        except _NoAnswer as error:
            return Answer(0, {"message": f"{url}: {error}"}, str(error))

    async def _on(self, connection: _Connection, method: str, path: str, body: bytes) -> Answer:
        try:
            answer = await connection.ask(method, path, body)
        except BaseException:
            connection.close()
            raise
        if connection.stays:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.close()
        return answer

    def _kept(self, url: str) -> _Connection | None:
        fresh_s = asyncio.get_running_loop().time() - _IDLE_S
        while self._idle:
            since_s, connection = self._idle.pop()
            if since_s >= fresh_s and connection.url == url:
                return connection
            connection.close()
        return None


class _Connection:
    """One connection, with one request on it at a time."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.url = url
        self.stays = True
        self._host = urlsplit(url).netloc
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> _Connection:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or (443 if secure else 80), ssl=secure or None
                )
        except TimeoutError:
            raise _NoAnswer("time-out") from None
        except OSError as error:
            raise _NoAnswer(_described(error)) from None
        return cls(url, reader, writer)

    async def ask(self, method: str, path: str, body: bytes) -> Answer:
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        incoming = _Incoming()
        parser = incoming.parser
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                self._writer.write(f"{head}\r\n".encode() + body)
                await self._writer.drain()
                while not incoming.whole:
                    data = await self._reader.read(_READ_BYTES)
                    if not data:
                        raise _NoAnswer("closed")
                    parser.feed_data(data)
                    if len(incoming.body) > _MAX_ANSWER_BYTES:
                        raise _NoAnswer("answer too long")
        except TimeoutError:
            raise _NoAnswer("time-out") from None
        except OSError as error:
            raise _NoAnswer(_described(error)) from None
        except httptools.HttpParserError:
            raise _NoAnswer("no HTTP") from None
        self.stays = incoming.stays
        return Answer.of(parser.get_status_code(), bytes(incoming.body))

    def close(self) -> None:
        self._writer.transport.abort()


class _Incoming:
    """One answer as it comes."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = bytearray()
        self.whole = False
        self.stays = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole, self.stays = True, self.parser.should_keep_alive()


def _described(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "closed"
    return (error.strerror or type(error).__name__).lower()
