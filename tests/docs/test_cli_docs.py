"""docs/cli.md names every command and every option, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from pyscheduler.cli.root import commands
from pyscheduler.settings import Setting, describe

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
STORE = {"--redis-url", "--namespace", "--state-dir"}


COMMANDS = commands()
SECTIONS = {
    part.partition("\n")[0].strip(): part.partition("\n")[2] for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}


def options(command: click.Command) -> set[str]:
    params = command.get_params(click.Context(command))
    return {opt for one in params if isinstance(one, click.Option) for opt in (*one.opts, *one.secondary_opts)} - {
        "--help"
    }


def test_every_command_has_a_section_and_an_entry_in_the_table() -> None:
    assert set(COMMANDS) == set(SECTIONS) - {"What all commands share"}
    for name in COMMANDS:
        assert f"[`{name}`](#{name.replace(' ', '-')})" in PAGE.partition("\n## ")[0], name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_its_section(name: str) -> None:
    section = SECTIONS[name]
    for option in options(COMMANDS[name]) - STORE:
        assert re.search(rf"`{re.escape(option)}[` ]", section), f"{option} is not in the section of {name!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_section_names_an_option_that_is_not_there(name: str) -> None:
    named = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", SECTIONS[name]))
    others = {option for command in COMMANDS.values() for option in options(command)}
    for option in named - options(COMMANDS[name]):
        # Another command may be spoken of, in full.
        assert option in others, f"{option} in the section of {name!r}"


def test_the_store_options_are_described_once_for_all() -> None:
    shared = SECTIONS["What all commands share"]
    for option in STORE:
        assert f"`{option} " in shared
        assert f"`PYSCHEDULER_{option.removeprefix('--').replace('-', '_').upper()}`" in shared


def _flags(setting: Setting) -> str:
    both = (setting.flag, f"--no-{setting.flag.removeprefix('--')}")
    return ", ".join(f"`{flag}`" for flag in (both if setting.kind == "switch" else both[:1]))


def _default(setting: Setting) -> str:
    if setting.default is None:
        return ""
    return ("on" if setting.default else "off") if setting.kind == "switch" else f"`{setting.default}`"


def test_the_settings_of_serve_are_the_ones_there_are() -> None:
    rows = [f"| {_flags(one)} | {_default(one)} | {one.description} |" for one in describe()]
    found = [line for line in SECTIONS["serve"].splitlines() if line.startswith("| `--")]
    assert found == rows, "the table should be\n" + "\n".join(rows)


def test_exit_codes_and_event_types_are_those_of_the_code() -> None:
    from pyscheduler import errors
    from pyscheduler.core.results import EVENT_TYPES

    codes = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.PyschedulerError)
    }
    shared = SECTIONS["What all commands share"]
    for code in {0, 130, *codes}:
        assert re.search(rf"^\| {code} \|", shared, flags=re.MULTILINE)
    for kind in EVENT_TYPES:
        assert f"`{kind}`" in SECTIONS["events"]


def test_the_reasons_of_a_placement_are_all_explained() -> None:
    from pyscheduler.cli.rules import REASONS

    assert set(re.findall(r"^\| `(\w+)` \|", SECTIONS["node explain"], flags=re.MULTILINE)) == set(REASONS)


def test_what_is_against_a_node_has_words() -> None:
    from pyscheduler.cli.job_words import REASONS, STATE_STYLES
    from pyscheduler.core.jobs import NO_NODE_REASONS, JobState

    assert set(REASONS) == set(NO_NODE_REASONS)
    assert set(STATE_STYLES) == set(JobState)
    assert all(f"`{state}`" in SECTIONS["job list"] for state in (*JobState, "live"))
