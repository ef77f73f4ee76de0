"""A server to crash: put into a prepared state, stopped in the middle of a script, killed, started again, looked at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis

from pyscheduler import Allocator
from pyscheduler.keys import KEY_NAMES, key
from pyscheduler.scripts import Script, load_scripts
from pyscheduler.scripts.calls import Call
from pyscheduler.store import Store
from tests.crash.stopping import Stop, stopping
from tests.harness import STANDING_CLOCK, Cell, assert_invariants
from tests.servers import PlainServer
from tests.support import wait_until

NAMESPACE = "crash"

SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "auto-aof-rewrite-percentage": "0",
    # A script that runs for longer is said to be busy, and may be killed.
    "lua-time-limit": "1",
}

_LONG_LOG_BYTES = 300_000
"""Longer ones take the server longer to start than all else."""

Content = dict[str, object]
"""Every key of the server by value. Events are without their ids, which are of the server's own clock."""

Scenario = Callable[[Cell], AsyncGenerator[None, None]]
"""Prepares a state, yields, and then makes the one call that is to be disturbed."""


@dataclass(frozen=True)
class Prepared:
    """A scenario, made ready.

    Attributes:
        calls: the scripts that its action runs: one, unless a test plants more.
        snapshot: key -> dump of the state before.
        before: that state.
        after: the state after the action.
        again: the state after the same action once more.
        reply: the status that the last script replies.
        reply_again: the status that it replies to the same call once more.
        trace: every call of Redis that the scripts make, as ``COMMAND key``.
        sizes: how many of them each script makes.
        first_write: index of the first that writes; the length of the trace if none does.
    """

    calls: tuple[Call, ...]
    snapshot: dict[bytes, bytes]
    before: Content
    after: Content
    again: Content
    reply: str
    reply_again: str
    trace: tuple[str, ...]
    sizes: tuple[int, ...]
    first_write: int

    @property
    def points(self) -> range:
        return range(len(self.trace) + 1)

    @property
    def events(self) -> set[str]:
        """Types of the events that the action adds."""
        then, now = (cast("list[dict[str, str]]", content.get("events", [])) for content in (self.before, self.after))
        return {event["type"] for event in now[len(then) :]}


class Rig:
    """A server of its own and what is done to it.

    Args:
        program: the server to run.
        overrides: Lua files to replace, so that a fault can be planted.
    """

    def __init__(self, program: Path, overrides: Mapping[str, str] | None = None) -> None:
        self._overrides = {**STANDING_CLOCK, **(overrides or {})}
        self.scripts = load_scripts(self._overrides)
        self.server = PlainServer(program, SETTINGS)
        self._prepared: dict[Scenario, Prepared] = {}
        self._caller: Any = None
        self._start()
        info = self.client.info("server")
        self.shebang = int(info["redis_version"].split(".")[0]) >= 7
        self.writers = {
            name.upper()
            for name, details in cast("dict[str, Any]", self.client.command()).items()
            if "write" in details["flags"]
        }

    def _start(self) -> None:
        self.server.start()
        self.client: Any = redis.Redis.from_url(self.server.url, decode_responses=True)
        self._binary: Any = redis.Redis.from_url(self.server.url)
        wait_until(self._has_loaded, "the server has loaded its data")

    def _has_loaded(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.BusyLoadingError:
            return False

    def close(self) -> None:
        self._hang_up()
        self.server.close()

    def log_file(self) -> Path:
        """The append-only file that is written to: a file of its own, or the newest part in a folder."""
        parts = sorted(self.server.folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)
        return parts[-1] if parts else self.server.folder / "appendonly.aof"

    def start_again_with(self, log: Path, content: bytes) -> None:
        """The server dies and finds another content in its log."""
        self._hang_up()
        self.server.kill()
        log.write_bytes(content)
        self._start()

    def _hang_up(self) -> None:
        self._drop_caller()
        self.client.close()
        self._binary.close()

    def crash(self) -> None:
        """The server dies and is started again on its data."""
        self._hang_up()
        self.server.kill()
        self._start()

    # --- states ---

    def look(self) -> Content:
        """The state that the server is in."""
        names = {key(NAMESPACE, name): name for name in KEY_NAMES}
        found = sorted(cast("list[str]", self.client.keys("*")))
        asking = self.client.pipeline(transaction=False)
        for name in found:
            asking.type(name)
        kinds = asking.execute()
        reading = self.client.pipeline(transaction=False)
        for name, kind in zip(found, kinds, strict=True):
            if kind == "hash":
                reading.hgetall(name)
            elif kind == "zset":
                reading.zrange(name, 0, -1, withscores=True)
            else:
                reading.xrange(name)
        values = dict(zip(found, reading.execute(), strict=True))
        events = key(NAMESPACE, "events")
        if events in values:
            values[events] = [fields for _, fields in values[events]]
        return {names.get(name, name): _decoded(value) for name, value in values.items()}

    def _snapshot(self) -> dict[bytes, bytes]:
        names = cast("list[bytes]", self._binary.keys("*"))
        dumping = self._binary.pipeline(transaction=False)
        for name in names:
            dumping.dump(name)
        return dict(zip(names, dumping.execute(), strict=True))

    def put(self, snapshot: Mapping[bytes, bytes]) -> None:
        """Puts the server into a state."""
        if self.log_file().stat().st_size > _LONG_LOG_BYTES:
            self.client.bgrewriteaof()
            wait_until(lambda: not self.client.info("persistence")["aof_rewrite_in_progress"], "the log is rewritten")
        putting = self._binary.pipeline(transaction=False)
        putting.flushall()
        for name, dump in snapshot.items():
            putting.restore(name, 0, dump)
        putting.execute()

    @property
    def socket_path(self) -> str:
        return self.server.url.removeprefix("unix://")

    def count_clients(self) -> int:
        return len(self.client.client_list())

    def used_memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def assert_invariants(self) -> None:
        asyncio.run(assert_invariants(self.server.url, NAMESPACE))

    # --- scenarios ---

    def prepare(self, scenario: Scenario) -> Prepared:
        """Makes a scenario ready: its state, its call, and what the call does undisturbed. Remembers it."""
        if scenario not in self._prepared:
            self._prepared[scenario] = self._make(scenario)
        return self._prepared[scenario]

    def _make(self, scenario: Scenario) -> Prepared:
        calls, snapshot = asyncio.run(self._record(scenario))
        self.put(snapshot)
        before = self.look()
        replies, traces = [], []
        for call in calls:
            reply, trace = self.client.eval(*self._arguments(call, Stop.NEVER))
            replies.append(reply)
            traces.append(trace)
        traced = self.look()
        trace = tuple(command for of_call in traces for command in of_call)
        writes = [index for index, command in enumerate(trace) if command.split()[0] in self.writers]
        self.put(snapshot)
        self.run(calls)
        after = self.look()
        assert traced == after, "a script that is watched does what it does unwatched"
        self.assert_invariants()
        reply_again = self.run(calls)[0]
        again = self.look()
        self.assert_invariants()
        first_write = writes[0] if writes else len(trace)
        sizes = tuple(len(of_call) for of_call in traces)
        return Prepared(calls, snapshot, before, after, again, replies[-1][0], reply_again, trace, sizes, first_write)

    async def _record(self, scenario: Scenario) -> tuple[tuple[Call, ...], dict[bytes, bytes]]:
        self.client.flushall()
        calls: list[Call] = []
        async with await Allocator.open(
            self.server.url, namespace=NAMESPACE, script_overrides=self._overrides
        ) as allocator:
            steps = scenario(Cell(allocator, allocator._store))
            await anext(steps)
            snapshot = self._snapshot()
            _record_into(calls, allocator._store)
            async for _ in steps:
                raise AssertionError("a scenario yields once")
        assert calls, "the action runs a script"
        return tuple(calls), snapshot

    # --- scripts ---

    def run(self, calls: tuple[Call, ...]) -> Any:
        """Runs the ordinary scripts; returns the last reply."""
        reply = None
        for call in calls:
            reply = self.client.eval(*self._plain(call))
        return reply

    def fail(self, prepared: Prepared, point: int) -> None:
        """Runs the calls, with an error in place of a call of Redis."""
        for call, at in _up_to(prepared, point):
            try:
                self.client.eval(*self._arguments(call, Stop.FAIL, at))
            except redis.exceptions.ResponseError as error:
                if "stopped at its point" not in str(error):
                    raise
                return
        raise AssertionError(f"no script reached point {point}")

    def fill(self, prepared: Prepared, point: int) -> None:
        """Runs the calls; the server's memory is full from the point on."""
        for call, at in _up_to(prepared, point):
            self.client.eval(*self._arguments(call, Stop.FILL, at))

    def attempt(self, prepared: Prepared, user: str = "default") -> str:
        """Runs the ordinary scripts as a user; returns what they are refused with, or nothing."""
        url = self.server.url.replace("unix://", f"unix://{user}:secret@")
        with redis.Redis.from_url(url if user != "default" else self.server.url, decode_responses=True) as client:
            for call in prepared.calls:
                try:
                    client.eval(*self._plain(call))
                except redis.exceptions.RedisError as error:
                    return str(error)
        return ""

    def begin(self, prepared: Prepared, point: int) -> None:
        """Runs the calls until a script waits at the point."""
        caller = self._new_caller()
        for call, at in _up_to(prepared, point):
            caller.send_command("EVAL", *self._arguments(call, Stop.WAIT, at))
            wait_until(lambda: self._is_busy() or caller.can_read(), f"a script waits at point {point} or has ended")
            if not caller.can_read():
                return
            caller.read_response()
        raise AssertionError(f"no script reached point {point}")

    def send(self, call: Call) -> None:
        """Runs an ordinary script and leaves the reply unread."""
        caller = self._new_caller()
        caller.send_command("EVAL", *self._plain(call))
        wait_until(caller.can_read, "the server has answered")

    def wire(self, call: Call) -> bytes:
        """An ordinary script as it goes over the wire."""
        return b"".join(self._new_caller().pack_command("EVAL", *self._plain(call)))

    def _new_caller(self) -> Any:
        """A connection for a call that will not be answered. It takes the place of the one before."""
        self._drop_caller()
        connection: Any = redis.UnixDomainSocketConnection
        self._caller = connection(path=self.socket_path, decode_responses=True)
        self._caller.connect()
        return self._caller

    def _drop_caller(self) -> None:
        if self._caller is not None:
            self._caller.disconnect()

    def kill_script(self) -> bool:
        """SCRIPT KILL of the script that waits. Returns False if the server refuses, because it has written."""
        try:
            self.client.script_kill()
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith("UNKILLABLE"):
                raise
            return False
        wait_until(lambda: not self._is_busy(), "the script has been killed")
        return True

    def _is_busy(self) -> bool:
        try:
            self.client.ping()
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith("BUSY"):
                raise
            return True
        return False

    def _plain(self, call: Call) -> tuple[Any, ...]:
        script = self.scripts[call.script]
        return (script.source if self.shebang else script.plain_source, *_operands(script, call))

    def _arguments(self, call: Call, how: Stop, at: int = 0) -> tuple[Any, ...]:
        script = self.scripts[call.script]
        return (stopping(script, how, at, shebang=self.shebang), *_operands(script, call))


def _decoded(value: Any) -> Any:
    """A value with its JSON read: cjson writes members in any order."""
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    if isinstance(value, str) and value.startswith(("{", "[")):
        return [json.loads(part) for part in value.split("\n")]
    return value


def _operands(script: Script, call: Call) -> tuple[Any, ...]:
    names = script.header.keys
    return (len(names), *(key(NAMESPACE, name) for name in names), *call.argv)


def _up_to(prepared: Prepared, point: int) -> list[tuple[Call, int]]:
    """The calls, each with the point as it counts them itself; for one that ends before it, a point out of reach."""
    found, begin = [], 0
    for call, size in zip(prepared.calls, prepared.sizes, strict=True):
        is_last = begin + size == len(prepared.trace)
        found.append((call, point - begin if point < begin + size or is_last else -1))
        begin += size
    return found


def _record_into(calls: list[Call], store: Store) -> None:
    run = store.run

    async def recording(call: Call) -> list[str]:
        calls.append(call)
        return await run(call)

    store.run = recording  # type: ignore[method-assign]
