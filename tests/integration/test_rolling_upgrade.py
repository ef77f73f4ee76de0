"""Two releases on one namespace, as during a rolling upgrade: each runs its own scripts, and both see one state.

The older release is the scripts of this one with other text, and so other hashes, and with lower bounds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pyscheduler import Allocator
from pyscheduler.core.results import Session
from pyscheduler.errors import LimitExceeded, NotFound, SessionLost, StoreError
from pyscheduler.scripts import load_scripts
from pyscheduler.scripts.loader import lua_directory
from tests.cells import lower_limits
from tests.harness import GRACE_MS, LEASE_MS, SETTABLE_CLOCK, Cell, assert_invariants, document_of, pool
from tests.workload import Workload

MAX_CLASSES = 6
"""Of the older release; this one takes more."""

LANGUAGES = (("en", "zh"), ("de", "en"), ("en", "fr"), ("ko",), ("ja", "ko"))
NODES = [f"n{number}" for number in range(12)]
STEPS = 250


def older_release() -> dict[str, str]:
    """Overrides that make the scripts those of an older release."""
    scripts = {path.name: path.read_text(encoding="utf-8") for path in sorted(lua_directory().glob("*.lua"))}
    older = {name: text + "-- as it was in the release before\n" for name, text in scripts.items()}
    return {**SETTABLE_CLOCK, **older, **lower_limits(MAX_CLASSES=MAX_CLASSES)}


def newer_release() -> dict[str, str]:
    """Overrides that make the scripts those of a release with another layout of the keys."""
    text = (lua_directory() / "lib" / "limits.lua").read_text(encoding="utf-8")
    assert text.count("local SCHEMA = '3'") == 1
    return {**SETTABLE_CLOCK, "lib/limits.lua": text.replace("local SCHEMA = '3'", "local SCHEMA = '4'")}


@asynccontextmanager
async def opened(redis_url: str, namespace: str, overrides: dict[str, str]) -> AsyncIterator[Cell]:
    async with await Allocator.open(redis_url, namespace=namespace, script_overrides=overrides) as allocator:
        yield Cell(allocator, allocator._store)


@pytest.fixture
async def older(redis_url: str, namespace: str, cell: Cell) -> AsyncIterator[Cell]:
    async with opened(redis_url, namespace, older_release()) as older:
        yield older


async def test_the_releases_have_no_script_in_common_and_the_store_keeps_both(cell: Cell, older: Cell) -> None:
    ours = {name: script.sha for name, script in load_scripts(SETTABLE_CLOCK).items()}
    theirs = {name: script.sha for name, script in load_scripts(older_release()).items()}
    assert set(ours) == set(theirs)
    assert not set(ours.values()) & set(theirs.values())
    await cell.register("n1", "en", "zh")
    await older.register("n2", "en", "zh")
    scripts = cell.store._scripts["upsert_node_to_pool"], older.store._scripts["upsert_node_to_pool"]
    assert cell.store._link is not None
    hashes = [one.sha if cell.store._link.shebang else one.plain_sha for one in scripts]
    assert await cell.store.command("SCRIPT", "EXISTS", *hashes) == [1, 1]


async def test_a_node_changes_over_to_the_newer_release_without_leaving_its_pool(cell: Cell, older: Cell) -> None:
    first = await older.register("n1", "en", "zh", session_id="with-the-older")
    await older.allocator.release(first.session, grace_ms=GRACE_MS, reason="upgrade")
    second = await cell.register("n1", "en", "zh", session_id="with-the-newer")
    assert second.session.epoch > first.session.epoch
    assert (second.pool, second.version) == (first.pool, first.version)
    # What the older one still has in hand of this node changes nothing.
    assert not await older.allocator.release(first.session, grace_ms=0, reason="late")
    with pytest.raises(SessionLost):
        await older.allocator.heartbeat(first.session, lease_ms=1)
    assert (await cell.event_types("n1")).count("node.assigned") == 1


async def test_a_session_of_one_release_is_kept_alive_by_the_other(cell: Cell, older: Cell) -> None:
    for begins, goes_on in ((cell, older), (older, cell)):
        session = (await begins.register("n1", "en", "zh")).session
        await goes_on.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.5)
        await cell.pass_time(LEASE_MS - 1000)
        await goes_on.allocator.heartbeat(session, lease_ms=LEASE_MS)
        await cell.pass_time(LEASE_MS - 1000)
        assert (await goes_on.reconcile()).expired == 0
    await cell.pass_time(LEASE_MS)
    assert (await older.reconcile()).expired == 1


async def test_each_release_keeps_its_own_bounds(cell: Cell, older: Cell) -> None:
    for number in range(MAX_CLASSES):
        await older.register(f"n{number}", "en", f"x{'abcdefgh'[number]}")
    with pytest.raises(LimitExceeded, match=f"^{MAX_CLASSES} capability classes"):
        await older.register("more", "de", "en")
    await cell.register("more", "de", "en")
    # What is there is no business of the bound.
    await older.register("another", "de", "en")


class Steps:
    """Random work of two releases, one call after the other or two at the same time."""

    def __init__(self, cells: list[Cell], chance: random.Random) -> None:
        self._cells = cells
        self._chance = chance
        self._sessions: dict[str, Session] = {}
        self._sockets = 0
        self.done = 0

    async def step(self) -> None:
        cell = self._chance.choice(self._cells)
        work = self._chance.choices(
            [self._register, self._heartbeat, self._release, self._hold, self._sync, self._upkeep, self._flush],
            weights=[30, 30, 8, 8, 8, 8, 1],
        )[0]
        try:
            await work(cell, self._chance.choice(NODES))
        except (SessionLost, LimitExceeded, NotFound):
            return
        self.done += 1

    async def _register(self, cell: Cell, node_id: str) -> None:
        self._sockets += 1
        languages = self._chance.choice(LANGUAGES)
        self._sessions[node_id] = (
            await cell.register(node_id, *languages, session_id=f"socket-{self._sockets}")
        ).session

    async def _heartbeat(self, cell: Cell, node_id: str) -> None:
        if node_id in self._sessions:
            load = round(self._chance.random(), 2)
            await cell.allocator.heartbeat(self._sessions[node_id], lease_ms=LEASE_MS, load=load)

    async def _release(self, cell: Cell, node_id: str) -> None:
        if node_id in self._sessions:
            await cell.allocator.release(self._sessions[node_id], grace_ms=GRACE_MS, reason="random")

    async def _hold(self, cell: Cell, node_id: str) -> None:
        change: Callable[..., Awaitable[object]] = self._chance.choice([cell.allocator.hold, cell.allocator.lift])
        held = {hold.owner for hold in (await cell.allocator.node(node_id)).state.holds}
        if change == cell.allocator.hold or "ops" in held:
            await change(node_id, owner="ops", reason="random")

    async def _sync(self, cell: Cell, node_id: str) -> None:
        wanted = self._chance.choice(["en", "ko", "zh"])
        await cell.allocator.sync(document_of(pool(wanted, semantic={"contains": [wanted]})), force=True)

    async def _upkeep(self, cell: Cell, node_id: str) -> None:
        await cell.pass_time(self._chance.randrange(LEASE_MS // 2))
        assert (await cell.reconcile()).violations == 0

    async def _flush(self, cell: Cell, node_id: str) -> None:
        await cell.store.command("SCRIPT", "FLUSH")


async def test_whatever_two_releases_do_in_turn_every_invariant_holds(
    cell: Cell, older: Cell, redis_url: str, namespace: str
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    steps = Steps([cell, older], chance)
    for number in range(STEPS):
        await asyncio.gather(*(steps.step() for _ in range(chance.choice([1, 1, 2]))))
        if number % 25 == 0:
            await assert_invariants(redis_url, namespace)
            assert (await older.allocator.check()).ok
    assert steps.done > STEPS // 2


async def test_two_releases_at_work_at_the_same_time_lose_nothing(cell: Cell, older: Cell) -> None:
    async with Workload([cell.allocator, older.allocator], random.randrange(10**6)) as work:
        await work.progress(600)
    assert work.failed == []
    await work.assert_kept(older.allocator)


@pytest.mark.breaks_store
async def test_a_namespace_of_another_layout_is_refused_by_name(cell: Cell, redis_url: str, namespace: str) -> None:
    with pytest.raises(StoreError, match="layout 3"):
        async with opened(redis_url, namespace, newer_release()):
            pass
    session = (await cell.register("n1", "en", "zh")).session
    # A release that knows how turns the layout over while this one is at work.
    await cell.store.command("HSET", cell.store.key("config"), "schema", "4")
    async with opened(redis_url, namespace, newer_release()) as newer:
        before = await newer.allocator.node("n1")
        refused: list[Awaitable[object]] = [
            cell.register("n2", "en", "zh"),
            cell.allocator.heartbeat(session, lease_ms=1),
            cell.allocator.release(session, grace_ms=0, reason="late"),
            cell.allocator.sync(document_of()),
            cell.reconcile(),
            cell.allocator.pools(),
            Allocator.open(redis_url, namespace=namespace),
        ]
        for call in refused:
            with pytest.raises(StoreError, match=r"has layout 4, this version knows layout 3: upgrade pyscheduler"):
                await call
        assert (await newer.allocator.node("n1")).state.epoch == before.state.epoch
        assert (await newer.allocator.pools()).nodes == 1
