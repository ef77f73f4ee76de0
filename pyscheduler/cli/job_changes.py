"""Commands that change jobs: they reserve slots of nodes, and say what becomes of them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import rich_click as click
from msgspec import Struct

from pyscheduler.cli import output
from pyscheduler.cli.job_options import request_options
from pyscheduler.cli.job_words import LIVE, ordered, state_text
from pyscheduler.cli.options import Command, json_option, store_options, user_name
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import clock, few, span
from pyscheduler.core import plain
from pyscheduler.core.limits import MAX_ATTEMPT

if TYPE_CHECKING:
    from rich.text import Text

    from pyscheduler.allocator import Allocator
    from pyscheduler.core.jobs import JobRequest, JobStatus, Reservation
    from pyscheduler.errors import NoNode

_LEASE_S = 60
_DAY_S = 86_400

_owner_option = click.option(
    "--owner",
    metavar="NAME",
    callback=lambda _context, _parameter, name: name or user_name(),
    help="Whose attempt it is. Your user name if not given.",
)
_lease_option = click.option(
    "--lease",
    "lease_ms",
    type=click.IntRange(1, _DAY_S),
    default=_LEASE_S,
    show_default=True,
    metavar="SECONDS",
    callback=lambda _context, _parameter, seconds: seconds * 1000,
    help="How long it holds without a word from its owner, 1 to 86400.",
)
_reason_option = click.option("--reason", default="", metavar="TEXT", help="Why, for the event.")


# --- asking for a node -----------------------------------------------------------------------------------------------


class Ask(Struct, frozen=True):
    """What a command asks for, whichever attempt it is for.

    Attributes:
        plan: say what would be reserved, and change nothing.
        wait_s: how long to wait for a node; ``None``: not at all.
    """

    request: JobRequest
    owner: str
    lease_ms: int
    plan: bool
    wait_s: float | None


def _asking(command: Command) -> Command:
    """Give a command all that asks for a node; it receives an :class:`Ask`."""

    @functools.wraps(command)
    def wrapped(
        *args: Any, request: JobRequest, owner: str, lease_ms: int, plan: bool, wait_s: float | None, **kwargs: Any
    ) -> Any:
        if plan and wait_s is not None:
            raise click.UsageError("--plan and --wait exclude each other: a plan does not wait")
        return command(*args, ask=Ask(request, owner, lease_ms, plan, wait_s), **kwargs)

    for option in (
        click.option(
            "--wait",
            "wait_s",
            type=click.FloatRange(min=0, max=_DAY_S, min_open=True),
            metavar="SECONDS",
            help="Wait so long for a node if there is none.",
        ),
        click.option("--plan", is_flag=True, help="Say what would be reserved, and change nothing."),
        _lease_option,
        _owner_option,
    ):
        wrapped = option(wrapped)
    return request_options(wrapped)


@click.command()
@click.argument("job_id", metavar="ID")
@_asking
@click.option(
    "--attempt", type=click.IntRange(1, MAX_ATTEMPT), default=1, show_default=True, metavar="N", help="Which attempt."
)
@json_option
@store_options
def reserve(store: StoreTarget, job_id: str, ask: Ask, attempt: int, as_json: bool) -> None:
    """Find a node for a job and reserve slots of it, in one step. Asked again it gives the same answer.

    The reservation lapses when its lease ends: renew it, or finish, fail or release the job before.
    """
    _show(with_allocator(store, lambda allocator: _reserve(allocator, job_id, attempt, ask)), ask, as_json)


@click.command()
@click.argument("job_id", metavar="ID")
@_asking
@click.option(
    "--after",
    type=click.IntRange(1, MAX_ATTEMPT - 1),
    metavar="N",
    help="Attempt whose place the next one takes. The latest if not given.",
)
@json_option
@store_options
def reassign(store: StoreTarget, job_id: str, ask: Ask, after: int | None, as_json: bool) -> None:
    """Get a job another node: its next attempt takes the place of the one before it, in one step.

    The node of that one is left out, unless it was released. Without a node nothing changes.
    """

    async def call(allocator: Allocator) -> Reservation:
        last = after or (await allocator.job(job_id)).attempt
        return await _reserve(allocator, job_id, last + 1, ask)

    _show(with_allocator(store, call), ask, as_json)


async def _reserve(allocator: Allocator, job_id: str, attempt: int, ask: Ask) -> Reservation:
    if ask.wait_s is None:
        return await allocator.reserve(
            job_id, ask.request, owner=ask.owner, lease_ms=ask.lease_ms, attempt=attempt, dry_run=ask.plan
        )
    with output.waiting("waiting for a node") as tell:

        def refused(error: NoNode) -> None:
            reasons = [f"{name} {count}" for name, count in ordered(error.reasons)]
            tell(f"waiting for a node: {few(reasons, separator=', ') or 'there are none'}")

        return await allocator.wait_for_slot(
            job_id,
            ask.request,
            owner=ask.owner,
            lease_ms=ask.lease_ms,
            timeout_s=ask.wait_s,
            attempt=attempt,
            on_refusal=refused,
        )


def _show(found: Reservation, ask: Ask, as_json: bool) -> None:
    if as_json:
        output.emit(plain.reservation(found, plan=ask.plan))
        return
    out = output.console()
    output.heading(out, f"job {found.job_id}", first=True)
    node = output.text(found.node_id, "bold")
    node.append(f" (epoch {found.epoch})", style="dim")
    pool = output.text(found.pool)
    pool.append(f" (version {found.version})", style="dim")
    state = state_text(found.state)
    if ask.plan:
        state = output.text("not reserved: this is a plan", "yellow")
    elif not found.fresh:
        state.append(" (it was already)", style="dim")
    lines: list[tuple[str, str | Text]] = [
        ("state", state),
        ("node", node),
        ("pool", pool),
        ("attempt", str(found.attempt)),
        ("slots", str(found.slots)),
    ]
    if not ask.plan:
        until = clock(found.lease_end_ms)
        lines += [
            ("owner", ask.owner),
            ("lease", f"{span(ask.lease_ms)}, until {until}" if found.fresh else f"until {until}"),
        ]
    output.pairs(out, lines)


# --- what owners say -------------------------------------------------------------------------------------------------


def _update(operation: str, said: str, option: Callable[[Command], Command]) -> click.Command:
    """A command by which an owner says what becomes of an attempt.

    Args:
        operation: name of the command, and of the allocator's call before ``_job``.
        said: what is said by it, for its help.
        option: what it takes besides, as the allocator's call does.
    """

    @click.command(operation, help=said)
    @click.argument("job_id", metavar="ID")
    @click.option(
        "--attempt",
        type=click.IntRange(1, MAX_ATTEMPT),
        metavar="N",
        help="Number of the attempt. The latest if not given.",
    )
    @_owner_option
    @option
    @json_option
    @store_options
    def command(store: StoreTarget, job_id: str, attempt: int | None, as_json: bool, **told: Any) -> None:
        async def call(allocator: Allocator) -> JobStatus:
            update: Callable[..., Awaitable[JobStatus]] = getattr(allocator, f"{operation}_job")
            return await update(job_id, attempt or (await allocator.job(job_id)).attempt, **told)

        _show_status(with_allocator(store, call), as_json)

    return command


def _show_status(status: JobStatus, as_json: bool) -> None:
    if as_json:
        output.emit(plain.job_status(status))
        return
    line = output.text(f"{status.job_id}: ")
    line.append_text(state_text(status.state))
    until = f"{'until' if status.state in LIVE else 'known until'} {clock(status.lease_end_ms)}"
    line.append(f" (attempt {status.attempt}, {until})", style="dim")
    output.console().print(line)


UPDATES = (
    _update("renew", "Renew the lease of a job's reservation.", _lease_option),
    _update("start", "Say that a job runs, and renew its lease.", _lease_option),
    _update("finish", "Say that a job is done: its slots are free, and it has no further attempt.", _reason_option),
    _update(
        "fail", "Say that an attempt failed: its slots are free, and the next attempt goes elsewhere.", _reason_option
    ),
    _update(
        "release",
        "Give the slots of a job back: the node was not at fault, and the next attempt may get it again.",
        _reason_option,
    ),
)
"""One for each thing that an owner may say."""
