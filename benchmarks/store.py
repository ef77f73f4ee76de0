"""The scripts: heartbeats, registrations, moves and changes of the configuration, at several fleet sizes; memory."""

from __future__ import annotations

import itertools
import random
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.floor import Floor
from benchmarks.jobs import reserve_and_end
from benchmarks.population import (
    CLASSES,
    LEASE_MS,
    POOLS,
    UPSERTED,
    Population,
    document,
    end_call,
    node_id,
    of_pools,
    profile,
    reserve_call,
    sync_call,
    upsert_call,
    usage_json,
)
from benchmarks.server import AOF, StoreServer, Usage
from benchmarks.suite import Bench, Group, Opened, Table, Target
from benchmarks.wire import Answer
from pyscheduler.core.facts import Facts
from pyscheduler.scripts import calls

_GROWTH = Table(
    "growth",
    "The largest fleet against the smallest",
    "CPU of the store for each operation, as a multiple of what the smallest fleet takes.",
)
_MEMORY = Table(
    "memory",
    "Memory of a node",
    "Growth of the server's `used_memory` from the smallest fleet on, without the event stream, divided by the nodes; "
    "ids of 12 bytes. Its JSON: what it registered with, and its usage.",
)

BATCH = 128
TOUCHED = Answer(7, b"\r\n" + b"A" * BATCH + b"\r\n")
_TOUCH_PIPELINE = 4
_SYNCS = 6
_LARGEST_AOF = 100_000
_SMALL = 1_000


@dataclass
class _Sized:
    """A namespace of one size, and what is done to it in each round."""

    bench: Bench
    label: str
    size: int
    population: Population
    floor: Floor
    rounds: int = 0

    @property
    def server(self) -> StoreServer:
        return self.population.server

    def row(self, name: str, usage: Usage, count: int, **more: float) -> None:
        more |= {"call_cpu_ms": usage.cpu_s * 1000 / usage.script_calls, "blocked_ms": usage.blocked_us / 1000}
        cpu_us, per_s = usage.cpu_s * 1e6 / count, count / usage.wall_s
        self.bench.row(f"{name}, {self.label}", cpu_us=cpu_us, per_s=per_s, **more)

    def measure(self) -> None:
        self.rounds += 1
        self.bench.take_floor()
        cpu_us, usage = self.floor.measure()
        self.bench.row(f"the floor, {self.label}", cpu_us=cpu_us, per_s=usage.script_calls / usage.wall_s)
        names = [node_id(number) for number in range(self.size)]
        random.Random(self.rounds).shuffle(names)
        self._heartbeats(names)
        self._registrations()
        self._jobs()  # before nodes are moved: in a small fleet some class may be left without one
        self._moves(names[: self.bench.scale.work])
        self._syncs()
        self.population.forget_events()

    def _heartbeats(self, names: list[str]) -> None:
        endless = itertools.cycle(names)
        chosen = [list(itertools.islice(endless, BATCH)) for _ in range(self.bench.scale.batches)]
        tokens = dict(zip(names, self.population.tokens(names), strict=True))
        chance = random.Random(self.rounds)
        for name, load in (("heartbeat, unchanged", ""), ("heartbeat, load and usage", "changed")):
            packed = []
            for batch in chosen:
                nodes: list[str] = []
                for node in batch:
                    nodes += (node, tokens[node], f"{chance.randrange(101) / 100:.4f} {usage_json()}" if load else "")
                packed.append(self.population.packed(calls.touch_nodes(lease_ms=LEASE_MS * 1000, nodes=nodes)))
            usage = self.server.load(packed, TOUCHED, pipeline=_TOUCH_PIPELINE)
            self.row(name, usage, len(packed) * BATCH)

    def _registrations(self) -> None:
        numbers = range(self.bench.scale.work)
        prefix = f"r{self.rounds:02d}-"
        usage = self.server.load(self.population.registrations(numbers, prefix=prefix), UPSERTED)
        self.row("register", usage, len(numbers))
        self.population.forget_nodes([node_id(number, prefix) for number in numbers])

    def _jobs(self) -> None:
        """Each kind of job has its route before it is measured."""
        for number in range(CLASSES):
            self.server.run(reserve_call(f"kind-{number}", number), self.population.namespace)
            self.server.run(end_call(f"kind-{number}"), self.population.namespace)
        rows = (f"reserve, {self.label}", f"reserve, 64 at once, {self.label}")
        reserve_and_end(self.bench, self.population, rows, f"r{self.rounds}")

    def _moves(self, names: list[str]) -> None:
        packed = []
        for node, token in zip(names, self.population.tokens(names), strict=True):
            epoch, node_class = token.split(":")[:2]
            # Another pool each time, hence a class of another pool.
            to = profile((int(node_class) + self.rounds) % CLASSES)
            packed.append(self.population.packed(upsert_call(node, to, epoch=int(epoch))))
        usage = self.server.load(packed, UPSERTED)
        self.row("move to another class", usage, len(names))

    def _syncs(self) -> None:
        turns = itertools.count(self.rounds * _SYNCS)

        def sync() -> None:
            for _ in range(_SYNCS):
                self.server.run(sync_call(document(turn=next(turns) % POOLS + 1)), self.population.namespace)

        with self.server.measured() as usage:
            sync()
        self.row("configuration change", usage, _SYNCS)


@contextmanager
def _scripts(bench: Bench) -> Opened:
    with ExitStack() as servers:
        sized: list[_Sized] = []
        # Every class has nodes in the smallest fleet already: what is added later are nodes alone.
        for aof, size in itertools.product((False, True), bench.scale.sizes):
            if aof and size > _LARGEST_AOF:
                continue
            server = servers.enter_context(bench.server(**(AOF if aof else {})))
            population = Population(server, "fleet")
            population.fill(0, bench.scale.sizes[0])
            before = _memory(population)
            population.fill(bench.scale.sizes[0], size)
            label = f"{size:,} nodes" + (", AOF" if aof else "")
            if size > bench.scale.sizes[0] and not aof:
                _note_memory(bench, population, before, size - bench.scale.sizes[0], label)
            floor = Floor(server, bench.scale.floor, size)
            sized.append(_Sized(bench, label, size, population, floor))
            _set_targets(bench, label, size)
        largest, smallest = f"{bench.scale.sizes[-1]:,} nodes", f"{bench.scale.sizes[0]:,} nodes"

        def measure() -> None:
            for one in sized:
                bench.take_floor()
                one.measure()
            for name, metric, bound in (("register", "cpu_us", 1.5), ("configuration change", "cpu_us", 1.2)):
                rows = [bench.results.values[(bench.table, f"{name}, {at}")][metric][-1] for at in (largest, smallest)]
                bench.results.add(_GROWTH.name, name, {"times": rows[0] / rows[1]})
                bench.results.targets[(_GROWTH.name, name, "times")] = Target(bound)

        yield measure


def _set_targets(bench: Bench, label: str, size: int) -> None:
    bench.target(f"heartbeat, unchanged, {label}", "floors", 0.25)
    bench.target(f"heartbeat, unchanged, {label}", "blocked_ms", 0.15)
    bench.target(f"heartbeat, load and usage, {label}", "floors", 0.5)
    bench.target(f"register, {label}", "floors", 2)
    bench.target(f"move to another class, {label}", "floors", 2)
    most = 1.5 if size <= _SMALL else 2
    bench.target(f"reserve, {label}", "floors", most)
    bench.target(f"reserve, 64 at once, {label}", "floors", most)
    bench.target(f"configuration change, {label}", "blocked_ms", 3)


def _memory(population: Population) -> int:
    population.forget_events()
    return int(population.server.client.info("memory")["used_memory"])


def _note_memory(bench: Bench, population: Population, before: int, nodes: int, label: str) -> None:
    """Memory of the nodes beyond their JSON: the growth of the whole server, without the event stream."""
    each = (_memory(population) - before) / nodes
    content = sum(len(profile(number).record) for number in range(CLASSES)) / CLASSES + len(usage_json())
    bench.results.add(_MEMORY.name, label, {"bytes": each, "beyond_json": each - content})
    bench.results.targets[(_MEMORY.name, label, "beyond_json")] = Target(380)


@contextmanager
def _new_classes(bench: Bench) -> Opened:
    """Facts that nobody had before, in a namespace with 1,000 declared pools of which the last ones match."""
    count, each = 1000, 40
    pools = [
        {"name": f"pool-{number:04d}", "match": {"semantic": {"contains": ["en"]}, "labels": {"site": str(number)}}}
        for number in range(count)
    ]
    with bench.server() as server:
        population = Population(server, "classes", of_pools(pools))
        described = profile(0)
        numbers = itertools.count()

        def register() -> None:
            for _ in range(each):
                number = next(numbers)
                facts = Facts(
                    semantic=("en", "zh"),
                    services=("asr", "nmt"),
                    gpu_memory_gb=(24,),
                    labels={"site": str(count - 1 - number % 10), "rack": str(number)},
                )
                server.run(upsert_call(node_id(number), described, facts=facts), population.namespace)

        def measure() -> None:
            with server.measured() as usage:
                register()
            held = server.held_ms(register)
            row = "new class among 1,000 declared pools"
            cpu_us, blocked_ms = usage.cpu_s * 1e6 / each, usage.blocked_us / 1000
            bench.row(row, cpu_us=cpu_us, call_cpu_ms=cpu_us / 1000, blocked_ms=blocked_ms, worst_ms=max(held))
            bench.target(row, "blocked_ms", 2)

        yield measure


_HOW_SCRIPTS = (
    "A namespace of 50 declared pools and 200 classes. The floor of each size is there, too: a larger fleet fits worse "
    "into the processor's caches, whatever is done to it. Heartbeats: `touch_nodes` of 128 nodes a call, "
    "pipelines of 4. Registrations are of new nodes; a move gives a node facts of another class in another "
    "pool. The configuration change gives every class another pool. `AOF`: with the append-only file, synced "
    "every second. A blocked call is one that holds the server, by the server's own clock (`INFO commandstats`): "
    "on a busy machine it has waited for the processor, too; the CPU of a call, with its reading and answering, "
    "has not."
)
_HOW_CLASSES = (
    "Each registration brings facts of its own; the rules of all 1,000 pools name a language that the node "
    "has, and a site that it has not, save for one of the last ten."
)

GROUPS = (
    Group("scripts", (Table("scripts", "Scripts, by fleet size", _HOW_SCRIPTS), _GROWTH, _MEMORY), _scripts),
    Group("classes", (Table("classes", "A class that nobody had before", _HOW_CLASSES),), _new_classes),
)
