"""Another client of the store: asks PING without a pause, and tells the longest wait for an answer.

Run as a process of its own, so that what the measuring process does is not taken for a stall of the server.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PAUSE_S = 0.0002


class Stall:
    """The longest wait of the other client, once its context has ended, in ms."""

    worst_ms = 0.0


@contextmanager
def other_client(address: bytes) -> Iterator[Stall]:
    """Another client, for as long as the context lasts."""
    stall = Stall()
    command = [sys.executable, "-m", "benchmarks.stall", address.decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdout.readline()  # it runs
            yield stall
            process.stdin.close()
            stall.worst_ms = float(process.stdout.readline())
        finally:
            process.kill()


def main(path: str) -> None:
    worst_ms = 0.0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        print("running", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            started = time.perf_counter()
            connection.sendall(b"PING\r\n")
            connection.recv(64)
            worst_ms = max(worst_ms, (time.perf_counter() - started) * 1000)
            time.sleep(_PAUSE_S)
    print(worst_ms, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
