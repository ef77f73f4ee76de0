"""Worker processes on one namespace: started together, disturbed, waited for; and all that they recorded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyscheduler import Allocator
from pyscheduler.core.results import Event
from tests.concurrency.client import LEASE_MS, Client
from tests.concurrency.events import all_events, likely_order
from tests.concurrency.history import Operation, Recorder, read_recorded
from tests.concurrency.job_model import attempts_of
from tests.concurrency.worker import NODES, TIMEOUT_S, Plan, contenders
from tests.support import wait_until, wait_until_async

DEADLINE_S = 60.0
PAUSE_MS = round(TIMEOUT_S * 1600)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Recorded:
    """A history, the changes of pools at each version as the store has them, its events, the order of these, and what
    they say of attempts of jobs."""

    operations: list[Operation]
    changes_at: dict[int, dict[str, str]]
    events: list[Event]
    likely: list[str]
    attempts: dict[str, dict[str, str]]


class Worker:
    """A worker process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._log = Path(plan.file).with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.concurrency.worker", plan.to_json()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def wait_ready(self) -> Worker:
        def ready() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            return self._log.read_text() == "ready\n"

        wait_until(ready, f"worker {self.plan.name} is ready", DEADLINE_S)
        return self

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def is_in_the_middle(self) -> bool:
        # Two lines for each call.
        return self.ended or Path(self.plan.file).read_bytes().count(b"\n") > self.plan.clients * self.plan.operations

    def assert_good_end(self) -> None:
        assert self._process.returncode == 0, f"worker {self.plan.name}:\n{self._log.read_text()}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if not self.ended:
            self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()


@contextmanager
def running(plans: Sequence[Plan]) -> Iterator[list[Worker]]:
    """Workers that have begun, all at about the same time."""
    workers: list[Worker] = []
    try:
        for plan in plans:
            workers.append(Worker(plan))
        for worker in workers:
            worker.wait_ready()
        for worker in workers:
            worker.go()
        yield workers
    finally:
        for worker in workers:
            worker.close()


async def record(allocator: Allocator, plans: Sequence[Plan], *, kill: bool = False, disturb: bool = False) -> Recorded:
    """Runs the workers of the plans to their end, looks at everything once more, and returns what was recorded.

    Args:
        kill: end the first worker in the middle of what it does.
        disturb: flush the scripts, and pause the server for longer than a call waits, while the workers are at it.
    """
    await _begin_upkeep(allocator)
    with running(plans) as workers:
        if disturb:
            await wait_until_async(lambda: workers[-1].is_in_the_middle, "the last worker is in the middle", DEADLINE_S)
            await allocator._store.command("SCRIPT", "FLUSH")
            await allocator._store.command("CLIENT", "PAUSE", PAUSE_MS)
        if kill:
            await wait_until_async(lambda: workers[0].is_in_the_middle, "the first worker is in the middle", DEADLINE_S)
            workers[0].kill()
        await wait_until_async(lambda: all(worker.ended for worker in workers), "the workers have ended", DEADLINE_S)
        for worker in workers[1 if kill else 0 :]:
            worker.assert_good_end()
    return await _recorded(allocator, plans)


async def record_inside(allocator: Allocator, plans: Sequence[Plan]) -> Recorded:
    """The same, each plan on a connection of its own, within this process: quicker to begin."""
    await _begin_upkeep(allocator)
    async with AsyncExitStack() as stack:
        clients = [client for plan in plans for client in await stack.enter_async_context(contenders(plan))]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
    return await _recorded(allocator, plans)


async def _recorded(allocator: Allocator, plans: Sequence[Plan]) -> Recorded:
    files = [Path(plan.file) for plan in plans]
    files.append(await _look(allocator, files[0].parent / "end.jsonl"))
    history = await allocator.history(limit=1000)
    changes_at = {entry.version: {one.pool: one.change for one in entry.changes} for entry in history}
    operations, events = read_recorded(files), await all_events(allocator)
    return Recorded(operations, changes_at, events, likely_order(operations, events), attempts_of(events))


async def _begin_upkeep(allocator: Allocator) -> None:
    """Ends the time after the first step in which upkeep takes nobody away, since it had itself been away."""

    async def trusts_leases() -> bool:
        return (await allocator.reconcile(lease_ms=LEASE_MS, force=True)).suspended_ms == 0

    await allocator.reconcile(lease_ms=1, force=True)
    await wait_until_async(trusts_leases, "reconcile expires what has lapsed")


async def _look(allocator: Allocator, file: Path) -> Path:
    """Readings after the last call: the state in which the history must end."""
    recorder = Recorder(file)
    client = Client("end", allocator, recorder)
    for node in NODES:
        await client.read_node(node)
    await client.read_nodes()
    await client.read_pools()
    await client.read_document()
    await client.read_jobs()
    recorder.close()
    return file
