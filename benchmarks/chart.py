"""Charts as SVG, by hand: lines on two logarithmic scales, and bars on one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.suite import Results

WIDTH = 960
_COLOURS = ("#2563eb", "#059669", "#d97706", "#dc2626", "#7c3aed", "#0891b2")
_INK, _GRID = "#334155", "#e2e8f0"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Args:
        name: for the legend.
        points: x and y, both above 0.
        colour: which of the colours; lines of one colour belong together.
        dashed: how it is drawn.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{_INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _page(height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13">'
    )
    background = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    heading = _text(24, 28, title, weight="bold")
    return "\n".join([head, f"<title>{escape(title)}</title>", background, heading, *parts, "</svg>"]) + "\n"


def _decades(low: float, high: float) -> range:
    return range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)


def _short(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10**power:g}"


_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 700, 74, 420


@dataclass(frozen=True, slots=True)
class _Axis:
    """From a value to a place between 0 and 1, with the values that are named."""

    place: Callable[[float], float]
    named: Sequence[tuple[float, str]]


def _logarithmic(values: Sequence[float]) -> _Axis:
    powers = _decades(min(values), max(values))
    span = powers[-1] - powers[0] or 1
    return _Axis(
        lambda value: (math.log10(value) - powers[0]) / span, [(10.0**power, _short(power)) for power in powers]
    )


def _linear(values: Sequence[float]) -> _Axis:
    step = 10 ** math.floor(math.log10(max(values)))
    step = step if max(values) >= 4 * step else step / 5
    last = math.ceil(max(values) / step) * step
    return _Axis(lambda value: value / last, [(step * at, f"{step * at:,g}") for at in range(round(last / step) + 1)])


def _plot(title: str, x_name: str, y_name: str, lines: Sequence[Line], across: _Axis, up: _Axis, *, dots: bool) -> str:
    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + across.place(x) * (_RIGHT - _LEFT), _BOTTOM - up.place(y) * (_BOTTOM - _TOP)

    parts = []
    for value, text in across.named:
        x, _ = place(value, up.named[0][0])
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_BOTTOM}" stroke="{_GRID}"/>')
        parts.append(_text(x, _BOTTOM + 20, text, anchor="middle"))
    for value, text in up.named:
        _, y = place(across.named[0][0], value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, text, anchor="end"))
    parts.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 44, x_name, anchor="middle"))
    parts.append(_text(24, _TOP - 22, y_name))
    for number, line in enumerate(lines):
        colour = _COLOURS[line.colour % len(_COLOURS)]
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        places = [place(x, y) for x, y in line.points]
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        y = _TOP + 16 + number * 22
        parts.append(f'<path d="M{_RIGHT + 16} {y - 4}h26" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(_text(_RIGHT + 50, y, line.name))
    return _page(480, title, parts)


def log_log(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """Lines over two logarithmic scales: what grows with the square root or the logarithm is told by its slope."""
    across = _logarithmic([x for line in lines for x, _ in line.points])
    up = _logarithmic([y for line in lines for _, y in line.points])
    return _plot(title, x_name, y_name, lines, across, up, dots=True)


def linear(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """Lines over two scales from 0."""
    across = _linear([x for line in lines for x, _ in line.points])
    up = _linear([y for line in lines for _, y in line.points])
    return _plot(title, x_name, y_name, lines, across, up, dots=False)


def bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """Bars in groups, over one linear scale from 0."""
    left, right, top, row = 330, 860, 52, 22
    largest = max(value for group in groups.values() for value in group.values())
    parts = [_text(left, top - 4, unit)]
    y = float(top)
    for number, (name, group) in enumerate(groups.items()):
        y += row
        parts.append(_text(24, y, name, weight="bold"))
        for label, value in group.items():
            y += row
            width = max(1.0, (right - left) * value / largest)
            colour = _COLOURS[number % len(_COLOURS)]
            parts.append(_text(left - 10, y, label, anchor="end"))
            parts.append(f'<rect x="{left}" y="{y - 12:.1f}" width="{width:.1f}" height="15" fill="{colour}"/>')
            parts.append(_text(left + width + 6, y, f"{value:,.1f}" if value < 100 else f"{value:,.0f}"))
    return _page(int(y + 24), title, parts)


# --- the charts of the page ----------------------------------------------------------------------------------------

_GROWING = (
    "the floor",
    "heartbeat, unchanged",
    "heartbeat, load and usage",
    "register",
    "move to another class",
    "configuration change",
)


def _growth(results: Results) -> Iterator[Line]:
    for colour, name in enumerate(_GROWING):
        for ending, dashed in (("", False), (", AOF", True)):
            points = []
            for row in results.rows("scripts"):
                size = row.removeprefix(f"{name}, ").removesuffix(f" nodes{ending}").replace(",", "")
                value = results.median("scripts", row, "cpu_us")
                if row.startswith(f"{name}, ") and size.isdigit() and value is not None:
                    points.append((float(size), value))
            if points:
                yield Line(name + ending, sorted(points), colour, dashed)


def _peers(results: Results) -> dict[str, dict[str, float]]:
    """CPU of the store for comparable work, in floors: ours with as many nodes as the peers have, without AOF."""

    def floors(table: str, row: str) -> float | None:
        return results.median(table, row, "floors")

    size = min((line.points[0][0] for line in _growth(results)), default=0)
    groups = {
        "heartbeat": {
            "pyscheduler, unchanged": floors("scripts", f"heartbeat, unchanged, {size:,.0f} nodes"),
            "pyscheduler, load and usage": floors("scripts", f"heartbeat, load and usage, {size:,.0f} nodes"),
            "etcd, lease kept alive": floors("etcd", "etcd: lease kept alive"),
            "ZooKeeper, set": floors("zookeeper", "ZooKeeper: set"),
        },
        "registration": {
            "pyscheduler": floors("scripts", f"register, {size:,.0f} nodes"),
            "etcd, put": floors("etcd", "etcd: put of a record"),
            "ZooKeeper, ephemeral node": floors("zookeeper", "ZooKeeper: ephemeral node made"),
        },
        "move to another class or pool": {
            "pyscheduler": floors("scripts", f"move to another class, {size:,.0f} nodes"),
            "etcd, transaction": floors("etcd", "etcd: transaction of three puts"),
            "ZooKeeper, transaction": floors("zookeeper", "ZooKeeper: transaction of two sets"),
        },
    }
    there = {
        name: {label: value for label, value in group.items() if value is not None} for name, group in groups.items()
    }
    return {name: group for name, group in there.items() if group}


def write_charts(folder: Path, results: Results) -> list[str]:
    """Draw what there are figures for; the names of the files."""
    written = {}
    lines = [line for line in _growth(results) if len(line.points) > 1]
    if lines:
        title = "CPU of the store for one operation, by the size of the fleet"
        written["performance-growth.svg"] = log_log(title, "nodes", "microseconds of CPU", lines)
    peers = _peers(results)
    if peers:
        title = "CPU of the store for comparable work, as a multiple of the floor"
        written["performance-peers.svg"] = bars(title, "times the floor, F", peers)
    if results.spreads:
        ideal = statistics.mean(next(iter(results.spreads.values())))
        spread = [
            Line(name, [(place, used) for place, used in enumerate(jobs, 1)], colour)
            for colour, (name, jobs) in enumerate(results.spreads.items())
        ]
        spread.append(Line("spread evenly", [(0, ideal), (len(spread[0].points), ideal)], len(spread), dashed=True))
        title = "Jobs of each node, by strategy"
        written["performance-spread.svg"] = linear(title, "nodes, fullest first", "jobs reserved", spread)
    echoes = {row: results.median("transports", row, "process_us") for row in results.rows("transports")}
    bare = {row: value for row, value in echoes.items() if value is not None}
    if bare:
        title = "CPU of the process for one echo of a heartbeat frame"
        written["performance-transports.svg"] = bars(title, "microseconds of CPU", {"bare echo": bare})
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    return list(written)
