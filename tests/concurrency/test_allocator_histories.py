"""Processes that get in each other's way through the public API.

What each was told is what it would have been told if the calls had come one after the other, each at some instant
between its beginning and its end. The events say the same.

A seed repeats what the clients choose, not how their calls fall together: what replays a failure is the file that it
names.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from pyscheduler import Allocator
from tests.concurrency.checking import assert_linearizable, keep, summary
from tests.concurrency.events import disagreements
from tests.concurrency.fleet import record
from tests.concurrency.worker import Plan
from tests.engines import Engine
from tests.harness import assert_invariants
from tests.oracle import read_state, replay_violations

SEED = int(os.environ.get("PYSCHEDULER_TEST_SEED") or random.SystemRandom().randrange(2**32))
SOAK_S = float(os.environ.get("PYSCHEDULER_TEST_SOAK_SECONDS", "60"))
PROCESSES = 4


def plans(
    redis_url: str,
    namespace: str,
    folder: Path,
    seed: int,
    *,
    operations: int = 70,
    cuts: float = 0.0,
    planted: str = "",
) -> list[Plan]:
    def plan(number: int) -> Plan:
        file = str(folder / f"w{number}.jsonl")
        return Plan(redis_url, namespace, f"w{number}", file, seed, operations=operations, cuts=cuts, planted=planted)

    return [plan(number) for number in range(PROCESSES)]


async def run(redis_url: str, namespace: str, folder: Path, seed: int, *, cut: bool, operations: int = 70) -> str:
    """One run, checked. Returns a line that says how much happened."""
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        workers = plans(redis_url, namespace, folder, seed, operations=operations, cuts=0.04 if cut else 0.0)
        recorded = await record(allocator, workers, kill=cut, disturb=cut)
        state = await read_state(allocator._store)
    assert_linearizable(recorded.operations, recorded.changes_at, recorded.likely, recorded.attempts, seed=seed)
    wrong = disagreements(recorded.operations, recorded.events)
    assert not wrong, f"{wrong}; the history is in {keep(recorded.operations, seed=seed)}"
    assert state.events[0]["reason"] == "namespace created", "the stream has been trimmed: it cannot be replayed"
    assert replay_violations(state) == []
    assert not cut or any(one.is_open for one in recorded.operations), "no call was cut off: nothing was tried"
    return f"seed {seed}: {summary(recorded.operations)}; {len(recorded.events)} events"


async def test_calls_that_overlap_have_an_order(redis_url: str, namespace: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    print(await run(redis_url, namespace, tmp_path, SEED, cut=False))


async def test_calls_cut_off_happened_once_or_not_at_all(redis_url: str, namespace: str, tmp_path: Path) -> None:
    """Connections killed, callers that give up, a server that hangs, scripts flushed, a process killed."""
    print(f"seed {SEED}")
    print(await run(redis_url, namespace, tmp_path, SEED, cut=True))


@pytest.mark.soak
async def test_calls_have_an_order_for_long(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run after run, each with a seed and a namespace of its own, every second one with calls that are cut off."""
    end, seed, runs = time.monotonic() + SOAK_S, SEED, 0
    while time.monotonic() < end:
        namespace, folder = f"soak-{seed}", tmp_path / str(seed)
        folder.mkdir()
        try:
            line = await run(engine.url, namespace, folder, seed, cut=runs % 2 == 1, operations=150)
            await assert_invariants(engine.url, namespace)
        except BaseException:
            print(f"seed {seed}, run {runs}")
            raise
        finally:
            engine.forget(namespace)
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)
        seed, runs = seed + 1, runs + 1
