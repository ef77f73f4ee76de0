"""Starting: a scheduler with its embedded server until it is ready, and the command line's help."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from contextlib import contextmanager

from benchmarks.server import cpu_s
from benchmarks.suite import Bench, Group, Opened, Table
from tests.e2e.processes import ServeProcess

_READY = "serve, embedded server, until it listens"
_HELP = "pyscheduler --help"


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _starts(bench: Bench) -> Opened:
    state = bench.folder / "state"

    def serve() -> None:
        started = time.perf_counter()
        process = ServeProcess(bench.folder, "start", "--state-dir", str(state))
        try:
            process.wait_listening()
            wall, cpu = time.perf_counter() - started, cpu_s(process.pid)
            process.terminate()
        finally:
            process.close()
        bench.row(_READY, wall_ms=wall * 1000, wall_cpu_ms=cpu * 1000)

    def show_help() -> None:
        started, cpu = time.perf_counter(), _children_s()
        subprocess.run([sys.executable, "-m", "pyscheduler", "--help"], stdout=subprocess.DEVNULL, check=True)
        bench.row(_HELP, wall_ms=(time.perf_counter() - started) * 1000, wall_cpu_ms=(_children_s() - cpu) * 1000)

    def measure() -> None:
        for _ in range(bench.scale.starts):
            serve()
            show_help()
        bench.target(_READY, "wall_ms", 500)
        bench.target(_HELP, "wall_ms", 150)

    # Warm: its data is there, and everything that is read has been read before.
    serve()
    bench.results.forget(bench.table, _READY)
    yield measure


_HOW_START = (
    "From the start of the process. Warm: the state directory is there, the files have been read before. CPU "
    "is that of the process, without the embedded server."
)

GROUPS = (Group("start", (Table("start", "Starting", _HOW_START),), _starts),)
