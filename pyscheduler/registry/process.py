"""``pyscheduler serve``: the process around the two doors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Struct

import pyscheduler
from pyscheduler.core.lifecycle import LifecyclePolicy
from pyscheduler.core.limits import MAX_INSTANCE_ID_CHARS
from pyscheduler.core.session_policy import SessionPolicy
from pyscheduler.errors import PyschedulerError
from pyscheduler.registry import first_document, logs, runtime
from pyscheduler.registry.access import StoreAccess
from pyscheduler.registry.background import InstanceLease, Reconciler
from pyscheduler.registry.connection import Connection
from pyscheduler.registry.listener import Listener, bind
from pyscheduler.registry.metrics import Metrics
from pyscheduler.registry.node_door import NODE_PATH, NodeDoor
from pyscheduler.registry.operator_door import make_app
from pyscheduler.registry.recovery import Recovery
from pyscheduler.registry.shared import Shared
from pyscheduler.registry.sockets import Sockets
from pyscheduler.registry.watcher import Watcher
from pyscheduler.settings import ServeSettings

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator
    from pyscheduler.core.document import PoolDocument

INTERRUPTED: Final = 130
"""Exit code of a process that a second signal has forced to end."""

SAME_REQUEST_S: Final = 0.5
"""A further signal within this time is the first one once more: make, timeout and the like pass on what they get."""
_OPERATOR_CONNECTIONS: Final = 256
_OTHER_FILES: Final = 512
_CANCEL_AGAIN_S: Final = 0.1
_MIN_TICK_MS, _MAX_TICK_MS = 20, 1000


class Ports(Struct, frozen=True):
    """Ports that the doors listen on, chosen ones included."""

    node: int
    operator: int


class ServeProcess:
    """One scheduler process. An asynchronous context manager: entered, it serves; left, it has stopped in good order.

    Args:
        settings: see :class:`~pyscheduler.settings.ServeSettings`.
        log: where to log; by default what the settings say.
    """

    def __init__(self, settings: ServeSettings, *, log: logs.Log | None = None) -> None:
        self.settings = settings
        self.instance = settings.instance_id or make_instance_id()
        self._log = log or make_log(settings)
        self._log = self._log.bind(instance=self.instance)
        self._access = StoreAccess(settings, self._log)
        self._shared: Shared | None = None
        self._recovery: Recovery | None = None
        self._lease: InstanceLease | None = None
        self._node_door: NodeDoor | None = None
        self._operator_door: Listener | None = None
        self._ports: Ports | None = None
        self._background: list[asyncio.Task[None]] = []
        self._failed = asyncio.Event()
        self._stopped = False

    # --- what others may look at -------------------------------------------------------------------------------------

    @property
    def ports(self) -> Ports:
        """The ports in use.

        Raises:
            PyschedulerError: the process does not listen yet.
        """
        if self._ports is None:
            raise PyschedulerError("the process does not listen yet")
        return self._ports

    @property
    def node_url(self) -> str:
        """Where nodes connect, seen from this machine."""
        return f"ws://{_reachable(self.settings.host)}:{self.ports.node}{NODE_PATH}"

    @property
    def operator_url(self) -> str:
        """Where the operator door is, seen from this machine."""
        return f"http://{_reachable(self.settings.operator_host)}:{self.ports.operator}"

    @property
    def shared(self) -> Shared:
        """What the connections share: allocator, sockets, metrics.

        Raises:
            PyschedulerError: the process has not been started.
        """
        if self._shared is None:
            raise PyschedulerError("the process has not been started")
        return self._shared

    @property
    def owns_store(self) -> bool:
        """Whether this process started the embedded server that it uses."""
        return self._access.owns_store

    # --- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, apply the first document, open the doors.

        Raises:
            PyschedulerError: what keeps it from starting; nothing is left behind.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        document = first_document.read(settings.pools) if settings.pools is not None else None
        # Bound before anything else: a port that is taken is the likeliest mistake, and the cheapest to find.
        node_socket = bind(settings.host, settings.port, flag="--port")
        with contextlib.ExitStack() as undo:
            undo.callback(node_socket.close)
            operator_socket = bind(settings.operator_host, settings.operator_port, flag="--operator-port")
            undo.callback(operator_socket.close)
            await self._start_behind(node_socket, operator_socket, document)
            undo.pop_all()

    async def _start_behind(
        self, node_socket: socket.socket, operator_socket: socket.socket, document: PoolDocument | None
    ) -> None:
        settings = self.settings
        self._allow_files()
        allocator = await self._access.open()
        shared = self._shared = self._make_shared(allocator)
        if document is not None and settings.pools is not None:
            await first_document.apply(allocator, document, path=settings.pools, author=self.instance, log=self._log)
        shared.learn_admission(await allocator.admission())
        nodes = self._node_door = NodeDoor(
            shared,
            node_socket,
            max_connections=settings.max_connections,
            max_message_bytes=settings.max_message_bytes,
            max_frame_bytes=settings.max_frame_bytes,
            handshake_timeout_ms=settings.register_timeout_ms,
            tick_ms=_tick_ms(settings),
        )
        shared.job_changes = settings.takes_changes(operator_socket.getsockname()[0])
        operators = self._operator_door = Listener(
            make_app(shared), operator_socket, max_connections=_OPERATOR_CONNECTIONS
        )
        self._ports = Ports(nodes.port, operators.port)
        await self._start_background(nodes)
        if self._lease is not None:
            await self._lease.renew()
        await operators.start()
        await nodes.start()
        self._log.info(
            "listening",
            node_url=self.node_url,
            operator_url=self.operator_url,
            namespace=settings.namespace,
            store=self._access.shown_url,
            engine=allocator.engine,
            store_owner=self.owns_store,
            operator_changes=shared.job_changes,
            pid=os.getpid(),
        )

    def _make_shared(self, allocator: Allocator) -> Shared:
        settings = self.settings
        sockets, metrics = Sockets(), Metrics()
        metrics.connections.set_function(lambda: len(sockets))
        metrics.sessions.set_function(lambda: sockets.registered)
        metrics.store_up.set(1)
        policy = SessionPolicy(
            clock=lambda: int(time.time()),
            new_node_id=lambda: _new_node_id(sockets),
            lifecycle=LifecyclePolicy(
                checks_to_ready=settings.checks_to_ready,
                failures_to_degrade=settings.failures_to_degrade,
                warmup_ms=settings.warmup_ms,
                core_services=settings.core_services,
                require_all_running=settings.require_all_running,
            ),
            registration_timeout_ms=settings.register_timeout_ms,
            silence_ms=settings.silence_ms,
        )
        return Shared(
            allocator=allocator,
            sockets=sockets,
            metrics=metrics,
            log=self._log,
            instance=self.instance,
            policy=policy,
            lease_ms=settings.lease_ms,
            grace_ms=settings.reconnect_grace_ms,
            send_timeout_ms=settings.send_timeout_ms,
            takeover=settings.node_id_conflict == "takeover",
        )

    def _allow_files(self) -> None:
        """Each connection is an open file; the usual soft limit is for about a thousand."""
        wanted = self.settings.max_connections + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
        if soft < wanted:
            self._log.warning(
                "few_files",
                allowed=soft,
                wanted=wanted,
                next="raise the limit of open files, or lower --max-connections",
            )

    # --- background --------------------------------------------------------------------------------------------------

    async def _start_background(self, nodes: NodeDoor) -> None:
        settings, shared = self.settings, self.shared
        recovery = self._recovery = Recovery(
            shared,
            check_interval_ms=settings.store_check_interval_ms,
            compare_interval_ms=settings.resync_interval_ms,
            concurrency=settings.recovery_concurrency,
            on_down=self._mend_store,
        )
        watcher = Watcher(shared, compare=recovery.compare_soon, lost=recovery.put_back_soon)
        info: dict[str, str | int] = {
            "version": pyscheduler.__version__,
            "pid": os.getpid(),
            "machine": socket.gethostname()[:64],
            "host": settings.host,
            "port": self.ports.node,
            "operator_host": settings.operator_host,
            "operator_port": self.ports.operator,
        }
        await watcher.begin()
        self._lease = InstanceLease(shared, lease_ms=settings.instance_lease_ms, info=info)
        self._spawn("timer", nodes.keep_time())
        self._spawn("watcher", watcher.follow())
        self._spawn("teller", watcher.tell())
        self._spawn("recovery", recovery.run())
        self._spawn("reconciler", Reconciler(shared, interval_ms=settings.reconcile_interval_ms).run())
        self._spawn("instance-lease", self._lease.run())

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"pyscheduler-{name}")
        task.add_done_callback(self._on_background_end)
        self._background.append(task)

    def _on_background_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        # Each of them guards itself; one that ends all the same leaves a process that only looks alive.
        self._log.error("background_task_ended", task=task.get_name(), exc_info=task.exception())
        self._failed.set()

    async def _mend_store(self) -> None:
        allocator = await self._access.mend()
        if allocator is not None:
            former, self.shared.allocator = self.shared.allocator, allocator
            await former.aclose()

    # --- the end -----------------------------------------------------------------------------------------------------

    async def failed(self) -> None:
        """Returns when the process cannot go on."""
        await self._failed.wait()

    async def stop(self) -> None:
        """Stop in good order: accept nobody, release the nodes, close their sockets with 1012, let go of the store.

        Takes ``shutdown_timeout_ms`` and a little at most; what is not done by then is cut. Can be repeated.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._shared is not None:
            self._shared.stopping.set()
        if self._node_door is not None:
            self._node_door.stop_accepting()
        background, self._background = self._background, []
        await _end(background)
        if self._shared is not None:
            await self._let_go(self._shared)
        if self._shared is not None:
            # Before the sockets: a reader that still waits for the store then ends by itself.
            await self._shared.allocator.aclose()
        doors = (self._node_door, self._operator_door)
        await asyncio.gather(*(door.stop() for door in doors if door is not None))
        await self._access.close()

    async def _let_go(self, shared: Shared) -> None:
        connections = list(shared.sockets)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.shutdown_timeout_ms / 1000):
                await asyncio.gather(*(self._shut_down(connection) for connection in connections))
                await shared.allocator.leave_instance(self.instance)
        except TimeoutError:
            self._log.warning("stop_took_too_long", left=len(shared.sockets))
        except PyschedulerError as error:
            self._log.warning("instance_not_taken_back", error=str(error))
        for connection in shared.sockets:
            if not connection.machine.closed:
                connection.abort()
        self._log.info("stopped", nodes=len(connections), took_ms=round((time.monotonic() - started) * 1000))

    async def _shut_down(self, connection: Connection) -> None:
        try:
            await connection.shut_down()
        except Exception as error:
            self._log.error("shut_down_defect", node_id=connection.node_id, exc_info=error)

    async def abandon(self) -> None:
        """End at once. Nodes are not released; their leases end by themselves."""
        for task in self._background:
            task.cancel()
        if self._shared is not None:
            for connection in self._shared.sockets:
                connection.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: before Python 3.12 ``asyncio.wait_for``, which the Redis client uses, loses a cancellation that
    comes at the moment when what it waits for is done.
    """
    left: set[asyncio.Task[None]] = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)


# --- the whole process -----------------------------------------------------------------------------------------------


async def serve(settings: ServeSettings) -> int:
    """Serve until a signal comes.

    SIGTERM and SIGINT stop the process in good order; a later one ends it at once.

    Returns:
        The exit code: 0 after an orderly stop, 1 if it could not go on, 130 if it was forced.

    Raises:
        PyschedulerError: what kept it from starting.
    """
    loop = asyncio.get_running_loop()
    asked, forced = asyncio.Event(), asyncio.Event()
    log = make_log(settings)
    release_logs = logs.capture_library_logs(log)
    repeated_until_s = 0.0

    def on_signal(name: str) -> None:
        nonlocal repeated_until_s
        if not asked.is_set():
            repeated_until_s = loop.time() + SAME_REQUEST_S
        elif loop.time() < repeated_until_s:
            return
        (forced if asked.is_set() else asked).set()
        log.info("signal", signal=name, action="ending at once" if forced.is_set() else "stopping")

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, on_signal, one.name)
    try:
        return await _serve(ServeProcess(settings, log=log), asked, forced)
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(one)
        release_logs()


async def _serve(process: ServeProcess, asked: asyncio.Event, forced: asyncio.Event) -> int:
    interrupted = asyncio.create_task(asked.wait())
    try:
        starting = asyncio.create_task(process.start())
        await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        starting.result()
        runtime.collect_less()
        failing = asyncio.create_task(process.failed())
        await asyncio.wait({interrupted, failing}, return_when=asyncio.FIRST_COMPLETED)
        failed = failing.done()
        failing.cancel()
        return INTERRUPTED if await _stop(process, forced) else int(failed)
    finally:
        interrupted.cancel()


async def _stop(process: ServeProcess, forced: asyncio.Event) -> bool:
    """Stop. Returns whether a further signal cut it short."""
    stopping = asyncio.create_task(process.stop())
    impatient = asyncio.create_task(forced.wait())
    await asyncio.wait({stopping, impatient}, return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if stopping.done():
        stopping.result()
        return False
    stopping.cancel()
    await process.abandon()
    await asyncio.gather(stopping, return_exceptions=True)
    return True


def run(settings: ServeSettings) -> int:
    """:func:`serve` on an event loop of its own, the fast one where it is there."""
    if sys.platform == "win32":
        raise PyschedulerError("serve needs a POSIX system")
    import uvloop

    runtime.fill_standard_streams()
    return uvloop.run(serve(settings))


def make_log(settings: ServeSettings) -> logs.Log:
    """The log that the settings ask for. The password of the store never gets into it."""
    return logs.make(settings.log_format, settings.log_level, secrets=settings.secrets)


def make_instance_id() -> str:
    """An instance id: machine, process number, and a random part, since both of these come again."""
    tail = f"-{os.getpid()}-{secrets.token_hex(3)}"
    machine = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "scheduler"
    return machine[: MAX_INSTANCE_ID_CHARS - len(tail)] + tail


def _new_node_id(sockets: Sockets) -> str:
    while True:
        node_id = f"node-{secrets.token_hex(4).upper()}"
        if not sockets.remembers(node_id):
            return node_id


def _tick_ms(settings: ServeSettings) -> int:
    """Often enough for the shortest deadline, and never more than a second apart."""
    shortest = min(settings.register_timeout_ms, settings.silence_ms, settings.warmup_ms, settings.send_timeout_ms)
    return max(_MIN_TICK_MS, min(_MAX_TICK_MS, shortest // 5))


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
