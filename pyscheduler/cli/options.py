"""Options that many commands share, each written down once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import rich_click as click

from pyscheduler.cli.target import StoreTarget

Command = Callable[..., Any]

_PANEL = "Store"


def store_options(command: Command) -> Command:
    """Give a command ``--redis-url --namespace --state-dir``; it receives them as ``store``, a :class:`StoreTarget`."""

    @functools.wraps(command)
    def wrapped(*args: Any, redis_url: str | None, namespace: str, state_dir: str | None, **kwargs: Any) -> Any:
        return command(*args, store=StoreTarget(redis_url or None, namespace, state_dir or None), **kwargs)

    for option in (
        click.option(
            "--state-dir",
            envvar="PYSCHEDULER_STATE_DIR",
            metavar="DIR",
            panel=_PANEL,
            help="State directory of the embedded server (PYSCHEDULER_STATE_DIR). "
            "[default: pyscheduler in $XDG_STATE_HOME or ~/.local/state]",
        ),
        click.option(
            "--namespace",
            envvar="PYSCHEDULER_NAMESPACE",
            metavar="NAME",
            default="pyscheduler",
            show_default=True,
            panel=_PANEL,
            help="Namespace (cell) within the store (PYSCHEDULER_NAMESPACE).",
        ),
        click.option(
            "--redis-url",
            envvar="PYSCHEDULER_REDIS_URL",
            metavar="URL",
            panel=_PANEL,
            help="redis://, rediss://, unix:// or redis+sentinel:// (PYSCHEDULER_REDIS_URL). Without it, the embedded "
            "server that a scheduler started in the state directory.",
        ),
    ):
        wrapped = option(wrapped)
    # A panel that is declared comes before one that is not: a command's own options first, these last.
    return click.option_panel("Options")(wrapped)


def json_option(command: Command) -> Command:
    """Give a command ``--json``; it receives ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def user_name() -> str:
    """The operating system's name of whoever runs the command, or ``unknown``."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
