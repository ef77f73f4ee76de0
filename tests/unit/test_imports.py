"""What is imported before anybody has asked for it: nearly all that a start costs.

Modules rather than milliseconds: they say the same on a busy machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What makes a command line slow to start; none of it is needed to show help.
_HEAVY = {
    "asyncio",
    "prometheus_client",
    "pydantic",
    "redis",
    "rich.live",
    "rich.progress",
    "ssl",
    "starlette",
    "uvicorn",
    "uvloop",
    "websockets",
    "yaml",
}

# What a scheduler needs for a document, for a description of itself, or to be looked at: not for a start.
_LATER = {"fastapi", "structlog", "pyscheduler.core.reader", "pyscheduler.core.schema", "rich.console", "yaml"}


def _modules_after(code: str) -> set[str]:
    script = f"""
import sys
try:
    {code}
except SystemExit:
    pass
import json
print()
print(json.dumps(list(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _own(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "pyscheduler"}


def test_the_package_imports_none_of_its_modules() -> None:
    modules = _modules_after("import pyscheduler")
    assert _own(modules) == {"pyscheduler"}
    assert not modules & _HEAVY


@pytest.mark.parametrize("path", ["", "pool", "pool sync", "node explain", "events", "check", "simulate"])
def test_help_imports_little(path: str) -> None:
    # The bar is a bare group of rich_click.
    bare = _modules_after("import rich_click; rich_click.group()(lambda: None)(['--help'])")
    ours = _modules_after(f"from pyscheduler.cli import main; main({[*path.split(), '--help']!r})")
    assert not ours & _HEAVY
    more = {name for name in ours - bare if name.split(".")[0] not in ("pyscheduler", "rich", "rich_click", "click")}
    assert len(more) < 20, sorted(more)
    assert len(_own(ours)) < (8 if path == "" else 25), sorted(_own(ours))


def test_a_scheduler_starts_without_what_it_needs_later() -> None:
    assert not _modules_after("import pyscheduler.cli.serve, pyscheduler.registry.process") & _LATER


def test_a_scheduler_starts_without_building_the_answers_of_its_operator_door() -> None:
    script = (
        "from pyscheduler.registry import operator_paths as door\n"
        "models = {one for path in door.PATHS for one in (path.query, *path.answers, *path.bodies.values())}\n"
        "models -= {str, dict, door.Query}\n"
        "print([model.__name__ for model in models if model.__pydantic_complete__])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_what_a_command_imports_is_not_searched_for_garbage() -> None:
    script = (
        "import gc, io, sys\n"
        "from pyscheduler.cli import main\n"
        "done = lambda: sum(generation['collections'] for generation in gc.get_stats())\n"
        "before, sys.stdout = done(), io.StringIO()\n"
        "try:\n"
        "    main(['serve', '--help'])\n"
        "except SystemExit:\n"
        "    print(done() - before, file=sys.__stdout__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 5
