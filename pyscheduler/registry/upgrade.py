"""The request by which a connection becomes a WebSocket, read within bounds (RFC 6455, section 4.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from http import HTTPStatus
from typing import Final

import httptools
from msgspec import Struct, field

from pyscheduler.registry.http_bounds import MAX_HEAD_BYTES, MAX_HEADERS, TOO_LARGE

_ACCEPT_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16
_VERSION: Final = b"13"
_NO_BODY: Final = (b"", b"0")


class Refused(Exception):
    """The request is answered, and the connection is closed.

    Args:
        status: the answer's status.
        text: its body.
        headers: further headers.
        with_body: whether the answer to this method has one.
    """

    def __init__(self, status: HTTPStatus, text: str, *headers: str, with_body: bool = True) -> None:
        super().__init__(text)
        body = text.encode()
        fixed = ("content-type: text/plain; charset=utf-8", f"content-length: {len(body)}", "connection: close")
        head = "\r\n".join((f"HTTP/1.1 {status.value} {status.phrase}", *fixed, *headers, "", ""))
        self.answer = head.encode() + (body if with_body else b"")


class _Head(Struct):
    """A request's head, as far as it has come. The parser calls it."""

    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False

    def on_message_begin(self) -> None:
        if self.complete:  # the parser would go on with a next request, and put its parts to those of this one
            raise ValueError("a second request")

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise OverflowError("too many headers")
        self.headers.append((name.lower(), value.strip(b" \t")))  # the parser leaves the blanks after it

    def on_headers_complete(self) -> None:
        self.complete = True

    def all_of(self, name: bytes) -> bytes:
        """The values of a header, joined as if they had come in one line."""
        return b",".join([value for one, value in self.headers if one == name])


class UpgradeRequest:
    """Reads the request from the bytes of a connection.

    Args:
        path: where the WebSocket is; nothing else is.
    """

    __slots__ = ("_bytes", "_head", "_parser", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._bytes = 0
        self._head = _Head()
        self._parser = httptools.HttpRequestParser(self._head)

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Read on.

        Returns:
            The answer that makes the connection a WebSocket, and what came after the request; ``None`` if the request
            is not complete.

        Raises:
            Refused: it is none that this door takes.
        """
        upgraded_at: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            upgraded_at = upgrade.args[0]
        except httptools.HttpParserError as error:
            if len(self._head.headers) >= MAX_HEADERS:
                raise _too_large() from error
            if not self._head.complete:  # what comes after the head of a plain request is not read
                raise Refused(HTTPStatus.BAD_REQUEST, "this is no HTTP request") from error
        self._bytes += len(data[:upgraded_at])
        if self._bytes > MAX_HEAD_BYTES:
            raise _too_large()
        if not self._head.complete:
            return None
        answer = self._answer(is_upgrade=upgraded_at is not None)
        return answer, data[upgraded_at:]

    def _answer(self, *, is_upgrade: bool) -> bytes:
        head, method = self._head, self._parser.get_method()
        with_body = method != b"HEAD"
        if not _leads_to(head.target, self._path):
            text = f"no such path: nodes connect to {self._path}"
            raise Refused(HTTPStatus.NOT_FOUND, text, with_body=with_body)
        if not is_upgrade or head.all_of(b"upgrade").lower() != b"websocket":
            text = "this is a WebSocket endpoint"
            raise Refused(HTTPStatus.UPGRADE_REQUIRED, text, "upgrade: websocket", with_body=with_body)
        if method != b"GET":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket begins with GET", "allow: GET")
        if self._parser.get_http_version() != "1.1":
            raise Refused(HTTPStatus.BAD_REQUEST, "a WebSocket begins with HTTP/1.1")
        # The parser leaves a body to what comes after, where it would count as frames.
        if head.all_of(b"content-length") not in _NO_BODY or head.all_of(b"transfer-encoding"):
            raise Refused(HTTPStatus.BAD_REQUEST, "the request for a WebSocket has no body")
        if head.all_of(b"sec-websocket-version") != _VERSION:
            said = f"sec-websocket-version: {_VERSION.decode()}"
            raise Refused(HTTPStatus.UPGRADE_REQUIRED, "this endpoint speaks version 13 of WebSocket", said)
        key = head.all_of(b"sec-websocket-key")
        if not _is_key(key):
            raise Refused(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key has to be 16 bytes in base64")
        accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_SALT, usedforsecurity=False).digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: " + accept + b"\r\n\r\n"
        )


def _too_large() -> Refused:
    return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)


def _leads_to(target: bytes, path: str) -> bool:
    try:
        return bool(httptools.parse_url(target).path == path.encode())
    except httptools.HttpParserInvalidURLError:
        return False


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
