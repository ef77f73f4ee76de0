"""The node door end to end, and the transports that could stand under it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.echo import OURS, TRANSPORTS, missing
from benchmarks.population import CLASSES, document, languages, node_id
from benchmarks.server import AOF, StoreServer, cpu_s
from benchmarks.suite import Bench, Group, Opened, Table
from benchmarks.swarm import PING, PONG, Socket, Swarm, frame
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import HEAD, State

_ACK = b'{"type":"node_register_ack"'
_ERROR = b'{"type":"error"'
_SPARE_FILES = 200
_PATIENCE_MS = "3600000"

# Answered once every heartbeat before it has been stored.
_END_MARK = frame(json.dumps({"type": "job_ack", "job_id": "none"}))
_END_MARKS = 16
"""One socket in so many sends it. The others' ping, answered once their heartbeats are read, costs less than one."""


def _register(number: int, prefix: str) -> bytes:
    state = State(languages=languages(number % CLASSES))
    return frame(json.dumps(HEAD.register(state, node_id=node_id(number, prefix))))


def _beat(number: int, prefix: str, percent: float) -> bytes:
    state = State(languages=languages(number % CLASSES), gpu_percent=percent)
    return frame(json.dumps(HEAD.heartbeat(node_id(number, prefix), state)))


def _memory_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


@contextmanager
def _scheduler(bench: Bench, name: str) -> Iterator[tuple[ServeProcess, StoreServer]]:
    """A scheduler process on a store of its own, with the 50 pools."""
    pools = bench.folder / "pools.yaml"
    # JSON is YAML, and the duration of a document is written in words.
    wanted = json.loads(document().canonical())
    pools.write_text(json.dumps({"schema": 1, "pools": wanted["pools"]}))
    with bench.server(**AOF) as store:
        # However slow the machine is, no node is to lapse, to be called silent or degraded in the middle.
        patient = ("--lease-ms", _PATIENCE_MS, "--warmup-ms", _PATIENCE_MS)
        process = ServeProcess(bench.folder, name, "--redis-url", store.url, "--pools", str(pools), *patient)
        try:
            yield process.wait_listening(), store
        finally:
            process.close()


@contextmanager
def _door(bench: Bench) -> Opened:
    rounds = 0
    sockets, beats = bench.scale.sockets, bench.scale.beats

    def measure() -> None:
        nonlocal rounds
        rounds += 1
        with _scheduler(bench, f"door-{rounds}") as (process, store), Swarm(process.url, sockets) as swarm:
            before = _memory_kib(process.pid)
            swarm.connect()
            swarm.ask([_register(number, "node-") for number in range(sockets)], _ACK)
            # The first heartbeat says what runs, and makes the node ready. Clients send a ping now and then.
            swarm.ask([_beat(number, "node-", 40.0) + PING + _END_MARK for number in range(sockets)], _ERROR)
            kib = (_memory_kib(process.pid) - before) / sockets
            messages = [
                b"".join(_beat(number, "node-", 10.0 + 5 * (beat % 12)) for beat in range(beats))
                + (PING if number % _END_MARKS else _END_MARK)
                for number in range(sockets)
            ]
            cpu, store_cpu, started = cpu_s(process.pid), store.cpu_s(), time.perf_counter()
            swarm.ask(messages, _ERROR, PONG)
            wall = time.perf_counter() - started
            cpu, store_cpu = cpu_s(process.pid) - cpu, store.cpu_s() - store_cpu
        count = sockets * beats
        echo = _echo(bench, OURS)
        row = "heartbeat, from the socket to the store"
        bench.results.add(
            bench.table,
            row,
            {
                "process_us": cpu * 1e6 / count,
                "store_us": store_cpu * 1e6 / count,
                "per_s": count / wall,
                "per_cpu_s": count / cpu,
                "share": count / cpu / echo,
                "kib": kib,
            },
        )
        bench.results.add(bench.table, "bare echo of the same frame, the same transport", {"per_cpu_s": echo})
        bench.target(row, "per_cpu_s", 60_000, at_most=False)
        bench.target(row, "share", 0.7, at_most=False)
        bench.target(row, "kib", 24)

    yield measure


@contextmanager
def _storm(bench: Bench) -> Opened:
    rounds = 0
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(bench.scale.storm, limit - _SPARE_FILES) if limit != resource.RLIM_INFINITY else bench.scale.storm

    def measure() -> None:
        nonlocal rounds
        rounds += 1
        frames = [_register(number, "node-") for number in range(count)]
        sent, waited = [0.0] * count, []

        def came(one: Socket, text: bytes) -> None:
            if not text:
                one.send(frames[one.number])
                sent[one.number] = time.perf_counter()
            elif text.startswith(_ACK):
                waited.append(time.perf_counter() - sent[one.number])
            elif text.startswith(_ERROR):
                raise RuntimeError(f"a registration was refused: {text!r}")

        with _scheduler(bench, f"storm-{rounds}") as (process, store), Swarm(process.url, count) as swarm:
            cpu, store_cpu, started = cpu_s(process.pid), store.cpu_s(), time.perf_counter()
            swarm.connect(came)
            swarm.run(came, lambda: len(waited) >= count)
            wall = time.perf_counter() - started
            cpu, store_cpu = cpu_s(process.pid) - cpu, store.cpu_s() - store_cpu
        row = f"{count:,} nodes connect and register"
        bench.results.add(
            bench.table,
            row,
            {
                "process_us": cpu * 1e6 / count,
                "store_us": store_cpu * 1e6 / count,
                "per_s": count / wall,
                "p99_ms": sorted(waited)[int(count * 0.99)] * 1000,
                "all_s": wall,
            },
        )
        bench.target(row, "all_s", 3)
        bench.target(row, "p99_ms", 1000)
        _bare_storm(bench, frames)

    yield measure


def _bare_storm(bench: Bench, frames: list[bytes]) -> None:
    """As many connect to the bare echo, and each gets one frame of the same size back: what the transport takes."""
    echoed = 0

    def came(one: Socket, text: bytes) -> None:
        nonlocal echoed
        if text:
            echoed += 1
        else:
            one.send(frames[one.number])

    with _echo_process(OURS) as (pid, url), Swarm(url, len(frames)) as swarm:
        cpu, started = cpu_s(pid), time.perf_counter()
        swarm.connect(came)
        swarm.run(came, lambda: echoed >= len(frames))
        wall, cpu = time.perf_counter() - started, cpu_s(pid) - cpu
    row = "as many connect to the bare echo of the same transport, and get a frame back"
    count = len(frames)
    bench.results.add(bench.table, row, {"process_us": cpu * 1e6 / count, "per_s": count / wall, "all_s": wall})


@contextmanager
def _echo_process(name: str) -> Iterator[tuple[int, str]]:
    """A bare echo in a process of its own: its pid and URL."""
    command = [sys.executable, "-m", "benchmarks.echo", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, f"ws://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


def _echo(bench: Bench, name: str) -> float:
    """Echoes of a heartbeat for each second of the process's CPU; the wall-clock rate goes into the row."""
    with _echo_process(name) as (pid, url), Swarm(url, bench.scale.sockets) as swarm:
        before = _memory_kib(pid)
        swarm.connect()
        message = _beat(1, "node-", 40.0)
        swarm.echo(message, 0.2)
        cpu, started = cpu_s(pid), time.perf_counter()
        echoes = swarm.echo(message, bench.scale.seconds)
        cpu, wall = cpu_s(pid) - cpu, time.perf_counter() - started
        kib = (_memory_kib(pid) - before) / bench.scale.sockets
    if bench.table == "transports":
        metrics = {"process_us": cpu * 1e6 / echoes, "per_s": echoes / wall, "per_cpu_s": echoes / cpu, "kib": kib}
        bench.results.add(bench.table, name, metrics)
    return echoes / cpu


@contextmanager
def _transports(bench: Bench) -> Opened:
    there = [name for name in TRANSPORTS if not missing(name)]
    absent = [missing(name) for name in TRANSPORTS if missing(name)]
    if absent:
        bench.results.skipped[bench.table] = f"not installed: {', '.join(absent)} (pip install -e '.[bench]')"

    def measure() -> None:
        for name in there:
            _echo(bench, name)

    yield measure


_HOW_DOOR = (
    "One `serve` process with 2,000 sockets of nodes at schema 2.0, on a store with the append-only file. "
    "Every node sends 15 heartbeats whose load changes, as fast as they are taken: WebSocket, parse, "
    "validate, `touch_nodes`; loads that come while one is on its way to the store are part of the next. "
    "A ping ends them, in its turn, and on one socket in 16 a message that is answered once all of them are stored. "
    "CPU is that of the process, and of the store beside it. Bare echo is the same "
    "transport that sends the same frame back, by CPU too. KiB: growth of the process's resident memory for "
    "each registered node."
)
_HOW_STORM = (
    "All nodes of a fleet connect to one `serve` process at once (400 handshakes under way), and each "
    "registers as soon as its socket is open. p99: from the registration to its acknowledgement. Fewer than "
    "10,000 where the limit of open files is lower. Beside it, the handshakes and one frame there and back over the "
    "same transport, without a node door: no door on it can be quicker."
)
_HOW_TRANSPORTS = (
    "Bare echo of a heartbeat frame on 2,000 sockets, one process each, all on uvloop. The first stands "
    "under the node door."
)

GROUPS = (
    Group("door", (Table("door", "The node door", _HOW_DOOR),), _door),
    Group("storm", (Table("storm", "A registration storm", _HOW_STORM),), _storm),
    Group("transports", (Table("transports", "Transports", _HOW_TRANSPORTS),), _transports),
)
