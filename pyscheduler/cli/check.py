"""``pyscheduler check``: whether the store's invariants hold."""

from __future__ import annotations

import rich_click as click

from pyscheduler.cli import output
from pyscheduler.cli.options import json_option, store_options
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import counted
from pyscheduler.core import plain


@click.command()
@json_option
@store_options
def check(store: StoreTarget, as_json: bool) -> int:
    """Check every invariant of the store in one consistent look.

    Exits 1 if one is broken. It holds the store for about a microsecond or two a node: a command for people, not for a
    timer.
    """
    with output.working("checking"):
        report = with_allocator(store, lambda allocator: allocator.check())
    if as_json:
        output.emit(plain.check_report(report))
        return 0 if report.ok else 1
    out = output.console()
    looked = f"{counted(report.nodes, 'node')}, {counted(report.pools, 'pool')}, version {report.version}"
    if report.ok:
        out.print(output.text(f"ok: every invariant holds ({looked})", "green"))
        return 0
    broken = counted(len(report.violations), "violation")
    out.print(output.text(f"not ok: {broken} ({looked})", "bold red"))
    grid = output.table(out, "INVARIANT", "DETAIL", numeric=("INVARIANT",))
    for violation in report.violations:
        output.row(grid, str(violation.invariant), violation.detail)
    output.show(out, grid)
    return 1
