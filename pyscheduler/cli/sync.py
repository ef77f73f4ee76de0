"""``pyscheduler pool sync`` and ``rollback``: the commands that change the configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import rich_click as click

from pyscheduler.cli import failure, output
from pyscheduler.cli.options import Command, json_option, store_options, user_name
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.core import plain
from pyscheduler.errors import StoreError

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator
    from pyscheduler.core import results

    Change = Callable[[Allocator], Awaitable[results.ConfigChange]]


def change_options(command: Command) -> Command:
    """The options of every command that changes the configuration."""
    for option in (
        click.option("--reason", metavar="TEXT", default="", help="Why, for the history."),
        click.option("--author", metavar="NAME", help="Who, for the history. Your user name if not given."),
        click.option("--force", is_flag=True, help="Go ahead although the guard refuses."),
        click.option(
            "--expect-version",
            type=click.IntRange(min=0),
            metavar="N",
            help="Refuse unless document version N is in force (0: none yet).",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would change and write nothing."),
    ):
        command = option(command)
    return command


@click.command()
@click.option("-f", "--file", "path", metavar="FILE", help="Pool configuration, YAML or JSON; - reads standard input.")
@click.option("--allow-empty", is_flag=True, help="Let a document without pools replace one that has some.")
@change_options
@json_option
@store_options
def sync(
    store: StoreTarget,
    path: str | None,
    dry_run: bool,
    expect_version: int | None,
    allow_empty: bool,
    force: bool,
    author: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Make a file the pool configuration in force, and reconcile.

    Nodes that the change does not concern stay where they are. Without -f it only reconciles: nodes whose lease is over
    are expired, waiting classes placed, idle auto pools removed.
    """
    if path is None:
        about_file = {
            "--dry-run": dry_run,
            "--expect-version": expect_version is not None,
            "--allow-empty": allow_empty,
            "--force": force,
            "--author": author,
            "--reason": reason,
        }
        for name, given in about_file.items():
            if given:
                raise click.UsageError(f"{name} is about a file: name it with -f FILE")
        _reconcile_only(store, as_json)
        return
    from pyscheduler.cli.inputs import read_document

    document = read_document(path)
    _change(
        store,
        lambda allocator: allocator.sync(
            document,
            expect_version=expect_version,
            allow_empty=allow_empty,
            force=force,
            author=author or user_name(),
            reason=reason,
            dry_run=dry_run,
        ),
        as_json,
    )


@click.command()
@click.argument("version", type=click.IntRange(min=1), metavar="VERSION")
@change_options
@json_option
@store_options
def rollback(
    store: StoreTarget,
    version: int,
    dry_run: bool,
    expect_version: int | None,
    force: bool,
    author: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Apply the document of an earlier VERSION again, as a new version."""
    _change(
        store,
        lambda allocator: allocator.rollback(
            version,
            author=author or user_name(),
            reason=reason,
            expect_version=expect_version,
            force=force,
            dry_run=dry_run,
        ),
        as_json,
    )


def _change(store: StoreTarget, change: Change, as_json: bool) -> None:
    async def call(
        allocator: Allocator,
    ) -> tuple[results.ConfigChange, results.ReconcileReport | None, StoreError | None]:
        from pyscheduler.cli.reconciling import reconcile

        with output.working("changing the pool configuration"):
            changed = await change(allocator)
        if changed.dry_run:
            return changed, None, None
        # The change is in force whatever happens now, and the schedulers reconcile too: to fail here would deny it.
        try:
            return changed, await reconcile(allocator), None
        except StoreError as error:
            return changed, None, error

    changed, report, problem = with_allocator(store, call, create=True)
    if as_json:
        reconciled: object = None
        if report is not None:
            reconciled = plain.reconcile_report(report)
        elif problem is not None:
            reconciled = failure.describe(problem).document()
        output.emit({**plain.config_change(changed), "reconcile": reconciled})
    else:
        from pyscheduler.cli.changes import show_change, show_reconcile

        out = output.console()
        show_change(out, changed)
        if report is not None:
            show_reconcile(out, report)
    if problem is not None:
        output.notice(f"the change is in force; reconciling after it failed, and is left to the schedulers: {problem}")


def _reconcile_only(store: StoreTarget, as_json: bool) -> None:
    async def call(allocator: Allocator) -> tuple[int, results.ReconcileReport, results.PoolTable]:
        from pyscheduler.cli.reconciling import reconcile

        before = await allocator.version()
        report = await reconcile(allocator)
        return before, report, await allocator.pools()

    before, report, pools = with_allocator(store, call)
    if as_json:
        output.emit(
            {
                "version_before": before,
                "version_after": report.version,
                "document_version": pools.document_version,
                "dry_run": False,
                "changes": [],
                "moves": [],
                "unassigned_nodes": pools.unmatched_nodes,
                "reconcile": plain.reconcile_report(report),
            }
        )
        return
    from pyscheduler.cli.changes import show_reconcile, show_unassigned

    out = output.console()
    show_reconcile(out, report)
    show_unassigned(out, pools.unmatched_nodes)
