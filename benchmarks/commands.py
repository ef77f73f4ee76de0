"""What the commands of a script cost by themselves: the same ones, with as many arguments, and nothing decided.

Less than that no script with these keys can cost, whatever it is written in.
"""

from __future__ import annotations

import ast
import itertools
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.jobs import answer_to
from benchmarks.population import (
    CLASSES,
    LEASE_MS,
    POOLS,
    Population,
    document,
    end_call,
    node_id,
    profile,
    reconcile_call,
    reserve_call,
    sync_call,
    upsert_call,
    usage_json,
)
from benchmarks.server import StoreServer, Usage
from benchmarks.suite import Bench, Group, Opened, Table
from benchmarks.wire import Answer, pack
from pyscheduler.core.results import ReconcileLimits
from pyscheduler.scripts import calls, load_scripts
from pyscheduler.scripts.calls import Call

NODES = 1_000
_BATCH = 128
SYNCS = 6

# Arguments of a node: id, token, usage. Nothing is compared.
_TOUCH = """
local call, CONFIG, SESSIONS, LEASES, READY, USAGE, RESERVED = redis.call, unpack(KEYS)
local ids, leases, ready, usages = {}, {}, {}, {}
for index = 1, #ARGV / 3 do
  local id, at = ARGV[index * 3 - 2], index * 2
  ids[index] = id
  leases[at - 1], leases[at] = 9000000000000, id
  if ARGV[index * 3] ~= '' then
    ready[at - 1], ready[at] = 5120.25, id
    usages[at - 1], usages[at] = id, ARGV[index * 3]
  end
end
call('HMGET', CONFIG, 'schema', 'version')
call('TIME')
call('HMGET', SESSIONS, unpack(ids))
call('ZCARD', LEASES)
call('ZCARD', READY)
call('HLEN', USAGE)
call('ZADD', LEASES, unpack(leases))
if #ready > 0 then
  call('HMGET', RESERVED, unpack(ids))
  call('ZADD', READY, 'XX', unpack(ready))
  call('HSET', USAGE, unpack(usages))
end
return { 'OK', '1', string.rep('A', #ids) }
"""

# Arguments of a node, as many as in a registration: id, token, record with its header, usage, and eleven more.
_REGISTER = """
local call = redis.call
local CONFIG, POOLS, CLASSES, _, CLASS_INDEX, _, MEMBERS, READY = unpack(KEYS)
local LEASES, SESSIONS, NODES, HOLDS, USAGE, _, EVENTS, RESERVED, DUE = unpack(KEYS, 9)
local count = #ARGV / 15
local ids, members, ready, leases, sessions, nodes, usages, reply = {}, {}, {}, {}, {}, {}, {}, {}
for index = 1, count do
  local from, at, to = index * 15 - 15, index * 2, index * 10 - 10
  local id, token = ARGV[from + 1], ARGV[from + 2]
  ids[index] = id
  members[at - 1], members[at] = 5, id
  ready[at - 1], ready[at] = 10.25, id
  leases[at - 1], leases[at] = 9000000000000, id
  sessions[at - 1], sessions[at] = id, token
  nodes[at - 1], nodes[at] = id, ARGV[from + 3]
  usages[at - 1], usages[at] = id, ARGV[from + 4]
  reply[to + 1], reply[to + 2], reply[to + 3] = 'OK', '9000000000000', '5'
  reply[to + 4], reply[to + 5], reply[to + 6] = 'pool-05', '12', '2'
  reply[to + 7], reply[to + 8], reply[to + 9], reply[to + 10] = token, 'ready', 'matched', '0'
end
call(
  'HMGET', CONFIG, 'schema', 'version', 'auto', 'admission_digest', 'next_class', 'next_pool', 'epoch_floor',
  'declared_pools'
)
call('TIME')
call('HMGET', SESSIONS, unpack(ids))
call('HMGET', NODES, unpack(ids))
call('HMGET', HOLDS, unpack(ids))
call('ZMSCORE', LEASES, unpack(ids))
call('HMGET', RESERVED, unpack(ids))
call('ZCARD', DUE)
call('ZCARD', READY)
call('ZCARD', MEMBERS)
call('HLEN', USAGE)
call('XLEN', EVENTS)
call('HMGET', CLASS_INDEX, unpack(ids))
call('HMGET', CLASSES, unpack(ids))
call('HMGET', POOLS, 'pool-05')
call('ZADD', MEMBERS, unpack(members))
call('ZADD', READY, unpack(ready))
call('ZADD', LEASES, unpack(leases))
call('HSET', SESSIONS, unpack(sessions))
call('HSET', NODES, unpack(nodes))
call('HSET', USAGE, unpack(usages))
for index = 1, count do
  call(
    'XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', 'node.registered', 'at', 9000000000000, 'version', 2,
    'node_id', ids[index], 'class', '5', 'epoch', 9000000000000, 'instance', 'scheduler-1', 'status', 'ready',
    'reason', 'new'
  )
  call(
    'XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', 'node.assigned', 'at', 9000000000000, 'version', 2,
    'node_id', ids[index], 'class', '5', 'pool', 'pool-05', 'from', '', 'to', 'pool-05', 'reason', 'new'
  )
end
return reply
"""

# Arguments of a job, as many as in a reservation: id, what is stored of it, the range of its class, and twelve more.
_RESERVE = """
local call = redis.call
local CONFIG, _, CLASSES, _, _, _, READY, LEASES, SESSIONS = unpack(KEYS)
local EVENTS, JOBS, DUE, RESERVED, _, TENANT_RULES, ROUTES = unpack(KEYS, 11)
local count = #ARGV / 16
local ids, names, jobs, due, chosen, scores, reserved, reply = {}, {}, {}, {}, {}, {}, {}, {}
for index = 1, count do
  local from, at = index * 16 - 16, index * 2
  ids[index], names[index] = ARGV[from + 1], ARGV[from + 5]
  jobs[at - 1], jobs[at] = ARGV[from + 1], ARGV[from + 2]
  due[at - 1], due[at] = 9000000000000, ARGV[from + 1]
end
call('HMGET', CONFIG, 'schema', 'version', 'next_class', 'selection')
call('TIME')
call('HMGET', JOBS, unpack(ids))
call('ZMSCORE', DUE, unpack(ids))
call('HLEN', JOBS)
call('XLEN', EVENTS)
call('HLEN', CLASSES)
call('HMGET', ROUTES, unpack(names))
call('HMGET', TENANT_RULES, '')
for index = 1, count do
  local from, to = index * 16 - 16, index * 10 - 10
  local flat = call('ZRANGEBYSCORE', READY, ARGV[from + 3], ARGV[from + 4], 'WITHSCORES', 'LIMIT', 0, 2)
  call('ZMSCORE', LEASES, flat[1], flat[3])
  call('HGET', SESSIONS, flat[1])
  chosen[index], scores[index] = flat[1], flat[2]
  reserved[index * 2 - 1], reserved[index * 2] = flat[1], '1 ' .. ids[index]
  reply[to + 1], reply[to + 2], reply[to + 3], reply[to + 4], reply[to + 5] = 'OK', '1', '1', 'reserved', flat[1]
  reply[to + 6], reply[to + 7], reply[to + 8], reply[to + 9] = '9000000000000', 'pool-05', '2', '1'
  reply[to + 10] = '9000000000000'
end
call('HMGET', RESERVED, unpack(chosen))
call('HSET', JOBS, unpack(jobs))
call('ZADD', DUE, unpack(due))
call('HSET', RESERVED, unpack(reserved))
local moved = {}
for index, node_id in ipairs(chosen) do
  moved[index * 2 - 1], moved[index * 2] = scores[index] + 2, node_id
end
call('ZADD', READY, 'XX', unpack(moved))
for index = 1, count do
  call(
    'XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', 'job.reserved', 'at', 9000000000000, 'version', 2,
    'job_id', ids[index], 'attempt', 1, 'node_id', chosen[index], 'pool', 'pool-05', 'epoch', 9000000000000,
    'slots', 1, 'tenant', '', 'owner', 'benchmark', 'reason', 'new'
  )
end
return reply
"""

# Arguments: those of upkeep.
_EXPIRE = """
local call = redis.call
local CONFIG, _, CLASSES, CLASS_FACTS, CLASS_INDEX, CAPABILITIES, MEMBERS, READY = unpack(KEYS)
local LEASES, SESSIONS, NODES, USAGE, _, EVENTS, INSTANCES = unpack(KEYS, 9)
local _, JOBS, DUE, RESERVED, TENANTS, AFFINITIES = unpack(KEYS, 16)
call(
  'HMGET', CONFIG, 'schema', 'version', 'auto', 'selection', 'next_pool', 'epoch_floor', 'ticked_at', 'suspended_until',
  'went_back', 'braked', 'class_cursor', 'node_cursor'
)
local now = call('TIME')[1] .. '000'
call('ZCOUNT', LEASES, '-inf', now)
for _, key in ipairs({ MEMBERS, READY, CAPABILITIES, DUE }) do
  call('ZCARD', key)
end
for _, key in ipairs({ CLASS_FACTS, CLASS_INDEX, NODES, USAGE, JOBS, TENANTS, AFFINITIES }) do
  call('HLEN', key)
end
call('XLEN', EVENTS)
call('HGETALL', INSTANCES)
local ids = call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, ARGV[3])
call('HMGET', SESSIONS, unpack(ids))
call('HMGET', RESERVED, unpack(ids))
call('HMGET', CLASSES, unpack(call('ZMSCORE', MEMBERS, unpack(ids))))
call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, 500)
for _, key in ipairs({ MEMBERS, READY, LEASES }) do
  call('ZREM', key, unpack(ids))
end
for _, key in ipairs({ SESSIONS, NODES, USAGE }) do
  call('HDEL', key, unpack(ids))
end
for _, node_id in ipairs(ids) do
  call(
    'XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', 'node.expired', 'at', 9000000000000, 'version', 2,
    'node_id', node_id, 'pool', 'pool-05', 'from', 'pool-05', 'class', 5, 'reason', 'lease_lapsed'
  )
end
call(
  'HSET', CONFIG, 'ticked_at', now, 'suspended_until', '0', 'went_back', '0', 'epoch_floor', '0', 'braked', '0',
  'class_cursor', '0', 'node_cursor', '0'
)
call(
  'XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', 'reconcile.ran', 'at', 9000000000000, 'version', 2,
  'expired', ARGV[3], 'released', '0', 'dropped_classes', '0', 'placed_classes', '0', 'violations', '0'
)
return { 'OK', '2', ARGV[3], '0', '0', '0', '1000', '0', '0', '0', '0', '0', '0', '0' }
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """An operation by its script, and by its commands alone.

    Attributes:
        name: of the row.
        count: nodes of a call, or 1.
        ours: calls of the script, packed.
        alone: as many of the commands alone.
        answer: to either.
        clean: takes away what was written, so that the other finds what this one found.
    """

    name: str
    count: int
    ours: Sequence[bytes]
    alone: Sequence[bytes]
    answer: Answer
    clean: Callable[[], None]


class Alone:
    """The pairs of a server."""

    def __init__(self, server: StoreServer, population: Population, work: int, batches: int) -> None:
        self._server, self._population = server, population
        self._touch = server.client.script_load(_TOUCH)
        self._register = server.client.script_load(_REGISTER)
        self._reserve = server.client.script_load(_RESERVE)
        self._expire = server.client.script_load(_EXPIRE)
        self._work, self._batches = work, batches
        self._rounds = itertools.count(1)

    def _packed(self, sha: str, like: str, argv: Sequence[object]) -> bytes:
        keys = [self._population.key(name) for name in load_scripts()[like].header.keys]
        return pack("EVALSHA", sha, len(keys), *keys, *map(str, argv))

    def touches(self, name: str, usage: str) -> Pair:
        names = itertools.cycle([node_id(number) for number in range(NODES)])
        tokens = dict(
            zip(some := [node_id(number) for number in range(NODES)], self._population.tokens(some), strict=True)
        )
        ours, alone = [], []
        for _ in range(self._batches):
            nodes = [word for one in itertools.islice(names, _BATCH) for word in (one, tokens[one], usage)]
            ours.append(self._population.packed(calls.touch_nodes(lease_ms=LEASE_MS * 1000, nodes=nodes)))
            alone.append(self._packed(self._touch, "touch_nodes", nodes))
        answer = Answer(7, b"\r\n" + b"A" * _BATCH + b"\r\n")
        return Pair(name, _BATCH, ours, alone, answer, lambda: None)

    def registrations(self, count: int) -> Pair:
        ids = [node_id(number, f"a{next(self._rounds):03d}-") for number in range(self._work // count * count)]
        wanted = [upsert_call(one, profile(number % CLASSES)) for number, one in enumerate(ids)]
        written = [
            (
                one,
                _TOKEN,
                _HEADER + profile(0).record,
                "0.2500 " + usage_json(),
                *call.argv[4:],
            )
            for one, call in zip(ids, wanted, strict=True)
        ]
        ours, alone = [], []
        for first in range(0, len(ids), count):
            joined = tuple(word for call in wanted[first : first + count] for word in call.argv)
            ours.append(self._population.packed(Call("upsert_node_to_pool", joined)))
            words = [word for one in written[first : first + count] for word in one]
            alone.append(self._packed(self._register, "upsert_node_to_pool", words))
        name = f"register, {count} a call" if count > 1 else "register, alone"
        answer = Answer(1 + 20 * count, b"*%d\r\n" % (10 * count))
        return Pair(name, count, ours, alone, answer, lambda: self._forget(ids))

    def reservations(self, count: int) -> Pair:
        """Of jobs of one class each; each class has its route."""
        ids = [f"job-{next(self._rounds)}-{number}" for number in range(self._work // count * count)]
        for number in range(CLASSES):
            self._server.run(reserve_call(f"kind-{number}", number), self._population.namespace)
            self._server.run(end_call(f"kind-{number}"), self._population.namespace)
        ready = {
            node: score
            for node, score in self._server.client.zrange(self._population.key("ready"), 0, -1, withscores=True)
            if node
        }
        ours, alone = [], []
        for first in range(0, len(ids), count):
            asked, written = [], []
            for number, one in enumerate(ids[first : first + count], first):
                call, low = reserve_call(one, number % CLASSES), (number % CLASSES + 1) * _CLASS_SPAN
                asked.append(call)
                route = f"{' '.join(call.argv[8:11])}  public "
                written += [one, f"1 v {_JOB}", low, low + 7, route, *call.argv[5:]]
            ours.append(self._population.packed(Call.joined(asked)))
            alone.append(self._packed(self._reserve, "reserve_slots", written))
        name = f"reserve, {count} a call" if count > 1 else "reserve, alone"
        return Pair(name, count, ours, alone, answer_to(count), lambda: self._give_back(ids, ready))

    def expiries(self) -> Pair:
        call, count = reconcile_call(), ReconcileLimits().expire
        steps = self._work // count
        # One more than they take: a step that leaves none does more than expire.
        self._population.lapse(steps * count + 1)
        ours = [self._population.packed(call)] * steps
        alone = [self._packed(self._expire, "reconcile", call.argv)] * steps
        answer = Answer(29, b"*14\r\n$2\r\nOK\r\n")
        return Pair("expiry", count, ours, alone, answer, lambda: self._lapse_again(steps * count + 1))

    def _lapse_again(self, count: int) -> None:
        self._population.lapse(count)
        self._population.forget_events()

    def _give_back(self, ids: Sequence[str], ready: Mapping[str, float]) -> None:
        key, client = self._population.key, self._server.client
        client.zadd(key("ready"), ready)
        client.hdel(key("reserved"), *ready)
        client.hdel(key("jobs"), *ids)
        client.zrem(key("due"), *ids)
        self._population.forget_events()

    def _forget(self, ids: Sequence[str]) -> None:
        self._population.forget_nodes(ids)
        self._population.forget_events()

    def assert_same_commands(self, pair: Pair) -> None:
        """One call of each: they run the same commands, as often."""
        found = []
        for packed in (pair.ours[0], pair.alone[0]):
            self._server.load([packed], pair.answer)
            stats: Mapping[str, Mapping[str, int]] = self._server.client.info("commandstats")
            found.append({name: one["calls"] for name, one in stats.items() if not name.startswith("cmdstat_config")})
            pair.clean()
        if found[0] != found[1]:
            raise RuntimeError(f"{pair.name}: the script runs {found[0]}, beside it run {found[1]}")


_CLASS_SPAN = 1024
_JOB = "1795000000000 1 2 node-0000000 pool-05  benchmark  ab "
_TOKEN = "1795000000000:5:r:0123456789abcdef"
_HEADER = "0123456789abcdef scheduler-1  0 0  pool-05 2 1795000000000 new\n"


@contextmanager
def commands_of(server: StoreServer) -> Iterator[list[list[bytes]]]:
    """The commands that scripts run inside the context, filled in at its end."""
    found: list[list[bytes]] = []
    with socket.socket(socket.AF_UNIX) as watching:
        watching.settimeout(10)
        watching.connect(server.address)
        watching.sendall(b"MONITOR\r\n")
        lines = watching.makefile("rb")
        assert lines.readline() == b"+OK\r\n"
        yield found
        server.client.echo("the end")
        for line in lines:
            if b'"the end"' in line:
                break
            if b" lua] " in line:
                found.append(
                    [ast.literal_eval("b" + text.decode()) for text in re.findall(rb'"(?:[^"\\]|\\.)*"', line)]
                )


def replay(commands: Sequence[Sequence[bytes]]) -> str:
    """A script that runs these commands again. (An entry of the history has an id that can't be given twice.)"""
    own = re.compile(rb"\d+-0")
    texts = [", ".join(_literal(b"*" if own.fullmatch(word) else word) for word in words) for words in commands]
    body = "\n".join(f"call(unpack({{ {text} }}))" for text in texts)
    return f"local call, unpack = redis.call, unpack\n{body}\nreturn {{ 'OK' }}"


def _literal(word: bytes) -> str:
    return (
        '"' + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in word) + '"'
    )


def _note_memory(bench: Bench, server: StoreServer) -> None:
    count, record, usage = 5_000, profile(0).record, usage_json()
    before = int(server.client.info("memory")["used_memory"])
    with server.client.pipeline(transaction=False) as fill:
        for number in range(count):
            one = node_id(number)
            for name, value in (("sessions", _TOKEN), ("nodes", record), ("usage", usage)):
                fill.hset(f"{{bare}}:{name}", one, value)
            for name, score in (("members", 5), ("ready", 10.25), ("leases", 1_795_000_000_000 + number)):
                fill.zadd(f"{{bare}}:{name}", {one: score})
        fill.execute()
    each = (int(server.client.info("memory")["used_memory"]) - before) / count
    server.forget("bare")
    row = {"bytes": each, "beyond_json": each - len(record) - len(usage)}
    bench.results.add(_BARE_MEMORY.name, f"{count:,} nodes", row)


@contextmanager
def _commands(bench: Bench) -> Opened:
    with bench.server() as server:
        population = Population(server, "fleet")
        population.fill(0, NODES)
        work = bench.scale.work // 64 * 64 or 64
        alone = Alone(server, population, work, bench.scale.batches)
        # Of its own: heartbeats by their commands alone leave nodes where no job finds them.
        served = Population(server, "jobs")
        served.fill(0, NODES)
        jobs_alone = Alone(server, served, work, bench.scale.batches)
        upkept = Population(server, "upkeep")
        upkept.fill(0, NODES)
        upkeep_alone = Alone(server, upkept, work, bench.scale.batches)
        turns = itertools.count(1)

        def row(name: str, count: int, ours: Usage, by_itself: Usage, calls_made: int) -> None:
            each = [usage.cpu_s * 1e6 / calls_made / count for usage in (ours, by_itself)]
            bench.row(name, cpu_us=each[0], alone_floors=each[1] / bench.floor_us, times=each[0] / each[1])

        def measure() -> None:
            pairs = [
                alone.touches("heartbeat, unchanged", ""),
                alone.touches("heartbeat, load and usage", "0.5000 " + usage_json()),
                *(alone.registrations(count) for count in (1, 16, 64)),
                *(jobs_alone.reservations(count) for count in (1, 16, 64)),
                upkeep_alone.expiries(),
            ]
            for pair in pairs:
                alone.assert_same_commands(pair)
                usages = []
                for packed in (pair.ours, pair.alone):
                    usages.append(server.load(packed, pair.answer))
                    pair.clean()
                row(pair.name, pair.count, usages[0], usages[1], len(pair.ours))
            _note_memory(bench, server)
            # In a namespace of its own: what is run again would take the one before back in time.
            changed = Population(server, f"changes-{next(turns)}")
            changed.fill(0, NODES)
            syncs = [sync_call(document(turn=turn % POOLS)) for turn in range(1, SYNCS * 2 + 1)]
            with commands_of(server) as seen:
                for call in syncs[:SYNCS]:
                    server.run(call, changed.namespace)
            again = server.client.script_load(replay(seen))
            with server.measured() as ours:
                for call in syncs[SYNCS:]:
                    server.run(call, changed.namespace)
            with server.measured() as by_itself:
                server.client.evalsha(again, 0)
            server.forget(changed.namespace)
            row("configuration change", 1, ours, by_itself, SYNCS)

        yield measure


_HOW = (
    "The same commands with as many arguments, in a script that decides nothing: 50 pools, 200 classes, 1,000 nodes. "
    "No script with these keys can cost less; what is above it is what parsing, validating, fencing and placing take. "
    "That both run the same commands as often is checked (`INFO commandstats`); those of the configuration change were "
    "recorded by `MONITOR`."
)
_BARE_MEMORY = Table(
    "bare-memory",
    "Memory of a node, its keys alone",
    "A token and the node's JSON in three hashes, and its id in three sorted sets, written by plain commands: no "
    "header, no classes. `used_memory`, as in the table before.",
)
GROUPS = (Group("commands", (Table("commands", "Scripts, and their commands alone", _HOW), _BARE_MEMORY), _commands),)
