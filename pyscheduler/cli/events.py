"""``pyscheduler events``: what happened, and what happens."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import rich_click as click
from msgspec import Struct

from pyscheduler.cli import output
from pyscheduler.cli.options import store_options
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import clock
from pyscheduler.core import plain
from pyscheduler.core.results import EVENT_TYPES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from pyscheduler.allocator import Allocator
    from pyscheduler.core.results import Event

# Fields that only programs want on every line; --json has them.
_DULL = frozenset({"digest", "reported", "job_id"})

_PAGE = 1000
_POLL_S = 0.5
_ID = re.compile(r"\d{1,19}(-\d{1,19})?")
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_STYLES = {
    "node.registered": "green",
    "node.assigned": "green",
    "node.released": "yellow",
    "node.expired": "red",
    "pool.created": "cyan",
    "pool.removed": "cyan",
    "config.bumped": "bold",
    "class.remapped": "bold",
    "job.reserved": "green",
    "job.started": "green",
    "job.ended": "yellow",
    "reconcile.braked": "bold red",
}


class _Since(Struct, frozen=True):
    """Where to begin: after an entry, or at a time, at which there need be none."""

    id: str
    is_entry: bool


def _since(context: click.Context, parameter: click.Parameter, value: str | None) -> _Since | None:
    if value is None:
        return None
    if _ID.fullmatch(value):
        return _Since(value, is_entry=True)
    if match := _AGO.fullmatch(value):
        at_ms = int((time.time() - int(match[1]) * _UNIT_S[match[2]]) * 1000)
        return _Since(f"{max(0, at_ms)}-0", is_entry=False)
    raise click.BadParameter(f"{value!r} is neither an event id such as 1767225600000-0 nor a time ago such as 10m")


@click.command()
@click.option("--follow", is_flag=True, help="Go on with events as they happen, until interrupted.")
@click.option(
    "--since",
    metavar="ID",
    callback=_since,
    help="Begin after this event id, or 30s, 10m, 2h, 1d ago. Without it: with all that are kept, or with --follow, "
    "with what comes.",
)
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", type=click.Choice(EVENT_TYPES), help="Only this type; repeatable."
)
@click.option("--node", "node_id", metavar="ID", help="Only events of this node.")
@click.option("--pool", metavar="NAME", help="Only events that name this pool.")
@click.option("--job", "job_id", metavar="ID", help="Only events of this job.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@store_options
def events(
    store: StoreTarget,
    follow: bool,
    since: _Since | None,
    types: tuple[str, ...],
    node_id: str | None,
    pool: str | None,
    job_id: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print what happened, oldest first: each event with its reason.

    Types: node.registered node.assigned node.released node.expired node.status pool.created pool.removed config.bumped
    class.remapped job.reserved job.started job.ended reconcile.ran reconcile.braked.
    """
    out = output.console()

    def wanted(event: Event) -> bool:
        return (
            (not types or event.type in types)
            and (node_id is None or event.node_id == node_id)
            and (pool is None or pool in (event.pool, event.from_, event.to))
            and (job_id is None or event.fields.get("job_id") == job_id)
        )

    def show(event: Event) -> None:
        if as_json:
            output.emit_line(plain.event(event))
        else:
            out.print(_line(out, event), soft_wrap=not out.is_terminal)

    try:
        with_allocator(store, lambda allocator: _run(allocator, follow, since, limit, wanted, show))
    except KeyboardInterrupt:
        # The way to end it, not a failure.
        if not follow:
            raise


async def _run(
    allocator: Allocator,
    follow: bool,
    since: _Since | None,
    limit: int | None,
    wanted: Callable[[Event], bool],
    show: Callable[[Event], None],
) -> None:
    shown = 0
    async for event in _stream(allocator, follow, since):
        if wanted(event):
            show(event)
            shown += 1
            if shown == limit:
                return


async def _stream(allocator: Allocator, follow: bool, since: _Since | None) -> AsyncIterator[Event]:
    import asyncio

    if follow and (since is None or since.is_entry):
        async for event in allocator.follow(since=since.id if since is not None else "$"):
            yield event
        return
    last = since.id if since is not None else "-"
    while True:
        page = await allocator.events(since=last, limit=_PAGE)
        for event in page:
            yield event
        if page:
            last = page[-1].id
        if len(page) == _PAGE:
            continue
        if not follow:
            return
        if page:
            break
        # Nothing since that time, so that there is no entry to follow from yet.
        await asyncio.sleep(_POLL_S)
    async for event in allocator.follow(since=last):
        yield event


def _line(out: Console, event: Event) -> Text:
    from rich.text import Text

    line = Text.assemble(
        output.text(clock(event.at_ms), "dim"),
        "  ",
        output.text(f"{event.type:<16}", _STYLES.get(event.type, "")),
        "  ",
        output.text(f"v{event.version}", "dim"),
    )
    job_id = event.fields.get("job_id")
    subject = job_id or event.node_id or ("" if event.type.startswith("node.") else event.pool)
    if subject:
        line.append("  ").append_text(output.text(subject, "bold"))
    if job_id and event.node_id:
        line.append("  ").append_text(output.text(f"on {event.node_id}"))
    if event.from_ is not None or event.to is not None:
        arrow = output.sign(out, "→", "->")
        line.append("  ").append_text(output.text(f"{event.from_ or 'none'} {arrow} {event.to or 'none'}"))
    elif event.pool and event.pool != subject:
        line.append("  ").append_text(output.text(event.pool))
    if event.reason:
        line.append("  ").append_text(output.text(event.reason, "italic"))
    extra = " ".join(f"{key}={value}" for key, value in event.fields.items() if value and key not in _DULL)
    if extra:
        line.append("  ").append_text(output.text(extra, "dim"))
    return line
