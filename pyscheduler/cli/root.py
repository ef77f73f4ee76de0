"""All commands put together. Importing this is what ``pyscheduler --help`` costs, so nothing heavy may be in it."""

from __future__ import annotations

import rich_click as click

import pyscheduler
from pyscheduler.cli.app import App, Later


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"pyscheduler {pyscheduler.__version__}")
        context.exit()


_HELP = {
    "theme": "default-box",
    "options_table_column_types": ["required", "opt_short", "opt_long", "metavar_short", "help"],
    "options_table_help_sections": ["help", "default", "required"],
}


@click.group(
    "pyscheduler",
    cls=App,
    # What click.rich_config sets; that imports the rich console, for commands that print without it, too.
    context_settings={"rich_help_config": _HELP},
    epilog="Exit codes: 0 done, 1 failed or violations found, 2 bad input, 3 conflict, 4 refused by a guard, "
    "5 store unreachable.",
)
@click.command_panel("Run", commands=["serve", "simulate"])
@click.command_panel("Configure", commands=["pool", "config"])
@click.command_panel("Look and act", commands=["node", "job", "events", "check"])
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def main() -> None:
    """Put GPU nodes into language pools, from one configuration that all schedulers share."""


for name, short_help in (
    ("serve", "Run a scheduler: nodes connect to it and get their pool."),
    ("simulate", "Connect a fleet of real WebSocket nodes, and let jobs run on it."),
    ("pool", "Synchronise the pool configuration, look at pools."),
    ("config", "Show the configuration document and its schema, check a file."),
    ("node", "Look at nodes, explain where they are, keep work away from them."),
    ("job", "Reserve slots of nodes for jobs, say what becomes of them, look at them."),
    ("events", "Print what happened, oldest first: each event with its reason."),
    ("check", "Check every invariant of the store in one consistent look."),
):
    main.add_command(Later(name, short_help))


def commands() -> dict[str, click.Command]:
    """Every command by its name, such as ``pool sync``, groups left out; all of them imported."""
    found: dict[str, click.Command] = {}
    for command in main.commands.values():
        loaded = command.load() if isinstance(command, Later) else command
        if isinstance(loaded, click.Group):
            found.update((f"{loaded.name} {name}", one) for name, one in loaded.commands.items())
        else:
            found[str(loaded.name)] = loaded
    return found
