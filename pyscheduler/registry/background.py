"""Background work of a process that is no business of its sockets: upkeep of the namespace, and its own lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from pyscheduler.core.results import ReconcileLimits, ReconcileReport
from pyscheduler.errors import PyschedulerError, StoreUnavailable
from pyscheduler.registry.shared import Shared

_JITTER = 0.2
_BUSY_SHARE = 0.025


class Reconciler:
    """Calls reconcile, at its interval, for ever. Every process does; the store skips a pass that comes too soon.

    Args:
        shared: what connections share.
        interval_ms: time between two passes, in ms, give or take a fifth so that processes drift apart. A quarter of
            the lease where that is less: the store takes a longer pause for an outage, and expires nobody for a while.
    """

    def __init__(self, shared: Shared, *, interval_ms: int) -> None:
        self._shared = shared
        interval_ms = min(interval_ms, max(1, shared.lease_ms // 4))
        self._interval_s = interval_ms / 1000
        self._limits = ReconcileLimits(min_interval_ms=interval_ms // 2)

    async def run(self) -> None:
        """Reconcile, for ever."""
        wait_s = self._interval_s * random.random()
        more = False
        while True:
            await asyncio.sleep(wait_s)
            more = await self._pass(force=more)
            wait_s = self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)
            if more:
                wait_s *= _BUSY_SHARE

    async def _pass(self, *, force: bool) -> bool:
        """One pass. Returns whether more is left to be done soon."""
        shared = self._shared
        try:
            report = await shared.allocator.reconcile(
                lease_ms=shared.lease_ms, grace_ms=shared.grace_ms, force=force, limits=self._limits
            )
        except StoreUnavailable as error:
            shared.metrics.reconciled.labels("unavailable").inc()
            shared.log.debug("reconcile_failed", error=str(error))
            return False
        except PyschedulerError as error:
            shared.metrics.reconciled.labels("refused").inc()
            shared.log.error("reconcile_failed", error=str(error))
            return False
        except Exception as error:
            shared.metrics.reconciled.labels("defect").inc()
            shared.log.error("reconcile_defect", exc_info=error)
            return False
        self._tell(report)
        if report.skipped or report.braked or report.suspended_ms:
            return False
        return report.more_due or report.lapsed > report.expired + report.released

    def _tell(self, report: ReconcileReport) -> None:
        metrics, log = self._shared.metrics, self._shared.log
        metrics.reconciled.labels("skipped" if report.skipped else "done").inc()
        if report.skipped:
            return
        metrics.expired.inc(report.expired)
        metrics.violations.inc(report.violations)
        metrics.braked.set(report.braked)
        metrics.config_version.set(report.version)
        done = {
            "expired": report.expired,
            "released": report.released,
            "placed_classes": report.placed_classes,
            "dropped_classes": report.dropped_classes,
            "created_pools": list(report.created_pools),
            "removed_pools": list(report.removed_pools),
            "violations": report.violations,
        }
        done = {name: value for name, value in done.items() if value}
        if report.violations:
            log.error("reconciled", **done, version=report.version, next="look at it with 'pyscheduler check'")
        elif done:
            log.info("reconciled", **done, version=report.version)
        if report.braked:
            log.warning("reconcile_braked", lapsed=report.lapsed, reason="too many leases lapsed at once")
        if report.suspended_ms and report.lapsed:
            log.info(
                "expiry_suspended", lapsed=report.lapsed, for_ms=report.suspended_ms, reason="reconcile had been away"
            )


class InstanceLease:
    """Says that this process is alive, at a third of the lease, for ever.

    Args:
        shared: what connections share.
        lease_ms: the lease, in ms.
        info: what others may see of this process.
    """

    def __init__(self, shared: Shared, *, lease_ms: int, info: Mapping[str, str | int]) -> None:
        self._shared = shared
        self._lease_ms = lease_ms
        self._info = info

    async def run(self) -> None:
        """Renew, for ever."""
        while True:
            await self.renew()
            await asyncio.sleep(self._lease_ms / 3000)

    async def renew(self) -> None:
        """Renew the lease once; a failure is logged, the next renewal is soon."""
        shared = self._shared
        info = {**self._info, "connections": len(shared.sockets), "nodes": shared.sockets.registered}
        try:
            await shared.allocator.renew_instance(shared.instance, lease_ms=self._lease_ms, info=info)
        except StoreUnavailable as error:
            shared.log.debug("instance_lease_not_renewed", error=str(error))
        except Exception as error:
            shared.log.error("instance_lease_not_renewed", error=str(error))
