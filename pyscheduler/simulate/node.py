"""One simulated node: a real WebSocket client that behaves as the fleet's own client does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from pyscheduler.core.urls import masked_url
from pyscheduler.simulate import messages
from pyscheduler.simulate.options import FleetOptions
from pyscheduler.simulate.plan import Churn, NodePlan
from pyscheduler.simulate.tally import Tally
from pyscheduler.simulate.workplace import Workplace

_OPEN_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 3.0
_MAX_FRAME = 1 << 20


class _Connect(connect):
    """Connects to the URL it was given and to no other: no proxy (see the caller) and no redirect."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class SimulatedNode:
    """Connects, registers, heartbeats, and connects again ``reconnect_s`` after each close, until cancelled.

    Unlike the newest client, which gives up after two closes in a row, it never stops trying.

    Args:
        workplace: where the jobs are that make the node busy; ``None``: there are none, and its load is by chance.

    Attributes:
        connected: a socket is open.
        registered: this socket's registration was acknowledged.
        node_id: the id of the last acknowledgement, or the one that the fleet gave.
        pool, status: as the last ``node_status`` on this socket said; ``None`` before one.
        ever_registered: an acknowledgement has come in the node's life.
        away_since_s: since when the node is without a registration, event loop time; ``None`` while it has one.
        load: how busy the latest heartbeat said that the node is, 0..1.
    """

    def __init__(
        self,
        options: FleetOptions,
        index: int,
        tally: Tally,
        gate: asyncio.Semaphore,
        workplace: Workplace | None = None,
    ) -> None:
        self._options = options
        self._plan = NodePlan(options, index)
        self._tally = tally
        self._gate = gate
        self._workplace = workplace
        self._socket: ClientConnection | None = None
        self._languages = self._plan.languages
        self._register_sent_s = 0.0
        self._change_sent_s: float | None = None
        self._unsent_change = False
        self.node_id: str | None = self._plan.node_id
        self.connected = False
        self.registered = False
        self.ever_registered = False
        self.pool: str | None = None
        self.status: str | None = None
        self.load = 0.0
        self.away_since_s: float | None = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Live until cancelled; the socket is then closed without a status code, as a client that is stopped does."""
        churn = asyncio.create_task(self._churn())
        try:
            attempt = 0
            while True:
                await self._connect_once(self._plan.url(attempt))
                await asyncio.sleep(self._options.reconnect_s)
                attempt += 1
                self._tally.reconnects += 1
        finally:
            churn.cancel()
            if self._socket is not None:
                with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                    await self._close(self._socket)

    def cut(self) -> None:
        """Drop the socket, if there is one, without a close frame."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _connect_once(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        async with self._gate:
            started_s = loop.time()
            try:
                socket = await _Connect(
                    url,
                    proxy=None,
                    ping_interval=None,
                    open_timeout=_OPEN_TIMEOUT_S,
                    close_timeout=_CLOSE_TIMEOUT_S,
                    max_size=_MAX_FRAME,
                )
            except InvalidStatus as error:
                self._connect_failed(url, f"http {error.response.status_code}")
                return
            except TimeoutError:
                self._connect_failed(url, "time-out")
                return
            except (OSError, InvalidHandshake, WebSocketException) as error:
                self._connect_failed(url, _describe(error))
                return
        self._tally.connect_ms.add((loop.time() - started_s) * 1000)
        self._socket, self.connected = socket, True
        try:
            await self._live(socket)
        finally:
            self.connected = False
            self._lose()
        self._socket = None
        self._tally.closes.add(str(socket.close_code or 1006))
        if socket.close_reason:
            self._tally.problem(f"closed with {socket.close_code}: {socket.close_reason}")

    def _connect_failed(self, url: str, what: str) -> None:
        self._tally.connect_errors.add(what)
        self._tally.problem(f"{masked_url(url)}: {what}")

    def _lose(self) -> None:
        self.registered, self.pool, self.status = False, None, None
        self._change_sent_s = None
        if self.away_since_s is None:
            self.away_since_s = asyncio.get_running_loop().time()

    async def _live(self, socket: ClientConnection) -> None:
        tasks = [asyncio.create_task(self._speak(socket)), asyncio.create_task(self._listen(socket))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, (ConnectionClosed, OSError)):
                raise outcome
        # The listener ends when the peer has closed; when the speaker failed first, the socket is still ours to end.
        socket.transport.abort()
        await socket.wait_closed()

    async def _speak(self, socket: ClientConnection) -> None:
        # On a reconnect a heartbeat leaves at once too, since the client has an id already; either may be first.
        reconnecting = self.ever_registered
        early = reconnecting and self._plan.heartbeat_first()
        if early:
            await self._heartbeat(socket)
        await self._register(socket)
        if reconnecting and not early:
            await self._heartbeat(socket)
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            next_s = max(next_s + self._options.heartbeat_s, loop.time())
            await asyncio.sleep(next_s - loop.time())
            if self.registered:
                await self._heartbeat(socket)

    async def _listen(self, socket: ClientConnection) -> None:
        async for frame in socket:
            try:
                message = json.loads(frame)
            except (ValueError, RecursionError):
                continue
            if not isinstance(message, dict):
                continue
            match message.get("type"):
                case "node_register_ack":
                    self._acknowledged(message)
                    await self._heartbeat(socket)
                case "node_status":
                    self._told(message)
                case "error":
                    # The fleet's client only logs an error, whatever its code.
                    code = str(message.get("code"))
                    self._tally.errors.add(code)
                    # A heartbeat that overtook the registration is answered like this, and is no trouble.
                    if self.registered or code != "INVALID_MESSAGE":
                        self._tally.problem(f"{code}: {message.get('message')}")

    async def _register(self, socket: ClientConnection) -> None:
        self._unsent_change = False
        self._register_sent_s = asyncio.get_running_loop().time()
        await socket.send(
            messages.register(
                self.node_id, languages=self._languages, services=self._options.services, gpus=self._options.gpus
            )
        )

    async def _heartbeat(self, socket: ClientConnection) -> None:
        if self.node_id is None:
            return
        if self._unsent_change and self.registered:
            self._unsent_change, self._change_sent_s = False, asyncio.get_running_loop().time()
        await socket.send(
            messages.heartbeat(
                self.node_id,
                timestamp_ms=int(time.time() * 1000),
                usage=self._usage(),
                languages=self._languages,
                services=self._options.services,
            )
        )
        self._tally.heartbeats += 1

    def _usage(self) -> dict[str, object]:
        if self._workplace is None:
            usage = self._plan.usage()
        else:
            busy = self._workplace.busy(self.node_id, self.pool)
            usage = self._plan.usage_at_work(self._workplace.jobs(self.node_id), busy)
        percent = usage["gpu_percent"]
        self.load = percent / 100 if isinstance(percent, float) else 0.0
        return usage

    def _acknowledged(self, message: dict[str, object]) -> None:
        now_s = asyncio.get_running_loop().time()
        if isinstance(node_id := message.get("node_id"), str):
            self.node_id = node_id
        self._tally.registrations += 1
        self._tally.register_ms.add((now_s - self._register_sent_s) * 1000)
        if self.away_since_s is not None:
            if self.ever_registered:
                self._tally.longest_absence_s = max(self._tally.longest_absence_s, now_s - self.away_since_s)
            self.away_since_s = None
        self.registered = self.ever_registered = True

    def _told(self, message: dict[str, object]) -> None:
        self._tally.statuses += 1
        pool, status = message.get("pool"), message.get("status")
        pool = pool if isinstance(pool, str) else None
        if self._change_sent_s is not None and pool != self.pool:
            self._tally.change_ms.add((asyncio.get_running_loop().time() - self._change_sent_s) * 1000)
            self._change_sent_s = None
        self.pool = pool
        self.status = status if isinstance(status, str) else None

    async def _churn(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for event in self._plan.churn():
            due_s += event.wait_s
            await asyncio.sleep(due_s - loop.time())
            socket = self._socket
            if event.what is Churn.LANGUAGES:
                self._languages, self._unsent_change = event.languages, True
                self._tally.language_changes += 1
            elif socket is not None and self.connected:
                self._tally.drops += 1
                if event.what is Churn.CUT:
                    socket.transport.abort()
                else:
                    with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                        await self._close(socket)

    @staticmethod
    async def _close(socket: ClientConnection) -> None:
        await socket.close(code=None)  # type: ignore[arg-type]  # no status: what the fleet's client sends


def _describe(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"{type(error).__name__}: {error}"
