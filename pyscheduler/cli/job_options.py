"""What a job asks for, as options: the same for every command that looks for a node."""

from __future__ import annotations

import functools
from typing import Any

import rich_click as click

from pyscheduler.cli.options import Command


def _labels(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for value in values:
        key, found, text = value.partition("=")
        if not found:
            raise click.BadParameter(f"{value[:60]!r} is no label: one looks like zone=eu")
        if key in labels:
            raise click.BadParameter(f"label {key[:60]!r} is given twice")
        labels[key] = text
    return labels


def request_options(command: Command) -> Command:
    """Give a command the options of a request; it receives a :class:`~pyscheduler.core.jobs.JobRequest`."""

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        src: str,
        tgt: str,
        services: tuple[str, ...],
        tenant: str,
        session: str,
        slots: int,
        labels: dict[str, str],
        scope: str | None,
        exclude: tuple[str, ...],
        exclude_pools: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        from pyscheduler.core.jobs import JobRequest

        request = JobRequest(
            src,
            tgt,
            services,
            tenant,
            session,
            slots,
            labels,
            scope=scope or "",
            exclude=exclude,
            exclude_pools=exclude_pools,
        )
        return command(*args, request=request, **kwargs)

    for option in (
        click.option(
            "--exclude-pool", "exclude_pools", multiple=True, metavar="NAME", help="No node of this pool; repeatable."
        ),
        click.option("--exclude", multiple=True, metavar="NODE", help="Not this node; repeatable."),
        click.option(
            "--scope",
            type=click.Choice(("eligible", "exact")),
            help="Any node that can serve it, or those of exactly its languages. [default: as the document says]",
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_labels,
            help="Label that the node must have; repeatable.",
        ),
        click.option(
            "--slots",
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            metavar="N",
            help="Slots of the node that it takes, 1 to 64.",
        ),
        click.option("--session", default="", metavar="NAME", help="Its session: jobs of one go to one node."),
        click.option("--tenant", default="", metavar="NAME", help="Whose job it is. Without it, it is public."),
        click.option(
            "--service", "services", multiple=True, metavar="TYPE", help="Service that must be ready; repeatable."
        ),
        click.option("--tgt", required=True, metavar="CODE", help="Language that is wanted."),
        click.option("--src", required=True, metavar="CODE", help="Language that is spoken."),
    ):
        wrapped = option(wrapped)
    return wrapped
