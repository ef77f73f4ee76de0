"""Jobs: what a reservation costs where most nodes are full or dead, and how evenly each strategy spreads them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import contextmanager

from benchmarks.population import (
    CLASSES,
    UPSERTED,
    Population,
    end_call,
    node_id,
    of_pools,
    profile,
    reserve_call,
    upsert_call,
)
from benchmarks.server import StoreServer
from benchmarks.suite import Bench, Group, Opened, Table
from benchmarks.wire import Answer
from pyscheduler.scripts.calls import Call

AT_ONCE = 64
ENDED = Answer(7, b"$2\r\nOK\r\n")
_WITHOUT = 500
"""More slots than a node has."""

STRATEGIES = ("least_loaded", "power_of_two", "random", "affinity")


def answer_to(count: int) -> Answer:
    """The answer to that many jobs of one call, all reserved."""
    return Answer(1 + 20 * count, b"*%d\r\n" % (10 * count))


def packed_jobs(population: Population, jobs: Sequence[Call], at_once: int) -> list[bytes]:
    batches = [jobs[first : first + at_once] for first in range(0, len(jobs), at_once)]
    return [population.packed(Call.joined(batch)) for batch in batches]


def reserve_and_end(bench: Bench, population: Population, rows: tuple[str, str], name: str) -> None:
    """Reserve jobs of every class one by one, and 64 at once, and end them again. Each has its row."""
    count = bench.scale.work // AT_ONCE * AT_ONCE
    for label, at_once in zip(rows, (1, AT_ONCE), strict=True):
        jobs = [reserve_call(f"{name}-{at_once}-{number}", number % CLASSES) for number in range(count)]
        usage = population.server.load(packed_jobs(population, jobs, at_once), answer_to(at_once))
        bench.row(
            label,
            cpu_us=usage.cpu_s * 1e6 / count,
            per_s=count / usage.wall_s,
            call_cpu_ms=usage.cpu_s * 1000 / usage.script_calls,
            blocked_ms=usage.blocked_us / 1000,
        )
        ends = [population.packed(end_call(f"{name}-{at_once}-{number}")) for number in range(count)]
        population.server.load(ends, ENDED)


def _spoil(population: Population, names: Sequence[str], state: str) -> None:
    """Past the scripts: nodes whose lease has just ended, or without a free slot; or all well again."""
    with population.server.client.pipeline(transaction=False) as pipe:
        for name in names:
            if state == "dead":
                pipe.zadd(population.key("leases"), {name: 1})
            else:
                pipe.zincrby(population.key("ready"), 2 * _WITHOUT if state == "full" else -2 * _WITHOUT, name)
        pipe.execute()


@contextmanager
def _crowded(bench: Bench) -> Opened:
    size = max(bench.scale.sizes[-1], CLASSES * 10)
    label = f"{size:,} nodes"
    with bench.server() as server:
        fleets = {}
        for state in ("full", "dead"):
            fleets[state] = Population(server, state)
            fleets[state].fill(0, size)
            # Nine of ten of each class: those that come first by name, as of those with equal load.
            names = [node_id(number) for number in range(size) if number // CLASSES % 10]
            for first in range(0, len(names), 5_000):
                _spoil(fleets[state], names[first : first + 5_000], state)
            for number in range(CLASSES):  # each kind of request has its route
                server.run(reserve_call(f"kind-{number}", number), state)
                server.run(end_call(f"kind-{number}"), state)
            for ending in ("", ", 64 at once"):
                bench.target(f"90 % {state}, {label}{ending}", "floors", 3)
        rounds = iter(range(1_000_000))

        def measure() -> None:
            turn = next(rounds)
            for state, population in fleets.items():
                row = f"90 % {state}, {label}"
                reserve_and_end(bench, population, (row, f"{row}, 64 at once"), f"r{turn}")
                population.forget_events()

        yield measure


def _spread_of(server: StoreServer, strategy: str, nodes: int) -> list[int]:
    """Jobs of each node, fullest first, after ten times as many jobs as nodes were reserved."""
    document = of_pools(
        [
            {
                "name": "all",
                "match": {"services": ["asr"]},
                "selection": {"slots_per_node": 40, "strategy": strategy},
            }
        ]
    )
    population = Population(server, f"spread-{strategy}", document)
    registrations = [population.packed(upsert_call(node_id(number), profile(0))) for number in range(nodes)]
    server.load(registrations, UPSERTED)
    jobs = [
        reserve_call(f"job-{number}", 0, session=f"session-{number // 5}" if strategy == "affinity" else "")
        for number in range(nodes * 10)
    ]
    for first in range(0, len(jobs), AT_ONCE):
        some = jobs[first : first + AT_ONCE]
        server.load([population.packed(Call.joined(some))], answer_to(len(some)))
    reserved = server.client.hgetall(population.key("reserved"))
    used = [int(value.split()[0]) for name, value in reserved.items() if name]
    server.forget(population.namespace)
    return sorted(used + [0] * (nodes - len(used)), reverse=True)


@contextmanager
def _spread(bench: Bench) -> Opened:
    nodes = min(bench.scale.sizes[0], 1_000)
    with bench.server() as server:

        def measure() -> None:
            for strategy in STRATEGIES:
                used = _spread_of(server, strategy, nodes)
                bench.results.spreads[strategy] = used
                bench.row(
                    f"{strategy}, {nodes * 10:,} jobs on {nodes:,} nodes",
                    most=used[0],
                    least=used[-1],
                    deviation=statistics.pstdev(used),
                )

        yield measure


_HOW = (
    "As in the table of the scripts, with nine of ten nodes of each class without a free slot, or with a lease "
    "that has just ended and that no step of upkeep has come to yet."
)
_HOW_SPREAD = (
    "Jobs of one kind, 64 a call, on nodes with 40 slots each that all report the same load: ten for each node, if "
    "they were spread evenly. With affinity five jobs each belong to one session. Chance is the hash of a job's id: "
    "every round finds the same."
)

GROUPS = (
    Group("jobs", (Table("jobs", "Jobs where most nodes are full or dead", _HOW),), _crowded),
    Group("spread", (Table("spread", "How evenly jobs are spread", _HOW_SPREAD),), _spread),
)
