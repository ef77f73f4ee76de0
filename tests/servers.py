"""A server process of a test's own, to stop, kill, start again and misconfigure."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pyscheduler.embedded.place import url_of
from pyscheduler.embedded.probe import Answer, probe
from pyscheduler.embedded.process import Child, find_server
from tests.support import wait_until

_DEFAULTS = {"port": "0", "save": '""', "appendonly": "no", "daemonize": "no"}


class PlainServer:
    """A ``valkey-server`` or ``redis-server`` on a Unix socket. It dies with the test process.

    Args:
        program: the server to run; by default the one that the embedded server uses.
        settings: lines of its configuration, name -> value as a configuration file would have it.
    """

    def __init__(self, program: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.program = program or find_server()
        # Not below pytest's own directories: their paths are longer than a socket's may be.
        self.folder = Path(tempfile.mkdtemp(prefix="pyscheduler-test-"))
        self.settings = {**_DEFAULTS, **(settings or {})}
        self.address = os.fsencode(self.folder / "socket")
        self.url = url_of(self.address)
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "the server has not been started"
        return self._child.pid

    def start(self) -> Self:
        """Start it and wait until it answers (with LOADING, too)."""
        lines = {**self.settings, "unixsocket": f'"{self.folder}/socket"', "dir": f'"{self.folder}"'}
        text = "".join(f"{name} {value}\n" for name, value in lines.items())
        return self._run(self.program, text)

    def _run(self, program: Path, text: str) -> Self:
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        child = self._child = Child(program, self.folder, text.encode(), lock=lock, log=log)
        wait_until(
            lambda: not child.alive or probe(self.address) is not Answer.NONE,
            f"{self.program} answers; its log is {self.folder / 'log'}",
        )
        assert child.alive, f"{self.program} ended: {(self.folder / 'log').read_text()}"
        return self

    def stop(self) -> None:
        """End it in good order."""
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """End it as a power cut would, and wait until it has ended."""
        child = self._child
        assert child is not None, "the server has not been started"
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: not child.alive, "the killed server has ended")

    def pause(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its files."""
        if self._child is not None and self._child.alive:
            self.resume()
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
