"""``pyscheduler pool``: look at pools. Its changing commands are in :mod:`pyscheduler.cli.sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from pyscheduler.cli import output
from pyscheduler.cli.changes import SIGNS, show_unassigned
from pyscheduler.cli.options import json_option, store_options
from pyscheduler.cli.sync import rollback, sync
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import clock, counted, few
from pyscheduler.core import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pyscheduler.core import results

_PAIR_LINES = 40


@click.group()
def pool() -> None:
    """Synchronise the pool configuration, look at pools."""


pool.add_command(sync)
pool.add_command(rollback)


@pool.command("list")
@json_option
@store_options
def list_pools(store: StoreTarget, as_json: bool) -> None:
    """List every pool with its nodes."""
    pools = with_allocator(store, lambda allocator: allocator.pools())
    if as_json:
        output.emit([plain.pool(one) for one in pools.pools])
        return

    out = output.console()
    if pools.pools:
        grid = output.table(
            out,
            *("ID", "POOL", "ORIGIN", "PRIORITY", "NODES", "READY", "LANGUAGES"),
            numeric=("ID", "PRIORITY", "NODES", "READY"),
        )
        for one in pools.pools:
            declared = one.origin == "declared"
            output.row(
                grid,
                str(one.id),
                one.name,
                output.text(one.origin, "" if declared else "dim"),
                str(one.priority) if declared else "",
                str(one.nodes),
                output.text(str(one.ready), _readiness(one.ready, one.nodes)),
                few(one.languages),
            )
        output.show(out, grid)
        out.print()
    summary = f"{counted(len(pools.pools), 'pool')}, {counted(pools.nodes, 'node')}, version {pools.version}"
    out.print(output.text(summary, "dim"))
    show_unassigned(out, pools.unmatched_nodes)


@pool.command()
@click.argument("name", metavar="NAME")
@json_option
@store_options
def show(store: StoreTarget, name: str, as_json: bool) -> None:
    """Show a pool's rule, its classes of nodes, and what it can do now."""
    detail = with_allocator(store, lambda allocator: allocator.pool(name))
    if as_json:
        output.emit(plain.pool_detail(detail))
        return
    from pyscheduler.cli.rules import rule_lines

    out = output.console()
    summary = detail.summary
    output.heading(out, f"pool {summary.name}", first=True)
    facts = [("id", str(summary.id)), ("origin", summary.origin)]
    if summary.origin == "declared":
        facts.append(("priority", str(summary.priority)))
    facts += [("nodes", f"{summary.nodes} ({summary.ready} ready)"), ("created", clock(detail.created_at_ms))]
    output.pairs(out, facts)
    output.heading(out, "rule")
    output.pairs(out, rule_lines(detail.rule) or [("takes", "nodes whose languages are its name")])
    output.heading(out, "classes")
    if detail.classes:
        output.show(out, _class_table(out, detail.classes))
    else:
        out.print(output.text("no node", "dim"))
    output.heading(out, "ready now")
    pairs: dict[str, list[str]] = {}
    for src, tgt in detail.ready_pairs:
        pairs.setdefault(src, []).append(tgt)
    arrow = output.sign(out, "→", "->")
    lines = [("services", few(detail.ready_services, 24) or "none")]
    lines += [(f"{src} {arrow}", few(targets, 24)) for src, targets in list(pairs.items())[:_PAIR_LINES]]
    output.pairs(out, lines)
    if len(pairs) > _PAIR_LINES:
        out.print(output.text(f"{len(pairs) - _PAIR_LINES} more source languages: --json lists them", "dim"))


def _class_table(out: Console, classes: tuple[results.ClassSummary, ...]) -> Table:
    from pyscheduler.cli.rules import gpus

    def names(facts: object) -> tuple[str, ...]:
        return tuple(str(one) for one in facts) if isinstance(facts, (list, tuple)) else ()

    grid = output.table(
        out, "CLASS", "NODES", "READY", "ASR", "SEMANTIC", "TTS", "SERVICES", "GPUS", "LABELS",
        numeric=("CLASS", "NODES", "READY"),
    )  # fmt: skip
    for one in classes:
        facts = one.facts
        labels = facts.get("labels")
        output.row(
            grid,
            str(one.node_class),
            str(one.nodes),
            output.text(str(one.ready), _readiness(one.ready, one.nodes)),
            *(few(names(facts.get(key))) for key in ("asr", "semantic", "tts", "services")),
            gpus(names(facts.get("gpu_memory_gb"))),
            few([f"{key}={value}" for key, value in labels.items()]) if isinstance(labels, dict) else "",
        )
    return grid


@pool.command()
@click.option("--src", required=True, metavar="CODE", help="Language that is spoken.")
@click.option("--tgt", required=True, metavar="CODE", help="Language that is wanted.")
@click.option("--service", "services", multiple=True, metavar="TYPE", help="Service that must be ready; repeatable.")
@json_option
@store_options
def find(store: StoreTarget, src: str, tgt: str, services: tuple[str, ...], as_json: bool) -> None:
    """Find every pool that can serve a language pair, whatever its name."""
    found = with_allocator(store, lambda allocator: allocator.find(src, tgt, services))
    if as_json:
        output.emit([plain.candidate(one) for one in found])
        return
    out = output.console()
    if not found:
        out.print(output.text("no pool can serve this now", "yellow"))
        return
    grid = output.table(out, "POOL", "CLASS", "NODES", "READY", "LANGUAGES", numeric=("CLASS", "NODES", "READY"))
    for one in found:
        output.row(
            grid,
            output.pool_name(one.pool),
            str(one.node_class),
            str(one.nodes),
            output.text(str(one.ready), _readiness(one.ready, one.nodes)),
            few(one.languages),
        )
    output.show(out, grid)


@pool.command()
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N", help="Entries, newest first."
)
@json_option
@store_options
def history(store: StoreTarget, limit: int, as_json: bool) -> None:
    """List the versions of the configuration, newest first."""
    entries = with_allocator(store, lambda allocator: allocator.history(limit=limit))
    if as_json:
        output.emit([plain.history_entry(one) for one in entries])
        return
    out = output.console()
    grid = output.table(
        out, "VERSION", "AT", "KIND", "AUTHOR", "REASON", "CHANGES", numeric=("VERSION",), whole=("AT", "KIND")
    )
    for one in entries:
        changes = [f"{SIGNS.get(change.change, '*')}{change.pool}" for change in one.changes]
        output.row(
            grid,
            str(one.version),
            clock(one.at_ms),
            output.text(one.kind, "" if one.has_document else "dim"),
            one.author,
            one.reason,
            few(changes, 6),
        )
    output.show(out, grid)


def _readiness(ready: int, nodes: int) -> str:
    if nodes == 0:
        return "dim"
    if ready == nodes:
        return "green"
    return "yellow" if ready else "red"
