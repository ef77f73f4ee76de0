"""Several servers that belong together: a Cluster, and a primary with its replica under Sentinels. All on loopback."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.crc import key_slot

from pyscheduler.keys import key
from tests.servers import PlainServer
from tests.support import wait_until

SLOTS: Final = 16384
BUS_DISTANCE: Final = 10_000
"""From a node's port to that of its cluster bus, where Redis 6.2 wants it."""

START_S: Final = 30.0
"""How long servers may take to find each other. Some two seconds are usual."""

_PORTS: Final = range(20_000, 32_000)
"""Below those that a system gives to clients, so that none takes one between two starts of a server."""

# Test runs side by side begin at different ones.
_next_port = _PORTS[os.getpid() % len(_PORTS)]


# A replica that connects does not wait for others that may.
_QUICK: Final = {"repl-diskless-sync-delay": "0"}


def free_port() -> int:
    """A port of loopback on which nothing listens, nor on that of its cluster bus."""
    global _next_port
    for _ in _PORTS:
        port = _next_port
        _next_port = _PORTS[(port + 1 - _PORTS[0]) % len(_PORTS)]
        if _is_free(port) and _is_free(port + BUS_DISTANCE):
            return port
    raise AssertionError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class TcpServer(PlainServer):
    """A server on a port of loopback, too. Started again, it has the same one."""

    def __init__(self, program: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        super().__init__(program, {"port": str(self.port), "bind": "127.0.0.1", **_QUICK, **(settings or {})})

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A client of this very server, by its Unix socket."""
        with redis.Redis.from_url(self.url, decode_responses=True, protocol=2) as client:
            yield client

    def ask(self, *command: str | int) -> Any:
        """The reply to one command."""
        with self.client() as client:
            # Without the client's own reading of a reply, which differs from command to command.
            client.response_callbacks.clear()
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def knows(self, command: str) -> bool:
        """Whether it has a command, such as ``CLUSTER|MYID``."""
        return bool(self.ask("COMMAND", "INFO", command)[0])

    def info(self, section: str) -> dict[str, str]:
        return dict(line.split(":", 1) for line in self.ask("INFO", section).splitlines() if ":" in line)


class Cluster:
    """Masters of a Cluster, which share the slots evenly.

    Args:
        masters: how many.
        program: the server to run.
        replicas: further nodes, the first of which follows the first master, and so on.
        settings: further lines of their configuration.
    """

    def __init__(
        self,
        masters: int,
        program: Path | None = None,
        *,
        replicas: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        # A node that a busy machine holds up for a while has not failed.
        common = {"cluster-enabled": "yes", "cluster-node-timeout": "15000", **(settings or {})}
        self.nodes = [TcpServer(program, common) for _ in range(masters + replicas)]
        self.masters = self.nodes[:masters]

    @property
    def url(self) -> str:
        """A URL that names every node."""
        return f"redis://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/0"

    def start(self) -> Self:
        """Start the nodes and wait until each of them serves the whole Cluster."""
        for node in self.nodes:
            node.start()
        share = -(-SLOTS // len(self.masters))
        for index, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            if node in self.masters:
                node.ask("CLUSTER", "ADDSLOTS", *range(index * share, min(SLOTS, (index + 1) * share)))
            if index:
                node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        self._wait_known()
        for master, replica in zip(self.masters, self.nodes[len(self.masters) :], strict=False):
            replica.ask("CLUSTER", "REPLICATE", self.id_of(master))
            wait_until(
                lambda replica=replica: replica.info("replication").get("master_link_status") == "up",  # type: ignore[misc]
                "the replica follows its master",
                START_S,
            )
        wait_until(self._is_up, "every node of the Cluster says that it is up", START_S)
        return self

    def _wait_known(self) -> None:
        wait_until(
            lambda: all(len(node.ask("CLUSTER", "NODES").splitlines()) == len(self.nodes) for node in self.nodes),
            "the nodes know each other",
            START_S,
        )

    def _is_up(self) -> bool:
        return all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.nodes)

    def id_of(self, node: TcpServer) -> str:
        return str(node.ask("CLUSTER", "MYID"))

    def owner(self, namespace: str) -> TcpServer:
        """The node that owns the slot of a namespace, by its own account."""
        slot = slot_of(namespace)

        def look() -> TcpServer | None:
            for node in self.nodes:
                for line in node.ask("CLUSTER", "NODES").splitlines():
                    fields = line.split(" ")
                    if "myself,master" in fields[2] and any(_within(slot, one) for one in fields[8:]):
                        return node
            return None

        # Nodes are asked one after the other: a slot that moves meanwhile may be with none of them when it is asked.
        found = wait_until(look, f"somebody owns slot {slot}")
        assert found is not None
        return found

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def slot_of(namespace: str) -> int:
    """The slot in which all keys of a namespace are."""
    return key_slot(key(namespace, "config").encode())


def _within(slot: int, slots: str) -> bool:
    if slots.startswith("["):
        return False  # on its way
    first, _, last = slots.partition("-")
    return int(first) <= slot <= int(last or first)


class SentinelProcess(TcpServer):
    """A Sentinel. It needs a configuration file of its own, which it rewrites."""

    def __init__(self, program: Path | None, lines: list[str]) -> None:
        super().__init__(program)
        self._lines = lines

    def start(self) -> Self:
        file, run = self.folder / "sentinel.conf", self.folder / "run"
        if not file.exists():
            lines = [
                f"port {self.port}",
                "bind 127.0.0.1",
                f'dir "{self.folder}"',
                f'unixsocket "{self.folder}/socket"',
            ]
            file.write_text("\n".join([*lines, *self._lines, ""]))
            run.write_text(f"#!/bin/sh\nexec {shlex.join([str(self.program), str(file), '--sentinel'])}\n")
            run.chmod(0o700)
        return self._run(run, "")


class SentinelGroup:
    """A primary and a replica, and Sentinels that watch them.

    Args:
        sentinels: how many; a majority of them promotes.
        program: the server to run.
        down_after_ms: how long a server is silent before a Sentinel takes it for dead. By default so long that a busy
            machine causes no failover.
        settings: further lines of the servers' configuration.
    """

    SERVICE: Final = "cell"

    def __init__(
        self,
        sentinels: int = 3,
        program: Path | None = None,
        *,
        down_after_ms: int = 60_000,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.primary = TcpServer(program, settings)
        self.replica = TcpServer(program, {"replicaof": f"127.0.0.1 {self.primary.port}", **(settings or {})})
        lines = [
            f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.primary.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {self.SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {self.SERVICE} 10000",
        ]
        self.sentinels = [SentinelProcess(program, lines) for _ in range(sentinels)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.SERVICE}/0"

    def start(self) -> Self:
        """Start them all and wait until every Sentinel knows the others and the replica."""
        for server in (self.primary, self.replica):
            server.start()
        self.wait_replicating()
        for one in self.sentinels:
            one.start()
        wait_until(lambda: all(map(self._knows_all, self.sentinels)), "the Sentinels know each other", START_S)
        return self

    def wait_replicating(self) -> None:
        wait_until(
            lambda: self.replica.info("replication").get("master_link_status") == "up",
            "the replica follows the primary",
            START_S,
        )

    def _knows_all(self, sentinel: SentinelProcess) -> bool:
        found = sentinel.ask("SENTINEL", "MASTER", self.SERVICE)
        fields = dict(zip(found[::2], found[1::2], strict=True))
        return (fields["num-other-sentinels"], fields["num-slaves"]) == (str(len(self.sentinels) - 1), "1")

    def named_primary(self, sentinel: SentinelProcess) -> int:
        """The port of the primary that a Sentinel names."""
        return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)[1])

    def close(self) -> None:
        for one in (*self.sentinels, self.replica, self.primary):
            one.close()
