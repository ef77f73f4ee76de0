"""docker-compose.yml, run: one Redis that keeps its data, two schedulers that share it, and what happens when one dies.

Needs an engine and an image of this package, named by ``PYSCHEDULER_TEST_IMAGE``; without one only the file is checked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests import engines

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("PYSCHEDULER_TEST_IMAGE", "")
UP_LIMIT_S = 120


def compose_command() -> list[str]:
    """How Compose is called here; empty where there is none."""
    bundled = Path(sys.executable).with_name("docker-compose")
    if bundled.exists():
        return [str(bundled)]
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        return [docker, "compose"]
    return []


class Stack:
    """The services of docker-compose.yml under a project name and ports of their own."""

    def __init__(self) -> None:
        self.project = f"pyscheduler-test-{uuid.uuid4().hex[:8]}"
        names = ("NODE_PORT_1", "OPERATOR_PORT_1", "NODE_PORT_2", "OPERATOR_PORT_2")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.environment = {
            **os.environ,
            **{name: str(port) for name, port in self.ports.items()},
            "REDIS_IMAGE": engines.REDIS_IMAGE,
            "PYSCHEDULER_IMAGE": IMAGE,
        }

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*compose_command(), "--project-name", self.project, "--file", str(ROOT / "docker-compose.yml"), *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"compose {' '.join(words)}: {done.stderr}\n{done.stdout}"
        return done.stdout

    def up(self) -> None:
        """Start whatever does not run, and wait until all of it is healthy."""
        self("up", "--detach", "--no-build", "--pull", "never", "--wait", "--wait-timeout", str(UP_LIMIT_S))

    def told(self, service: str, *words: str) -> Any:
        """What a command of the package says, run in one of the schedulers."""
        return json.loads(self("exec", "--no-TTY", service, "pyscheduler", *words, "--json"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


@pytest.fixture
def stack() -> Iterator[Stack]:
    if not IMAGE:
        pytest.skip("PYSCHEDULER_TEST_IMAGE names no image of this package (.ci/run builds one)")
    if not compose_command():
        pytest.skip("there is no Docker Compose here")
    if reason := engines.why_not("testcontainers"):
        pytest.skip(reason)
    started = Stack()
    try:
        started.up()
        yield started
    except AssertionError:
        print(started("logs", "--no-color", "--tail", "50"))
        raise
    finally:
        started("down", "--volumes", "--timeout", "5")


def simulated(*urls: str) -> subprocess.CompletedProcess[str]:
    doors = [word for url in urls for word in ("--url", url)]
    words = ["--nodes", "6", "--languages", "en,zh;de,en", "--duration", "2", "--id-prefix", "node-", "--json"]
    return subprocess.run(
        [sys.executable, "-m", "pyscheduler", "simulate", *doors, *words], cwd=ROOT, capture_output=True, text=True
    )


def sizes(stack: Stack, service: str) -> dict[str, int]:
    return {row["name"]: row["nodes"] for row in stack.told(service, "pool", "list")}


def test_two_schedulers_share_one_redis_and_the_death_of_any_loses_nothing(stack: Stack) -> None:
    doors = [f"ws://127.0.0.1:{stack.ports[name]}/ws/node" for name in ("NODE_PORT_1", "NODE_PORT_2")]
    fleet = simulated(*doors)
    assert fleet.returncode == 0, fleet.stderr
    # The nodes have gone, but their grace has not ended: both schedulers still show them where they were.
    assert sizes(stack, "scheduler-1") == sizes(stack, "scheduler-2") == {"en-zh": 3, "de-en": 3}
    version = stack.told("scheduler-1", "check")["version"]

    stack("kill", "--signal", "KILL", "redis", "scheduler-1")
    stack.up()

    for name in ("OPERATOR_PORT_1", "OPERATOR_PORT_2"):
        with urlopen(f"http://127.0.0.1:{stack.ports[name]}/ready", timeout=5) as answer:
            assert answer.status == 200
    after = stack.told("scheduler-2", "check")
    assert after["ok"], after
    assert after["version"] >= version
    assert stack.told("scheduler-1", "pool", "history"), "the history was kept"
    assert simulated(*doors).returncode == 0


def test_the_containers_can_do_no_more_than_they_must(stack: Stack) -> None:
    who = stack("exec", "--no-TTY", "scheduler-1", "python", "-c", "import os; print(os.getuid())")
    assert who.strip() != "0"
    listening = json.loads(stack("ps", "--format", "json", "redis").splitlines()[0])
    assert not any(port.get("PublishedPort") for port in listening["Publishers"] or ())


def test_the_file_is_valid_and_opens_nothing_to_the_world() -> None:
    command = compose_command()
    if not command:
        pytest.skip("there is no Docker Compose here")
    shown = subprocess.run([*command, "config", "--format", "json"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    services = json.loads(shown.stdout)["services"]
    assert set(services) == {"redis", "scheduler-1", "scheduler-2"}
    assert {port["host_ip"] for service in services.values() for port in service.get("ports", ())} == {"127.0.0.1"}
    assert "appendonly" in " ".join(services["redis"]["command"])
    assert services["redis"]["healthcheck"]["test"]
    assert re.search(r"^HEALTHCHECK ", (ROOT / "Dockerfile").read_text(), re.MULTILINE), "the schedulers' own"
