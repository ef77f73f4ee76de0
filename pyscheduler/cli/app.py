"""The root of the command line: what every command shares in how it starts, fails and ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import rich_click as click

from pyscheduler.errors import PyschedulerError

_COLLECT_AFTER: Final = 50_000
"""New objects between two collections of garbage: at Python's 700 the imports, which leave none, have a hundred."""


class Later(click.RichCommand):
    """A command that is listed, but imported only when it is wanted: the help of all must not wait for each.

    Args:
        name: its name, and that of its module here and of the command in it.
        short_help: the first line of its help; a test holds the two together.
    """

    def __init__(self, name: str, short_help: str) -> None:
        super().__init__(name=name, help=short_help, add_help_option=False)
        self._name = name

    def load(self) -> click.Command:
        """The command itself."""
        command = getattr(import_module(f"pyscheduler.cli.{self._name}"), self._name)
        assert isinstance(command, click.Command)
        return command


class App(click.RichGroup):
    """The root group. A command returns nothing or its exit code; it fails by raising.

    Exit codes: 0 done, 1 failed or violations found, 2 bad input, 3 conflict, 4 refused by a guard, 5 store
    unreachable, 130 interrupted.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name, imported, and its own arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Later) else command, rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit. Outside ``standalone_mode`` errors are raised instead of told, as click does it."""
        if not standalone_mode:
            return super().main(
                args, prog_name, complete_var, standalone_mode=False, windows_expand_args=windows_expand_args, **extra
            )
        argv = list(sys.argv[1:] if args is None else args)
        _never_fail_to_print()
        gc.set_threshold(_COLLECT_AFTER)
        try:
            outcome = super().main(
                argv,
                prog_name or "pyscheduler",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except (PyschedulerError, click.ClickException, click.Abort, KeyboardInterrupt) as error:
            from pyscheduler.cli.failure import describe_any, tell

            told = describe_any(error)
            tell(told, as_json="--json" in argv, one_line="events" in argv)
            sys.exit(told.exit_code)
        sys.exit(outcome if isinstance(outcome, int) else 0)


def _never_fail_to_print() -> None:
    # A terminal of another encoding, or a lone surrogate in a message, must not turn an answer into a traceback.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
