"""A network of the test's own: hosts that are network namespaces, joined by a bridge, and faults between any two.

Nothing of it touches the machine's own network. It needs root and the programs ``ip`` and ``iptables``. Partitions and
loss are made by the receiver's packet filter, which drops in silence, as a network does: real TCP sends again, and
backs off. Delay comes from :mod:`tests.faults.relay`, since the queueing that could do it is not in every kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

MAX_HOSTS = 4

_PREFIX = "pyscheduler-test"
_PLACES = Path("/run/netns")
_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_COMMAND_S = 30
_SUBNET = "10.213.7"  # seen by nobody outside


class NotPossible(Exception):
    """Why this machine does not let the test have a network of its own."""


@dataclass(frozen=True)
class Host:
    """One machine of the network.

    Args:
        name: what the test calls it.
        address: where the others reach it.
        namespace: name of its network namespace.
    """

    name: str
    address: str
    namespace: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets, threads and processes that are made meanwhile belong to this host for good. Not across an await."""
        with open(_OWN, "rb") as home, (_PLACES / self.namespace).open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def socket(self) -> socket.socket:
        """An unconnected TCP socket of this host, for an event loop."""
        with self.inside():
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    def filter(self, *rule: str) -> None:
        """Run ``iptables`` on this host."""
        _run("ip", "netns", "exec", self.namespace, "iptables", "-w", *rule)

    def dropped(self) -> int:
        """Packets that its rules have dropped since the last :meth:`Network.heal`."""
        listed = _run("ip", "netns", "exec", self.namespace, "iptables", "-w", "-nvxL", "INPUT")
        return sum(int(line.split()[0]) for line in listed.splitlines() if " DROP " in line)

    def on_its_way(self, port: int) -> int:
        """Bytes that its sockets, closed ones included, have sent to or from this port and nobody has acknowledged."""
        with self.inside():
            lines = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        fields = [line.split() for line in lines]
        return sum(
            int(field[4].split(":")[0], 16) for field in fields if f":{port:04X}" in (field[1][8:], field[2][8:])
        )


class Network:
    """Hosts on one bridge. A context manager, after which nothing of it is left.

    Args:
        names: what to call the hosts, 1 to ``MAX_HOSTS``. The first one has the bridge.

    Raises:
        NotPossible: at entry, with what is missing.
    """

    def __init__(self, *names: str) -> None:
        assert 1 <= len(names) <= MAX_HOSTS
        stem = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(3)}"
        self.hosts = {
            name: Host(name, f"{_SUBNET}.{number}", f"{stem}-{name}") for number, name in enumerate(names, start=1)
        }

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Self:
        _must_be_possible()
        sweep()
        try:
            self._build()
        except BaseException as error:
            self._remove()
            if isinstance(error, subprocess.CalledProcessError):
                raise NotPossible(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _build(self) -> None:
        hosts = list(self.hosts.values())
        for host in hosts:
            _run("ip", "netns", "add", host.namespace)
            _ip(host, "link", "set", "lo", "up")
        hub = hosts[0]
        _ip(hub, "link", "add", "bridge", "type", "bridge")
        _ip(hub, "address", "add", f"{hub.address}/24", "dev", "bridge")
        _ip(hub, "link", "set", "bridge", "up")
        for number, host in enumerate(hosts[1:]):
            port = f"port{number}"
            _ip(hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip(hub, "link", "set", port, "master", "bridge", "up")
            _ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip(host, "link", "set", "eth0", "up")
        for host in hosts:
            host.filter("-L", "INPUT")  # said here, if the packet filter cannot be used

    def _remove(self) -> None:
        for host in self.hosts.values():
            _delete(host.namespace)

    # --- faults ------------------------------------------------------------------------------------------------------

    def cut(self, source: str, destination: str) -> None:
        """Packets from one host to another get lost, all of them; the other direction is not touched."""
        self[destination].filter("-A", "INPUT", "-s", self[source].address, "-j", "DROP")

    def part(self, one: str, other: str) -> None:
        """Two hosts no longer reach each other. Neither is told."""
        self.cut(one, other)
        self.cut(other, one)

    def lose(self, one: str, other: str, share: float) -> None:
        """Of the packets between two hosts this share gets lost, in each direction by chance."""
        for source, destination in ((one, other), (other, one)):
            chance = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}")
            self[destination].filter("-A", "INPUT", "-s", self[source].address, *chance, "-j", "DROP")

    def heal(self) -> None:
        """End every fault."""
        for host in self.hosts.values():
            host.filter("-F", "INPUT")


def sweep() -> None:
    """Remove what a test process that was killed has left."""
    for place in _PLACES.glob(f"{_PREFIX}-*"):
        owner = place.name.removeprefix(f"{_PREFIX}-").split("-", 1)[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            _delete(place.name)


def _must_be_possible() -> None:
    if os.geteuid() != 0:
        raise NotPossible("network namespaces need root")
    missing = [program for program in ("ip", "iptables") if shutil.which(program) is None]
    if missing:
        raise NotPossible(f"{' and '.join(missing)} not on PATH: install iproute2 and iptables")


def _delete(namespace: str) -> None:
    # Only processes of the test are in there; those that it has ended itself are gone by now.
    with contextlib.suppress(subprocess.CalledProcessError, OSError):
        for pid in _run("ip", "netns", "pids", namespace).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(subprocess.CalledProcessError, OSError):
        _run("ip", "netns", "delete", namespace)


def _ip(host: Host, *words: str) -> None:
    _run("ip", "-n", host.namespace, *words)


def _run(*command: str) -> str:
    return _checked(command).stdout


def _checked(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMMAND_S)


def _enter(descriptor: int) -> None:
    # os.setns is there from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
