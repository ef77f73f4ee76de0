"""Commands that change jobs: they reserve slots of nodes, and say what becomes of them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import rich_click as click

from pyscheduler.cli import documents, output
from pyscheduler.cli.job_options import request_options
from pyscheduler.cli.job_words import STATE_STYLES, ordered
from pyscheduler.cli.options import Command, json_option, store_options, user_name
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import clock, few, span

if TYPE_CHECKING:
    from rich.text import Text

    from pyscheduler.allocator import Allocator
    from pyscheduler.core.jobs import JobRequest, JobStatus, Reservation
    from pyscheduler.errors import NoNode

_LEASE_S = 60
_DAY_S = 86_400

_owner_option = click.option("--owner", metavar="NAME", help="Whose attempt it is. Your user name if not given.")
_attempt_option = click.option(
    "--attempt", type=click.IntRange(1, 1_000_000), metavar="N", help="Number of the attempt. The latest if not given."
)
_lease_option = click.option(
    "--lease",
    "lease_s",
    type=click.IntRange(1, _DAY_S),
    default=_LEASE_S,
    show_default=True,
    metavar="SECONDS",
    help="How long it holds without a word from its owner, 1 to 86400.",
)
_reason_option = click.option("--reason", default="", metavar="TEXT", help="Why, for the event.")


def _reserving(command: Command) -> Command:
    """Give a command all that asks for a node: ``request``, ``owner``, ``lease_s``, ``plan`` and ``wait_s``."""

    @functools.wraps(command)
    def wrapped(*args: Any, plan: bool, wait_s: float | None, **kwargs: Any) -> Any:
        if plan and wait_s is not None:
            raise click.UsageError("--plan and --wait exclude each other: a plan does not wait")
        return command(*args, plan=plan, wait_s=wait_s, **kwargs)

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
@_reserving
@click.option(
    "--attempt", type=click.IntRange(1, 1_000_000), default=1, show_default=True, metavar="N", help="Which attempt."
)
@json_option
@store_options
def reserve(
    store: StoreTarget,
    job_id: str,
    request: JobRequest,
    owner: str | None,
    lease_s: int,
    plan: bool,
    wait_s: float | None,
    attempt: int,
    as_json: bool,
) -> None:
    """Find a node for a job and reserve slots of it, in one step. Asked again it gives the same answer.

    The reservation lapses when its lease ends: renew it, or finish, fail or release the job before.
    """

    async def call(allocator: Allocator) -> Reservation:
        return await _reserve(allocator, job_id, attempt, request, owner or user_name(), lease_s, plan, wait_s)

    _show(with_allocator(store, call), owner or user_name(), lease_s, plan=plan, as_json=as_json)


@click.command()
@click.argument("job_id", metavar="ID")
@_reserving
@click.option(
    "--after",
    type=click.IntRange(1, 999_999),
    metavar="N",
    help="Attempt whose place the next one takes. The latest if not given.",
)
@json_option
@store_options
def reassign(
    store: StoreTarget,
    job_id: str,
    request: JobRequest,
    owner: str | None,
    lease_s: int,
    plan: bool,
    wait_s: float | None,
    after: int | None,
    as_json: bool,
) -> None:
    """Get a job another node: its next attempt takes the place of the one before it, in one step.

    The node of that one is left out, unless it was released. Without a node nothing changes.
    """

    async def call(allocator: Allocator) -> Reservation:
        last = after or (await allocator.job(job_id)).attempt
        return await _reserve(allocator, job_id, last + 1, request, owner or user_name(), lease_s, plan, wait_s)

    _show(with_allocator(store, call), owner or user_name(), lease_s, plan=plan, as_json=as_json)


async def _reserve(
    allocator: Allocator,
    job_id: str,
    attempt: int,
    request: JobRequest,
    owner: str,
    lease_s: int,
    plan: bool,
    wait_s: float | None,
) -> Reservation:
    lease_ms = lease_s * 1000
    if wait_s is None:
        return await allocator.reserve(job_id, request, owner=owner, lease_ms=lease_ms, attempt=attempt, dry_run=plan)
    with output.waiting("waiting for a node") as tell:

        def refused(error: NoNode) -> None:
            reasons = [f"{name} {count}" for name, count in ordered(error.reasons)]
            tell(f"waiting for a node: {few(reasons, separator=', ') or 'there are none'}")

        return await allocator.wait_for_slot(
            job_id,
            request,
            owner=owner,
            lease_ms=lease_ms,
            timeout_s=wait_s,
            attempt=attempt,
            on_refusal=refused,
        )


def _show(found: Reservation, owner: str, lease_s: int, *, plan: bool, as_json: bool) -> None:
    if as_json:
        output.emit(documents.reservation(found, plan=plan))
        return
    out = output.console()
    output.heading(out, f"job {found.job_id}", first=True)
    node = output.text(found.node_id, "bold")
    node.append(f" (epoch {found.epoch})", style="dim")
    pool = output.text(found.pool)
    pool.append(f" (version {found.version})", style="dim")
    state = output.text(str(found.state), STATE_STYLES.get(str(found.state), ""))
    if plan:
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
    if not plan:
        until = clock(found.lease_end_ms)
        lines += [
            ("owner", owner),
            ("lease", f"{span(lease_s * 1000)}, until {until}" if found.fresh else f"until {until}"),
        ]
    output.pairs(out, lines)


# --- what owners say -------------------------------------------------------------------------------------------------


def _updating(
    store: StoreTarget,
    job_id: str,
    attempt: int | None,
    as_json: bool,
    said: Callable[[Allocator, int], Awaitable[JobStatus]],
) -> None:
    async def call(allocator: Allocator) -> JobStatus:
        return await said(allocator, attempt or (await allocator.job(job_id)).attempt)

    status = with_allocator(store, call)
    if as_json:
        output.emit(documents.job_status(status))
        return
    line = output.text(f"{status.job_id}: ")
    line.append_text(output.text(str(status.state), STATE_STYLES.get(str(status.state), "")))
    live = str(status.state) in ("reserved", "running")
    until = clock(status.lease_end_ms)
    line.append(f" (attempt {status.attempt}, {'until' if live else 'known until'} {until})", style="dim")
    output.console().print(line)


@click.command()
@click.argument("job_id", metavar="ID")
@_attempt_option
@_owner_option
@_lease_option
@json_option
@store_options
def renew(store: StoreTarget, job_id: str, attempt: int | None, owner: str | None, lease_s: int, as_json: bool) -> None:
    """Renew the lease of a job's reservation."""
    who = owner or user_name()
    _updating(store, job_id, attempt, as_json, lambda a, n: a.renew_job(job_id, n, owner=who, lease_ms=lease_s * 1000))


@click.command()
@click.argument("job_id", metavar="ID")
@_attempt_option
@_owner_option
@_lease_option
@json_option
@store_options
def start(store: StoreTarget, job_id: str, attempt: int | None, owner: str | None, lease_s: int, as_json: bool) -> None:
    """Say that a job runs, and renew its lease."""
    who = owner or user_name()
    _updating(store, job_id, attempt, as_json, lambda a, n: a.start_job(job_id, n, owner=who, lease_ms=lease_s * 1000))


@click.command()
@click.argument("job_id", metavar="ID")
@_attempt_option
@_owner_option
@_reason_option
@json_option
@store_options
def finish(store: StoreTarget, job_id: str, attempt: int | None, owner: str | None, reason: str, as_json: bool) -> None:
    """Say that a job is done: its slots are free, and it has no further attempt."""
    who = owner or user_name()
    _updating(store, job_id, attempt, as_json, lambda a, n: a.finish_job(job_id, n, owner=who, reason=reason))


@click.command()
@click.argument("job_id", metavar="ID")
@_attempt_option
@_owner_option
@_reason_option
@json_option
@store_options
def fail(store: StoreTarget, job_id: str, attempt: int | None, owner: str | None, reason: str, as_json: bool) -> None:
    """Say that an attempt failed: its slots are free, and the next attempt goes elsewhere."""
    who = owner or user_name()
    _updating(store, job_id, attempt, as_json, lambda a, n: a.fail_job(job_id, n, owner=who, reason=reason))


@click.command()
@click.argument("job_id", metavar="ID")
@_attempt_option
@_owner_option
@_reason_option
@json_option
@store_options
def release(
    store: StoreTarget, job_id: str, attempt: int | None, owner: str | None, reason: str, as_json: bool
) -> None:
    """Give the slots of a job back: the node was not at fault, and the next attempt may get it again."""
    who = owner or user_name()
    _updating(store, job_id, attempt, as_json, lambda a, n: a.release_job(job_id, n, owner=who, reason=reason))
