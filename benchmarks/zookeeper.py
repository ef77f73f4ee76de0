"""ZooKeeper: ephemeral nodes, sets and transactions, with kazoo."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.etcd import CONCURRENCY, NODES, free_port, in_memory, wait_for_port
from benchmarks.population import CLASSES, POOLS, node_id, profile, usage_json
from benchmarks.server import cpu_s
from benchmarks.suite import Bench, Group, Opened, Skipped, Table

_JARS = Path("/usr/share/java")
_ANSWER_S = 30.0


@contextmanager
def _server() -> Iterator[tuple[int, int]]:
    folder, port = in_memory(), free_port()
    log = folder / "log"
    settings = folder / "zoo.cfg"
    settings.write_text(
        f"tickTime=2000\ndataDir={folder}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        "admin.enableServer=false\nmaxClientCnxns=0\n"
    )
    (folder / "data").mkdir()
    command = ["java", "-Xms128m", "-Xmx512m", "-cp", str(_JARS / "zookeeper.jar")]
    command += ["org.apache.zookeeper.server.quorum.QuorumPeerMain", str(settings)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        # It listens before it serves, and who comes too early is not answered.
        wait_for_port(port, process, log, ask=b"srvr")
        yield port, process.pid
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _for_a_while(seconds: float, begin: Callable[[int], Any]) -> tuple[int, float]:
    """How often it was done, with so many under way."""
    started = time.perf_counter()
    under_way: deque[Any] = deque()
    done = 0
    for turn in itertools.count():
        if time.perf_counter() - started >= seconds:
            break
        under_way.append(begin(turn))
        if len(under_way) >= CONCURRENCY:
            _check(under_way.popleft().get(timeout=_ANSWER_S))
            done += 1
    while under_way:
        _check(under_way.popleft().get(timeout=_ANSWER_S))
        done += 1
    return done, time.perf_counter() - started


def _check(answer: Any) -> None:
    if isinstance(answer, list) and any(isinstance(one, Exception) for one in answer):
        raise RuntimeError(f"a transaction failed: {answer}")


@contextmanager
def _zookeeper(bench: Bench) -> Opened:
    if shutil.which("java") is None or not (_JARS / "zookeeper.jar").is_file():
        raise Skipped("ZooKeeper is not installed (Debian: zookeeper)")
    if importlib.util.find_spec("kazoo") is None:
        raise Skipped("the package kazoo is not installed (pip install -e '.[bench]')")
    from kazoo.client import KazooClient

    logging.getLogger("kazoo").setLevel(logging.CRITICAL)  # it tells of every connection that ends
    with _server() as (port, pid):
        client = KazooClient(hosts=f"127.0.0.1:{port}", timeout=30)
        client.start(timeout=_ANSWER_S)
        try:
            for path in ("/nodes", "/members", "/created"):
                client.create(path)
            client.create("/config", b"1")
            for number in range(NODES):
                client.create_async(f"/members/{node_id(number)}", b"pool-00", ephemeral=True)
                client.create_async(f"/nodes/{node_id(number)}", b"{}", ephemeral=True)
            client.sync("/config")
            fresh = itertools.count()
            # The JVM compiles what is used: that is not to be in the first round only.
            _for_a_while(bench.scale.seconds, lambda turn: client.set_async("/config", b"1"))
            yield lambda: _measure(bench, client, pid, fresh)
        finally:
            client.stop()
            client.close()


def _measure(bench: Bench, client: Any, pid: int, fresh: Iterator[int]) -> None:
    record = {number: profile(number).record.encode() for number in range(CLASSES)}

    def touch(turn: int) -> Any:
        return client.set_async(f"/members/{node_id(turn % NODES)}", b"pool-00")

    def create(turn: int) -> Any:
        return client.create_async(f"/created/{next(fresh):08d}", record[turn % CLASSES], ephemeral=True)

    def move(turn: int) -> Any:
        name, pool = node_id(turn % NODES), (turn + turn // NODES) % POOLS
        transaction = client.transaction()
        transaction.check("/config", -1)
        transaction.set_data(f"/nodes/{name}", record[turn % CLASSES] + usage_json().encode())
        transaction.set_data(f"/members/{name}", b"pool-%02d" % pool)
        return transaction.commit_async()

    for row, begin in (("set", touch), ("ephemeral node made", create), ("transaction of two sets", move)):
        cpu = cpu_s(pid)
        count, wall = _for_a_while(bench.scale.seconds, begin)
        bench.row(f"ZooKeeper: {row}", cpu_us=(cpu_s(pid) - cpu) * 1e6 / count, per_s=count / wall)
    for name in client.get_children("/created"):
        client.delete_async(f"/created/{name}")
    client.sync("/config")


_HOW_ZOOKEEPER = (
    "One server with a heap of 512 MiB, its data in memory (`/dev/shm`), 32 calls under way from one Python "
    "process, which bounds the rate; CPU is that of the JVM, its compiler's and collector's too. A heartbeat "
    "is a set, a registration an ephemeral node, a move a transaction with a check and two sets. ZooKeeper "
    "does more for it, as etcd does."
)

GROUPS = (Group("zookeeper", (Table("zookeeper", "ZooKeeper", _HOW_ZOOKEEPER),), _zookeeper),)
