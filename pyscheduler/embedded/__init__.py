"""The embedded server: a Valkey of our own, one per state directory, that lives as long as the process that started it.

The first process to open a state directory starts the server and owns it; every later one attaches to its socket. A
file lock decides who is first. The lock's descriptor is handed to the server and to nobody else, so that *lock held*
means *server alive*, whatever became of the process that started it: two servers never share one directory's data.

When the owner ends, however it ends, the server ends too (on Linux by the parent-death signal, within a tenth of a
second; elsewhere a SIGKILL of the owner leaves the server to its other users). Processes that had attached then see
their connections break and call :meth:`EmbeddedServer.ensure`: one of them becomes the owner of a new server on the
same data and, as a rule, at the same URL.

What a state directory holds, all below ``server/``, which only its user may enter: ``lock``, ``socket``, ``log``,
``appendonlydir`` (the data) and, where the directory's path is too long for a socket, ``address`` (where that one is).
The data are an append-only file, written before each reply and brought to the disk once a second: the owner's death
loses nothing, a power failure up to the last second, or two on a slow disk.
"""

from __future__ import annotations

from pyscheduler.embedded.errors import EmbeddedServerError, StateDirInvalid
from pyscheduler.embedded.process import find_server
from pyscheduler.embedded.server import EmbeddedServer, find_running

__all__ = ["EmbeddedServer", "EmbeddedServerError", "StateDirInvalid", "find_running", "find_server"]
