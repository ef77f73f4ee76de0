"""Odd cases, each of which once would have gone unnoticed: found by putting faults into the scripts."""

from __future__ import annotations

import json

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest
from pyscheduler.errors import StoreError
from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts import calls
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.lua.baseline import baseline, populate, with_argument
from tests.oracle import read_state

SEVEN = pool("7", semantic={"contains": ["en"]})


async def test_a_pool_may_be_called_by_a_number(cell: Cell) -> None:
    """Class numbers and pool names stand in one hash, side by side."""
    await cell.allocator.sync(document_of(SEVEN, pool("1", semantic={"contains": ["de"]})))
    await cell.register("a", "en")
    await cell.register("b", "de")
    assert (await cell.allocator.check()).ok
    assert {row.name: row.nodes for row in (await cell.allocator.pools()).pools} == {"7": 1, "1": 1}
    assert [node.node_id for node in (await cell.allocator.nodes(pool="1")).nodes] == ["b"]
    assert (await cell.reconcile()).dropped_classes == 0
    change = await cell.allocator.sync(document_of(SEVEN), force=True)
    assert [(move.node_class, move.from_pool, move.to_pool) for move in change.moves] == [(2, "1", "de")]


async def test_the_number_of_a_class_is_not_taken_for_the_name_of_a_pool(cell: Cell) -> None:
    three, two = (pool(name, semantic={"contains": [code]}) for name, code in (("3", "en"), ("2", "de")))
    await cell.allocator.sync(document_of(three, two))
    for node_id, code in (("a", "en"), ("b", "de"), ("c", "fr")):
        await cell.register(node_id, code)
    assert [node.node_id for node in (await cell.allocator.nodes(pool="2")).nodes] == ["b"]


async def test_a_node_may_be_called_by_any_single_character(cell: Cell) -> None:
    names = set("AXZax09._:-")
    for name in names:
        await cell.register(name, "en")
    assert {node.node_id for node in (await cell.allocator.nodes()).nodes} == names


async def test_a_number_among_the_arguments_is_not_taken_for_the_name_of_a_node(cell: Cell) -> None:
    await cell.register("10", "en")
    reply = await cell.store.run(calls.list_nodes(mode="ids", pool="", offset=0, limit=10, ids=()))
    assert reply[4:] == ["0", "0"]


async def test_a_node_with_a_full_load_is_among_the_ready_ones_of_its_class(cell: Cell) -> None:
    for code in ("en", "de"):
        await cell.register(f"busy-{code}", code, load=1.0)
        await cell.register(f"idle-{code}", code, load=0.0)
    assert (await cell.allocator.check()).ok
    assert [(await cell.allocator.find(code, code))[0].ready for code in ("en", "de")] == [2, 2]


async def test_a_node_with_as_many_slots_reserved_as_one_may_have_is_among_the_ready_ones_of_its_class(
    cell: Cell,
) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 500}))
    for code in ("en", "de"):
        await cell.register(code, code, load=1.0)
        request = JobRequest(code, code, slots=50)
        asks = [JobAsk(f"{code}-{number}", request) for number in range(10)]
        await cell.allocator.reserve_many(asks, owner="me", lease_ms=LEASE_MS)
    assert (await read_state(cell.store)).ready == {"en": 1024 + 1000 + 1, "de": 2048 + 1000 + 1}
    assert [(await cell.allocator.find(code, code))[0].ready for code in ("en", "de")] == [1, 1]


LONG_NAME = "e" * 100
"""With it in the class map Redis keeps that as a hash table, in an order that is nobody's."""


async def test_classes_come_in_the_order_of_their_numbers(cell: Cell) -> None:
    codes = ("de", "fr", "it", "en")
    await cell.allocator.sync(document_of(pool(LONG_NAME, semantic={"any": codes})))
    names = [f"{code}{number}" for number in range(20) for code in codes]
    for name in names:
        await cell.register(name, facts=facts_of(name[:2], gpu_memory_gb=(int(name[2:]),)))
    assert [node.node_id for node in (await cell.allocator.nodes(pool=LONG_NAME)).nodes] == names
    rows = (await cell.store.run(calls.find_pools(src="en", tgt="en", services=[])))[3:]
    assert rows[::6] == [str(number) for number in range(4, 81, 4)]
    change = await cell.allocator.sync(document_of(pool("any", semantic={"any": codes})))
    assert [move.node_class for move in change.moves] == list(range(1, 81))


async def test_a_node_that_is_free_again_is_as_busy_as_it_was(cell: Cell) -> None:
    registered = await cell.register("a", "en", load=0.7)
    await cell.allocator.hold("a", owner="ops", reason="test")
    state = await read_state(cell.store)
    assert (state.ready, "!a" in state.due) == ({}, False), "without reservations nothing has to be seen to"
    await cell.allocator.lift("a", owner="ops", reason="test")
    assert (await read_state(cell.store)).ready == {"a": registered.node_class * 1024 + 0.7}


async def test_a_full_table_of_instances_has_no_place_for_the_shortest_lease(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_INSTANCES=1) as cell:
        assert await cell.store.run(calls.renew_instance(instance="a", lease_ms=LEASE_MS, info="{}")) == ["OK", "1"]
        assert await cell.store.run(calls.renew_instance(instance="a", lease_ms=LEASE_MS, info="{}")) == ["OK", "1"]
        full = ["INSTANCES_FULL", "1"]
        assert await cell.store.run(calls.renew_instance(instance="b", lease_ms=1, info="{}")) == full
        assert await cell.store.run(calls.renew_instance(instance="b", lease_ms=0, info="{}")) == ["OK", "0"]


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", KEY_NAMES)
async def test_no_key_of_somebody_else_is_adopted(cell: Cell, name: str) -> None:
    await cell.store.command("DEL", *(cell.store.key(key) for key in KEY_NAMES))
    await cell.store.command("HSET", cell.store.key(name), "theirs", "1")
    call = baseline("1:1:r:ab")["open_namespace"]
    assert await cell.store.run(call) == ["FOREIGN", cell.store.key(name)]
    assert await cell.store.command("EXISTS", *(cell.store.key(key) for key in KEY_NAMES)) == 1


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", KEY_NAMES)
async def test_the_check_looks_at_every_key(cell: Cell, name: str) -> None:
    await populate(cell)
    await cell.store.command("SET", cell.store.key(name), "spoilt")
    with pytest.raises(StoreError, match="is a string, not a"):
        await cell.allocator.check()


async def test_nodes_of_one_class_are_listed_with_one_row_for_it(cell: Cell) -> None:
    for name in ("a", "b", "c"):
        await cell.register(name, *(("de",) if name == "c" else ("en",)))
    reply = await cell.store.run(calls.list_nodes(mode="all", pool="", offset=0, limit=10, ids=()))
    assert reply[3:5] == ["3", "3"]
    assert reply[5 : 5 + 18 : 6] == ["a", "b", "c"]
    en, de = facts_of("en").json, facts_of("de").json
    assert reply[5 + 18 :] == ["2", "1", "en", "1", en, "2", "de", "2", de]


async def test_the_same_call_again_makes_no_former_session_of_its_own(cell: Cell) -> None:
    for _ in range(3):
        await cell.register("a", "en", session_id="1")
    header, _ = (await read_state(cell.store)).nodes["a"]
    assert (header["session"], header["former"]) == ("1", [])
    await cell.register("a", "en", session_id="2")
    header, _ = (await read_state(cell.store)).nodes["a"]
    assert (header["session"], header["former"]) == ("2", ["1"])


async def test_a_node_remembers_its_last_four_sessions(cell: Cell) -> None:
    for number in range(7):
        await cell.register("a", "en", session_id=f"s{number}")
    header, _ = (await read_state(cell.store)).nodes["a"]
    assert header["former"] == ["s5", "s4", "s3", "s2"]
    call = with_argument(baseline("1:1:r:ab")["upsert_node_to_pool"], "node_id", "a")
    assert await cell.store.run(with_argument(call, "session_id", "s2")) == ["STALE"]
    assert (await cell.store.run(with_argument(call, "session_id", "s1")))[0] == "OK"


async def test_a_former_session_is_known_by_its_whole_name(cell: Cell) -> None:
    names = ("a-b.c", "X", "a.b", "ab")
    for name in names:
        await cell.register("a", "en", session_id=name)
    call = with_argument(baseline("1:1:r:ab")["upsert_node_to_pool"], "node_id", "a")
    for name in names[:-1]:
        assert await cell.store.run(with_argument(call, "session_id", name)) == ["STALE"]
    for other in ("a-b", "b.c", "axb", "a-bxc", "a", "b", "."):
        assert (await cell.store.run(with_argument(call, "session_id", other)))[0] == "OK"


async def test_a_language_set_whose_name_has_128_characters_is_called_by_it(cell: Cell) -> None:
    codes = [f"{first}{second}" for first in "abcdefg" for second in "abcdefg"]
    longest = [*codes[:42], "za"]  # 43 codes of 2 and 42 dashes: 128
    assert len("-".join(longest)) == 128
    assert (await cell.register("a", *longest)).pool == "-".join(longest)
    longer = [*codes[:42], "zab"]
    assert len("-".join(longer)) == 129
    assert str((await cell.register("b", *longer)).pool).startswith("langs-43-")


async def test_pools_that_demand_the_same_are_tried_in_their_order(cell: Cell) -> None:
    """A change of the configuration files pools under what they demand: these three under one and the same."""
    for name, memory in (("small", 8), ("middle", 24), ("large", 80)):
        await cell.register(name, facts=facts_of("en", gpu_memory_gb=(memory,)))
    large, middle = (
        pool(f"from-{memory}", semantic={"contains": ["en"]}, gpu={"min_memory_gb": memory}) for memory in (80, 24)
    )
    await cell.allocator.sync(document_of(pool("rest", semantic={"contains": ["en"]}), large, middle))
    assert {name: await cell.pool_of(name) for name in ("small", "middle", "large")} == {
        "small": "rest",
        "middle": "from-24",
        "large": "from-80",
    }


@pytest.mark.breaks_store
async def test_a_history_that_was_deleted_begins_again(cell: Cell) -> None:
    await cell.allocator.sync(document_of(SEVEN))
    await cell.store.command("DEL", cell.store.key("history"))
    assert (await cell.allocator.sync(document_of(), allow_empty=True)).version_after == 3
    assert await cell.store.command("XLEN", cell.store.key("history")) == 1


@pytest.mark.breaks_store
async def test_a_node_whose_process_died_is_released_although_its_class_has_lost_its_place(cell: Cell) -> None:
    await cell.allocator.renew_instance("test", lease_ms=1, info={})
    await cell.register("a", "en", lease_ms=1)
    await cell.store.command("HDEL", cell.store.key("classes"), "1")
    await cell.pass_time(1_000)
    assert (await cell.reconcile()).released == 1
    (event,) = [one for one in await cell.allocator.events() if one.type == "node.released"]
    assert (event.pool, event.reason) == (None, "instance_lost")


@pytest.mark.parametrize("value", ['"', "\\", "/", "é"])
async def test_a_label_may_have_any_value_that_json_can_spell(cell: Cell, value: str) -> None:
    await cell.allocator.sync(document_of(pool("odd", labels={"zone": value})))
    assert (await cell.register("a", facts=facts_of("en", labels={"zone": value}))).pool == "odd"
    assert (await cell.allocator.check()).ok


async def test_a_declared_pool_that_demands_nothing_is_no_automatic_one(cell: Cell) -> None:
    """Its rule names no language, service or label, so that no class is spared being held against it."""
    auto = {"max_pools": 1, "idle_ttl": "1s"}
    await cell.allocator.sync(document_of(pool("big", gpu={"min_memory_gb": 80}), auto=auto))
    assert (await cell.register("small", "en")).pool == "en"
    assert (await cell.register("large", facts=facts_of("en", gpu_memory_gb=(80,)))).pool == "big"
    for _ in range(3):
        await cell.pass_time(LEASE_MS * 3)
        await cell.reconcile()
    assert [row.name for row in (await cell.allocator.pools()).pools] == ["big"], "the idle automatic one has gone"


async def set_most_pools(cell: Cell, most: int) -> None:
    policy = json.loads((await read_state(cell.store)).config["auto"]) | {"max_pools": most}
    await cell.store.command("HSET", cell.store.key("config"), "auto", json.dumps(policy))


async def test_the_very_first_class_may_wait_for_its_pool(cell: Cell) -> None:
    await set_most_pools(cell, 0)
    assert (await cell.register("a", "en")).node_class == 1
    assert await cell.pool_of("a") is None
    await set_most_pools(cell, 10)
    assert (await cell.reconcile()).created_pools == ("en",)
    assert await cell.pool_of("a") == "en"
    assert (await read_state(cell.store)).pools["en"]["match"] == {"languages": ["en"]}


@pytest.mark.breaks_store
async def test_upkeep_that_looks_at_one_node_a_step_looks_at_each(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.register("b", "de")
    await cell.store.command("ZREM", cell.store.key("leases"), "a")
    found = [(await cell.reconcile(scan=1)).violations for _ in range(6)]
    assert sorted(found) == [0, 0, 0, 0, 1, 1], "a round of three: the sentinel and two nodes"


@pytest.mark.breaks_store
async def test_a_lapsed_node_without_a_class_counts_for_no_class(cell: Cell) -> None:
    await cell.register("stays", "en", lease_ms=10 * LEASE_MS)
    await cell.register("goes", "en")
    await cell.store.command("ZREM", cell.store.key("members"), "goes")
    await cell.pass_time(LEASE_MS + 1)
    report = await cell.reconcile()
    assert (report.expired, report.dropped_classes) == (1, 0)
    assert (await cell.allocator.check()).ok


async def test_a_session_of_another_under_the_same_epoch_is_over(cell: Cell) -> None:
    """After a failover that lost writes two sessions may have been given one epoch: who is stored keeps the node."""
    epoch = int((await populate(cell)).split(":")[0])
    call = baseline(f"{epoch}:1:r:ab")["upsert_node_to_pool"]
    for argument, value in {"node_id": "n1", "mode": "resume", "session_id": "other"}.items():
        call = with_argument(call, argument, value)
    for shown, answer in ((epoch - 1, "STALE"), (epoch, "STALE"), (epoch + 1, "OK")):
        assert (await cell.store.run(with_argument(call, "epoch", str(shown))))[0] == answer
