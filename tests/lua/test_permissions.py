"""A user who may not write all that a script writes is refused before it writes anything.

Which commands are asked for is tried one by one in tests/crash; here each script is refused once, on every engine that
can be asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from pyscheduler.errors import StoreError
from pyscheduler.scripts import load_scripts
from pyscheduler.store import Store, StoreOptions
from tests.cells import lower_limits
from tests.harness import Cell
from tests.lua.baseline import baseline, dump, populate, reserve_call

WRITERS = [name for name, script in load_scripts().items() if "no-writes" not in script.source.splitlines()[0]]
USER, PASSWORD = "reader", "of-tests"


READING = ["+@read", "+@connection", "+@scripting", "+info", "+time", "+xinfo"]


@pytest.fixture
async def reader(cell: Cell, redis_url: str) -> AsyncIterator[Store]:
    """The namespace as a user sees it who may read only."""
    async with store_of_user(cell, redis_url, READING) as store:
        yield store


@pytest.fixture
async def keeper(cell: Cell, redis_url: str) -> AsyncIterator[Store]:
    """The namespace as a user sees it who may take nothing out of a hash. One kind of request is remembered."""
    async with store_of_user(cell, redis_url, ["+@all", "-hdel"], lower_limits(MAX_ROUTES=1)) as store:
        yield store


@asynccontextmanager
async def store_of_user(
    cell: Cell, redis_url: str, allowed: list[str], overrides: dict[str, str] | None = None
) -> AsyncIterator[Store]:
    if cell.store.engine.startswith("redis 6"):
        pytest.skip("Redis 6.2 cannot be asked for a permission")
    if not urlsplit(redis_url).scheme.startswith(("redis", "unix")) or "," in redis_url or "sentinel" in redis_url:
        pytest.skip("several servers, each with users of its own")
    await cell.store.command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", "~*", *allowed)
    scheme, _, place = redis_url.partition("://")
    url = f"{scheme}://{USER}:{PASSWORD}@{place}"
    store = await Store.open(url, cell.store.namespace, StoreOptions(), overrides)
    yield store
    await store.aclose()
    await cell.store.command("ACL", "DELUSER", USER)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "open_namespace"])
async def test_who_may_not_write_changes_nothing(cell: Cell, reader: Store, name: str) -> None:
    call = baseline(await populate(cell))[name]
    before = await dump(cell)
    with pytest.raises(StoreError, match="lacks a permission"):
        await reader.run(call)
    assert await dump(cell) == before


async def test_who_may_not_write_opens_no_namespace(cell: Cell, reader: Store) -> None:
    await cell.store.command("DEL", *(cell.store.key(key) for key in load_scripts()["open_namespace"].header.keys))
    with pytest.raises(StoreError, match="lacks a permission"):
        await reader.run(baseline("1:1:r:ab")["open_namespace"])
    assert await cell.store.command("EXISTS", cell.store.key("config"), cell.store.key("members")) == 0


async def test_a_reservation_takes_something_out_only_where_an_attempt_ends_or_a_route_is_forgotten(
    cell: Cell, keeper: Store
) -> None:
    await populate(cell)
    await cell.register("n4", "en", "zh")
    assert (await keeper.run(reserve_call("job-2")))[0] == "OK"
    before = await dump(cell)
    for call in (reserve_call("job-1", attempt=2), reserve_call("job-3", src="zh", tgt="en")):
        with pytest.raises(StoreError, match="lacks a permission"):
            await keeper.run(call)
        assert await dump(cell) == before
