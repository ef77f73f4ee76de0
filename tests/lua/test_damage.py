"""A store with something missing or spoilt in it: whatever it is, no script stops in the middle of its writes."""

from __future__ import annotations

import pytest

from pyscheduler.errors import StoreError
from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts.calls import Call
from tests.cells import Replica
from tests.harness import LEASE_MS, Cell, facts_of
from tests.lua.baseline import baseline, dump, populate, with_argument

FIELDS = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then return redis.call('HKEYS', KEYS[1]) end
if kind == 'zset' then return redis.call('ZRANGE', KEYS[1], 0, -1) end
return {}
"""

DAY_MS = 86_400_000

OF_JOBS = ("jobs", "due", "reserved", "tenants", "tenant_rules", "routes", "affinities")

WRITERS = (
    "bump_config_version",
    "hold_node",
    "reconcile",
    "release_node",
    "renew_instance",
    "reserve_slots",
    "touch_nodes",
    "update_jobs",
    "upsert_node_to_pool",
)


async def calls_of(cell: Cell) -> dict[str, Call]:
    """What is called on the damaged store, with much to do: every lease has lapsed, a pool has been idle for a day."""
    await cell.register("gone", "pl", lease_ms=1)
    await cell.pass_time(LEASE_MS)
    assert (await cell.reconcile()).expired == 1
    await cell.pass_time(DAY_MS)
    token = await populate(cell)
    await cell.allocator.renew_instance("i0", lease_ms=LEASE_MS, info={})
    calls = baseline(token)
    upsert = calls["upsert_node_to_pool"]
    changed = {"session_id": "", "instance": "", "mode": "update", "epoch": token.split(":")[0]}
    resumed = {"session_id": "socket-of-n1", "instance": "test", "mode": "resume", "epoch": token.split(":")[0]}
    taken_over = {"session_id": "another", "instance": "test"}
    others = (("update", changed), ("resume", resumed), ("takeover", taken_over))
    for name, arguments in others:
        call = with_argument(upsert, "node_id", "n1")
        for argument, value in arguments.items():
            call = with_argument(call, argument, value)
        calls[name] = call
    calls["known facts"] = with_argument(upsert, "facts", facts_of("en", "zh").json)
    calls["lift"] = with_argument(with_argument(calls["hold_node"], "operation", "lift"), "node_id", "n2")
    calls["reconcile"] = with_argument(calls["reconcile"], "lease_ms", str(LEASE_MS))
    await cell.register("n4", facts=facts_of("it", services=()))
    await cell.pass_time(LEASE_MS + 1)
    return calls


async def damages(cell: Cell) -> list[list[str]]:
    """Commands, each of which takes away or spoils one thing that is stored."""
    commands: list[list[str]] = [["XTRIM", cell.store.key("history"), "MAXLEN", "0"]]
    for name in KEY_NAMES:
        key = cell.store.key(name)
        if name != "config":  # the test's clock is in it, and every script reads it first
            commands.append(["SET", key, "spoilt"])
        for field in await cell.store.command("EVAL", FIELDS, 1, key):
            if field == "test_offset_ms":
                continue  # the test's clock
            if await cell.store.command("TYPE", key) == "hash":
                commands += [["HDEL", key, field], ["HSET", key, field, "x"], ["HSET", key, field, "{}"]]
            else:
                commands += [["ZREM", key, field], ["ZADD", key, "7777", field]]
    return commands


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", [name for name in KEY_NAMES if name != "config"])
async def test_a_step_that_releases_nothing_is_not_half_done(cell: Cell, name: str) -> None:
    """It reads some keys for nothing else than to know that they can be written."""
    call = with_argument(baseline(await populate(cell))["reconcile"], "lease_ms", str(LEASE_MS))
    await cell.pass_time(LEASE_MS + 1)
    # A hash that has just grown changes its order while it is read, and with it what DUMP says; a copy does not.
    await (await Replica.of(cell)).fail_over()
    await cell.store.command("SET", cell.store.key(name), "spoilt")
    before = await dump(cell)
    try:
        assert (await cell.store.run(call))[2] == "2"
        assert name in ("holds", "history", *OF_JOBS)
    except StoreError:
        assert await dump(cell) == before


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", [*WRITERS, "update", "resume", "takeover", "known facts", "lift"])
async def test_a_script_that_fails_on_a_damaged_store_has_written_nothing(cell: Cell, name: str) -> None:
    call = (await calls_of(cell))[name]
    whole = await Replica.of(cell)
    half_done = []
    for damage in await damages(cell):
        await whole.fail_over()
        await cell.store.command(*damage)
        before = await dump(cell)
        try:
            await cell.store.run(call)
        except StoreError as error:
            if await dump(cell) != before:
                half_done.append(f"after {' '.join(damage)}: {error}")
    assert half_done == []
