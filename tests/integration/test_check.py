"""The check finds whatever is broken, and so does the oracle."""

from __future__ import annotations

import hashlib

import pytest

from pyscheduler.core.results import NodeStatus
from pyscheduler.keys import KEY_NAMES
from tests.cells import limited_cell
from tests.harness import Cell, document_of, facts_of, pool
from tests.lua.baseline import reserve_call
from tests.oracle import read_state, violations

GHOST_RECORD = "s x  0 0   0 0 \n{}"
MISLABELLED_POOL = (
    '{"id":1,"origin":"declared","needs":"asr:ja","priority":0,"rank":1,"match":{"semantic":{"contains":["en"]}}}'
)
DIGEST = hashlib.sha1(facts_of("en", "zh").json.encode()).hexdigest()

BROKEN: dict[str, tuple[list[tuple[str, ...]], set[str]]] = {
    "a node without a session": (
        [("HDEL", "sessions", "a")],
        {"1: sessions knows 1 nodes, members 2", "1: node a has no session"},
    ),
    "a node without a record": (
        [("HDEL", "nodes", "a")],
        {"1: nodes knows 1 nodes, members 2", "1: node a has no record"},
    ),
    "a node with a damaged record": ([("HSET", "nodes", "a", "{}")], {"1: node a has no record"}),
    "a node without usage": (
        [("HDEL", "usage", "a")],
        {"1: usage knows 1 nodes, members 2", "1: node a is not in usage"},
    ),
    "a node without a lease": (
        [("ZREM", "leases", "a")],
        {"1: leases knows 1 nodes, members 2", "1: node a has no lease"},
    ),
    "a node that is no member": (
        [("ZREM", "members", "a")],
        {
            "1: usage knows 2 nodes, members 1",
            "1: nodes knows 2 nodes, members 1",
            "1: sessions knows 2 nodes, members 1",
            "1: leases knows 2 nodes, members 1",
            "3: ready knows nodes that members lack",
        },
    ),
    "a ghost session": ([("HSET", "sessions", "ghost", "1:1:r:ab")], {"1: sessions knows 3 nodes, members 2"}),
    "a ghost record": ([("HSET", "nodes", "ghost", GHOST_RECORD)], {"1: nodes knows 3 nodes, members 2"}),
    "a ghost lease": ([("ZADD", "leases", "5", "ghost")], {"1: leases knows 3 nodes, members 2"}),
    "a node in a class that is not there": (
        [("ZADD", "members", "99", "a")],
        {
            "1: node a is in class 99, which does not exist",
            "3: node a: its session says class 1, members say 99",
            "3: node a is in ready under another class than in members",
        },
    ),
    "one record for another": (
        [("HDEL", "nodes", "a"), ("HSET", "nodes", "ghost", GHOST_RECORD)],
        {"1: node a has no record"},
    ),
    "a class without facts": (
        [("HDEL", "class_facts", "1")],
        {
            "2: class 1 has no facts",
            "2: class_facts knows 1 classes of 2",
            "2: the capability index has 17 entries of 7",
        },
    ),
    "a class with other facts": (
        [("HSET", "class_facts", "1", '{"asr":["ja"]}')],
        {
            "2: class 1 is not in the class index",
            "2: class 1 lacks the capability entry asr:ja:1",
            "2: class 1 lacks the capability entry set:ja:1",
            '4: class 1 maps to "en-zh", the matcher says "" (no_pool)',
            "2: the capability index has 17 entries of 9",
        },
    ),
    "a class too many in the index": ([("HSET", "class_index", "00", "1")], {"2: class_index knows 3 classes of 2"}),
    "a class that the index takes for another": (
        [("HSET", "class_index", DIGEST, "2")],
        {"2: class 1 is not in the class index"},
    ),
    "a class that is no number": (
        [("HSET", "classes", "x", "")],
        {"2: class_index knows 2 classes of 3", "2: class_facts knows 2 classes of 3"},
    ),
    "a capability too few": (
        [("ZREM", "capabilities", "semantic:en:1")],
        {"2: class 1 lacks the capability entry semantic:en:1", "2: the capability index has 16 entries of 17"},
    ),
    "a capability too many": (
        [("ZADD", "capabilities", "0", "semantic:ja:1")],
        {"2: the capability index has 18 entries of 17"},
    ),
    "one capability for another": (
        [("ZREM", "capabilities", "semantic:en:1"), ("ZADD", "capabilities", "0", "semantic:ja:1")],
        {"2: class 1 lacks the capability entry semantic:en:1"},
    ),
    "a class in a pool that is not there": (
        [("HSET", "classes", "1", "nowhere")],
        {
            "2: class 1 maps to pool nowhere, which does not exist",
            '4: class 1 maps to "nowhere", the matcher says "en-zh" (matched)',
        },
    ),
    "a class that is yet to be given out": (
        [("HSET", "config", "next_class", "2")],
        {"2: class 2 is yet to be given out"},
    ),
    "a pool that is yet to be given out": (
        [("HSET", "config", "next_pool", "3")],
        {"2: pool de has number 3, which is yet to be given out"},
    ),
    "a damaged pool": (
        [("HSET", "pools", "english", '{"id":1')],
        {"2: pool english is damaged", "4: declared pools: 0 are there, the configuration counts 1"},
    ),
    "two pools of one number": (
        [("HSET", "pools", "twin", '{"id":1,"origin":"auto","rank":0,"match":{}}')],
        {"2: pools english and twin have the same number 1"},
    ),
    "a ready node that ready lacks": (
        [("ZREM", "ready", "a")],
        {"3: node a is ready, has no hold, and is not in ready"},
    ),
    "a ready node of a class before its own": (
        [("ZADD", "ready", "1023.5", "a")],
        {"3: node a is in ready under another class than in members"},
    ),
    "a ready node of a class after its own": (
        [("ZADD", "ready", "2048", "a")],
        {"3: node a is in ready under another class than in members"},
    ),
    "a ready node of a class after its own, with a load": (
        [("ZADD", "ready", "2048.5", "a")],
        {"3: node a is in ready under another class than in members"},
    ),
    "a ready node between two classes": (
        [("ZADD", "ready", "1025.5", "a")],
        {"3: node a is in ready with a load above 1"},
    ),
    "a ready node with more slots reserved than its jobs have": (
        [("ZADD", "ready", "1026", "a")],
        {"9: node a is in ready with 1 slots reserved, its jobs have others"},
    ),
    "slots of no job": (
        [("HSET", "reserved", "a", "2")],
        {"9: node a has 2 slots reserved, its jobs have 0"},
    ),
    "a job that is not there": (
        [("HSET", "reserved", "a", "0 job-1")],
        {"10: node a names job job-1, which is not reserved on it"},
    ),
    "a tenant without a job": (
        [("HSET", "tenants", "acme", "1")],
        {"9: tenant acme has 1 slots, its jobs have 0"},
    ),
    "a damaged job": (
        [("HSET", "jobs", "job-1", "1 y 1 1 1 a english  o  ab ")],
        {"10: job job-1 is damaged"},
    ),
    "a job on a node that is not there": (
        [("HSET", "jobs", "job-1", "1 v 1 1 1 ghost english  o  ab ")],
        {
            "10: job job-1 has no end",
            "10: job job-1 is reserved on node ghost, which members lack",
            "10: node ghost does not name job job-1",
        },
    ),
    "a job of an epoch that its node has yet to have": (
        [
            ("HSET", "jobs", "job-1", f"1 v {1 << 52} 1 1 a english  o  ab "),
            ("ZADD", "due", "9000000000000", "job-1"),
            ("HSET", "reserved", "a", "1 job-1"),
            ("ZINCRBY", "ready", "2", "a"),
        ],
        {"10: job job-1 has a later epoch than its node a"},
    ),
    "a job that its node does not name": (
        [
            ("HSET", "jobs", "job-1", "1 v 1 1 1 a english  o  ab "),
            ("ZADD", "due", "9000000000000", "job-1"),
            ("HSET", "reserved", "a", "1"),
            ("ZINCRBY", "ready", "2", "a"),
        ],
        {"10: node a does not name job job-1"},
    ),
    "a tenant whose slots nobody counts": (
        [
            ("HSET", "jobs", "job-1", "1 v 1 1 1 a english acme o  ab "),
            ("ZADD", "due", "9000000000000", "job-1"),
            ("HSET", "reserved", "a", "1 job-1"),
            ("ZINCRBY", "ready", "2", "a"),
        ],
        {"9: tenant acme has slots and is not known"},
    ),
    "a tenant with other slots than its jobs have": (
        [
            ("HSET", "jobs", "job-1", "1 v 1 1 1 a english acme o  ab "),
            ("ZADD", "due", "9000000000000", "job-1"),
            ("HSET", "reserved", "a", "1 job-1"),
            ("ZINCRBY", "ready", "2", "a"),
            ("HSET", "tenants", "acme", "3"),
        ],
        {"9: tenant acme has 3 slots, its jobs have 1"},
    ),
    "a job without an end": (
        [("HSET", "jobs", "job-1", "1 f 1 1 1 a english  o  ab ")],
        {"10: job job-1 has no end"},
    ),
    "a held node that is ready": (
        [("HSET", "holds", "a", '{"ops":{"reason":"x","at":1}}')],
        {"3: node a has a hold and is in ready"},
    ),
    "a degraded node that is ready": (
        [("ZADD", "ready", "2048", "ill")],
        {"3: node ill is in ready and its status is degraded"},
    ),
    "a ghost that is ready": ([("ZADD", "ready", "1024", "ghost")], {"3: ready knows nodes that members lack"}),
    "a session of another class": (
        [("HSET", "sessions", "a", "1:2:r:ab")],
        {"3: node a: its session says class 2, members say 1"},
    ),
    "a class in no pool": (
        [("HSET", "classes", "1", "")],
        {'4: class 1 maps to "", the matcher says "en-zh" (matched)'},
    ),
    "a class in another pool": (
        [("HSET", "classes", "1", "english")],
        {'4: class 1 maps to "english", the matcher says "en-zh" (matched)'},
    ),
    "a pool that says it needs what its rule does not demand": (
        [("HSET", "pools", "english", MISLABELLED_POOL)],
        {
            "4: pool english says that it needs asr:ja, which its rule does not demand",
            '4: class 1 maps to "en-zh", the matcher says "english" (matched)',
        },
    ),
    "a declared pool too few": (
        [("HDEL", "pools", "english")],
        {"4: declared pools: 0 are there, the configuration counts 1"},
    ),
    "a policy that nobody applied": (
        [("HSET", "config", "auto", '{"enabled":true,"max_pools":9,"min_nodes":1,"require_services":["vad"]}')],
        {
            '4: class 1 maps to "en-zh", the matcher says "" (services_missing)',
            '4: class 2 maps to "de", the matcher says "" (services_missing)',
        },
    ),
    "a version without history": (
        [("HSET", "config", "version", "9")],
        {"5: the newest history entry is 4-0, the version is 9"},
    ),
    "a version behind its history": (
        [("HSET", "config", "version", "2")],
        {"5: the newest history entry is 4-0, the version is 2"},
    ),
    "a gap in the history": ([("XDEL", "history", "2-0")], {"5: the history has gaps between 1 and 4"}),
    "a document from the future": (
        [("HSET", "config", "document_version", "99")],
        {"5: the document version is ahead of the version"},
    ),
    "an admission policy that nobody applied": (
        [("HSET", "config", "admission", "{}")],
        {"5: the admission digest is not that of the admission policy"},
    ),
}
"""What is broken -> how it is done, and what the check says of it: the invariant, and what is wrong."""

NOT_IN_THE_ORACLE = {
    "a node with a damaged record",
    "a damaged pool",
    "a pool that says it needs what its rule does not demand",
    "a class that is no number",
    "a class that is yet to be given out",
    "a pool that is yet to be given out",
    "a document from the future",
    "an admission policy that nobody applied",
}


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", BROKEN)
async def test_the_check_finds_what_is_broken(cell: Cell, name: str) -> None:
    await cell.allocator.sync(document_of(pool("english", labels={"zone": "eu"})))
    await cell.register("a", "en", "zh")
    await cell.register("ill", "de", status=NodeStatus.DEGRADED)
    report = await cell.allocator.check()
    assert (report.ok, report.nodes, report.pools, report.version) == (True, 2, 3, 4)
    commands, expected = BROKEN[name]
    for command, key, *arguments in commands:
        await cell.store.command(command, cell.store.key(key), *arguments)
    report = await cell.allocator.check()
    assert not report.ok
    assert {f"{one.invariant}: {one.detail}" for one in report.violations} == expected
    if name not in NOT_IN_THE_ORACLE:
        assert violations(await read_state(cell.store)), "the tests' own check finds it, too"


@pytest.mark.breaks_store
async def test_two_pools_of_one_number_are_named_in_their_order(cell: Cell) -> None:
    await cell.register("m", "mm")
    for name in "abcdefghxyz":
        await cell.store.command("HSET", cell.store.key("pools"), name, '{"id":1,"origin":"auto","rank":0,"match":{}}')
        details = [one.detail for one in (await cell.allocator.check()).violations]
        assert details == [f"pools {' and '.join(sorted([name, 'mm']))} have the same number 1"]
        await cell.store.command("HDEL", cell.store.key("pools"), name)


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", sorted({*KEY_NAMES} - {"config"}))
async def test_the_check_finds_that_a_key_is_gone(cell: Cell, name: str) -> None:
    await cell.register("a", "en", "zh")
    assert (await cell.allocator.check()).ok
    key = cell.store.key(name)
    await cell.store.command("DEL", key)
    expected = {
        "history": "5: the newest history entry is missing, the version is 2",
        "events": f"11: {key} is gone",
    }.get(name, f"11: {key} lacks its sentinel")
    report = await cell.allocator.check()
    assert expected in {f"{one.invariant}: {one.detail}" for one in report.violations}
    if name != "events":
        assert violations(await read_state(cell.store)), "the tests' own check finds it, too"


async def test_the_check_has_nothing_against_an_emptied_event_stream(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.store.command("XTRIM", cell.store.key("events"), "MAXLEN", "0")
    assert (await cell.allocator.check()).ok


@pytest.mark.breaks_store
async def test_the_check_finds_that_a_key_has_lost_its_sentinel_alone(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.store.command("HDEL", cell.store.key("holds"), "")
    await cell.store.command("HSET", cell.store.key("holds"), "b", '{"ops":{"reason":"x","at":1}}')
    report = await cell.allocator.check()
    assert [(one.invariant, one.detail) for one in report.violations] == [
        (11, f"{cell.store.key('holds')} lacks its sentinel")
    ]


@pytest.mark.breaks_store
async def test_the_check_lists_a_bounded_number_of_violations_and_counts_the_rest(
    redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace, MAX_VIOLATIONS=3) as cell:
        for number in range(5):
            await cell.register(f"n{number}", "en")
            await cell.store.command("ZREM", cell.store.key("ready"), f"n{number}")
            if number < 3:
                assert len((await cell.allocator.check()).violations) == number + 1
        *listed, last = (await cell.allocator.check()).violations
        assert len(listed) == 3
        assert (last.invariant, last.detail) == (0, "2 more violations are not listed")


async def test_the_check_takes_no_name_for_a_sentinel_and_none_for_a_number(cell: Cell) -> None:
    await cell.register("X", "en", "zh")
    await cell.register("b", "en", "zh")
    await cell.store.run(reserve_call("X", tenant="X"))
    await cell.store.run(reserve_call("7", tenant="7"))
    assert (await cell.allocator.check()).ok
    await cell.store.command("HSET", cell.store.key("tenants"), "X", "2")
    report = await cell.allocator.check()
    assert [one.detail for one in report.violations] == ["tenant X has 2 slots, its jobs have 1"]
    await cell.store.command("HSET", cell.store.key("tenants"), "X", "1")


async def test_the_check_has_nothing_against_a_node_with_all_its_slots_reserved(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 500}))
    await cell.register("a", "en", "zh", load=1.0)
    for number, slots in enumerate([64] * 7 + [52]):
        assert (await cell.store.run(reserve_call(f"job-{number}", tenant="", slots=slots)))[0] == "OK"
    assert (await cell.allocator.check()).ok


async def test_the_check_reads_jobs_in_pages(redis_url: str, namespace: str) -> None:
    """Names so long that Redis keeps them in a table, which it gives out in parts."""
    async with limited_cell(redis_url, namespace, CHUNK=2) as cell:
        for number in range(20):
            await cell.register(f"n{number}", "en", "zh")
            assert (await cell.store.run(reserve_call(f"{number}" + "x" * 100)))[0] == "OK"
        assert (await cell.allocator.check()).ok


async def test_the_check_reads_nodes_in_pages(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, CHUNK=2) as cell:
        for number in range(5):
            await cell.register(f"n{number}", "en")
            report = await cell.allocator.check()
            assert (report.ok, report.nodes) == (True, number + 1), report.violations
