"""What the README and the pages tell people to type works, and what they point to is there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from pyscheduler.cli.root import commands
from pyscheduler.core.reader import load_document
from tests.e2e.processes import ServeProcess
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]
COMMANDS = commands()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- examples --------------------------------------------------------------------------------------------------------


def test_the_yaml_example_loads() -> None:
    (example,) = blocks(README, "yaml")
    document = load_document(example, source="README.md")
    assert [pool.name for pool in document.pools] == ["en-zh-large", "anything-german"]


def test_the_python_example_runs_and_prints_what_it_says(redis_url: str, namespace: str) -> None:
    (example,) = blocks(README, "python")
    here = example.replace('"redis://127.0.0.1:6379/0"', f'"{redis_url}", namespace="{namespace}"')
    assert here != example
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(here, "README.md", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().splitlines() == re.findall(r"print\(.*\)  # (.*)", example)


# --- commands --------------------------------------------------------------------------------------------------------


def command_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Every command line of a page, and whether it is complete: one in running text may stand for the command alone."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("pyscheduler "):
                yield line, True
    for inline in re.findall(r"`(pyscheduler\s[^`]+)`", text):
        yield " ".join(inline.split()), False


def parse(line: str, *, complete: bool) -> None:
    words = shlex.split(re.split(r" (?:[|>&])", line)[0], comments=True)[1:]
    if words[0] in {"--help", "--version", "COMMAND"}:
        return
    named = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    assert named is not None, f"there is no command {' '.join(words[:2])!r}"
    command, rest = COMMANDS[named], words[len(named.split()) :]
    if rest == ["--help"]:
        return
    context = click.Context(command, info_name=named)
    _, left, given = command.make_parser(context).parse_args(rest)
    assert not left
    required = [one for one in command.params if isinstance(one, click.Argument) and one.required]
    if complete:
        assert sum(isinstance(one, click.Argument) for one in given) >= len(required), "an argument is missing"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_is_one_that_there_is(page: Path) -> None:
    for line, complete in command_lines(page.read_text(encoding="utf-8")):
        try:
            parse(line, complete=complete)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_every_target_of_make_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{name_of(page)}: make {target}"


def run(line: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(line)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stderr}"
    return done.stdout


def test_the_five_minutes_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line, on an embedded server that nobody is told of; only the ports are others."""
    section = README.partition("## Five minutes")[2].partition("\n## ")[0]
    lines = [line for block in blocks(section, "sh") for line in block.splitlines()]
    assert lines[0] == "make run"
    simulate = [line for line in lines if line.startswith("pyscheduler simulate")]
    rest = [line for line in lines if line.startswith("pyscheduler ") and line not in simulate]
    assert len(simulate) == 1
    assert rest[0] == "pyscheduler pool list"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    scheduler = ServeProcess(tmp_path, "five-minutes")
    try:
        scheduler.wait_listening()
        fleet = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(simulate[0]), "--url", scheduler.url],
            stdout=subprocess.DEVNULL,
            env={**os.environ},
        )
        try:
            wait_until(
                lambda: sum(pool["ready"] for pool in json.loads(run("pyscheduler pool list --json"))) == 20,
                "twenty nodes are ready",
                deadline_s=60,
            )
            (shown,) = blocks(section, "text")
            answers = [run(line) for line in rest]
            # Twenty nodes become ready in any order, so pools are numbered in any order.
            assert sorted(re.sub(r"^ *\d+", "", line) for line in answers[0].splitlines()) == sorted(
                re.sub(r"^ *\d+", "", line) for line in shown.splitlines()
            )
            assert "13 nodes in 2 classes changed pool" in "".join(answers)
            assert answers[-1].startswith("ok:")
        finally:
            fleet.send_signal(signal.SIGINT)
            assert fleet.wait(30) == 0
        assert scheduler.terminate() == 0
    finally:
        scheduler.close()


# --- links -----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(found), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", README)}
    for page in PAGES[1:]:
        name = name_of(page)
        assert name in linked or any(name.startswith(f"{one}/") for one in linked), f"the README does not name {name}"
