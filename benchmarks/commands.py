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

from benchmarks.population import (
    CLASSES,
    LEASE_MS,
    POOLS,
    Population,
    document,
    node_id,
    profile,
    sync_call,
    upsert_call,
    usage_json,
)
from benchmarks.server import StoreServer, Usage
from benchmarks.suite import Bench, Group, Opened, Table
from benchmarks.wire import Answer, pack
from pyscheduler.scripts import calls, load_scripts
from pyscheduler.scripts.calls import Call

_NODES = 1_000
_BATCH = 128
_SYNCS = 6

# Arguments of a node: id, token, load, usage. Nothing is compared.
_TOUCH = """
local call, CONFIG, SESSIONS, LEASES, READY, USAGE, RESERVED = redis.call, unpack(KEYS)
local ids, leases, ready, usages = {}, {}, {}, {}
for index = 1, #ARGV / 4 do
  local id, at = ARGV[index * 4 - 3], index * 2
  ids[index] = id
  leases[at - 1], leases[at] = 9000000000000, id
  if ARGV[index * 4 - 1] ~= '' then
    ready[at - 1], ready[at] = ARGV[index * 4 - 1], id
    usages[at - 1], usages[at] = id, ARGV[index * 4]
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


@dataclass(frozen=True, slots=True)
class _Pair:
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


class _Alone:
    """The pairs of a server."""

    def __init__(self, server: StoreServer, population: Population, work: int, batches: int) -> None:
        self._server, self._population = server, population
        self._touch = server.client.script_load(_TOUCH)
        self._register = server.client.script_load(_REGISTER)
        self._work, self._batches = work, batches
        self._rounds = itertools.count(1)

    def _packed(self, sha: str, like: str, argv: Sequence[object]) -> bytes:
        keys = [self._population.key(name) for name in load_scripts()[like].header.keys]
        return pack("EVALSHA", sha, len(keys), *keys, *map(str, argv))

    def touches(self, name: str, load: str, usage: str) -> _Pair:
        names = itertools.cycle([node_id(number) for number in range(_NODES)])
        tokens = dict(
            zip(some := [node_id(number) for number in range(_NODES)], self._population.tokens(some), strict=True)
        )
        ours, alone = [], []
        for _ in range(self._batches):
            nodes = [word for one in itertools.islice(names, _BATCH) for word in (one, tokens[one], load, usage)]
            ours.append(self._population.packed(calls.touch_nodes(lease_ms=LEASE_MS * 1000, nodes=nodes)))
            alone.append(self._packed(self._touch, "touch_nodes", nodes))
        answer = Answer(7, b"\r\n" + b"A" * _BATCH + b"\r\n")
        return _Pair(name, _BATCH, ours, alone, answer, lambda: None)

    def registrations(self, count: int) -> _Pair:
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
        return _Pair(name, count, ours, alone, answer, lambda: self._forget(ids))

    def _forget(self, ids: Sequence[str]) -> None:
        self._population.forget_nodes(ids)
        self._population.forget_events()

    def assert_same_commands(self, pair: _Pair) -> None:
        """One call of each: they run the same commands, as often."""
        found = []
        for packed in (pair.ours[0], pair.alone[0]):
            self._server.load([packed], pair.answer)
            stats: Mapping[str, Mapping[str, int]] = self._server.client.info("commandstats")
            found.append({name: one["calls"] for name, one in stats.items() if not name.startswith("cmdstat_config")})
            pair.clean()
        if found[0] != found[1]:
            raise RuntimeError(f"{pair.name}: the script runs {found[0]}, beside it run {found[1]}")


_TOKEN = "1795000000000:5:r:0123456789abcdef"
_HEADER = (
    '{"instance":"scheduler-1","registered_at":1795000000000,"session":"scheduler-1:node-0000000:0011aabb",'
    '"transition":{"at":1795000000000,"from":"","reason":"new","to":"pool-05","version":2}}\n'
)


@contextmanager
def _commands_of(server: StoreServer) -> Iterator[list[list[bytes]]]:
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


def _replay(commands: Sequence[Sequence[bytes]]) -> str:
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
        population.fill(0, _NODES)
        alone = _Alone(server, population, bench.scale.work // 64 * 64 or 64, bench.scale.batches)
        turns = itertools.count(1)

        def row(name: str, count: int, ours: Usage, by_itself: Usage, calls_made: int) -> None:
            each = [usage.cpu_s * 1e6 / calls_made / count for usage in (ours, by_itself)]
            bench.row(name, cpu_us=each[0], alone_floors=each[1] / bench.floor_us, times=each[0] / each[1])

        def measure() -> None:
            pairs = [
                alone.touches("heartbeat, unchanged", "", ""),
                alone.touches("heartbeat, load and usage", "0.5000", usage_json()),
                *(alone.registrations(count) for count in (1, 16, 64)),
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
            changed.fill(0, _NODES)
            syncs = [sync_call(document(turn=turn % POOLS)) for turn in range(1, _SYNCS * 2 + 1)]
            with _commands_of(server) as seen:
                for call in syncs[:_SYNCS]:
                    server.run(call, changed.namespace)
            again = server.client.script_load(_replay(seen))
            with server.measured() as ours:
                for call in syncs[_SYNCS:]:
                    server.run(call, changed.namespace)
            with server.measured() as by_itself:
                server.client.evalsha(again, 0)
            server.forget(changed.namespace)
            row("configuration change", 1, ours, by_itself, _SYNCS)

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
