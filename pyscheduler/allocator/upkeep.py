"""Upkeep of the store, the instances, and the check of the invariants."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pyscheduler.allocator.namespace import Namespace
from pyscheduler.allocator.replies import json_of
from pyscheduler.core import ids
from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.results import CheckReport, InstanceInfo, ReconcileLimits, ReconcileReport, Violation
from pyscheduler.errors import LimitExceeded
from pyscheduler.scripts import calls

_DEFAULT_LIMITS = ReconcileLimits()


class Upkeep(Namespace):
    """The calls that keep the store in order."""

    async def reconcile(
        self,
        *,
        lease_ms: int,
        grace_ms: int = 30_000,
        force: bool = False,
        limits: ReconcileLimits = _DEFAULT_LIMITS,
    ) -> ReconcileReport:
        """One bounded step of upkeep: expires lapsed leases, drops what is unused, places what waits, audits a slice.

        A node whose lease lapsed, and whose instance had a lease that lapsed too, is released with a grace instead.

        Args:
            lease_ms: the lease that nodes get; says how long expiry waits after an outage. Call this more than twice in
                that time: a longer pause counts as an outage, after which nothing is expired for a full lease.
            grace_ms: how long a node whose instance has gone may take to reconnect, 0..86,400,000 ms.
            force: even if another step ran within ``limits.min_interval_ms``.
            limits: bounds of the step.
        """
        reply = await self._reply(
            calls.reconcile(
                lease_ms=lease_ms,
                force=force,
                expire=limits.expire,
                scan=limits.scan,
                brake_permille=round(limits.brake_share * 1000),
                brake_floor=limits.brake_floor,
                brake_expire=limits.brake_expire,
                min_interval_ms=limits.min_interval_ms,
                grace_ms=grace_ms,
            )
        )
        version = reply.integer()
        if reply.status == "SKIPPED":
            return ReconcileReport(True, 0, 0, 0, 0, (), (), 0, False, 0, 0, version, 0)
        expired, released, placed, dropped = reply.integer(), reply.integer(), reply.integer(), reply.integer()
        lapsed = reply.integer()
        braked, suspended_ms, violations = reply.text() == "1", reply.integer(), reply.integer()
        ended_jobs, more_due = reply.integer(), reply.text() == "1"
        created, removed = reply.many(reply.text), reply.many(reply.text)
        return ReconcileReport(
            skipped=False,
            expired=expired,
            released=released,
            placed_classes=placed,
            dropped_classes=dropped,
            created_pools=created,
            removed_pools=removed,
            lapsed=lapsed,
            braked=braked,
            suspended_ms=suspended_ms,
            violations=violations,
            version=version,
            ended_jobs=ended_jobs,
            more_due=more_due,
        )

    async def renew_instance(self, instance: str, *, lease_ms: int, info: Mapping[str, str | int]) -> None:
        """Renews the lease of a scheduler instance.

        Args:
            instance: its id.
            lease_ms: the lease, 1..86,400,000 ms.
            info: what others may see of it, up to 4 kB as JSON.

        Raises:
            LimitExceeded: too many instances.
        """
        call = calls.renew_instance(
            instance=ids.instance_id(instance), lease_ms=lease_ms, info=canonical_json(dict(info))
        )
        reply = await self._reply(call)
        if reply.status == "INSTANCES_FULL":
            raise LimitExceeded(f"the bound of {reply.text()} instances is reached")

    async def leave_instance(self, instance: str) -> None:
        """Gives up the lease of a scheduler instance; its nodes are not touched."""
        await self._reply(calls.renew_instance(instance=ids.instance_id(instance), lease_ms=0, info="{}"))

    async def instances(self) -> list[InstanceInfo]:
        """The scheduler instances whose lease has not lapsed."""
        flat = await self._store.command("HGETALL", self._store.key("instances"))
        seconds, micros = await self._store.command("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        found = []
        for instance, stored in zip(flat[::2], flat[1::2], strict=True):
            if instance:
                lease_end, info = stored.split(" ", 1)
                lease_ms = int(lease_end) - now_ms
                if lease_ms > 0:
                    found.append(InstanceInfo(instance, lease_ms, json_of(info)))
        return sorted(found, key=lambda info: info.instance)

    async def ping(self) -> float:
        """Round trip to the store, in seconds."""
        start = time.perf_counter()
        await self._store.command("PING")
        return time.perf_counter() - start

    async def check(self) -> CheckReport:
        """Checks the invariants of the stored state in one consistent look. Holds the store for microseconds a node."""
        reply = await self._reply(calls.check())
        version, nodes, pools = reply.integer(), reply.integer(), reply.integer()
        violations = reply.many(lambda: Violation(reply.integer(), reply.text()))
        return CheckReport(not violations, violations, nodes, pools, version)
