"""``pyscheduler serve`` as processes of their own, to kill, stop and replace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import wait_until


class ServeProcess:
    """One ``pyscheduler serve`` on free ports. Its log, JSON, goes to a file.

    Args:
        folder: where the log goes.
        name: instance id, and name of the log.
        flags: further flags of ``serve``.
    """

    def __init__(self, folder: Path, name: str, *flags: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", "pyscheduler", "serve", "--port", "0", "--operator-port", "0"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--log-format", "json", "--instance-id", name, *flags],
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; a line that is still being written is left out."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line[0] == "{"]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def wait_listening(self) -> ServeProcess:
        def listening() -> bool:
            assert self.alive, f"serve ended with {self._process.returncode}:\n{self.log.read_text()}"
            return bool(self.logged("listening"))

        wait_until(listening, f"{self.name} listens; its log is {self.log}", deadline_s=30)
        return self

    def wait_ended(self, deadline_s: float = 30) -> int:
        """Wait until it ends by itself; returns the exit code."""
        return self._process.wait(deadline_s)

    @property
    def url(self) -> str:
        return str(self.logged("listening")[0]["node_url"])

    @property
    def operator_url(self) -> str:
        return str(self.logged("listening")[0]["operator_url"])

    def kill(self) -> None:
        """SIGKILL: it ends in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def terminate(self, deadline_s: float = 15) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(deadline_s)

    def close(self) -> None:
        if self.alive:
            self.kill()
