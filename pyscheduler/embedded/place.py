"""The files of one state directory: lock, socket, log, and who may touch them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from urllib.parse import quote

MAX_SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket that every system takes (macOS has 104 bytes with the final zero, Linux 108)."""

MAX_LOG_BYTES = 1024 * 1024
"""At a start, a longer log is put aside as ``log.1``, in place of an earlier one."""

_SHOWN_LOG_BYTES = 4096
_SHOWN_LOG_LINES = 4


class Place:
    """A state directory. Making one touches nothing.

    Args:
        state_dir: ``~`` is expanded, symbolic links are followed.
    """

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.state_dir = Path(os.path.realpath(os.path.expanduser(state_dir)))
        self.home = self.state_dir / "server"
        self._usual = os.fsencode(self.home / "socket")

    def address(self) -> bytes:
        """The path of the socket: in the directory if it fits there, else where the last starter recorded."""
        if not _fits(self._usual):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return (self.home / "address").read_bytes()
        return self._usual

    def prepare(self) -> None:
        """Make the directories. Raises OSError."""
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.home.mkdir(mode=0o700)
        if not _private(self.home):
            raise PermissionError(0, f"{self.home} is not a directory of this user's own")
        self.home.chmod(0o700)

    def lock(self) -> int | None:
        """The descriptor of the lock, or ``None`` if somebody has it. Raises OSError."""
        path = self.home / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Locked, but is it still the file that others will find under this name?
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def settle_address(self) -> bytes:
        """Where the server that is about to start shall listen. To be called under the lock. Raises OSError."""
        if _fits(self._usual):
            return self._usual
        earlier = self.address()
        if _fits(earlier):
            # Who attached to the former server looks for the next one at the same address.
            folder = Path(os.fsdecode(earlier)).parent
            with contextlib.suppress(OSError):
                folder.mkdir(mode=0o700)
            if _private(folder):
                return earlier
        base = tempfile.gettempdir()
        if not _fits(os.fsencode(base) + b"/pyscheduler-01234567/socket"):
            base = "/tmp"
        chosen = os.fsencode(Path(tempfile.mkdtemp(prefix="pyscheduler-", dir=base), "socket"))
        draft = self.home / "address.new"
        draft.write_bytes(chosen)
        draft.replace(self.home / "address")
        return chosen

    def tidy(self) -> None:
        """Remove what the end of the server leaves outside of the directory."""
        address = self.address()
        if address != self._usual:
            with contextlib.suppress(OSError):
                Path(os.fsdecode(address)).parent.rmdir()

    def open_log(self) -> int:
        """A descriptor to append to the log. Raises OSError."""
        path = self.home / "log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > MAX_LOG_BYTES:
                path.replace(self.home / "log.1")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @property
    def full(self) -> bool:
        """Whether the disk of the data has no room left."""
        try:
            return os.statvfs(self.home).f_bavail == 0
        except OSError:
            return False

    def log_since(self, start: int) -> str:
        """The last lines that were logged after byte ``start``, as one."""
        try:
            with (self.home / "log").open("rb") as log:
                log.seek(max(start, log.seek(0, os.SEEK_END) - _SHOWN_LOG_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return " / ".join(line.strip() for line in lines[-_SHOWN_LOG_LINES:] if line.strip())


def url_of(address: bytes) -> str:
    """The ``unix://`` URL of a socket path."""
    return f"unix://{quote(address)}"


def _fits(address: bytes) -> bool:
    """Whether a socket can have this path, and a URL can carry it."""
    try:
        address.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return 0 < len(address) <= MAX_SOCKET_PATH_BYTES


def _private(folder: Path) -> bool:
    """Whether a path is a directory, not a link to one, that belongs to this user."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
