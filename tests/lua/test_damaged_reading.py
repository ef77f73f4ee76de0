"""What is answered when something is missing from the store or spoilt in it: what is left, and no more than that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyscheduler import NodeReport
from pyscheduler.errors import StoreError
from pyscheduler.scripts import calls
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.lua.baseline import DOCUMENT, baseline, populate, with_argument
from tests.oracle import read_raw, read_state

pytestmark = pytest.mark.breaks_store

LEASE_END, LOAD, INSTANCE, HOLDS, CLASS, POOL, POOL_ID, FACTS, *MOVE, RECORD, USAGE, REASON = range(5, 21)
"""Places in the reply of explain_node."""
UNMOVED = dict(zip(MOVE, ("", "", "0", "0", ""), strict=True))

MISSING: dict[str, tuple[list[str], dict[int, str]]] = {
    "its usage": (["HDEL", "usage", "n1"], {LOAD: "0.0000", USAGE: "{}"}),
    "its lease": (["ZREM", "leases", "n1"], {LEASE_END: "0"}),
    "its record": (["HDEL", "nodes", "n1"], {INSTANCE: "", **UNMOVED, RECORD: "{}"}),
    "its class's pool": (["HDEL", "classes", "2"], {POOL: "", POOL_ID: "0"}),
    "the pool": (["HDEL", "pools", "english"], {POOL: "english", POOL_ID: "0", REASON: "below_min_nodes"}),
    "its facts": (["HDEL", "class_facts", "2"], {FACTS: "{}", REASON: "no_languages"}),
}
SPOILT: dict[str, tuple[list[str], dict[int, str]]] = {
    "its usage": (["HSET", "usage", "n1", "x"], {LOAD: "0.0000", USAGE: "{}"}),
    "its record": (["HSET", "nodes", "n1", "x"], {INSTANCE: "", **UNMOVED, RECORD: "{}"}),
    "the pool": (["HSET", "pools", "english", "x"], {POOL: "english", POOL_ID: "0", REASON: "below_min_nodes"}),
}


async def damage(cell: Cell, command: str, key: str, *arguments: object) -> None:
    await cell.store.command(command, cell.store.key(key), *arguments)


async def set_policy(cell: Cell, **members: object) -> None:
    """Changes the auto policy behind the back of every script."""
    policy = json.loads((await read_state(cell.store)).config["auto"])
    await damage(cell, "HSET", "config", "auto", json.dumps({**policy, **members}))


CASES = [("without", *case) for case in MISSING.items()] + [("with spoilt", *case) for case in SPOILT.items()]


@pytest.mark.parametrize(("how", "what", "case"), CASES, ids=[f"{how} {what}" for how, what, _ in CASES])
async def test_a_node_is_shown_without_what_is_missing(cell: Cell, how: str, what: str, case: Any) -> None:
    await populate(cell)
    await set_policy(cell, min_nodes=2)
    call = calls.explain_node(node_id="n1", decisions=False)
    before = await cell.store.run(call)
    assert before[CLASS] == "2"
    command, changed = case
    await damage(cell, *command)
    after = await cell.store.run(call)
    differing = {place: value for place, value in enumerate(after) if place != 2 and value != before[place]}
    assert differing == {place: value for place, value in changed.items() if before[place] != value}
    # The same rows in a list.
    listed = await cell.store.run(calls.list_nodes(mode="ids", pool="", offset=0, limit=9, ids=["n1"]))
    assert listed[4:] == ["1", *after[3 : HOLDS + 1], "1", *after[CLASS : FACTS + 1]]


@pytest.mark.parametrize("token", ["x", "1:2:r", "1:2:x:ab", "1:2:r:xyz", ":::"])
async def test_a_node_without_a_whole_token_is_unknown(cell: Cell, token: str) -> None:
    shown = await populate(cell)
    calls_of = baseline(shown)
    await damage(cell, "HSET", "sessions", "n1", token)
    assert await cell.store.run(calls_of["explain_node"]) == ["UNKNOWN"]
    assert await cell.store.run(calls_of["release_node"]) == ["UNKNOWN"]
    assert (await cell.store.run(calls_of["touch_nodes"]))[2] == "U"
    assert [node.node_id for node in (await cell.allocator.nodes()).nodes] == ["n2"]


async def test_a_caller_with_no_token_at_all_is_stale(cell: Cell) -> None:
    await populate(cell)
    for shown in ("", "x", "1:2:r"):
        assert (await cell.store.run(calls.touch_nodes(lease_ms=1, nodes=["n1", shown, ""])))[2] == "S"


async def test_candidates_are_shown_without_what_is_missing(cell: Cell) -> None:
    await populate(cell)
    call = calls.find_pools(src="en", tgt="zh", services=[])
    status, version, count, *row = await cell.store.run(call)
    assert (status, version, count) == ("OK", "3", "1")
    assert row[:3] == ["2", "english", "1"]
    assert row[4:] == ["1", "1"]
    await damage(cell, "HDEL", "pools", "english")
    assert (await cell.store.run(call))[3:] == ["2", "english", "0", *row[3:]]
    await damage(cell, "HDEL", "classes", "2")
    assert (await cell.store.run(call))[3:] == ["2", "", "0", *row[3:]]
    await damage(cell, "HDEL", "class_facts", "2")
    assert (await cell.store.run(call))[3:] == ["2", "", "0", "{}", *row[4:]]


async def test_a_pool_without_a_name_is_none(cell: Cell) -> None:
    await populate(cell)
    assert await cell.store.run(calls.list_nodes(mode="pool", pool="", offset=0, limit=9, ids=())) == ["NO_POOL"]


async def test_a_socket_closes_although_its_lease_and_its_class_are_lost(cell: Cell) -> None:
    call = baseline(await populate(cell))["release_node"]
    await damage(cell, "ZREM", "leases", "n1")
    await damage(cell, "HDEL", "classes", "2")
    assert await cell.store.run(call) == ["OK", "1"]
    state = await read_state(cell.store)
    assert state.leases["n1"] == 0
    assert (state.events[-1]["type"], state.events[-1]["pool"]) == ("node.released", "")


@pytest.mark.parametrize("load", ["nan", "inf", "-1", "0x10", "7", ""])
async def test_a_hold_is_lifted_whatever_load_is_stored(cell: Cell, load: str) -> None:
    """A load that is none stands for 0: one that `ready` does not take would stop the script after its first write."""
    await cell.register("a", "en")
    await cell.allocator.hold("a", owner="ops", reason="test")
    await damage(cell, "HSET", "usage", "a", f'{load} {{"cpu":1}}')
    assert (await cell.allocator.lift("a", owner="ops", reason="test")).changed
    node = await cell.allocator.node("a")
    assert (node.state.load, node.state.holds) == (0, ())
    assert await cell.store.command("ZSCORE", cell.store.key("ready"), "a") == str(node.state.node_class * 1024)


async def test_a_holder_whose_record_is_lost_is_refused_for_without_its_name(cell: Cell) -> None:
    call = with_argument(baseline(await populate(cell))["upsert_node_to_pool"], "node_id", "n1")
    call = with_argument(call, "takeover", "0")
    assert await cell.store.run(call) == ["CONFLICT", "test"]
    await damage(cell, "HDEL", "nodes", "n1")
    assert await cell.store.run(call) == ["CONFLICT", ""]


async def test_a_namespace_that_lost_its_version_is_still_there(cell: Cell) -> None:
    await damage(cell, "HDEL", "config", "version")
    assert await cell.store.run(baseline("1:1:r:ab")["open_namespace"]) == ["EXISTS", "0"]


NUMBERS = ("version", "document_version", "next_class", "next_pool", "epoch_floor", "declared_pools")
USED = {
    "bump_config_version": {"version", "document_version", "declared_pools", "next_pool"},
    "check": {"version", "document_version", "declared_pools", "next_class", "next_pool"},
    "hold_node": {"version"},
    "list_pools": {"version", "document_version"},
    "reconcile": {"version", "next_pool", "epoch_floor"},
    "upsert_node_to_pool": {"version", "next_class", "next_pool", "epoch_floor", "declared_pools"},
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("value", ["", "x", "1.5", "-1"])
async def test_a_number_of_the_configuration_that_is_none_is_named(cell: Cell, number: str, value: str) -> None:
    all_calls = baseline(await populate(cell))
    await damage(cell, "HSET", "config", number, value)
    for name, used in USED.items():
        if number in used:
            with pytest.raises(StoreError, match=f"^{number} in the configuration is no number$"):
                await cell.store.run(all_calls[name])


# --- classes and policies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["HDEL", "class_facts", "2"], ["HSET", "class_facts", "2", "x"]])
async def test_a_class_without_facts_is_one_that_no_pool_takes(cell: Cell, command: list[str]) -> None:
    await populate(cell)
    await damage(cell, *command)
    change = await cell.allocator.sync(document_of(), allow_empty=True, force=True)
    assert [(move.node_class, move.from_pool, move.to_pool) for move in change.moves] == [(2, "english", None)]


ENGLISH, ASR, GPU = {"semantic": {"contains": ["en"]}}, {"services": ["asr"]}, {"gpu": {"min_memory_gb": 24}}
STORED: list[tuple[str, dict[str, Any], bool]] = [
    ('{"semantic":["en","zh"]}', ENGLISH, True),
    ('{"semantic":["zh","en"],"services":["asr"]}', ENGLISH, True),
    ('{"semantic":["zh"],"services":["en"]}', ENGLISH, False),
    ('{"labels":{"zone":"eu"},"semantic":["en"]}', ENGLISH, True),
    ('{"labels":{"semantic":["en"]}}', ENGLISH, False),
    ('{"labels":{"semantic":["en"]},"semantic":["zh"]}', ENGLISH, False),
    ('{ "semantic" : [ "en" ] }', ENGLISH, True),
    ('{"semantic":[ "zh" , "en" ]}', ENGLISH, True),
    ('{"semantic":["en"]}\n', ENGLISH, True),
    ('{"semantic":["\\u0065n"]}', ENGLISH, True),
    ('{"semantic":["e\\u006e","zh"]}', ENGLISH, True),
    ('{"semantic":[]}', ENGLISH, False),
    ('{"semantic":["en"', ENGLISH, False),
    ('{"semantic":["en"]', ENGLISH, False),
    ('{"semantic":["en"}', ENGLISH, False),
    ('{"semantic":["en",1]}', ENGLISH, False),
    ('{"semantic":"en"}', ENGLISH, False),
    ('{"semantic":en}', ENGLISH, False),
    ('["en"]', ENGLISH, False),
    ('{"services":["asr","semantic"]}', ENGLISH, False),
    ('{"services":["asr","semantic"]}', ASR, True),
    ('{"asr":["en"],"private":true,"services":["asr"]}', ASR, True),
    ('{"gpu_memory_gb":[8,24],"semantic":["en"]}', GPU, True),
    ('{"gpu_memory_gb":[8,23],"semantic":["en"]}', GPU, False),
    ('{"gpu_memory_gb":[8, 24.5]}', GPU, True),
    ('{"gpu_memory_gb":[8,"24"]}', GPU, False),
    ('{"gpu_memory_gb":["24"]}', GPU, False),
]


@pytest.mark.parametrize(("stored", "rule", "takes"), STORED)
async def test_a_sync_reads_facts_in_whatever_form_they_are_stored(
    cell: Cell, stored: str, rule: dict[str, Any], takes: bool
) -> None:
    await cell.allocator.sync(document_of(auto={"enabled": False}))
    await cell.register("a", "zh")
    await damage(cell, "HSET", "class_facts", "1", stored)
    change = await cell.allocator.sync(document_of(pool("p", **rule), auto={"enabled": False}))
    assert [(move.node_class, move.to_pool) for move in change.moves] == ([(1, "p")] if takes else [])


async def test_the_document_in_force_mends_no_class_map(cell: Cell) -> None:
    await populate(cell)
    await damage(cell, "HSET", "classes", "2", "")
    change = await cell.allocator.sync(DOCUMENT)
    assert (change.version_after, change.moves, change.changes, change.unassigned_nodes) == (3, (), (), 1)


async def test_a_policy_changed_by_hand_is_followed_by_the_next_call(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"min_nodes": 2}))
    await cell.register("a", "en")
    await set_policy(cell, min_nodes=1)
    explained = await cell.store.run(calls.explain_node(node_id="a", decisions=False))
    assert explained[REASON] == "awaiting_reconcile"
    # Its class is the same, and is given its pool in the call that registers it again.
    again = await cell.register("a", "en", session_id="again")
    assert (again.pool, again.version) == ("en", 3)
    header, _ = (await read_state(cell.store)).nodes["a"]
    transition = header["transition"]
    assert (transition["from"], transition["to"], transition["version"]) == ("", "en", "3")


async def test_a_node_that_changes_its_class_counts_once_for_the_pool_of_its_language_set(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"min_nodes": 3}))
    await cell.register("a", facts=facts_of("en", gpu_memory_gb=(24,)))
    session = (await cell.register("b", facts=facts_of("en", gpu_memory_gb=(48,)))).session
    changed = NodeReport.of(facts_of("en", gpu_memory_gb=(80,)))
    assert (await cell.allocator.update(session, changed, lease_ms=LEASE_MS)).pool is None
    await set_policy(cell, min_nodes=2)
    changed = NodeReport.of(facts_of("en", gpu_memory_gb=(48,)))
    assert (await cell.allocator.update(session, changed, lease_ms=LEASE_MS)).pool == "en"


async def test_a_node_that_comes_from_another_language_set_counts_for_the_pool_of_its_new_one(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"min_nodes": 2}))
    await cell.register("a", "en")
    session = (await cell.register("b", "de")).session
    moved = await cell.allocator.update(session, NodeReport.of(facts_of("en")), lease_ms=LEASE_MS)
    assert moved.pool == "en"


async def test_a_pool_that_a_node_without_a_record_brings_has_no_author(cell: Cell) -> None:
    session = (await cell.register("a", "en")).session
    await damage(cell, "HDEL", "nodes", "a")
    await cell.allocator.update(session, NodeReport.of(facts_of("de")), lease_ms=LEASE_MS)
    assert (await read_state(cell.store)).config["updated_by"] == ""
    _, fields = (await read_raw(cell.store))["history"][-1]
    assert fields[2:6] == ["kind", "auto_pool_created", "author", ""]


async def test_a_class_that_the_index_alone_knows_is_in_no_pool(cell: Cell) -> None:
    await populate(cell)
    await damage(cell, "HDEL", "classes", "2")
    call = baseline("1:1:r:ab")["upsert_node_to_pool"]
    reply = await cell.store.run(with_argument(call, "facts", facts_of("en", "zh").json))
    assert (reply[0], *reply[2:5]) == ("OK", "2", "", "0")


async def test_a_language_set_may_begin_with_any_character_of_its_codes(cell: Cell) -> None:
    """Those that wait are found by reconcile in the index, from the first to the last."""
    names = [".", "0", "9", "_", "a", "z"]
    await set_policy(cell, min_nodes=2)
    for number, name in enumerate(names):
        call = with_argument(baseline("1:1:r:ab")["upsert_node_to_pool"], "node_id", f"n{number}")
        await cell.store.run(with_argument(call, "facts", json.dumps({"semantic": [name]})))
    await set_policy(cell, min_nodes=1)
    assert (await cell.reconcile()).placed_classes == len(names)


async def test_nodes_of_every_class_of_a_language_set_count_for_its_pool(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"min_nodes": 3}))
    await cell.register("a", "en")
    await cell.register("b", facts=facts_of("en", gpu_memory_gb=(80,)))
    call = calls.explain_node(node_id="a", decisions=False)
    assert (await cell.store.run(call))[REASON] == "below_min_nodes"
    await set_policy(cell, min_nodes=2)
    assert (await cell.store.run(call))[REASON] == "awaiting_reconcile"


async def test_a_policy_that_requires_nothing_may_leave_that_out(cell: Cell) -> None:
    await set_policy(cell, require_services={})
    assert (await cell.register("a", "en")).pool == "en"


async def test_a_history_that_is_lost_begins_again(cell: Cell) -> None:
    await damage(cell, "XTRIM", "history", "MAXLEN", 0)
    assert (await cell.register("a", "en")).version == 2
    assert [entry for entry, _ in (await read_raw(cell.store))["history"]] == ["2-0"]


# --- upkeep and the check ---------------------------------------------------------------------------------------------


async def test_a_lapsed_node_goes_whatever_of_it_is_left(cell: Cell) -> None:
    await populate(cell)
    await damage(cell, "HDEL", "sessions", "n1")
    await damage(cell, "ZREM", "members", "n1")
    await cell.pass_time(LEASE_MS + 1)
    before = await read_state(cell.store)
    assert (await cell.reconcile()).expired == 2
    state = await read_state(cell.store)
    assert (state.leases, state.nodes, state.usage) == ({}, {}, {})
    assert state.config["epoch_floor"] == before.sessions["n2"].split(":")[0]
    gone = [event for event in state.events if event["type"] == "node.expired"]
    # Their leases may end in the same millisecond.
    assert sorted((event["node_id"], event["class"], event["pool"], event["reason"]) for event in gone) == [
        ("n1", "0", "", "lease_lapsed"),
        ("n2", "1", "de-fr", "lease_lapsed"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["HDEL", "sessions", "a"],
        ["HSET", "sessions", "a", "1:2:r:ab"],
        ["HDEL", "classes", "1"],
        ["ZREM", "leases", "a"],
    ],
)
async def test_each_thing_that_is_wrong_with_a_node_is_counted(cell: Cell, command: list[str]) -> None:
    await cell.register("a", "en")
    await cell.register("b", "de")
    assert (await cell.reconcile()).violations == 0
    await damage(cell, *command)
    assert (await cell.reconcile()).violations == 1


async def test_a_class_in_a_pool_that_is_not_there_is_counted(cell: Cell) -> None:
    await populate(cell)
    await damage(cell, "HDEL", "pools", "english")
    assert (await cell.reconcile()).violations == 1


async def test_a_history_that_is_ahead_keeps_an_idle_pool(cell: Cell) -> None:
    await cell.register("a", "en", lease_ms=1)
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    await cell.pass_time(86_400_000)
    await damage(cell, "HSET", "config", "version", 1)
    before = await read_raw(cell.store)
    with pytest.raises(StoreError, match="the history is ahead of the config version 1"):
        await cell.reconcile()
    assert await read_raw(cell.store) == before


async def test_an_instance_whose_lease_cannot_be_read_goes(cell: Cell) -> None:
    await cell.allocator.renew_instance("good", lease_ms=LEASE_MS, info={})
    await damage(cell, "HSET", "instances", "bad", "x")
    await cell.trust_leases()
    await cell.reconcile()
    assert [instance.instance for instance in await cell.allocator.instances()] == ["good"]


async def test_the_check_says_that_the_history_is_missing(cell: Cell) -> None:
    await damage(cell, "XTRIM", "history", "MAXLEN", 0)
    assert [violation.detail for violation in (await cell.allocator.check()).violations] == [
        "the newest history entry is missing, the version is 1"
    ]


async def test_the_check_of_a_node_that_is_nearly_gone(cell: Cell) -> None:
    await populate(cell)
    for command, key in (
        ("HDEL", "sessions"),
        ("HDEL", "nodes"),
        ("HDEL", "usage"),
        ("ZREM", "leases"),
        ("ZREM", "ready"),
    ):
        await damage(cell, command, key, "n1")
    found = {violation.detail for violation in (await cell.allocator.check()).violations}
    assert found == {
        "sessions knows 1 nodes, members 2",
        "nodes knows 1 nodes, members 2",
        "usage knows 1 nodes, members 2",
        "leases knows 1 nodes, members 2",
        "job job-1 is reserved on node n1, which members lack",
        "node n1 has no session",
        "node n1 has no record",
        "node n1 is not in usage",
        "node n1 has no lease",
    }


# --- keys of a wrong type ---------------------------------------------------------------------------------------------


async def test_a_new_class_for_a_declared_pool_is_not_half_written(cell: Cell) -> None:
    """It reads the capability index for nothing else than to know that it can be written."""
    call = with_argument(baseline(await populate(cell))["upsert_node_to_pool"], "facts", '{"semantic":["en","it"]}')
    await cell.store.command("SET", cell.store.key("capabilities"), "spoilt")
    before = await read_raw_but(cell, "capabilities")
    with pytest.raises(StoreError, match="is a string, not a"):
        await cell.store.run(call)
    assert await read_raw_but(cell, "capabilities") == before


async def read_raw_but(cell: Cell, name: str) -> dict[str, str]:
    keys = [key for key in ("config", "classes", "class_facts", "class_index", "members", "nodes") if key != name]
    sha = "return redis.sha1hex(redis.call('DUMP', KEYS[1]))"
    return {key: await cell.store.command("EVAL", sha, 1, cell.store.key(key)) for key in keys}


async def test_a_damaged_pool_takes_no_new_class(cell: Cell) -> None:
    await populate(cell)
    stored = await cell.store.command("HGET", cell.store.key("pools"), "english")
    assert '"needs":"semantic:en"' in stored
    await cell.store.command("HSET", cell.store.key("pools"), "english", stored[:-1])
    assert (await cell.register("a", "en", "it")).pool == "en-it"


async def test_a_damaged_auto_pool_is_left_as_it_is(cell: Cell) -> None:
    await cell.register("a", "de", "fr")
    stored = (await cell.store.command("HGET", cell.store.key("pools"), "de-fr"))[:-1]
    await cell.store.command("HSET", cell.store.key("pools"), "de-fr", stored)
    await cell.pass_time(LEASE_MS + 1)
    assert (await cell.reconcile(brake_share=1.0)).expired == 1
    for _ in range(3):
        await cell.pass_time(24 * 3600 * 1000)
        await cell.reconcile()
    assert await cell.store.command("HGET", cell.store.key("pools"), "de-fr") == stored


@pytest.mark.parametrize("stored", ["x", "1 v 5", ""])
async def test_a_job_that_is_damaged_is_in_no_list(cell: Cell, stored: str) -> None:
    await populate(cell)
    await damage(cell, "HSET", "jobs", "job-1", stored)
    assert (await cell.allocator.jobs()).jobs == (await cell.allocator.jobs(node="n1", state="live")).jobs == ()
    assert await cell.allocator.describe_jobs(["job-1"]) == []


async def test_a_job_without_an_end_is_shown_and_has_none(cell: Cell) -> None:
    await populate(cell)
    await damage(cell, "ZREM", "due", "job-1")
    assert (await cell.allocator.jobs()).jobs == ()
    assert (await cell.allocator.job("job-1")).lease_end_ms == 0
    assert [one.lease_end_ms for one in (await cell.allocator.jobs(node="n1", state="live")).jobs] == [0]


async def test_jobs_of_a_node_whose_reservations_are_spoilt(cell: Cell) -> None:
    await populate(cell)
    await damage(cell, "HSET", "reserved", "n1", "x")
    assert (await cell.allocator.jobs(node="n1", state="live")).jobs == ()
