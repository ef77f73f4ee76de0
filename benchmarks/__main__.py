"""The command line: python -m benchmarks [--quick] [--only NAME]..."""

from __future__ import annotations

import gc
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import (
    chart,
    commands,
    door,
    etcd,
    expiry,
    instructions,
    jobs,
    python_ways,
    report,
    start,
    store,
    zookeeper,
)
from benchmarks.floor import Floor
from benchmarks.server import StoreServer
from benchmarks.suite import FULL, LARGE, QUICK, Bench, Group, Measure, Results, Scale, Skipped, Table

_MODULES = (store, commands, instructions, jobs, expiry, python_ways, etcd, zookeeper, door, start)
GROUPS: tuple[Group, ...] = tuple(group for module in _MODULES for group in module.GROUPS)
_WIDTH = 170
"""Columns of the tables where there is no terminal to fit them in."""

_FLOOR = Table("floor", "The floor, F", "")
NAMES = [group.name for group in GROUPS]


@click.command(context_settings={"max_content_width": 100})
@click.option("--quick", is_flag=True, help="About a minute, with small figures: shows that everything runs.")
@click.option("--only", "names", type=click.Choice(NAMES), multiple=True, help="Measure this; can be repeated.")
@click.option("--rounds", type=click.IntRange(1, 20), help="Rounds; medians are shown. [default: 3, quick 1]")
@click.option("--large", is_flag=True, help="Also a fleet of 1,000,000 nodes: some 3 GB, and minutes more.")
@click.option("--server", type=click.Path(exists=True, path_type=Path), help="Server program to measure.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every value of every round there.")
@click.option(
    "--page", type=click.Path(exists=True, path_type=Path), help="Put the tables into this page, charts beside it."
)
def main(
    quick: bool,
    names: tuple[str, ...],
    rounds: int | None,
    large: bool,
    server: Path | None,
    json_file: Path | None,
    page: Path | None,
) -> None:
    """Measure what the scheduler costs, beside a floor and its peers, in one run.

    Starts its own servers. The steady figure is the CPU that the server process used per operation, given as a
    multiple of the floor; throughput stands beside it. What is not installed is skipped, and said to be.
    """
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    scale = QUICK if quick else FULL
    if large:
        scale = _with_size(scale, LARGE)
    rounds = rounds or (1 if quick else 3)
    groups = [group for group in GROUPS if not names or group.name in names]
    _allow_files()
    # So that what was started is ended on a time-out, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    about = report.machine()
    folder = Path(tempfile.mkdtemp(prefix="pyscheduler-bench-"))
    results = Results()
    try:
        with StoreServer(server) as floor_server:
            about |= {"engine": floor_server.engine, "rounds": rounds, "quick": quick}
            bench = Bench(scale, server, folder, results, Floor(floor_server, scale.floor))
            _measure(console, bench, groups, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tables = [_FLOOR, *(table for group in groups for table in group.tables)]
    report.print_tables(console, tables, results)
    if json_file is not None:
        json_file.write_text(report.as_json(results, about), encoding="utf-8")
    if page is not None:
        charts = chart.write_charts(page.parent, results)
        report.write_page(page, tables, results, about, charts)
    sys.exit(bool(results.failed))


def _measure(console: Console, bench: Bench, groups: list[Group], rounds: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn between measurements only: a thread that draws would take its time from what is measured.
    with Progress(*columns, console=console, auto_refresh=False) as progress, ExitStack() as opened:
        task = progress.add_task("", total=len(groups) * (rounds + 1))

        def step(what: str) -> None:
            progress.update(task, description=f"{what:<28}")
            if console.is_terminal:
                progress.refresh()
            else:
                print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

        measures: list[tuple[Group, Measure]] = []
        for group in groups:
            step(f"starting {group.name}")
            bench.table = group.tables[0].name
            try:
                measures.append((group, opened.enter_context(group.open(bench))))
            except Skipped as reason:
                bench.results.skipped[group.name] = str(reason)
                progress.advance(task, rounds)
            except Exception as error:
                bench.results.failed[group.name] = f"{type(error).__name__}: {error}"
                progress.advance(task, rounds)
            progress.advance(task)
        for number in range(rounds):
            for group, measure in measures:
                if group.name in bench.results.failed:
                    progress.advance(task)
                    continue
                step(f"round {number + 1}: {group.name}")
                bench.table = group.tables[0].name
                gc.collect()
                bench.take_floor()
                try:
                    measure()
                except Exception as error:
                    # What the others cost is worth having all the same.
                    bench.results.failed[group.name] = f"{type(error).__name__}: {error}"
                progress.advance(task)
        step("done")


def _with_size(scale: Scale, size: int) -> Scale:
    return replace(scale, sizes=(*scale.sizes, size))


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else soft, hard))


if __name__ == "__main__":
    main()
