"""Expiry: ten thousand leases that end at once, reconciled with the default limits, while another client asks."""

from __future__ import annotations

from contextlib import contextmanager

from benchmarks.population import Population, reconcile_call
from benchmarks.stall import other_client
from benchmarks.suite import Bench, Group, Opened, Table

_ROW = "expiry of a node"
_STAYING = 1000


@contextmanager
def _expiry(bench: Bench) -> Opened:
    with bench.server() as server:
        population = Population(server, "expiry")
        population.fill(0, _STAYING)
        call = reconcile_call()

        def expire_all() -> int:
            expired = 0
            while step := int(server.run(call, population.namespace)[2]):
                expired += step
            return expired

        def measure() -> None:
            population.lapse(bench.scale.expiring)
            with other_client(server.address) as quiet, server.measured() as nothing:
                while nothing.script_calls < 200:
                    server.client.ping()
                    nothing.script_calls += 1
            with other_client(server.address) as stall, server.measured() as usage:
                expired = expire_all()
            population.lapse(bench.scale.expiring)
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
