"""The two faces of every answer: one JSON document for programs, tables and colours for people."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import rich_click as click

from pyscheduler.cli.text import safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

# Without a terminal nothing is cut or folded: whoever reads it has tools for long lines.
_PIPE_WIDTH = 4_000

STATUS_STYLES = {
    "ready": "green",
    "registering": "cyan",
    "degraded": "yellow",
    "draining": "magenta",
    "offline": "red",
}


def emit(document: object) -> None:
    """Print one JSON document: indented on a terminal, one line elsewhere. ASCII only, so nothing in it acts."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(document, ensure_ascii=True, indent=indent))


def emit_line(document: object) -> None:
    """Print one JSON object on one line, at once."""
    click.echo(json.dumps(document, ensure_ascii=True, separators=(",", ":")))


def console(*, stderr: bool = False) -> Console:
    """A console that never reads markup in what it is given, and folds nothing where there is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def sign(out: Console, pretty: str, plain: str) -> str:
    """``pretty`` where the output can show it."""
    return pretty if (out.encoding or "").lower().replace("-", "").startswith("utf") else plain


def text(value: str, style: str = "") -> Text:
    """Outside text as a renderable: escapes shown, markup not read."""
    from rich.text import Text

    return Text(safe(value), style=style)


def table(out: Console, *columns: str, numeric: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """A table in the house form: a rule under the headings on a terminal, bare columns elsewhere.

    Args:
        numeric: columns of numbers, to the right and never folded.
        whole: further columns that are never folded; the others give way where the terminal is narrow.
    """
    from rich import box
    from rich.table import Table

    grid = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None,
        header_style="bold",
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0) if out.is_terminal else (0, 2, 0, 0),
    )
    for column in columns:
        right = column in numeric
        grid.add_column(column, justify="right" if right else "left", no_wrap=right or column in whole, overflow="fold")
    return grid


def show(out: Console, renderable: RenderableType) -> None:
    """Print something in columns; where there is no terminal, without the blanks that fill its lines up."""
    if out.is_terminal:
        out.print(renderable)
        return
    with out.capture() as captured:
        out.print(renderable)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def row(grid: Table, *cells: str | Text) -> None:
    """Add a row; plain strings are outside text."""
    grid.add_row(*(text(cell) if isinstance(cell, str) else cell for cell in cells))


def status(value: str) -> Text:
    """A node status in its colour."""
    return text(value, STATUS_STYLES.get(value, ""))


def pool_name(value: str | None) -> Text:
    """A pool's name, or a dim word where there is none."""
    return text("unmatched", "dim italic") if value is None else text(value)


@contextlib.contextmanager
def working(description: str, *, quiet: bool = False) -> Iterator[None]:
    """Show that something is under way, on the error stream and only if that is a terminal."""
    out = console(stderr=True)
    if quiet or not out.is_terminal:
        yield
        return
    with out.status(text(description)):
        yield


@contextlib.contextmanager
def waiting(description: str) -> Iterator[Callable[[str], None]]:
    """Show what is waited for, on the error stream and only if that is a terminal. The call says it anew."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda text: None
        return
    with out.status(text(description)) as status:
        yield lambda said: status.update(text(said))


class Progress:
    """How far a long piece of work is."""

    def __init__(self) -> None:
        self.advance: Callable[[int, int | None], None] = lambda done, total: None


@contextlib.contextmanager
def progress(description: str) -> Iterator[Progress]:
    """A progress bar on the error stream, only if that is a terminal. ``advance(done, total)`` sets where it stands."""
    out = console(stderr=True)
    handle = Progress()
    if not out.is_terminal:
        yield handle
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=out, transient=True) as bar:
        task = bar.add_task(safe(description), total=None)
        handle.advance = lambda done, total: bar.update(task, completed=done, total=total)
        yield handle


def notice(message: str) -> None:
    """Something to know beside the answer, on the error stream."""
    from rich.text import Text

    console(stderr=True).print(Text.assemble(("note: ", "yellow"), text(message)), soft_wrap=True)


def heading(out: Console, title: str, *, first: bool = False) -> None:
    """A title over what follows, with an empty line before it unless it is the ``first``."""
    if not first:
        out.print()
    out.print(text(title, "bold cyan"))


def pairs(out: Console, lines: Sequence[tuple[str, str | Text]]) -> None:
    """Names and values in two columns."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in lines:
        row(grid, text(name), value)
    show(out, grid)
