"""The live view of a simulated fleet, and its summary, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyscheduler.simulate.bars import Bars
from pyscheduler.simulate.fleet import Fleet, Snapshot, Summary
from pyscheduler.simulate.job_view import JobsView
from pyscheduler.simulate.tally import Latencies, Rate, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

_POOL_ROWS = 16


class FleetView:
    """Draws a fleet.

    Args:
        safe: makes text from outside safe to print; pool names and error messages are the scheduler's.
        unicode: whether the terminal shows more than ASCII.
    """

    def __init__(self, safe: Callable[[str], str], *, unicode: bool) -> None:
        self._safe = safe
        self._bars = Bars(unicode=unicode)
        self._jobs = JobsView(safe, self._bars)
        self._heartbeats = Rate()

    def live(self, fleet: Fleet) -> RenderableType:
        """The fleet now."""
        now = fleet.look()
        rate = self._heartbeats.look(now.elapsed_s, fleet.tally.heartbeats)
        options = fleet.options
        of = f" of {options.duration_s:.0f} s" if options.duration_s is not None else " s, Ctrl-C ends it"
        title = Text.assemble(
            ("simulating ", "bold"),
            (f"{options.nodes:,} nodes", "bold cyan"),
            (f", {fleet.jobs.options.rate:g} jobs/s" if fleet.jobs is not None else "", "bold cyan"),
            f"  {now.elapsed_s:.0f}{of}",
            (f"  seed {options.seed}", "dim"),
        )
        if fleet.jobs is not None:
            return Group(
                title,
                self._nodes(now, fleet.tally, rate),
                Text(),
                self._jobs.pools(fleet.look_at_pools()),
                Text(),
                self._jobs.live(fleet.jobs),
                *self._last_problem(fleet.tally.last_problem or fleet.jobs.tally.last_problem),
            )
        return Group(
            title,
            Text(),
            self._gauges(now),
            Text(),
            self._pools(now),
            Text(),
            self._counters(fleet.tally, rate),
            *self._last_problem(fleet.tally.last_problem),
        )

    def line(self, fleet: Fleet) -> str:
        """The fleet now in one line, for where there is no terminal."""
        now, tally = fleet.look(), fleet.tally
        rate = self._heartbeats.look(now.elapsed_s, tally.heartbeats)
        return (
            f"{now.elapsed_s:6.1f} s  connected {now.connected}  registered {now.registered} of {now.nodes}  "
            f"lost {now.lost}  pools {len(now.pools)}  heartbeats {rate:.0f}/s  reconnects {tally.reconnects}  "
            f"errors {tally.errors.total()}" + (f"  {self._jobs.line(fleet.jobs)}" if fleet.jobs is not None else "")
        )

    def summary(self, summary: Summary) -> RenderableType:
        """How it ended."""
        last, tally = summary.last, summary.tally
        if summary.gave_up:
            verdict = Text("gave up: no node could register", style="bold red")
        elif last.lost == 0:
            verdict = Text(f"ok: {last.registered:,} of {last.nodes:,} nodes registered at the end", style="green")
        else:
            verdict = Text(
                f"not ok: {last.lost:,} of {last.nodes:,} nodes could not be kept registered", style="bold red"
            )
        jobs: list[RenderableType] = []
        if summary.jobs is not None:
            jobs = [
                Text(),
                self._jobs.verdict(summary.jobs),
                Text(f"{summary.jobs.elapsed_s:.1f} s, owner {summary.jobs.owner}", style="dim"),
                Text(),
                self._jobs.pools(summary.jobs.pools),
                Text(),
                self._jobs.summary(summary.jobs),
                *self._last_problem("" if summary.jobs.ok else summary.jobs.tally.last_problem),
            ]
        average = tally.heartbeats / last.elapsed_s if last.elapsed_s > 0 else 0.0
        return Group(
            verdict,
            Text(f"{last.elapsed_s:.1f} s, seed {summary.options.seed}", style="dim"),
            Text(),
            *([self._pools(last), Text()] if summary.jobs is None else []),
            self._counters(tally, average),
            *self._last_problem("" if summary.ok else tally.last_problem),
            *jobs,
        )

    def _nodes(self, now: Snapshot, tally: Tally, rate: float) -> RenderableType:
        whole = now.registered == now.nodes
        width = len(f"{now.nodes:,}")
        return Text.assemble(
            ("registered ", "dim"),
            (f"{now.registered:>{width},} of {now.nodes:,}", "green" if whole else "yellow"),
            ("  lost ", "dim"),
            (f"{now.lost:>{width},}", "red" if now.lost else ""),
            ("  heartbeats ", "dim"),
            f"{rate:>6,.1f}/s",
            ("  reconnects ", "dim"),
            f"{tally.reconnects:,}",
            ("  errors ", "dim"),
            f"{tally.errors.total():,}",
        )

    def _gauges(self, now: Snapshot) -> RenderableType:
        grid = Table.grid(padding=(0, 0, 0, 2))
        for name, value, style in (
            ("connected", now.connected, "cyan"),
            ("registered", now.registered, "green" if now.registered == now.nodes else "yellow"),
        ):
            grid.add_row(Text(name, style="dim"), self._bars.bar(value, now.nodes, style), Text(f"{value:,}"))
        if now.lost:
            grid.add_row(
                Text("lost", style="dim"), self._bars.bar(now.lost, now.nodes, "red"), Text(f"{now.lost:,}", "red")
            )
        return grid

    def _pools(self, now: Snapshot) -> RenderableType:
        if not now.pools:
            return Text("  no node has a pool", style="dim")
        grid = Table.grid(padding=(0, 0, 0, 2))
        most = max(now.pools.values())
        for name, count in list(now.pools.items())[:_POOL_ROWS]:
            grid.add_row(Text(self._safe(name)), self._bars.bar(count, most, "blue"), Text(f"{count:,}"))
        if len(now.pools) > _POOL_ROWS:
            rest = sum(list(now.pools.values())[_POOL_ROWS:])
            grid.add_row(Text(f"{len(now.pools) - _POOL_ROWS} more pools", style="dim"), Text(), Text(f"{rest:,}"))
        without = now.registered - sum(now.pools.values())
        if without > 0:
            grid.add_row(Text("without a pool", style="yellow"), Text(), Text(f"{without:,}", style="yellow"))
        return grid

    def _counters(self, tally: Tally, rate: float) -> RenderableType:
        grid = Table.grid(padding=(0, 0, 0, 2))
        for name, value in (
            ("heartbeats", f"{tally.heartbeats:,} ({rate:,.1f}/s)"),
            ("registrations", f"{tally.registrations:,}"),
            ("reconnects", f"{tally.reconnects:,} (churn dropped {tally.drops:,})"),
            ("language changes", f"{tally.language_changes:,}"),
            ("to register", _times(tally.register_ms)),
            ("to change pool", _times(tally.change_ms)),
            ("errors", self._counts(tally.errors.as_dict())),
            ("failed connects", self._counts(tally.connect_errors.as_dict())),
            ("closes", self._counts(tally.closes.as_dict())),
        ):
            if value:
                grid.add_row(Text(name, style="dim"), Text(value))
        return grid

    def _counts(self, counts: Mapping[str, int]) -> str:
        return "  ".join(f"{self._safe(key)} {count:,}" for key, count in list(counts.items())[:6])

    def _last_problem(self, problem: str) -> list[RenderableType]:
        if not problem:
            return []
        return [Text(), Text(f"  last problem: {self._safe(problem)}", style="yellow")]


def _times(latencies: Latencies) -> str:
    values = latencies.as_dict()
    if not values["count"]:
        return ""
    return f"p50 {values['p50']:.1f} ms  p95 {values['p95']:.1f}  p99 {values['p99']:.1f}  max {values['max']:.1f}"
