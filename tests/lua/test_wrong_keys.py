"""Keys that are not as they should be: of a wrong type, of a newer layout, or gone."""

from __future__ import annotations

import pytest

from pyscheduler.core.jobs import JobRequest
from pyscheduler.errors import StoreError
from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts import load_scripts
from tests.harness import Cell, document_of
from tests.lua.baseline import baseline, dump, populate


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", sorted(load_scripts()))
async def test_a_key_of_a_wrong_type_stops_a_script_before_it_writes(cell: Cell, name: str) -> None:
    """Redis does not undo: whatever key is spoilt, the others stay as they were."""
    for spoilt in load_scripts()[name].header.keys:
        await cell.store.command("DEL", *(cell.store.key(key) for key in KEY_NAMES))
        await cell.allocator._open_namespace()
        call = baseline(await populate(cell))[name]
        await cell.store.command("SET", cell.store.key(spoilt), "spoilt")
        before = await dump(cell)
        reply, error = [], ""
        try:
            reply = await cell.store.run(call)
        except StoreError as raised:
            error = str(raised)
        if error:
            assert f"{cell.store.key(spoilt)} is a string, not a" in error
            assert await dump(cell) == before, f"{name} wrote before it noticed that {spoilt} is of a wrong type"
        else:
            # A script that has nothing to do with the key in this call may succeed; then it must not have touched it.
            assert reply[0] in ("OK", "EXISTS"), (spoilt, reply)
            assert await cell.store.command("GET", cell.store.key(spoilt)) == "spoilt"


@pytest.mark.breaks_store
@pytest.mark.parametrize(
    "spoilt", [name for name in load_scripts()["reconcile"].header.keys if name not in ("holds", "history")]
)
async def test_a_step_with_everything_to_do_stops_before_it_writes_at_a_key_of_a_wrong_type(
    cell: Cell, spoilt: str
) -> None:
    """A class goes, and a node with a job; a session is forgotten, and an instance."""
    await cell.allocator.sync(document_of(selection={"strategy": "affinity"}))
    await cell.register("a", "en", "zh")
    await cell.register("gone", "de", "fr")
    request = JobRequest("zh", "en", tenant="acme", session="talk")
    await cell.allocator.reserve("j", request, owner="me", lease_ms=60_000)
    step = baseline("1:1:r:ab")["reconcile"]
    for _ in range(2):
        await cell.store.command("ZADD", cell.store.key("leases"), "XX", "1", "gone")
        assert (await cell.store.run(step))[0] == "OK"
        await cell.store.command("HSET", cell.store.key("config"), "suspended_until", "0")
    await cell.store.command("ZADD", cell.store.key("leases"), "1", "a")
    await cell.store.command("ZADD", cell.store.key("due"), "1", "@talk")
    await cell.store.command("HSET", cell.store.key("instances"), "i9", "1 0 {}")
    await cell.store.command("SET", cell.store.key(spoilt), "spoilt")
    before = await dump(cell)
    with pytest.raises(StoreError, match=f"{spoilt} is a string"):
        await cell.store.run(step)
    assert await dump(cell) == before


@pytest.mark.breaks_store
async def test_a_newer_layout_is_refused_by_every_script(cell: Cell) -> None:
    calls = baseline(await populate(cell))
    await cell.store.command("HSET", cell.store.key("config"), "schema", "4")
    before = await dump(cell)
    for call in calls.values():
        assert await cell.store.run(call) == ["SCHEMA", "4"]
    assert await dump(cell) == before


@pytest.mark.breaks_store
async def test_a_lost_namespace_is_said_by_every_script(cell: Cell) -> None:
    calls = baseline(await populate(cell))
    await cell.store.command("DEL", *(cell.store.key(key) for key in KEY_NAMES))
    for name, call in calls.items():
        if name != "open_namespace":
            assert await cell.store.run(call) == ["NO_NAMESPACE"]
    assert await cell.store.command("EXISTS", *(cell.store.key(key) for key in KEY_NAMES)) == 0
