"""What the interpreter and the system are asked for when a process starts."""

from __future__ import annotations

import gc
import os


def fill_standard_streams() -> None:
    """Open what of the standard streams is closed: a socket that got its number would end the process when it closes.

    The event loop's library aborts on that, and the log would be written to the socket.
    """
    while (found := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(found)


def collect_less() -> None:
    """Spare the garbage collector what is there to stay, and most of its looks at what each socket keeps.

    At its usual thresholds it took a tenth of the CPU of a registration storm.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
