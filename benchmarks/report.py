"""What was found, for people and for programs: tables, JSON, and the tables of docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import table as rich_table
from rich.console import Console
from rich.markup import escape

from benchmarks.suite import PACE_US, Results, Table, Target

COLUMNS = {
    "floors": ("x floor", "{:.2f}"),
    "instructions": ("instructions", "{:,.0f}"),
    "alone_floors": ("its commands alone, x floor", "{:.2f}"),
    "cpu_us": ("CPU, us", "{:,.2f}"),
    "process_us": ("CPU of the process, us", "{:,.1f}"),
    "store_us": ("of the store, us", "{:,.1f}"),
    "held_us": ("held, us", "{:.1f}"),
    "per_s": ("per s", "{:,.0f}"),
    "per_cpu_s": ("per s of CPU", "{:,.0f}"),
    "call_cpu_ms": ("CPU a call, ms", "{:.3f}"),
    "blocked_ms": ("blocked, ms", "{:.3f}"),
    "worst_ms": ("worst call, ms", "{:.2f}"),
    "stall_ms": ("worst stall, ms", "{:.2f}"),
    "quiet_ms": ("worst, idle, ms", "{:.2f}"),
    "times": ("times", "{:.2f}"),
    "p99_ms": ("p99, ms", "{:,.1f}"),
    "retries": ("retries", "{:.3f}"),
    "bytes": ("bytes", "{:,.0f}"),
    "beyond_json": ("beyond its JSON, bytes", "{:,.0f}"),
    "share": ("of bare echo", "{:.0%}"),
    "kib": ("KiB a socket", "{:.1f}"),
    "all_s": ("all after, s", "{:.2f}"),
    "wall_ms": ("ms", "{:,.0f}"),
    "wall_cpu_ms": ("CPU, ms", "{:,.0f}"),
    "most": ("jobs of the fullest node", "{:,.0f}"),
    "least": ("of the emptiest", "{:,.0f}"),
    "deviation": ("standard deviation", "{:.2f}"),
}
"""Every metric: its heading and its form."""


def shown(metric: str, value: float) -> str:
    return COLUMNS[metric][1].format(value)


def _bound(metric: str, target: Target) -> str:
    text = shown(metric, target.bound)
    return f"{'≤' if target.at_most else '≥'} {text.rstrip('0').rstrip('.') if '.' in text else text}"


def _columns(results: Results, group: str) -> list[str]:
    used = {metric for row in results.rows(group) for metric in results.values[(group, row)]}
    return [metric for metric in COLUMNS if metric in used]


def _cell(results: Results, group: str, row: str, metric: str) -> tuple[str, bool | None]:
    """A median, with its target beside it, and whether that is met."""
    value = results.median(group, row, metric)
    if value is None:
        return "", None
    target, met = results.targets.get((group, row, metric)), results.verdict(group, row, metric)
    return shown(metric, value) + (f" ({_bound(metric, target)})" if target is not None else ""), met


_PACED = f"Times and rates, where F is {PACE_US:.0f} us"
_HOW_PACED = (
    f"The targets that are times or rates were set on a machine where F took {PACE_US:.0f} us. Here each figure is "
    f"beside what it would be there: a time by {PACE_US:.0f} us to the F that was measured before it, and a rate the "
    "other way. This is an estimate: what waits for a disk or for other processes does not go with F."
)


def _paced(tables: Sequence[Table], results: Results) -> Iterator[tuple[str, str, str, bool]]:
    """Rows of that table: what was measured, the figure, what it would be with its target, and whether that is met."""
    for table in tables:
        for row in results.rows(table.name):
            for metric in results.values[(table.name, row)]:
                value, paced = results.median(table.name, row, metric), results.at_pace(table.name, row, metric)
                if value is not None and paced is not None:
                    target = results.targets[(table.name, row, metric)]
                    text = f"{shown(metric, paced)} ({_bound(metric, target)})"
                    yield f"{row}: {COLUMNS[metric][0]}", shown(metric, value), text, target.met(paced)


def _empty_table(title: str, headings: Sequence[str]) -> rich_table.Table:
    table = rich_table.Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_tables(console: Console, tables: Sequence[Table], results: Results) -> None:
    for shown_table in tables:
        name, title = shown_table.name, shown_table.title
        if name in results.skipped:
            console.print(f"\n[bold]{title}[/]: [yellow]skipped[/], {escape(results.skipped[name])}")
        if name in results.failed:
            console.print(f"\n[bold]{title}[/]: [red]failed[/], {escape(results.failed[name])}")
        if not results.rows(name):
            continue
        metrics = _columns(results, name)
        table = _empty_table(title, [COLUMNS[metric][0] for metric in metrics])
        for row in results.rows(name):
            cells = []
            for metric in metrics:
                text, met = _cell(results, name, row, metric)
                cells.append(text if met is None else f"[{'green' if met else 'red'}]{text}[/]")
            table.add_row(row, *cells)
        console.print()
        console.print(table)
    paced = list(_paced(tables, results))
    if paced:
        table = _empty_table(_PACED, ["here", f"where F is {PACE_US:.0f} us"])
        for what, here, there, met in paced:
            table.add_row(what, here, f"[{'green' if met else 'red'}]{there}[/]")
        console.print()
        console.print(table)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "cpu": model[1] if model else platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "taken_at": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def as_json(results: Results, about: dict[str, Any]) -> str:
    """Everything: each value of each round, medians, targets and verdicts."""
    rows = []
    for (group, row), metrics in results.values.items():
        entry: dict[str, Any] = {"group": group, "row": row, "metrics": {}}
        for metric, values in metrics.items():
            one: dict[str, Any] = {"median": statistics.median(values), "rounds": values}
            target = results.targets.get((group, row, metric))
            if target is not None:
                one |= {"target": _bound(metric, target), "met": results.verdict(group, row, metric)}
            paced = results.at_pace(group, row, metric)
            if paced is not None:
                one["at_pace"] = paced
            entry["metrics"][metric] = one
        rows.append(entry)
    return json.dumps({"about": about, "rows": rows, "skipped": results.skipped, "failed": results.failed}, indent=1)


_MARKS = ("<!-- figures: written by the suite -->", "<!-- end of figures -->")


def write_page(
    page: Path, tables: Sequence[Table], results: Results, about: dict[str, Any], charts: Sequence[str]
) -> None:
    """Put the figures between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    lines = [
        f"Taken on {about['taken_at']}: {about['cores']} cores ({about['cpu']}), {about['engine']}, Python "
        f"{about['python']}, {about['rounds']} rounds, load average {about['load_average']:.1f} at the start.",
        "",
        *(f"![{(page.parent / name).stem.replace('-', ', ')}]({name})" for name in charts),
        "",
    ]
    for shown_table in tables:
        name = shown_table.name
        if not results.rows(name) and name not in results.skipped:
            continue
        lines += [f"### {shown_table.title}", ""]
        if shown_table.how:
            lines += [shown_table.how, ""]
        if name in results.skipped:
            lines += [f"Not measured: {results.skipped[name]}.", ""]
        if name in results.failed:
            lines += [f"It failed in one of the rounds: {results.failed[name]}", ""]
        if results.rows(name):
            lines += [*_markdown(results, name), ""]
    paced = list(_paced(tables, results))
    if paced:
        lines += [f"### {_PACED}", "", _HOW_PACED, "", f"| | here | where F is {PACE_US:.0f} us |", "|---|---:|---:|"]
        lines += [f"| {what} | {here} | {there if met else f'**{there}**'} |" for what, here, there, met in paced] + [
            ""
        ]
    page.write_text(f"{before}{_MARKS[0]}\n\n" + "\n".join(lines) + f"\n{_MARKS[1]}{after}", encoding="utf-8")


def _markdown(results: Results, group: str) -> list[str]:
    metrics = _columns(results, group)
    lines = [f"| | {' | '.join(COLUMNS[metric][0] for metric in metrics)} |", f"|---|{'---:|' * len(metrics)}"]
    for row in results.rows(group):
        cells = [row]
        for metric in metrics:
            text, met = _cell(results, group, row, metric)
            cells.append(f"**{text}**" if met is False else text)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
