"""The live view of a stream of jobs, and its summary, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from pyscheduler.simulate.bars import Bars
from pyscheduler.simulate.job_tally import JobTally
from pyscheduler.simulate.pools import PoolLook, PoolsLook
from pyscheduler.simulate.tally import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from pyscheduler.simulate.job_summary import JobsSummary
    from pyscheduler.simulate.jobs import JobStream

_POOL_ROWS = 10
_REASON_ROWS = 6
_BAR_CELLS = 16
_NAME_CELLS = 20
_FATE_CELLS = 11
_SIDE_CELLS = 15


class JobsView:
    """Draws the pools of a fleet with the jobs in them, and what becomes of jobs: rows and columns stay in place.

    Args:
        safe: makes text from outside safe to print.
        bars: draws bars.
    """

    def __init__(self, safe: Callable[[str], str], bars: Bars) -> None:
        self._safe = safe
        self._bars = bars
        self._rates: dict[str, Rate] = {}
        self._name_cells = 0

    def pools(self, look: PoolsLook) -> RenderableType:
        """Each pool: nodes, ready ones, slots in use, and the load that its nodes report."""
        rows = list(look.pools.items())
        names = {name: self._name(name) for name, _ in rows[:_POOL_ROWS]}
        self._name_cells = max([self._name_cells, 10, *map(len, names.values())])
        grid = _grid(
            (self._name_cells, "left"), (6, "right"), (6, "right"), (_BAR_CELLS, "left"), (16, "right"), (5, "right")
        )
        heads = ("pool", "nodes", "ready", "slots in use", "", "load")
        grid.add_row(*(Text(head, style="dim") for head in heads))
        shown = [(Text(names[name]), pool) for name, pool in rows[:_POOL_ROWS]]
        if rest := [pool for _, pool in rows[_POOL_ROWS:]]:
            together = PoolLook(
                nodes=sum(pool.nodes for pool in rest),
                ready=sum(pool.ready for pool in rest),
                slots=sum(pool.slots for pool in rest),
                used=sum(pool.used for pool in rest),
                load_sum=sum(pool.load_sum for pool in rest),
            )
            shown.append((Text(f"{len(rest)} more", style="dim"), together))
        digits = max((len(f"{pool.slots:,}") for _, pool in shown), default=1)
        for name, pool in shown:
            self._pool(grid, name, pool, digits)
        grid.add_row(Text("elsewhere", style="dim"), "", "", "", Text(f"{look.elsewhere:,}", style="dim"), "")
        return grid

    def _pool(self, grid: Table, name: Text, pool: PoolLook, digits: int) -> None:
        full = pool.used >= pool.slots
        grid.add_row(
            name,
            Text(f"{pool.nodes:,}"),
            Text(f"{pool.ready:,}", style="" if pool.ready == pool.nodes else "yellow"),
            self._bars.bar(pool.used, pool.slots, "yellow" if full else "blue", _BAR_CELLS),
            Text(f"{pool.used:,} of {pool.slots:>{digits},}"),
            Text(f"{100 * pool.load:.0f} %"),
        )

    def _name(self, name: str, cells: int = _NAME_CELLS) -> str:
        shown = self._safe(name)
        return shown if len(shown) <= cells else f"{shown[: cells - 2]}.."

    def live(self, stream: JobStream) -> RenderableType:
        """What becomes of the jobs now."""
        tally, now_s = stream.tally, stream.elapsed_s
        running = sum(job.state == "running" for job in stream.under_way.values())

        def rate(name: str, count: int) -> float:
            return self._rate(name, count, now_s)

        return self._columns(tally, rate, ("under way", f"{len(stream.under_way):,} jobs, {running:,} running"))

    def line(self, stream: JobStream) -> str:
        """The jobs now, as part of a line."""
        tally, now_s = stream.tally, stream.elapsed_s
        times = tally.reserve_ms.as_dict()
        reserved = self._rate("reserved", tally.reserved, now_s)
        refused = self._rate("refused", tally.refused.total(), now_s)
        waits = f"{_ms(times['p50'])}/{_ms(times['p99'])}" if times["count"] else "-"
        return (
            f"jobs {len(stream.under_way)}  reserved {reserved:.1f}/s  refused {refused:.1f}/s  "
            f"p50/p99 {waits}  reassigned {tally.reassigned}  lost {tally.lost}  lapsed {tally.lapsed}  "
            f"job errors {tally.errors.total()}"
        )

    def _rate(self, name: str, count: int, now_s: float) -> float:
        return self._rates.setdefault(name, Rate()).look(now_s, count)

    def summary(self, summary: JobsSummary) -> RenderableType:
        """How it ended."""
        tally, elapsed_s = summary.tally, summary.elapsed_s

        def rate(_: str, count: int) -> float:
            return count / elapsed_s if elapsed_s > 0 else 0.0

        left = "unknown" if tally.left is None else f"{tally.left:,}"
        return self._columns(tally, rate, ("at the end", f"{tally.released:,} released, {left} left"))

    def verdict(self, summary: JobsSummary) -> Text:
        """Whether it ended well."""
        tally = summary.tally
        if summary.stopped:
            return Text(f"jobs stopped: {self._safe(summary.stopped)}", style="bold red")
        if tally.left is None:
            return Text("not ok: whether reservations are left is not known; they lapse", style="bold red")
        if tally.left:
            return Text(f"not ok: {tally.left:,} reservations are left; they lapse", style="bold red")
        if not summary.ok:
            return Text("not ok: no request for a node was answered", style="bold red")
        return Text(
            f"ok: {tally.reserved:,} of {tally.arrived:,} jobs got a node, no reservation is left", style="green"
        )

    def _columns(self, tally: JobTally, rate: Callable[[str, int], float], last: tuple[str, str]) -> RenderableType:
        both = Table.grid(padding=(0, 2, 0, 0))
        both.add_row(self._fates(tally, rate), self._sides(tally, rate, last))
        return both

    def _fates(self, tally: JobTally, rate: Callable[[str, int], float]) -> Table:
        grid = _counters(_FATE_CELLS)
        grid.add_row(Text("jobs", style="dim"), Text("/s", style="dim"), Text("all", style="dim"))
        for name, count, bad in (
            ("arrived", tally.arrived, ""),
            ("reserved", tally.reserved, ""),
            ("finished", tally.finished, ""),
            ("failed", tally.failed, ""),
            ("lost", tally.lost, "yellow"),
            ("lapsed", tally.lapsed, "yellow"),
            ("reassigned", tally.reassigned, ""),
            ("given up", tally.given_up, "yellow"),
        ):
            _row(grid, name, rate(name, count), count, bad if count else "")
        return grid

    def _sides(self, tally: JobTally, rate: Callable[[str, int], float], last: tuple[str, str]) -> Table:
        facts = _grid((_SIDE_CELLS, "left"), (30, "left"))
        times = tally.reserve_ms.as_dict()
        waits = f"p50 {_ms(times['p50'])}  p99 {_ms(times['p99'])}" if times["count"] else "-"
        facts.add_row(Text("to a node", style="dim"), Text(waits))
        kept, of = tally.session_kept, tally.session_kept + tally.session_moved
        facts.add_row(Text("session kept", style="dim"), Text(f"{kept:,} of {of:,}"))
        facts.add_row(Text(last[0], style="dim"), Text(last[1]))
        refusals = _counters(_SIDE_CELLS)
        refused = tally.refused.as_dict()
        _row(refusals, "refused", rate("refused", tally.refused.total()), tally.refused.total(), "")
        for name in sorted(refused)[:_REASON_ROWS]:
            _row(
                refusals,
                f"  {self._name(name, _SIDE_CELLS - 2)}",
                rate(f"refused {name}", refused[name]),
                refused[name],
                "yellow",
            )
        sides = Table.grid()
        sides.add_row(facts)
        sides.add_row(Text())
        sides.add_row(refusals)
        return sides


def _grid(*columns: tuple[int, Literal["left", "right"]]) -> Table:
    """Columns of fixed widths, two cells apart."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for width, justify in columns:
        grid.add_column(width=width, justify=justify, no_wrap=True)
    return grid


def _counters(label_cells: int) -> Table:
    return _grid((label_cells, "left"), (6, "right"), (9, "right"))


def _ms(value: float | None) -> str:
    return f"{value or 0.0:.{0 if (value or 0.0) >= 100 else 1}f} ms"


def _row(grid: Table, name: str, per_s: float, count: int, style: str) -> None:
    grid.add_row(Text(name, style="dim"), Text(f"{per_s:,.1f}"), Text(f"{count:,}", style=style))
