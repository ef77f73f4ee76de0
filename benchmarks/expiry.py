"""Expiry: ten thousand leases that end at once, reconciled with the default limits, while another client asks."""

from __future__ import annotations

from contextlib import contextmanager

from benchmarks.population import FOREVER_MS, GRACE_MS, LEASE_MS, Population, node_id
from benchmarks.stall import other_client
from benchmarks.suite import Bench, Group, Opened, Table
from pyscheduler.core.results import ReconcileLimits
from pyscheduler.scripts import calls
from pyscheduler.scripts.calls import Call

_ROW = "expiry of a node"
_STAYING = 1000


def _reconcile(limits: ReconcileLimits) -> Call:
    return calls.reconcile(
        lease_ms=LEASE_MS,
        force=True,
        expire=limits.expire,
        scan=limits.scan,
        grace_ms=GRACE_MS,
        brake_permille=1000,  # the brake is off: the whole fleet lapses here on purpose
        brake_floor=limits.brake_floor,
        brake_expire=limits.brake_expire,
        min_interval_ms=0,
    )


@contextmanager
def _expiry(bench: Bench) -> Opened:
    with bench.server() as server:
        population = Population(server, "expiry")
        population.fill(0, _STAYING)
        call = _reconcile(ReconcileLimits())

        def expire_all() -> int:
            expired = 0
            while step := int(server.run(call, population.namespace)[2]):
                expired += step
            return expired

        def lapse() -> None:
            """Nodes whose lease has ended, and a reconcile that has not been away."""
            population.fill(0, bench.scale.expiring, prefix="x-", lease_ms=FOREVER_MS)
            names = [node_id(number, "x-") for number in range(bench.scale.expiring)]
            for first in range(0, len(names), 1000):
                server.client.zadd(population.key("leases"), dict.fromkeys(names[first : first + 1000], 1))
            seconds, micros = server.client.time()
            ticked = {"ticked_at": seconds * 1000 + micros // 1000, "suspended_until": 0}
            server.client.hset(population.key("config"), mapping=ticked)

        def measure() -> None:
            lapse()
            with other_client(server.address) as quiet, server.measured() as nothing:
                while nothing.script_calls < 200:
                    server.client.ping()
                    nothing.script_calls += 1
            with other_client(server.address) as stall, server.measured() as usage:
                expired = expire_all()
            lapse()
            held = server.held_ms(expire_all)
            population.forget_events()
            bench.row(
                _ROW,
                cpu_us=usage.cpu_s * 1e6 / expired,
                call_cpu_ms=usage.cpu_s * 1000 / usage.script_calls,
                blocked_ms=usage.blocked_us / 1000,
                worst_ms=max(held),
                stall_ms=stall.worst_ms,
                quiet_ms=quiet.worst_ms,
            )
            bench.target(_ROW, "floors", 3)
            bench.target(_ROW, "worst_ms", 2)
            bench.target(_ROW, "stall_ms", 3)

        yield measure


_HOW_EXPIRY = (
    "Leases of 10,000 nodes beside 1,000 that stay end at once; `reconcile` is called until all are expired, "
    "with the default limits and the brake off. Stall: the longest wait of another client that asks PING all "
    "the while, beside the longest when nothing else happens."
)

GROUPS = (Group("expiry", (Table("expiry", "Expiry", _HOW_EXPIRY),), _expiry),)
