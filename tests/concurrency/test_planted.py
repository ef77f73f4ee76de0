"""Ways of doing it that are not atomic, not fenced or silent, used as the real one is: each gives itself away."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.concurrency.checking import Finding, assert_linearizable, find_fault
from tests.concurrency.events import disagreements
from tests.concurrency.fleet import ROOT, Recorded, record_inside
from tests.concurrency.history import load
from tests.concurrency.planted import PLANTED, SILENT, open_allocator
from tests.concurrency.test_allocator_histories import SEED, plans
from tests.servers import PlainServer

T = TypeVar("T")

ROUNDS = 100
"""Nearly every fault shows in the first; one that shows only to a reader in between takes eight on average."""


@pytest.fixture(scope="module")
def server() -> Iterator[PlainServer]:
    """It is the checker that is tried here, so one engine is enough."""
    running = PlainServer()
    yield running.start()
    running.close()


async def recorded_with(planted: str, server: PlainServer, folder: Path, seed: int = SEED) -> Recorded:
    print(f"seed {seed}")
    namespace = f"planted-{uuid.uuid4().hex[:12]}"
    folder.mkdir(exist_ok=True)
    async with await open_allocator(server.url, namespace) as allocator:
        return await record_inside(allocator, plans(server.url, namespace, folder, seed, planted=planted))


async def until_found(look: Callable[[Recorded], T | None], planted: str, server: PlainServer, folder: Path) -> T:
    """Runs the fault until ``look`` finds something."""
    for number in range(ROUNDS):
        recorded = await recorded_with(planted, server, folder / str(number), SEED + number)
        if found := look(recorded):
            return found
    raise AssertionError(f"not found in {ROUNDS} rounds")


def checked_again(path: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.concurrency", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("planted", PLANTED)
async def test_no_order_explains_it(planted: str, server: PlainServer, tmp_path: Path) -> None:
    def look(recorded: Recorded) -> Finding | None:
        return find_fault(recorded.operations, recorded.changes_at, recorded.likely, recorded.attempts)

    found = await until_found(look, planted, server, tmp_path)
    print(found.text)
    assert "undecided" not in found.text
    assert found.subject.startswith((PLANTED[planted].subject, "everything")), found.text


@pytest.mark.parametrize("planted", SILENT)
async def test_its_events_give_it_away(planted: str, server: PlainServer, tmp_path: Path) -> None:
    def look(recorded: Recorded) -> list[str]:
        right = find_fault(recorded.operations, recorded.changes_at, recorded.likely, recorded.attempts) is None
        assert right, "what callers are told is right"
        return disagreements(recorded.operations, recorded.events)

    found = await until_found(look, planted, server, tmp_path)
    assert any(SILENT[planted].subject in text for text in found), found


async def test_the_order_of_events_is_held_against_the_clock(server: PlainServer, tmp_path: Path) -> None:
    recorded = await recorded_with("", server, tmp_path)
    assert disagreements(recorded.operations, recorded.events) == []
    assert any("comes after" in text for text in disagreements(recorded.operations, recorded.events[::-1]))


async def test_a_fault_is_kept_in_a_file_that_can_be_checked_again(server: PlainServer, tmp_path: Path) -> None:
    recorded = await recorded_with("updates without a fence", server, tmp_path)
    with pytest.raises(AssertionError) as failure:
        assert_linearizable(
            recorded.operations, recorded.changes_at, recorded.likely, recorded.attempts, keep_in=tmp_path, seed=SEED
        )
    text = str(failure.value)
    paths = [Path(path) for path in re.findall(r"^(?:history|smallest part): (.+)$", text, re.MULTILINE)]
    whole, smallest = (load(path)[0] for path in paths)
    assert load(paths[0])[1]["seed"] == SEED
    assert len(smallest) < len(whole) == len(recorded.operations)
    for path in paths:
        exit_code, output = checked_again(path)
        assert exit_code == 1, output
        assert text.splitlines()[-5] in output, "the same operation is stuck"
