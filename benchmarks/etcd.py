"""etcd, the registry that many fleets use: a lease kept alive, a put, and a transaction, over gRPC."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.population import CLASSES, POOLS, node_id, profile, usage_json
from benchmarks.server import cpu_s
from benchmarks.suite import Bench, Group, Opened, Skipped, Table

NODES = 1_000
CONCURRENCY = 32
_LEASE_S = 3600
_READY_S = 30.0
_SUCCEEDED = b"\x10\x01"  # field 2 of a transaction's answer
_PUT, _TXN = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn"
_GRANT, _KEEP_ALIVE = "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Lease/LeaseKeepAlive"


# --- the few messages, as protocol buffers -------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _put(key: str, value: bytes, lease: int = 0) -> bytes:
    return _bytes(1, key.encode()) + _bytes(2, value) + (_number(3, lease) if lease else b"")


def _exists(key: str) -> bytes:
    """A comparison that holds if the key is there: created at a revision greater than 0."""
    return _bytes(1, _number(1, 1) + _number(2, 1) + _bytes(3, key.encode()) + _number(5, 0))


def _transaction(keys: list[str], puts: list[bytes]) -> bytes:
    return b"".join(map(_exists, keys)) + b"".join(_bytes(2, _bytes(2, put)) for put in puts)


# --- the server -----------------------------------------------------------------------------------------------------


def in_memory() -> Path:
    """A folder in memory, where there is one: the peers sync every write, and a disk is not what is compared."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="pyscheduler-bench-", dir=memory if os.access(memory, os.W_OK) else None))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, *, ask: bytes = b"") -> None:
    """Wait until it listens; with something to ask, until it answers that."""
    ends = time.monotonic() + _READY_S
    while time.monotonic() < ends and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            probe.sendall(ask)
            if not ask or len(probe.recv(1024)) > len("not ready"):
                return
        time.sleep(0.05)
    raise RuntimeError(f"it does not listen: {log.read_text(errors='replace')[-500:]}")


@contextmanager
def _server() -> Iterator[tuple[int, int]]:
    """Its port and its process id."""
    folder, client, peer = in_memory(), free_port(), free_port()
    log = folder / "log"
    command = ["etcd", "--data-dir", str(folder / "data"), "--log-level", "error"]
    command += ["--listen-client-urls", f"http://127.0.0.1:{client}"]
    command += ["--advertise-client-urls", f"http://127.0.0.1:{client}"]
    command += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
    command += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
    command += ["--initial-cluster", f"default=http://127.0.0.1:{peer}"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(client, process, log)
        yield client, process.pid
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


class _Client:
    def __init__(self, port: int) -> None:
        import grpc.aio

        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.unary = {path: self._channel.unary_unary(path) for path in (_PUT, _TXN, _GRANT)}

    async def __aenter__(self) -> _Client:
        await asyncio.wait_for(self._channel.channel_ready(), _READY_S)
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._channel.close()

    async def keep_alive(self) -> Any:
        """A stream on which leases are kept alive, one answer each."""
        return self._channel.stream_stream(_KEEP_ALIVE)()


async def _grant(client: _Client) -> None:
    for number in range(1, NODES + 1):
        await client.unary[_GRANT](_number(1, _LEASE_S) + _number(2, number))


async def _for_a_while(seconds: float, do: Callable[[int], Awaitable[object]]) -> tuple[int, float]:
    """How often it was done by so many at once, and the seconds it took."""
    started = time.perf_counter()
    ends = started + seconds
    numbers = itertools.count()

    async def work() -> int:
        for done in itertools.count():
            if time.perf_counter() >= ends:
                return done
            await do(next(numbers))
        return 0

    done = await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return sum(done), time.perf_counter() - started


@contextmanager
def _etcd(bench: Bench) -> Opened:
    if shutil.which("etcd") is None:
        raise Skipped("etcd is not installed (Debian: etcd-server)")
    if importlib.util.find_spec("grpc") is None:
        raise Skipped("the package grpcio is not installed (pip install -e '.[bench]')")
    with _server() as (port, pid):

        async def prepare() -> None:
            async with _Client(port) as client:
                await _grant(client)

        asyncio.run(prepare())
        yield lambda: asyncio.run(_measure(bench, port, pid))


async def _measure(bench: Bench, port: int, pid: int) -> None:
    record = {number: profile(number % CLASSES).record.encode() for number in range(CLASSES)}
    streams: asyncio.Queue[Any] = asyncio.Queue()
    async with _Client(port) as client:
        for _ in range(CONCURRENCY):
            streams.put_nowait(await client.keep_alive())
        await client.unary[_PUT](_put("/config", b"1"))

        async def keep_alive(turn: int) -> None:
            stream = await streams.get()
            await stream.write(_number(1, turn % NODES + 1))
            await stream.read()
            streams.put_nowait(stream)

        async def put(turn: int) -> None:
            number = turn % NODES
            await client.unary[_PUT](_put(f"/nodes/{node_id(number)}", record[turn % CLASSES], number + 1))

        async def move(turn: int) -> None:
            number, pool = turn % NODES, (turn + turn // NODES) % POOLS
            name = node_id(number)
            puts = [
                _put(f"/nodes/{name}", record[turn % CLASSES], number + 1),
                _put(f"/members/{name}", b"pool-%02d" % pool, number + 1),
                _put(f"/usage/{name}", usage_json().encode(), number + 1),
            ]
            reply = await client.unary[_TXN](_transaction(["/config", f"/nodes/{name}"], puts))
            if _SUCCEEDED not in reply:
                raise RuntimeError("a transaction's comparison did not hold")

        for row, do in (
            ("lease kept alive", keep_alive),
            ("put of a record", put),
            ("transaction of three puts", move),
        ):
            cpu = cpu_s(pid)
            count, wall = await _for_a_while(bench.scale.seconds, do)
            bench.row(f"etcd: {row}", cpu_us=(cpu_s(pid) - cpu) * 1e6 / count, per_s=count / wall)
        while not streams.empty():
            streams.get_nowait().cancel()


_HOW_ETCD = (
    "One member, its data in memory (`/dev/shm`), 1,000 leases, 32 calls under way from one Python process, "
    "which bounds the rate; CPU is that of etcd. A heartbeat is a lease kept alive, a registration a put "
    "under the lease, a move a transaction that compares two keys and puts three. etcd does more for it: "
    "every write is logged and synced, and would be replicated."
)

GROUPS = (Group("etcd", (Table("etcd", "etcd", _HOW_ETCD),), _etcd),)
