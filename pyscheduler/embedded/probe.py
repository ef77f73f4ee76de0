"""One PING on a Unix socket, spoken by hand: the embedded server is run without knowing any client."""

from __future__ import annotations

import enum
import socket

PROBE_TIMEOUT_S = 1.0
"""How long one look waits for its answer. A server that is stopped, or blocked for longer, counts as not there."""


class Answer(enum.Enum):
    """What a look at the socket found."""

    NONE = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()


def probe(address: bytes) -> Answer:
    """Look whether a server answers at a socket path. Blocks for ``PROBE_TIMEOUT_S`` at most, as a rule under 1 ms.

    Raises:
        PermissionError: the socket is not for this user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(PROBE_TIMEOUT_S)
        try:
            link.connect(address)
            link.sendall(b"PING\r\n")
            reply = link.recv(64)
        except PermissionError:
            raise
        except OSError:
            return Answer.NONE
    if reply.startswith(b"-LOADING"):
        return Answer.LOADING
    # Any other answer, an error included, comes from a server that is there.
    return Answer.READY if reply else Answer.NONE
