"""A WebSocket on a stream of bytes, with bounds on what its peer makes it hold.

A text frame that is whole is taken from the bytes directly; all others, and every fault, are left to the parser of
``websockets``, which is made when there is first something for it.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Parser
from websockets.protocol import Side, State

from pyscheduler.core.codes import CloseCode
from pyscheduler.registry.upgrade import Refused, UpgradeRequest

try:
    from websockets.speedups import apply_mask
except ImportError:  # it is compiled where it can be
    from websockets.utils import apply_mask

MAX_FRAGMENTS: Final = 4096
"""Fragments that a message may come in."""

MAX_CLOSING_S: Final = 10.0
"""How long a connection that is to be closed may take until its peer has read everything and closed it, too."""

_WHOLE_TEXT: Final = 0x80 | Opcode.TEXT
_MASKED: Final = 0x80
_NOT_UTF_8: Final = 1007
_FRAMES_A_TURN: Final = 32


class Reader(Protocol):
    """Who reads the messages of a WebSocket."""

    def read(self, message: str | bytes) -> bool:
        """A message came. Returns whether the next one may; else :meth:`NodeSocket.read_on` is called once it may."""

    def failed(self, code: int) -> None:
        """The socket was closed with ``code``, over what came or since the process stops."""

    def over(self) -> None:
        """Nothing goes out any more, and nothing comes. Called once."""


class Door(Protocol):
    """Where connections come in."""

    def arrived(self, socket: NodeSocket) -> None:
        """A connection was made; it is no WebSocket yet."""

    def opened(self, socket: NodeSocket) -> Reader | None:
        """It is a WebSocket now. ``None``: it is turned away, and has been told so."""

    def gone(self, socket: NodeSocket) -> None:
        """The connection is no more."""


class NodeSocket(asyncio.Protocol):
    """One connection.

    Args:
        door: where it comes in.
        path: the path of the WebSocket.
        max_frame_bytes: the largest message, in bytes; a larger one closes the connection with 1009.
    """

    __slots__ = (
        "_at",
        "_deadline",
        "_door",
        "_drained",
        "_held",
        "_max_frame_bytes",
        "_mute",
        "_over",
        "_owed",
        "_parser",
        "_parts",
        "_pongs",
        "_reader",
        "_reading_paused",
        "_request",
        "_text",
        "_transport",
        "_unread",
    )

    _transport: asyncio.Transport

    def __init__(self, door: Door, *, path: str, max_frame_bytes: int) -> None:
        self._door = door
        self._max_frame_bytes = max_frame_bytes
        self._request: UpgradeRequest | None = UpgradeRequest(path)
        self._reader: Reader | None = None
        self._parser: Parser | None = None
        self._unread, self._at = b"", 0
        """What one read of the connection brought, and how far of it is read."""
        self._held = False
        """The reader wants no more for now."""
        self._owed = 0
        """Bytes of a frame that the parser has a part of."""
        self._parts: list[bytes] = []
        """Fragments of a message that is not complete."""
        self._text = False
        self._reading_paused = False
        self._drained: asyncio.Event | None = None
        """There while the peer does not read: set when it does again, or has gone."""
        self._pongs = b""
        self._mute = False
        """A close frame has gone out, and is the last that the peer gets; what it says now is not read."""
        self._over = False
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """Address of the other side."""
        name = self._transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if name else "unknown"

    # --- out ---------------------------------------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """Send a text frame; waits while the peer does not read. Raises OSError once the socket is gone."""
        if self._over or self._drained is not None:
            await self._may_send()
        self.send_now(text)

    def send_now(self, text: str) -> None:
        """Send a text frame on a socket that is open, whether its peer reads or not."""
        self._transport.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=False))

    async def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; nothing more is read. Raises OSError once the socket is gone."""
        await self._may_send()
        self.close_now(code, reason)

    def close_now(self, code: int, reason: str) -> None:
        """Begin the closing handshake of a socket that is open and has been sent nothing yet."""
        self._open_parser().send_close(int(code), reason)
        self._write_of_parser()
        self._fall_silent()
        asyncio.get_running_loop().call_soon(self._take)  # the peer's answer may have come

    def abort(self) -> None:
        """Drop the connection at once, with whatever is still to be sent or read."""
        self._transport.abort()

    def shut_down(self) -> None:
        """The process stops, and waits for the peer for a moment at most."""
        if self._request is None and not self._over:
            self._fail(CloseCode.SERVER_RESTART)
        else:
            self._transport.close()

    async def _may_send(self) -> None:
        while self._drained is not None:
            await self._drained.wait()
        if self._over:
            raise ConnectionResetError("the socket is closed")

    # --- in ----------------------------------------------------------------------------------------------------------

    def read_on(self) -> None:
        """The reader wants more again."""
        self._held = False
        self._take()

    def _pause_reading(self, pause: bool) -> None:
        if self._transport.is_closing():
            return
        paused, self._reading_paused = self._reading_paused, pause
        if pause and not paused:
            self._transport.pause_reading()
        elif paused and not pause:
            self._transport.resume_reading()

    def _came(self, data: bytes) -> None:
        """A message is complete."""
        message: str | bytes = data
        if self._text:
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self._fail(_NOT_UTF_8)
                return
        if self._reader is not None:
            self._held = not self._reader.read(message)

    # --- what the transport calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._door.arrived(self)

    def eof_received(self) -> None:
        self._close_connection()  # the transport would wait for a peer that reads nothing for as long as that lasts

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        if self._deadline is not None:
            self._deadline.cancel()
        self._unread = b""
        self._end()
        self._door.gone(self)

    def pause_writing(self) -> None:
        self._drained = asyncio.Event()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set()
        pongs, self._pongs = self._pongs, b""
        if pongs and not self._mute and not self._transport.is_closing():
            self._transport.write(pongs)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if self._request is not None:
            self._begin(self._request, data)
            return
        self._unread, self._at = self._unread[self._at :] + data if self._unread else data, 0
        self._take()

    def _begin(self, request: UpgradeRequest, data: bytes) -> None:
        try:
            done = request.feed(data)
        except Refused as refused:
            self._transport.write(refused.answer)
            self._close_connection()
            return
        if done is not None:
            answer, data = done
            self._request = None
            self._transport.write(answer)
            self._reader = self._door.opened(self)
            if data:
                self.data_received(data)

    # --- frames ------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Read what has come until the reader wants no more for now; nothing is taken from the peer meanwhile."""
        frames = 0
        while frames < _FRAMES_A_TURN and not self._held and self._take_frame():
            frames += 1
        others_turn = frames == _FRAMES_A_TURN
        if others_turn:
            asyncio.get_running_loop().call_soon(self._take)
        self._pause_reading(self._held or others_turn)

    def _take_frame(self) -> bool:
        """Read a frame, or as much of one as has come. Returns whether there was any."""
        data, at, end = self._unread, self._at, len(self._unread)
        if at >= end or self._transport.is_closing():
            self._unread = b""
            return False
        if self._owed:
            self._at = min(at + self._owed, end)
            self._owed -= self._at - at
            self._parse(data[at : self._at])
            return True
        begin, after = _payload(data, at)
        if begin == 0:  # its length is still to come
            self._unread, self._at = data[at:], 0
            return False
        self._at = after
        if (
            data[at] == _WHOLE_TEXT
            and data[at + 1] & _MASKED
            and after <= end
            and after - begin <= self._max_frame_bytes
            and not self._parts
            and not self._mute
        ):
            self._text = True
            self._came(apply_mask(data[begin:after], data[begin - 4 : begin]))
        else:
            self._owed = max(0, after - end)
            self._parse(data[at:after])
        return True

    def _open_parser(self) -> Parser:
        if self._parser is None:
            self._parser = Parser(Side.SERVER, state=State.OPEN, max_size=self._max_frame_bytes)
        return self._parser

    def _parse(self, data: bytes) -> None:
        parser = self._open_parser()
        parser.receive_data(data)
        for event in parser.events_received():
            self._on_frame(cast(Frame, event))  # what it reads has begun with a frame
        if parser.parser_exc is not None:
            self._failed()

    def _on_frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                self._on_fragment(frame)
            case Opcode.PING:
                self._on_ping()
            case Opcode.CLOSE:
                if not self._mute:
                    self._write_of_parser()
                self._close_connection()

    def _on_fragment(self, frame: Frame) -> None:
        if self._mute:
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        # The size of a message is bounded by its bytes; a fragment costs memory even if it has none.
        elif len(self._parts) >= MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")
            return
        self._parts.append(bytes(frame.data))
        if frame.fin:
            parts, self._parts = self._parts, []
            self._came(parts[0] if len(parts) == 1 else b"".join(parts))

    def _on_ping(self) -> None:
        # A peer that sends pings and does not read would fill the memory with pongs: it is owed the newest only.
        pongs = b"".join(self._open_parser().data_to_send())
        if self._mute:
            return
        if self._drained is None:
            self._transport.write(pongs)
        elif pongs:
            self._pongs = pongs

    # --- the end -----------------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str = "") -> None:
        """Tell the peer, and close the connection without waiting for it."""
        self._open_parser().fail(code, reason)
        self._failed()

    def _failed(self) -> None:
        if not self._mute:
            self._write_of_parser()
            sent = self._open_parser().close_sent
            if self._reader is not None and sent is not None:
                self._reader.failed(sent.code)
        self._fall_silent()
        self._close_connection()

    def _write_of_parser(self) -> None:
        self._transport.write(b"".join(self._open_parser().data_to_send()))

    def _fall_silent(self) -> None:
        self._mute = True
        self._parts, self._pongs = [], b""
        self._held = False
        self._let_go()

    def _close_connection(self) -> None:
        self._transport.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(MAX_CLOSING_S, self._transport.abort)
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            if self._reader is not None:
                self._reader.over()


def _payload(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at ``at`` begins and ends; (0, 0) if its length is still to come."""
    if len(data) - at < 2:
        return 0, 0
    length, begin = data[at + 1] & 0x7F, at + 2
    if length >= 126:
        more = 2 if length == 126 else 8
        if len(data) - begin < more:
            return 0, 0
        length = int.from_bytes(data[begin : begin + more], "big")
        begin += more
    begin += 4 if data[at + 1] & _MASKED else 0
    return begin, begin + length
