"""What scripts make the server execute, in instructions: the same on every machine, however busy it is.

A server under callgrind counts them. They are no time: what waits for memory counts as much as what does not.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

from benchmarks.commands import NODES, SYNCS, Alone, commands_of, replay
from benchmarks.floor import Floor
from benchmarks.population import CLASSES, POOLS, Population, document, reserve_call, sync_call, usage_json
from benchmarks.server import StoreServer
from benchmarks.suite import Bench, Group, Opened, Skipped, Table
from pyscheduler.embedded.process import find_server
from pyscheduler.scripts.calls import Call

_WORK = 256
_BATCHES = 48
_JOBS_THERE = 640
_FLOORS = 1_000

# Counts what is executed within EVALSHA, from an ECHO to a LOLWUT, which nothing else here sends.
_CALLGRIND = (
    "valgrind --tool=callgrind --collect-atstart=no --toggle-collect=evalShaCommand --zero-before=echoCommand "
    "--dump-before=lolwutCommand"
)


class _CountedServer(StoreServer):
    """A server whose instructions are counted; some fifty times as slow."""

    def __init__(self, bench: Bench) -> None:
        if shutil.which("valgrind") is None:
            raise Skipped("valgrind is not installed (Debian's valgrind)")
        self._dumps = bench.folder / "callgrind"
        self._dumps.mkdir()
        wrapper = self._dumps / "server"
        program = shlex.quote(str(bench.program or find_server()))
        wrapper.write_text(
            f'#!/bin/sh\nexec {_CALLGRIND} --callgrind-out-file={self._dumps}/dump {program} "$@" 2>/dev/null\n'
        )
        wrapper.chmod(0o700)
        super().__init__(wrapper)

    def count(self, work: Callable[[], object]) -> int:
        """Instructions of the scripts that ``work`` runs."""
        self.client.echo("from here")
        work()
        self.client.execute_command("LOLWUT")
        (dump,) = self._dumps.glob("dump.*")
        total = re.search(r"^totals: (\d+)$", dump.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        dump.unlink()
        return int(total[1]) if total else 0


@contextmanager
def _instructions(bench: Bench) -> Opened:
    with _CountedServer(bench) as server:
        floor = Floor(server, _FLOORS)
        floor_count = server.count(floor.measure) / _FLOORS
        if not floor_count:
            raise Skipped("the server's program does not name its functions: nothing can be counted")
        fleets = {name: Population(server, name) for name in ("fleet", "jobs", "upkeep", "changes")}
        for fleet in fleets.values():
            fleet.fill(0, NODES)
        # A hash of few jobs would be kept as a list, and searched from its beginning.
        for first in range(0, _JOBS_THERE, CLASSES):
            there = [reserve_call(f"there-{first + number}", number) for number in range(CLASSES)]
            for batch in (there[:100], there[100:]):
                server.run(Call.joined(batch), "jobs")
        counted = False

        def row(name: str, ours: float, by_itself: float) -> None:
            found = {"floors": ours / floor_count, "alone_floors": by_itself / floor_count, "times": ours / by_itself}
            bench.results.add(bench.table, name, {"instructions": ours, **found})

        def measure() -> None:
            nonlocal counted
            if counted:
                return  # it would be the same again
            counted = True
            bench.results.add(bench.table, "the floor", {"instructions": floor_count})
            nodes, jobs, upkeep = (Alone(server, fleets[name], _WORK, _BATCHES) for name in ("fleet", "jobs", "upkeep"))
            for pair in (
                nodes.touches("heartbeat, unchanged", ""),
                nodes.touches("heartbeat, load and usage", "0.5000 " + usage_json()),
                *(nodes.registrations(count) for count in (1, 16, 64)),
                *(jobs.reservations(count) for count in (1, 16, 64)),
                upkeep.expiries(),
            ):
                each = []
                for packed in (pair.ours, pair.alone):
                    each.append(server.count(partial(server.load, packed, pair.answer)) / len(packed) / pair.count)
                    pair.clean()
                row(pair.name, *each)
            name = fleets["changes"].namespace
            syncs = [sync_call(document(turn=turn % POOLS)) for turn in range(1, SYNCS * 2 + 1)]
            with commands_of(server) as seen:
                for call in syncs[:SYNCS]:
                    server.run(call, name)
            again = server.client.script_load(replay(seen))
            ours = server.count(lambda: [server.run(call, name) for call in syncs[SYNCS:]])
            by_itself = server.count(lambda: server.client.evalsha(again, 0))
            row("configuration change", ours / SYNCS, by_itself / SYNCS)

        yield measure


_HOW = (
    "The same again, counted: what the server executes within `EVALSHA`, by callgrind. It leaves out to read the call "
    "and to write its answer, and knows nothing of caches, but is the same on every machine and at any load."
)
GROUPS = (Group("instructions", (Table("instructions", "Scripts, in instructions", _HOW),), _instructions),)
