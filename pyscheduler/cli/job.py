"""``pyscheduler job``: look at jobs. What changes them is in :mod:`pyscheduler.cli.job_changes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from pyscheduler.cli import job_changes, output
from pyscheduler.cli.job_options import request_options
from pyscheduler.cli.job_words import LIVE, ordered, reason, state_text
from pyscheduler.cli.options import json_option, store_options
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import clock, counted, span
from pyscheduler.core import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from pyscheduler.allocator import Allocator
    from pyscheduler.core.jobs import Job, JobExplanation, JobRequest, StateFilter

_PAGE = 1000
_MOST_NODES = 50
_STATES = ("live", "reserved", "running", "finished", "failed", "released", "lapsed", "lost")


@click.group()
def job() -> None:
    """Reserve slots of nodes for jobs, say what becomes of them, look at them."""


for _command in (job_changes.reserve, job_changes.reassign, *job_changes.UPDATES):
    job.add_command(_command)


@job.command("list")
@click.option("--node", metavar="ID", help="Only jobs of this node.")
@click.option("--pool", metavar="NAME", help="Only jobs whose node was chosen in this pool.")
@click.option("--tenant", metavar="NAME", help="Only jobs of this tenant.")
@click.option("--owner", metavar="NAME", help="Only jobs of this owner.")
@click.option("--state", type=click.Choice(_STATES), help="Only jobs in this state; live: those that hold slots.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N jobs.")
@json_option
@store_options
def list_jobs(
    store: StoreTarget,
    node: str | None,
    pool: str | None,
    tenant: str | None,
    owner: str | None,
    state: StateFilter | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the jobs that are known: those whose lease ends next come first. Ended ones are known for ten minutes."""

    async def call(allocator: Allocator) -> tuple[list[Job], int, int]:
        # Pages are separate looks: a job that was renewed between them must not be listed twice.
        found: dict[str, Job] = {}
        after, looked = None, 0
        with output.progress("reading jobs") as bar:
            while True:
                page = await allocator.jobs(
                    limit=_PAGE, after=after, node=node, pool=pool, tenant=tenant, owner=owner, state=state
                )
                found.update((one.job_id, one) for one in page.jobs)
                looked, after = min(looked + _PAGE, page.total), page.next
                bar.advance(looked, page.total)
                if after is None or (limit is not None and len(found) >= limit):
                    return list(found.values())[:limit], page.total, page.version

    jobs, total, version = with_allocator(store, call)
    jobs.sort(key=lambda one: (one.state not in LIVE, one.lease_end_ms, one.job_id))
    if as_json:
        output.emit([plain.job(one) for one in jobs])
        return
    out = output.console()
    if jobs:
        grid = output.table(
            out, "JOB", "STATE", "ATTEMPT", "NODE", "POOL", "SLOTS", "TENANT", "OWNER", "LEASE", "REASON",
            numeric=("ATTEMPT", "SLOTS", "LEASE"), whole=("STATE",),
        )  # fmt: skip
        for one in jobs:
            live = one.state in LIVE
            output.row(
                grid,
                one.job_id,
                state_text(one.state),
                str(one.attempt),
                one.node_id,
                one.pool,
                str(one.slots),
                output.text(one.tenant) if one.tenant is not None else output.text("public", "dim italic"),
                one.owner,
                output.text(span(one.lease_ms), "red" if one.lease_ms < 0 else "") if live else "",
                one.reason or "",
            )
        output.show(out, grid)
        out.print()
    of = f" of {total:,}" if len(jobs) != total else ""
    out.print(output.text(f"{counted(len(jobs), 'job')}{of}, version {version}", "dim"))


@job.command()
@click.argument("job_id", metavar="ID")
@json_option
@store_options
def show(store: StoreTarget, job_id: str, as_json: bool) -> None:
    """Show all that is known of a job: its latest attempt, and what has become of it."""
    found = with_allocator(store, lambda allocator: allocator.job(job_id))
    if as_json:
        output.emit(plain.job(found))
        return
    out = output.console()
    output.heading(out, f"job {found.job_id}", first=True)
    left = f"{span(found.lease_ms)} left" if found.lease_ms >= 0 else f"lapsed {span(-found.lease_ms)} ago"
    lease = ("lease", left) if found.state in LIVE else ("forgotten", f"in {span(max(0, found.lease_ms))}")
    node = output.text(found.node_id)
    node.append(f" (epoch {found.epoch})", style="dim")
    pool = output.text(found.pool)
    pool.append(f" (chosen under version {found.version})", style="dim")
    lines: list[tuple[str, str | Text]] = [
        ("state", state_text(found.state)),
        ("attempt", str(found.attempt)),
        ("node", node),
        ("pool", pool),
        ("slots", str(found.slots)),
        ("owner", found.owner),
        ("tenant", found.tenant if found.tenant is not None else output.text("public", "dim italic")),
    ]
    if found.session is not None:
        lines.append(("session", found.session))
    lines.append((lease[0], f"{lease[1]} ({clock(found.lease_end_ms)})"))
    if found.reason is not None:
        lines.append(("reason", output.text(found.reason, "italic")))
    output.pairs(out, lines)


@job.command()
@click.argument("job_id", metavar="[ID]", required=False, default="job")
@request_options
@json_option
@store_options
def explain(store: StoreTarget, job_id: str, request: JobRequest, as_json: bool) -> None:
    """Explain which node a job would get now, and what is against each node. Changes nothing.

    It is worked out by the code that reserves. Where chance decides, the id of the job does.
    """
    found = with_allocator(store, lambda allocator: allocator.explain_job(job_id, request))
    if as_json:
        output.emit(plain.job_explanation(found))
        return
    _show_explanation(output.console(), found, request)


def _show_explanation(out: Console, found: JobExplanation, request: JobRequest) -> None:
    arrow = output.sign(out, "→", "->")
    services = f", {' '.join(request.services)}" if request.services else ""
    output.heading(out, f"{request.src} {arrow} {request.tgt}{services}", first=True)
    if found.node_id is not None:
        out.print(output.text(f"gets {found.node_id} of {found.pool}", "green"))
    else:
        out.print(output.text("gets no node", "yellow"))
    for name in found.missing:
        out.print(output.text(f"no node has {name}", "red"))
    if "quota" in found.reasons:
        out.print(output.text(reason("quota"), "red"))
    # Those that are taken into account and not chosen are able: said of each below, and counted nowhere.
    against = [one for one in ordered(found.reasons) if one[0] not in ("quota", "passed_over")]
    if against:
        output.heading(out, "what is against the others" if found.node_id is not None else "what is against each node")
        grid = output.table(out, "NODES", "REASON", "IN WORDS", numeric=("NODES",))
        for code, count in against:
            output.row(grid, f"{count:,}", output.text(code, "red"), reason(code))
        output.show(out, grid)
    if found.nodes:
        output.heading(out, "node by node")
        _show_nodes(out, found)
    out.print()
    out.print(output.text(f"{counted(len(found.nodes), 'node')} looked at, version {found.version}", "dim"))


def _show_nodes(out: Console, found: JobExplanation) -> None:
    # The chosen one, then who is able, then those who lack what the fewest lack.
    nodes = sorted(
        found.nodes,
        key=lambda one: (one.node_id != found.node_id, bool(one.reason), found.reasons.get(one.reason, 0), one.node_id),
    )
    grid = output.table(out, "NODE", "POOL", "VERDICT")
    for one in nodes[:_MOST_NODES]:
        if one.node_id == found.node_id:
            verdict = output.text("chosen", "bold green")
        else:
            verdict = output.text(one.reason, "red") if one.reason else output.text("able", "green")
        output.row(grid, one.node_id, output.pool_name(one.pool), verdict)
    output.show(out, grid)
    if len(nodes) > _MOST_NODES:
        out.print(output.text(f"{len(nodes) - _MOST_NODES} more nodes: --json lists them", "dim"))
