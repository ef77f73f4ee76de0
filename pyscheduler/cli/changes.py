"""What a change of the configuration did, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyscheduler.cli import output
from pyscheduler.cli.text import counted, span

if TYPE_CHECKING:
    from rich.console import Console

    from pyscheduler.core import results

STYLES = {"added": "green", "removed": "red", "changed": "yellow"}
SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def show_change(out: Console, change: results.ConfigChange) -> None:
    """The versions, the pools that changed, and the classes that move."""
    if change.dry_run:
        out.print(output.text("dry run: nothing was written", "yellow"))
    if change.version_after == change.version_before:
        out.print(f"nothing {'would change' if change.dry_run else 'changed'}: version {change.version_before} stays")
    else:
        arrow = output.sign(out, "→", "->")
        out.print(f"version {change.version_before} {arrow} {change.version_after}")
    for one in change.changes:
        line = f"  {SIGNS.get(one.change, '*')} {one.pool} ({one.change})"
        out.print(output.text(line, STYLES.get(one.change, "")))
    if change.moves:
        grid = output.table(out, "CLASS", "FROM", "TO", "NODES", numeric=("CLASS", "NODES"))
        for move in change.moves:
            output.row(
                grid,
                str(move.node_class),
                output.pool_name(move.from_pool),
                output.pool_name(move.to_pool),
                str(move.nodes),
            )
        out.print()
        output.show(out, grid)
        out.print()
        nodes = counted(sum(move.nodes for move in change.moves), "node")
        classes = counted(len(change.moves), "class", "classes")
        out.print(f"{nodes} in {classes} {'would change' if change.dry_run else 'changed'} pool")
    show_unassigned(out, change.unassigned_nodes)


def show_unassigned(out: Console, nodes: int) -> None:
    """How many live nodes have no pool, if any."""
    if nodes:
        out.print(
            output.text(f"{counted(nodes, 'node')} without a pool: 'pyscheduler node list --unmatched'", "yellow")
        )


def show_reconcile(out: Console, report: results.ReconcileReport) -> None:
    """What reconciling did, and what it held back."""
    done = [
        f"{counted(number, one, many)} {what}"
        for number, one, many, what in (
            (report.expired, "node", "nodes", "expired"),
            (report.released, "node", "nodes", "released"),
            (report.ended_jobs, "reservation", "reservations", "ended"),
            (report.placed_classes, "waiting class", "waiting classes", "placed"),
            (report.dropped_classes, "unused class", "unused classes", "dropped"),
            (len(report.created_pools), "pool", "pools", "created"),
            (len(report.removed_pools), "idle pool", "idle pools", "removed"),
        )
        if number
    ]
    out.print(f"reconciled: {', '.join(done) if done else 'nothing to do'}")
    if report.braked:
        out.print(
            output.text(
                f"the brake is on: {counted(report.lapsed, 'lease')} lapsed at once, too large a share of the fleet; "
                "they are expired slowly",
                "yellow",
            )
        )
    if report.suspended_ms:
        out.print(
            output.text(
                f"no node is expired for another {span(report.suspended_ms)}: nothing had reconciled for a while, "
                "so that nodes get a full lease to report in",
                "yellow",
            )
        )
    if report.violations:
        out.print(output.text(f"{counted(report.violations, 'violation')} seen: run 'pyscheduler check'", "red"))
