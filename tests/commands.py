"""The command line on a namespace, as a test runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml

from pyscheduler.cli import main
from tests.harness import Cell

UNREACHABLE = "redis://127.0.0.1:1/0"


class Cli:
    """Runs commands on a namespace, in a thread of their own: each has its own event loop."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.environment = {"PYSCHEDULER_REDIS_URL": redis_url, "PYSCHEDULER_NAMESPACE": namespace}

    async def __call__(
        self, *arguments: str, stdin: str | bytes | None = None, exit_code: int = 0, env: dict[str, str] | None = None
    ) -> click.testing.Result:
        runner = click.testing.CliRunner(env=self.environment | (env or {}))
        result = await asyncio.to_thread(runner.invoke, main, arguments, input=stdin)
        assert result.exit_code == exit_code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    async def json(self, *arguments: str, stdin: str | None = None, exit_code: int = 0) -> Any:
        """The one document of a command under ``--json``."""
        result = await self(*arguments, "--json", stdin=stdin, exit_code=exit_code)
        assert result.stdout.isascii()
        return json.loads(result.stdout)

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The command as a process of its own, killed if the test leaves it behind."""
        with subprocess.Popen(
            [sys.executable, "-m", "pyscheduler", *arguments],
            env=os.environ | self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def cli(cell: Cell, redis_url: str, namespace: str) -> Cli:
    return Cli(redis_url, namespace)


def file_of(folder: Path, *pools: dict[str, Any], **sections: Any) -> str:
    path = folder / "pools.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "pools": list(pools), **sections}))
    return str(path)


def named(name: str, *languages: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "match": {"semantic": {"contains": list(languages)}}, **more}


def error_of(document: Any) -> Any:
    assert set(document) == {"error"}
    return document["error"]
