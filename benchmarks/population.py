"""The fleet that is measured: nodes as the fleet's clients describe them, 200 capability classes, 50 declared pools."""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

from benchmarks.server import StoreServer
from benchmarks.wire import Answer, drive, pack
from pyscheduler.core.canonical import short_digest
from pyscheduler.core.document import PoolDocument
from pyscheduler.core.facts import Facts
from pyscheduler.core.profile import NodeProfile, usage_of
from pyscheduler.core.protocol import parse_frame
from pyscheduler.core.results import ReconcileLimits
from pyscheduler.scripts import calls
from pyscheduler.scripts.calls import Call
from tests.fixtures.clients import HEAD, State

CLASSES = 200
POOLS = 50
LEASE_MS = 45_000
GRACE_MS = 30_000
FOREVER_MS = 86_400_000
"""A lease that no measurement outlives."""

UPSERTED = Answer(21, b"$2\r\nOK\r\n")
"""Ten bulk strings that begin with OK."""

_LETTERS = string.ascii_lowercase
_CODES = [f"q{a}{b}" for a in _LETTERS[:20] for b in _LETTERS]


def node_id(number: int, prefix: str = "node-") -> str:
    """A node id of 12 bytes."""
    return f"{prefix}{number:0{12 - len(prefix)}d}"


def languages(node_class: int) -> tuple[str, str]:
    """Languages of a class: one of 50 decides about the pool, one of 4 tells the classes of a pool apart."""
    return _CODES[node_class % POOLS], _CODES[POOLS + node_class // POOLS]


@functools.cache
def profile(node_class: int) -> NodeProfile:
    """What a node of that class registers with."""
    message = HEAD.register(State(languages=languages(node_class)), node_id="x")
    return NodeProfile.registered(parse_frame(json.dumps(message)))


@functools.cache
def usage_json() -> str:
    return usage_of(parse_frame(json.dumps(HEAD.heartbeat("x"))))


def rule_code(pool: int, *, turn: int = 0) -> str:
    """The language that a pool asks for."""
    return _CODES[(pool + turn) % POOLS]


def document(*, turn: int = 0) -> PoolDocument:
    """Fifty pools that take every class. Another turn gives every class another pool."""
    pools = [
        {"name": f"pool-{number:02d}", "match": {"semantic": {"contains": [rule_code(number, turn=turn)]}}}
        for number in range(POOLS)
    ]
    return of_pools(pools)


def of_pools(pools: list[dict[str, Any]]) -> PoolDocument:
    return PoolDocument.model_validate({"schema": 1, "auto": {"max_pools": 4096}, "pools": pools})


def sync_call(wanted: PoolDocument) -> Call:
    canonical = wanted.canonical()
    return calls.bump_config_version(
        mode="apply",
        document=canonical,
        digest=short_digest(canonical),
        admission=wanted.admission.to_json(),
        expect_version=-1,
        allow_empty=True,
        force=True,
        author="benchmark",
        reason="",
        kind="document",
    )


def open_call() -> Call:
    default = PoolDocument()
    stored = json.loads(default.canonical())
    return calls.open_namespace(
        auto=json.dumps(stored["auto"]),
        admission=default.admission.to_json(),
        selection=json.dumps(stored["selection"]),
    )


def upsert_call(
    name: str, described: NodeProfile, *, epoch: int = 0, lease_ms: int = FOREVER_MS, facts: Facts | None = None
) -> Call:
    """A registration, or with an epoch an update of that session."""
    update = epoch > 0
    return calls.upsert_node_to_pool(
        node_id=name,
        session_id="" if update else f"{crc32(name.encode()):016x}",
        instance="" if update else "scheduler-1",
        mode="update" if update else "new",
        epoch=epoch,
        facts=(facts or described.facts).json,
        record=described.record,
        digest=described.digest,
        status="r",
        load=0.25,
        usage=usage_json(),
        lease_ms=lease_ms,
        admission_digest="",
        takeover=True,
        reason="facts_changed" if update else "",
    )


class Population:
    """A namespace with nodes in it.

    Args:
        server: where.
        namespace: its name.
        wanted: the document in force; by default :func:`document`.
    """

    def __init__(self, server: StoreServer, namespace: str, wanted: PoolDocument | None = None) -> None:
        self.server, self.namespace = server, namespace
        server.run(open_call(), namespace)
        server.run(sync_call(wanted or document()), namespace)

    def key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    def packed(self, call: Call) -> bytes:
        return pack(*self.server.words(call, self.namespace))

    def fill(self, first: int, last: int, *, prefix: str = "node-", lease_ms: int = FOREVER_MS) -> None:
        """Register the nodes with these numbers, one after the other in the classes."""
        step = 5000  # packed commands are held in memory
        for begin in range(first, last, step):
            numbers = range(begin, min(begin + step, last))
            drive(self.server.address, self.registrations(numbers, prefix=prefix, lease_ms=lease_ms), UPSERTED)

    def registrations(self, numbers: Iterable[int], *, prefix: str, lease_ms: int = FOREVER_MS) -> list[bytes]:
        return [
            self.packed(upsert_call(node_id(number, prefix), profile(number % CLASSES), lease_ms=lease_ms))
            for number in numbers
        ]

    def tokens(self, names: Sequence[str]) -> list[str]:
        found: list[str] = self.server.client.hmget(self.key("sessions"), list(names))
        return found

    def lapse(self, count: int) -> None:
        """Nodes besides the others whose lease has ended, and a reconcile that has not been away."""
        self.fill(0, count, prefix="x-")
        names = [node_id(number, "x-") for number in range(count)]
        for first in range(0, count, 1000):
            self.server.client.zadd(self.key("leases"), dict.fromkeys(names[first : first + 1000], 1))
        seconds, micros = self.server.client.time()
        ticked = {"ticked_at": seconds * 1000 + micros // 1000, "suspended_until": 0}
        self.server.client.hset(self.key("config"), mapping=ticked)

    def forget_nodes(self, names: Sequence[str]) -> None:
        """Take nodes out again, past the scripts: what comes next is to find as many nodes as before."""
        with self.server.client.pipeline(transaction=False) as remove:
            for first in range(0, len(names), 1000):
                some = names[first : first + 1000]
                for key in ("members", "ready", "leases"):
                    remove.zrem(self.key(key), *some)
                for key in ("sessions", "nodes", "usage"):
                    remove.hdel(self.key(key), *some)
            remove.execute()

    def forget_events(self) -> None:
        self.server.client.xtrim(self.key("events"), maxlen=0, approximate=False)


def reserve_call(job_id: str, node_class: int, *, session: str = "") -> Call:
    """A job that nodes of that class can serve."""
    src, tgt = languages(node_class)
    return calls.reserve_slots(
        mode="reserve",
        job_id=job_id,
        attempt=1,
        owner="benchmark",
        slots=1,
        lease_ms=FOREVER_MS,
        tenant="",
        session=session,
        src=src,
        tgt=tgt,
        services="asr",
        labels="",
        scope="",
        exclude="",
        exclude_pools="",
        digest="ab",
    )


def reconcile_call() -> Call:
    """A step with the default limits and without the brake: here a whole fleet lapses on purpose."""
    limits = ReconcileLimits()
    return calls.reconcile(
        lease_ms=LEASE_MS,
        force=True,
        expire=limits.expire,
        scan=limits.scan,
        grace_ms=GRACE_MS,
        brake_permille=1000,
        brake_floor=limits.brake_floor,
        brake_expire=limits.brake_expire,
        min_interval_ms=0,
    )


def end_call(job_id: str) -> Call:
    return calls.update_jobs(
        operation="finish", job_id=job_id, attempt=1, owner="benchmark", lease_ms=LEASE_MS, reason=""
    )
