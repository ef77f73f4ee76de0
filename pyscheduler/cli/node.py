"""``pyscheduler node``: look at nodes, explain where they are, keep work away from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import rich_click as click

from pyscheduler.cli import output
from pyscheduler.cli.options import Command, json_option, store_options, user_name
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import clock, counted, few, span
from pyscheduler.core import plain
from pyscheduler.errors import HoldConflict, NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from pyscheduler.allocator import Allocator
    from pyscheduler.core import results

_PAGE = 1000
_STATUSES = ("registering", "ready", "degraded", "draining", "offline")


@click.group()
def node() -> None:
    """Look at nodes, explain where they are, keep work away from them."""


@node.command("list")
@click.option("--pool", metavar="NAME", help="Only nodes of this pool.")
@click.option("--unmatched", is_flag=True, help="Only nodes without a pool.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(_STATUSES), help="Only this status; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N nodes.")
@json_option
@store_options
def list_nodes(
    store: StoreTarget,
    pool: str | None,
    unmatched: bool,
    statuses: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """List the live nodes: status, pool, load, and what is left of their lease."""
    if pool is not None and unmatched:
        raise click.UsageError("--pool and --unmatched exclude each other")

    def wanted(state: results.NodeState) -> bool:
        return (not unmatched or state.pool is None) and (not statuses or str(state.status) in statuses)

    async def call(allocator: Allocator) -> tuple[list[results.NodeState], int, int]:
        # Pages are separate looks: a node that shifts between them must not be listed twice.
        found: dict[str, results.NodeState] = {}
        offset = 0
        with output.progress("reading nodes") as bar:
            while True:
                page = await allocator.nodes(limit=_PAGE, offset=offset, pool=pool)
                found.update((state.node_id, state) for state in page.nodes if wanted(state))
                offset += len(page.nodes)
                bar.advance(offset, page.total)
                if len(page.nodes) < _PAGE or (limit is not None and len(found) >= limit):
                    return list(found.values())[:limit], page.total, page.version

    states, total, version = with_allocator(store, call)
    states.sort(key=lambda state: state.node_id)
    if as_json:
        output.emit([plain.node(state) for state in states])
        return
    out = output.console()
    if states:
        grid = output.table(
            out, "NODE", "STATUS", "POOL", "LANGUAGES", "SERVICES", "LOAD", "LEASE", "INSTANCE",
            numeric=("LOAD", "LEASE"), whole=("STATUS",),
        )  # fmt: skip
        for state in states:
            output.row(
                grid,
                state.node_id,
                output.status(str(state.status)),
                output.pool_name(state.pool),
                few(state.languages),
                few(state.services),
                f"{state.load * 100:.0f}%",
                output.text(span(state.lease_ms), "red" if state.lease_ms < 0 else ""),
                state.instance,
            )
        output.show(out, grid)
        out.print()
    shown = counted(len(states), "node")
    of = f" of {total:,}" if len(states) != total else ""
    out.print(output.text(f"{shown}{of}, version {version}", "dim"))


@node.command()
@click.argument("node_id", metavar="ID")
@json_option
@store_options
def show(store: StoreTarget, node_id: str, as_json: bool) -> None:
    """Show all that is known of a node."""
    detail = with_allocator(store, lambda allocator: allocator.node(node_id))
    if as_json:
        output.emit(plain.node_detail(detail))
        return
    out = output.console()
    _show_state(out, detail)
    for title, content in (("facts", detail.facts), ("usage", detail.usage), ("record", detail.record)):
        output.heading(out, title)
        output.pairs(out, [(key, json.dumps(value)) for key, value in content.items()] or [("", "none")])


def _show_state(out: Console, detail: results.NodeDetail) -> None:
    state = detail.state
    output.heading(out, f"node {state.node_id}", first=True)
    pool = output.pool_name(state.pool)
    if state.pool_id is not None:
        pool.append(f" (id {state.pool_id}, class {state.node_class})", style="dim")
    lease = f"{span(state.lease_ms)} left" if state.lease_ms >= 0 else f"lapsed {span(-state.lease_ms)} ago"
    lines = [
        ("status", output.status(str(state.status))),
        ("pool", pool),
        ("languages", output.text(few(state.languages, 24) or "none")),
        ("services", output.text(few(state.services, 24) or "none")),
        ("load", output.text(f"{state.load * 100:.0f}%")),
        ("lease", output.text(lease)),
        ("instance", output.text(f"{state.instance} (epoch {state.epoch})")),
        ("registered", output.text(clock(detail.registered_at_ms))),
    ]
    for hold in state.holds:
        lines.append(("hold", output.text(f"{hold.owner}: {hold.reason} ({clock(hold.at_ms)})", "magenta")))
    if (last := detail.transition) is not None:
        arrow = output.sign(out, "→", "->")
        move = f"{last.from_pool or 'none'} {arrow} {last.to_pool or 'none'}"
        lines.append(("last move", output.text(f"{move}: {last.reason} (version {last.version}, {clock(last.at_ms)})")))
    output.pairs(out, lines)


@node.command()
@click.argument("node_id", metavar="ID")
@json_option
@store_options
def explain(store: StoreTarget, node_id: str, as_json: bool) -> None:
    """Explain why a node is in its pool, and what it lacks for every other pool."""
    from pyscheduler.cli.explaining import explained, explanation_document, show_explanation

    found = with_allocator(store, explained(node_id))
    if as_json:
        output.emit(explanation_document(found))
        return
    out = output.console()
    _show_state(out, found.explanation.node)
    show_explanation(out, found)


def _hold_options(command: Command) -> Command:
    command = click.option("--owner", metavar="OWNER", help="Whose hold it is. Your user name if not given.")(command)
    return click.option("--reason", required=True, metavar="TEXT", help="Why; shown to whoever looks at the node.")(
        command
    )


@node.command()
@click.argument("node_id", metavar="ID")
@_hold_options
@click.option("--allow-unknown", is_flag=True, help="Also for a node that is not there: the hold waits for it.")
@json_option
@store_options
def drain(store: StoreTarget, node_id: str, reason: str, owner: str | None, allow_unknown: bool, as_json: bool) -> None:
    """Put a hold on a node: it takes no new work until every hold is lifted. Holds outlive reconnects."""
    holder = owner or user_name()
    result = with_allocator(
        store,
        lambda allocator: allocator.hold(node_id, owner=holder, reason=reason, allow_unknown=allow_unknown),
    )
    _report_holds(result, "is held now" if result.changed else "was held already", as_json)


@node.command()
@click.argument("node_id", metavar="ID")
@_hold_options
@json_option
@store_options
def resume(store: StoreTarget, node_id: str, reason: str, owner: str | None, as_json: bool) -> None:
    """Lift your hold on a node. Another owner's hold stays."""
    holder = owner or user_name()
    result = with_allocator(store, lambda allocator: allocator.lift(node_id, owner=holder, reason=reason))
    if not result.changed and result.holds:
        owners = ", ".join(hold.owner for hold in result.holds)
        raise HoldConflict(
            f"node {node_id} is held by {owners}; only the owner of a hold can lift it, and {holder} has none"
        )
    if not result.changed and not result.live:
        raise NotFound(f"no node {node_id}: see 'pyscheduler node list'")
    _report_holds(result, "hold lifted" if result.changed else f"no hold of {holder}", as_json)


def _report_holds(result: results.HoldResult, outcome: str, as_json: bool) -> None:
    if as_json:
        output.emit(plain.hold_result(result))
        return
    out = output.console()
    out.print(output.text(f"{result.node_id}: {outcome}"))
    if result.holds:
        grid = output.table(out, "OWNER", "REASON", "SINCE", whole=("SINCE",))
        for hold in result.holds:
            output.row(grid, hold.owner, hold.reason, clock(hold.at_ms))
        output.show(out, grid)
    elif result.live:
        out.print(output.text("no hold is left: it takes work as soon as it is ready", "green"))
    if not result.live:
        out.print(output.text("the node is not there now", "yellow"))
