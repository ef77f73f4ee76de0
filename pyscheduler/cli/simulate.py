"""``pyscheduler simulate``: a fleet of real WebSocket nodes, and a live view of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from pyscheduler.cli import output
from pyscheduler.cli.options import json_option
from pyscheduler.cli.text import safe
from pyscheduler.simulate.job_options import DEFAULT_DOOR, JobOptions
from pyscheduler.simulate.options import (
    DEFAULT_GPU,
    DEFAULT_LANGUAGES,
    DEFAULT_SERVICES,
    DEFAULT_URL,
    FleetOptions,
    parse_gpus,
    parse_languages,
    parse_names,
)

if TYPE_CHECKING:
    from pyscheduler.simulate.fleet import Fleet, Summary
    from pyscheduler.simulate.view import FleetView

_LINE_EVERY_S = 5.0


@click.command()
@click.option("--nodes", type=int, default=20, show_default=True, metavar="N", help="How many nodes, 1 to 20000.")
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    help="Node door to connect to; repeatable: nodes are spread over them, and go one further at each reconnect. "
    f"[default: {DEFAULT_URL}]",
)
@click.option(
    "--languages",
    default=DEFAULT_LANGUAGES,
    show_default=True,
    metavar="SETS",
    help="Language sets, separated by ';', that the nodes take in turn.",
)
@click.option(
    "--services",
    default=DEFAULT_SERVICES,
    show_default=True,
    metavar="TYPES",
    help="Service types that every node runs.",
)
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="NAME:GB",
    help=f"A GPU that every node reports; repeatable; 'none': no GPU at all. [default: {DEFAULT_GPU}]",
)
@click.option("--duration", type=float, metavar="S", help="End after S seconds. Without it, Ctrl-C ends it.")
@click.option(
    "--heartbeat", type=float, default=15.0, show_default=True, metavar="S", help="Seconds between heartbeats."
)
@click.option(
    "--reconnect", type=float, default=5.0, show_default=True, metavar="S", help="Seconds until a node connects again."
)
@click.option(
    "--churn",
    type=float,
    default=0.0,
    show_default=True,
    metavar="R",
    help="Share of the nodes, 0 to 10, to which something happens each second: half of it language changes, "
    "half of it lost connections. 0.01 with 200 nodes is two a second.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="K", help="Equal seeds make equal choices.")
@click.option(
    "--id-prefix",
    default="",
    metavar="TEXT",
    help="Name the nodes TEXT1, TEXT2, ... Without it the scheduler names them, as it does a fresh client.",
)
@click.option(
    "--jobs",
    type=float,
    default=0.0,
    show_default=True,
    metavar="R",
    help="Jobs a second, 0.01 to 200, that get their nodes at the operator door; 0: none.",
)
@click.option(
    "--operator-url",
    "doors",
    multiple=True,
    metavar="URL",
    help=f"Operator door to ask; repeatable: the next one is asked where one fails. [default: {DEFAULT_DOOR}]",
)
@click.option(
    "--job-seconds", type=float, default=10.0, show_default=True, metavar="S", help="How long a job runs, on average."
)
@click.option(
    "--job-lease",
    type=float,
    default=15.0,
    show_default=True,
    metavar="S",
    help="Lease of a reservation, renewed at a third of that.",
)
@click.option(
    "--session-jobs",
    type=float,
    default=0.3,
    show_default=True,
    metavar="SHARE",
    help="Share of the jobs that belong to a session.",
)
@click.option(
    "--odd-jobs",
    type=float,
    default=0.02,
    show_default=True,
    metavar="SHARE",
    help="Share of the jobs that no node of the fleet can serve.",
)
@click.option(
    "--failing-jobs",
    type=float,
    default=0.02,
    show_default=True,
    metavar="SHARE",
    help="Share of the jobs that fail, and go to another node.",
)
@click.option(
    "--tenants",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Tenants whose jobs they are, at random; 0: public jobs.",
)
@json_option
def simulate(
    nodes: int,
    urls: tuple[str, ...],
    languages: str,
    services: str,
    gpus: tuple[str, ...],
    duration: float | None,
    heartbeat: float,
    reconnect: float,
    churn: float,
    seed: int,
    id_prefix: str,
    jobs: float,
    doors: tuple[str, ...],
    job_seconds: float,
    job_lease: float,
    session_jobs: float,
    odd_jobs: float,
    failing_jobs: float,
    tenants: int,
    as_json: bool,
) -> int:
    """Connect a fleet of real WebSocket nodes, and let jobs run on it.

    They register, heartbeat, change languages, drop and come back, as the fleet's own clients do, and talk to nothing
    but the given URLs. With --jobs, jobs get their nodes over HTTP, run, and end. Exits 1 if the nodes could not be
    kept registered, or if a reservation is left.
    """
    import asyncio

    options = FleetOptions(
        nodes=nodes,
        urls=urls or (DEFAULT_URL,),
        languages=parse_languages(languages),
        services=parse_names(services),
        gpus=parse_gpus(gpus or (DEFAULT_GPU,)),
        duration_s=duration,
        heartbeat_s=heartbeat,
        reconnect_s=reconnect,
        churn=churn,
        seed=seed,
        id_prefix=id_prefix,
    )
    stream = None
    if jobs != 0:
        stream = JobOptions(
            rate=jobs,
            doors=doors or (DEFAULT_DOOR,),
            seconds=job_seconds,
            lease_s=job_lease,
            odd=odd_jobs,
            failing=failing_jobs,
            in_sessions=session_jobs,
            tenants=tenants,
        )
    summary = asyncio.run(_run(options, stream, as_json))
    if as_json:
        output.emit(summary.document())
    return 0 if summary.ok else 1


async def _run(options: FleetOptions, jobs: JobOptions | None, as_json: bool) -> Summary:
    import asyncio
    import signal

    from pyscheduler.simulate.fleet import Fleet
    from pyscheduler.simulate.view import FleetView

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    fleet = Fleet(options, jobs)
    if as_json:
        return await fleet.run(stop)
    out = output.console()
    view = FleetView(safe, unicode=output.sign(out, "y", "") != "")
    if not out.is_terminal:
        summary = await fleet.run(stop, _Lines(view))
    else:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, transient=True) as live:
            summary = await fleet.run(stop, lambda fleet: live.update(view.live(fleet), refresh=True))
    output.show(out, view.summary(summary))
    return summary


class _Lines:
    """Prints a line every few seconds, for where there is no terminal to draw on."""

    def __init__(self, view: FleetView) -> None:
        self._view = view
        self._next_s = 0.0

    def __call__(self, fleet: Fleet) -> None:
        if fleet.elapsed_s >= self._next_s:
            self._next_s = fleet.elapsed_s + _LINE_EVERY_S
            click.echo(self._view.line(fleet))
