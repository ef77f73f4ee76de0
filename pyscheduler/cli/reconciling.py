"""Reconciling from the command line: pass after pass, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from pyscheduler.cli import output

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator
    from pyscheduler.core import results

# A pass is bounded, so a large backlog takes several; beyond this many the schedulers' own passes go on.
_MAX_PASSES = 1000
_LEASE_MS = 45_000


async def reconcile(allocator: Allocator) -> results.ReconcileReport:
    """Reconcile pass after pass until one has nothing left to do; the reports added up."""
    from pyscheduler.core.results import ReconcileLimits

    limits = ReconcileLimits(scan=1000)
    with output.progress("reconciling") as bar:
        total = last = await allocator.reconcile(lease_ms=_LEASE_MS, force=True, limits=limits)
        lapsed = total.lapsed
        for _ in range(_MAX_PASSES - 1):
            bar.advance(total.expired + total.released, lapsed)
            # Under the brake the rest is meant to wait; while expiry is suspended another pass changes nothing.
            if last.braked or not _did_something(last):
                break
            last = await allocator.reconcile(lease_ms=_LEASE_MS, force=True, limits=limits)
            total = _added(total, last)
    return total


def _did_something(report: results.ReconcileReport) -> bool:
    return bool(
        report.expired
        or report.released
        or report.placed_classes
        or report.dropped_classes
        or report.created_pools
        or report.removed_pools
        or report.ended_jobs
        # Room that went to the memories of jobs that had ended before.
        or (report.more_due and not report.suspended_ms)
    )


def _added(total: results.ReconcileReport, last: results.ReconcileReport) -> results.ReconcileReport:
    return replace(
        last,
        expired=total.expired + last.expired,
        released=total.released + last.released,
        placed_classes=total.placed_classes + last.placed_classes,
        dropped_classes=total.dropped_classes + last.dropped_classes,
        created_pools=total.created_pools + last.created_pools,
        removed_pools=total.removed_pools + last.removed_pools,
        braked=total.braked or last.braked,
        violations=max(total.violations, last.violations),
        ended_jobs=total.ended_jobs + last.ended_jobs,
    )
