"""Whole processes and real sockets: nodes that take each other's ids on different processes, operators who sync at
once, a process that is killed and replaced. What each is told has an order, as it has through the API."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyscheduler import Allocator
from pyscheduler.core.results import Event
from tests.concurrency.checking import assert_linearizable, find_fault, summary
from tests.concurrency.events import all_events
from tests.concurrency.fleet import ROOT
from tests.concurrency.history import Operation, Recorder, read_recorded
from tests.concurrency.planted import PLANTED
from tests.concurrency.sockets import DOCUMENTS, Operator, SocketNode
from tests.concurrency.test_allocator_histories import SEED
from tests.e2e.processes import ServeProcess
from tests.servers import PlainServer
from tests.support import wait_until_async

NODE_IDS = ("n1", "n2")
PROCESSES = 3
NODES = 6
SOCKETS = 8
ROUNDS = 3
FLAGS = ("--lease-ms", "600000", "--reconnect-grace-ms", "600000", "--warmup-ms", "600000")
"""No node goes by itself, however slow the machine."""

Start = Callable[[], ServeProcess]


@dataclass(frozen=True)
class Fought:
    """What was recorded, and what the store's stream says of it."""

    operations: list[Operation]
    events: list[Event]
    nodes: list[SocketNode]


@contextmanager
def processes(redis_url: str, namespace: str, folder: Path) -> Iterator[Start]:
    """Starts processes; those that still run in the end are killed."""
    started: list[ServeProcess] = []

    def start() -> ServeProcess:
        flags = ("--redis-url", redis_url, "--namespace", namespace, *FLAGS)
        started.append(ServeProcess(folder, f"serve-{len(started)}", *flags))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.close()


async def fight(start: Start, redis_url: str, namespace: str, file: Path, seed: int) -> Fought:
    """Nodes and operators at work on several processes, one of which is killed and replaced."""
    print(f"seed {seed}")
    recorder = Recorder(file)
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        started = [start() for _ in range(PROCESSES)]
        urls = [process.wait_listening().url for process in started]
        operators = [Operator(f"op{number}", allocator, recorder, NODE_IDS, seed) for number in range(3)]
        await operators[0].sync(DOCUMENTS[0], None)
        names = [f"s{number}" for number in range(NODES)]
        nodes = [SocketNode(name, urls, NODE_IDS, recorder, seed=seed, sockets=SOCKETS) for name in names]
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            operating = [group.create_task(operator.run(done)) for operator in operators]
            fighting = [group.create_task(node.run()) for node in nodes]
            half = NODES * SOCKETS // 2
            await wait_until_async(lambda: sum(len(node.told) for node in nodes) >= half, "half is done", 60)
            started[0].kill()
            # Not in this thread: the nodes go on meanwhile.
            urls[0] = (await asyncio.to_thread(start().wait_listening)).url
            await asyncio.wait(fighting)
            done.set()
            await asyncio.wait(operating)
        for node_id in NODE_IDS:
            await operators[0].look_at(node_id)
        await operators[0].read_pools()
        events = await all_events(allocator)
    recorder.close()
    operations = read_recorded([file])
    print(summary(operations))
    return Fought(operations, events, nodes)


async def test_sockets_that_fight_over_ids_have_an_order(redis_url: str, namespace: str, tmp_path: Path) -> None:
    with processes(redis_url, namespace, tmp_path) as start:
        fought = await fight(start, redis_url, namespace, tmp_path / "history.jsonl", SEED)
    assert_linearizable(fought.operations, seed=SEED)

    registers = [one for one in fought.operations if one.kind == "register"]
    reasons = Counter(event.reason for event in fought.events if event.type == "node.registered")
    acknowledged = sum(not one.is_open for one in registers)
    assert acknowledged <= reasons.total() <= len(registers)
    taken_over = sum(one.kind == "superseded" for one in fought.operations)
    assert 0 < taken_over <= reasons["takeover"] + reasons["cloned_id"]
    for node in fought.nodes:
        for session, told in node.told.items():
            versions = [message["version"] for message in told]
            assert versions == sorted(versions), f"{session} was told of an older configuration: {told}"


async def test_scripts_without_a_fence_are_found(
    make_server: Callable[[], PlainServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for name in ("pyscheduler", "lua"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in PLANTED["updates without a fence"].overrides().items():
        (tree / "lua" / name).write_text(text, encoding="utf-8")
    # The processes take the package from there, and not from the folder that the tests run in.
    monkeypatch.setenv("PYTHONPATH", str(tree))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    server = make_server()
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with processes(server.url, f"round-{number}", folder) as start:
            fought = await fight(start, server.url, f"round-{number}", folder / "history.jsonl", SEED + number)
        found = find_fault(fought.operations)
        if found is not None:
            break
    else:
        raise AssertionError(f"not found in {ROUNDS} rounds")
    print(found.text)
    assert found.subject.startswith("node"), found.text
