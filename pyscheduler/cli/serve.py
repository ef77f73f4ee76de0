"""``pyscheduler serve``: run a scheduler process. Its flags are the settings, one each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

if TYPE_CHECKING:
    from pyscheduler.settings import Setting


class ServeCommand(click.RichCommand):
    """A command whose flags come from the list of settings, read when they are first needed.

    The list costs an import of the settings models, which the help of every other command would pay for too.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if len(self.params) == 1:
            from pyscheduler.settings import describe

            self.params.extend(_option(setting) for setting in describe())
        return super().get_params(ctx)


# What a first look should show; the rest is for tuning.
_EVERYDAY = frozenset(
    {
        *("redis_url", "namespace", "state_dir", "host", "port", "operator_host", "operator_port"),
        *("instance_id", "pools", "log_format", "log_level"),
    }
)


_METAVARS = {"text": "TEXT", "integer": "N", "path": "PATH", "choice": "WORD", "list": "LIST", "switch": None}


def _option(setting: Setting) -> click.Option:
    kind: Any = str
    notes = []
    flag = setting.flag
    if setting.kind == "switch":
        kind, flag = bool, f"{setting.flag}/--no-{setting.flag.removeprefix('--')}"
        notes.append(f"default: {'on' if setting.default else 'off'}")
    elif setting.kind == "choice":
        kind = click.Choice(setting.choices)
        notes.append(" or ".join(setting.choices) if len(setting.choices) < 3 else ", ".join(setting.choices))
    elif setting.kind == "integer":
        kind = click.IntRange(setting.minimum, setting.maximum)
        notes.append(f"{setting.minimum} to {setting.maximum}")
    if setting.default is not None and setting.kind != "switch":
        notes.append(f"default: {setting.default}")
    return click.RichOption(
        [flag, setting.name],
        type=kind,
        metavar=_METAVARS[setting.kind],
        # The settings model sets the default and reads the environment: it then knows which source comes first, and
        # its error names the one that was wrong.
        default=None,
        help=f"{setting.description} [{'; '.join(notes)}]" if notes else setting.description,
        panel="Options" if setting.name in _EVERYDAY else "Tuning",
    )


@click.command(cls=ServeCommand)
@click.option_panel("Options")
@click.option(
    "--settings",
    "settings_file",
    metavar="FILE",
    envvar="PYSCHEDULER_SETTINGS",
    help="Settings file (TOML).",
)
def serve(settings_file: str | None, **flags: Any) -> int | None:
    """Run a scheduler: nodes connect to it and get their pool.

    Without a store URL it starts an embedded server in the state directory, or joins the one that runs there. Ends on
    SIGTERM or Ctrl-C.

    Each flag is also an environment variable and a key of the settings file: --operator-port is
    PYSCHEDULER_OPERATOR_PORT and operator_port. A flag comes before the environment, the environment before the file.
    """
    from pathlib import Path

    from pyscheduler.registry import process
    from pyscheduler.settings import ServeSettings

    settings = ServeSettings.load(file=Path(settings_file) if settings_file else None, flags=flags)
    return process.run(settings)
