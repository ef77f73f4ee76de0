"""The store under measurement: a server process of our own, what it used, and how long its calls held it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.wire import CONNECTIONS, PIPELINE, Answer, drive
from pyscheduler.scripts import Script, load_scripts
from pyscheduler.scripts.calls import Call
from tests.servers import PlainServer

AOF = {"appendonly": "yes", "appendfsync": "everysec"}
"""Persistence as the embedded server has it."""

_SLOWLOG = 20_000
_TICKS_PER_S = 100


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, all its threads. To the nanosecond where the kernel counts so."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    if total:
        return total / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@dataclass(slots=True)
class Usage:
    """What something cost a server.

    Attributes:
        cpu_s: CPU of its process.
        wall_s: time that it took.
        script_calls: EVALSHA calls.
        blocked_us: mean time for which one of them held the server, by the server's own count.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    script_calls: int = 0
    blocked_us: float = 0.0


class StoreServer:
    """A server on a Unix socket, with the scripts loaded.

    Args:
        program: which one; by default the one that ``serve`` would start.
        settings: lines of its configuration.
    """

    def __init__(self, program: Path | None, settings: Mapping[str, str] | None = None) -> None:
        self._server = PlainServer(program, {"slowlog-max-len": str(_SLOWLOG), **(settings or {})})

    def __enter__(self) -> Self:
        self._server.start()
        self.url = self._server.url
        self.address = self._server.address
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=120)
        info: dict[str, Any] = self.client.info("server")
        name = info.get("server_name", "redis")
        self.engine = f"{name} {info.get(f'{name}_version', info['redis_version'])}"
        self._shebang = int(info["redis_version"].split(".")[0]) >= 7
        self._scripts = load_scripts()
        for script in self._scripts.values():
            self.client.script_load(script.source if self._shebang else script.plain_source)
        return self

    def __exit__(self, *raised: object) -> None:
        self.client.close()
        self._server.close()

    @property
    def pid(self) -> int:
        return self._server.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def words(self, call: Call, namespace: str) -> list[str]:
        """A call of a script as a command."""
        script: Script = self._scripts[call.script]
        keys = [f"{{{namespace}}}:{name}" for name in script.header.keys]
        sha = script.sha if self._shebang else script.plain_sha
        return ["EVALSHA", sha, str(len(keys)), *keys, *call.argv]

    def run(self, call: Call, namespace: str) -> list[str]:
        """Run a script; its reply, which must not be a refusal."""
        reply: list[str] = self.client.execute_command(*self.words(call, namespace))
        if reply[0] not in ("OK", "CREATED"):
            raise RuntimeError(f"{call.script} answered {reply[:3]}")
        return reply

    @contextmanager
    def measured(self) -> Iterator[Usage]:
        """What happens inside the context, measured. The usage is filled in at its end."""
        self.client.config_resetstat()
        usage = Usage()
        cpu, started = self.cpu_s(), time.perf_counter()
        yield usage
        usage.wall_s, usage.cpu_s = time.perf_counter() - started, self.cpu_s() - cpu
        stats: dict[str, float] = self.client.info("commandstats").get("cmdstat_evalsha", {})
        if stats:
            usage.script_calls, usage.blocked_us = int(stats["calls"]), float(stats["usec_per_call"])

    def load(
        self,
        commands: Sequence[bytes],
        answer: Answer,
        *,
        connections: int = CONNECTIONS,
        pipeline: int = PIPELINE,
    ) -> Usage:
        """:func:`benchmarks.wire.drive`, measured."""
        with self.measured() as usage:
            drive(self.address, commands, answer, connections=connections, pipeline=pipeline)
        return usage

    def held_ms(self, work: Callable[[], object]) -> list[float]:
        """How long each EVALSHA that ``work`` leads to held the server, in ms, in any order.

        From SLOWLOG, which has every single call; it is on only now, since it costs the server something.
        """
        self.client.config_set("slowlog-log-slower-than", 0)
        self.client.slowlog_reset()
        try:
            work()
            entries: list[Any] = self.client.execute_command("SLOWLOG", "GET", _SLOWLOG, NEVER_DECODE=True)
        finally:
            self.client.config_set("slowlog-log-slower-than", -1)
        return [entry["duration"] / 1000 for entry in _slow(entries) if entry["command"] == b"EVALSHA"]

    def forget(self, namespace: str) -> None:
        """Remove a namespace."""
        for key in self.client.scan_iter(match=f"{{{namespace}}}:*", count=1000):
            self.client.unlink(key)


def _slow(entries: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield {"duration": entry["duration"], "command": entry["command"].split(b" ")[0].upper()}
        else:
            yield {"duration": entry[2], "command": entry[3][0].upper()}
