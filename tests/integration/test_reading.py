"""Reading: pools, nodes, candidates and events, each in one look; and the check that finds what is broken."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import pytest

from pyscheduler.core.results import Event, NodeStatus
from pyscheduler.errors import EventsLost, InvalidInput, NotFound, StoreError, StoreUnavailable
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state, violations
from tests.support import wait_until_async

DEADLINE_S = 10

EN = pool("english", priority=3, semantic={"contains": ["en"]})


# --- pools ------------------------------------------------------------------------------------------------------------


async def test_pools_are_listed_with_their_counts_in_one_look(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN))
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "de", status=NodeStatus.DEGRADED)
    await cell.register("c", "de", "fr")
    await cell.register("d", facts=facts_of())
    table = await cell.allocator.pools()
    assert (table.version, table.document_version) == (3, 2)
    assert [(row.name, row.id, row.origin, row.nodes, row.ready, row.priority) for row in table.pools] == [
        ("de-fr", 2, "auto", 1, 1, 0),
        ("english", 1, "declared", 2, 1, 3),
    ]
    assert [row.languages for row in table.pools] == [("de", "fr"), ("en",)]
    assert (table.nodes, table.unmatched_nodes, table.unmatched_classes) == (4, 1, 1)


async def test_a_pool_is_shown_with_its_rule_its_classes_and_what_is_ready_in_it(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN))
    await cell.register("a", facts=facts_of("en", "zh", services=("asr", "nmt")))
    await cell.register("b", facts=facts_of("en", "zh", services=("asr", "nmt")))
    await cell.register("c", facts=facts_of("en", "fr", services=("asr", "vad")), status=NodeStatus.DEGRADED)
    detail = await cell.allocator.pool("english")
    assert detail.rule == {"semantic": {"contains": ["en"]}}
    assert (detail.summary.nodes, detail.summary.ready) == (3, 2)
    assert [(row.nodes, row.ready) for row in detail.classes] == [(2, 2), (1, 0)]
    assert detail.classes[0].facts["services"] == ["asr", "nmt"]
    assert detail.ready_services == ("asr", "nmt"), "what only a degraded node has is not ready"
    assert detail.ready_pairs == (("en", "zh"), ("zh", "en"))
    assert detail.created_at_ms == pytest.approx(await cell.now_ms(), abs=60_000)


@pytest.mark.parametrize(("name", "error"), [("nowhere", NotFound), ("No Pool", InvalidInput), ("", InvalidInput)])
async def test_a_pool_that_is_not_there_is_said_so(cell: Cell, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await cell.allocator.pool(name)
    with pytest.raises(error):
        await cell.allocator.nodes(pool=name)


# --- candidates -------------------------------------------------------------------------------------------------------


async def found(cell: Cell, src: str, tgt: str, *services: str) -> list[str | None]:
    return [candidate.pool for candidate in await cell.allocator.find(src, tgt, services)]


async def test_whoever_can_serve_a_pair_is_found_whatever_the_pool_is_called(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.register("b", "de", "en", "zh")
    await cell.register("c", "de", "fr")
    assert await found(cell, "zh", "en") == ["en-zh", "de-en-zh"]
    assert await found(cell, "de", "en") == ["de-en-zh"]
    assert await found(cell, "ZH", "EN") == ["en-zh", "de-en-zh"]
    assert await found(cell, "zh-cn", "en") == []


async def test_the_source_must_be_heard_the_target_understood_and_spoken_if_speech_is_wanted(cell: Cell) -> None:
    await cell.register("mute", facts=facts_of("en", "zh", tts=("zh",)))
    await cell.register("deaf", facts=facts_of("en", "zh", asr=("en",), labels={"x": "y"}))
    assert [row.nodes for row in await cell.allocator.find("zh", "en")] == [1]
    assert await found(cell, "zh", "en", "tts") == []
    assert await found(cell, "en", "zh", "tts", "asr") == ["en-zh", "en-zh"]
    assert await found(cell, "en", "zh", "vad") == []
    await cell.register("parrot", facts=facts_of("en", "zh", semantic=("en",), labels={"x": "z"}))
    assert await found(cell, "en", "zh", "tts") == ["en-zh", "en-zh"]


async def test_a_candidate_says_how_many_nodes_it_has_and_how_many_are_ready(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"enabled": False}))
    await cell.register("a", "en", "zh")
    await cell.register("b", "en", "zh", status=NodeStatus.REGISTERING)
    (candidate,) = await cell.allocator.find("en", "zh")
    assert (candidate.pool, candidate.pool_id) == (None, None), "its class is found although no pool takes it"
    assert (candidate.nodes, candidate.ready, candidate.languages) == (2, 1, ("en", "zh"))


async def test_language_codes_that_begin_alike_are_kept_apart(cell: Cell) -> None:
    await cell.register("a", "en-gb")
    await cell.register("b", "en")
    await cell.register("c", "eng")
    assert await found(cell, "en", "en") == ["en"]
    assert await found(cell, "en-gb", "en-gb") == ["en_gb"]


@pytest.mark.parametrize(
    ("src", "tgt", "services"), [("", "en", ()), ("en", "e" * 9, ()), ("en", "zh", ("a b",)), ("en", "zh", ("é",))]
)
async def test_a_malformed_question_is_refused(cell: Cell, src: str, tgt: str, services: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.find(src, tgt, services)
    with pytest.raises(InvalidInput):
        await cell.allocator.find("en", "zh", [f"s{number}" for number in range(65)])


# --- nodes ------------------------------------------------------------------------------------------------------------


async def test_nodes_are_read_in_pages_that_together_hold_each_once(cell: Cell) -> None:
    for number in range(7):
        await cell.register(f"n{number}", *(("en", "zh") if number % 2 else ("de",)))
    seen = []
    for offset in range(0, 8, 3):
        page = await cell.allocator.nodes(limit=3, offset=offset)
        assert page.total == 7
        seen += [node.node_id for node in page.nodes]
    assert sorted(seen) == [f"n{number}" for number in range(7)]
    assert (await cell.allocator.nodes(offset=99)).nodes == ()


async def test_the_nodes_of_one_pool_are_read_in_pages_over_its_classes(cell: Cell) -> None:
    await cell.register("other", "de")
    for number in range(6):
        await cell.register(f"n{number}", facts=facts_of("en", gpu_memory_gb=(number // 2,)))
    everyone = [f"n{number}" for number in range(6)]
    for limit in range(1, 8):
        for offset in range(8):
            page = await cell.allocator.nodes(pool="en", limit=limit, offset=offset)
            assert page.total == 6
            assert [node.node_id for node in page.nodes] == everyone[offset : offset + limit]


@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 5001}, {"offset": -1}, {"offset": 10**10}])
async def test_a_page_out_of_its_bounds_is_refused(cell: Cell, page: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.nodes(**page)  # type: ignore[arg-type]


async def test_named_nodes_are_described_and_unknown_ones_left_out(cell: Cell) -> None:
    await cell.register("a", "en", load=0.5)
    await cell.register("b", "de")
    states = await cell.allocator.describe(["b", "nobody", "", "a b", "a"])
    assert [(state.node_id, state.pool, state.load) for state in states] == [("b", "de", 0.0), ("a", "en", 0.5)]
    assert await cell.allocator.describe([]) == []
    with pytest.raises(InvalidInput):
        await cell.allocator.describe(["a"] * 5001)


async def test_a_lease_that_lapsed_is_shown_as_lapsed_until_somebody_notices(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.advance(LEASE_MS + 10_000)
    (state,) = await cell.allocator.describe(["a"])
    assert -20_000 < state.lease_ms <= -10_000


@pytest.mark.parametrize(("node_id", "error"), [("nobody", NotFound), ("", InvalidInput), ("a b", InvalidInput)])
async def test_a_node_that_is_not_there_is_said_so(cell: Cell, node_id: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await cell.allocator.node(node_id)
    with pytest.raises(error):
        await cell.allocator.explain(node_id)


async def test_version_and_round_trip(cell: Cell) -> None:
    assert await cell.allocator.version() == 1
    assert 0 < await cell.allocator.ping() < DEADLINE_S


# --- events -----------------------------------------------------------------------------------------------------------


async def test_events_are_read_in_order_from_an_id_on(cell: Cell) -> None:
    await cell.register("a", "en")
    everything = await cell.allocator.events()
    assert [event.type for event in everything] == [
        "config.bumped",
        "pool.created",
        "config.bumped",
        "node.registered",
        "node.assigned",
    ]
    assert [event.id for event in everything] == sorted(event.id for event in everything)
    assert await cell.allocator.events(since=everything[1].id) == everything[2:]
    assert await cell.allocator.events(since=everything[1].id, limit=1) == everything[2:3]
    assert await cell.allocator.events(since=everything[-1].id) == []
    assert await cell.allocator.events(since="0") == everything
    assigned = everything[-1]
    assert (assigned.node_id, assigned.pool, assigned.from_, assigned.to, assigned.reason) == (
        "a",
        "en",
        None,
        "en",
        "new",
    )
    assert assigned.fields == {"class": "1"}


@pytest.mark.parametrize("since", ["", "x", "1-x", "-1", "1-2-3", "\uff11", "99999999999999999999-0", "1" * 50])
async def test_what_is_no_event_id_is_refused(cell: Cell, since: str) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.events(since=since)
    with pytest.raises(InvalidInput):
        await anext(cell.allocator.follow(since=since))


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_a_number_of_events_out_of_its_bounds_is_refused(cell: Cell, limit: int) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.events(limit=limit)


class Follower:
    """Reads a stream of events, one at a time."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def next(self) -> Event:
        async with asyncio.timeout(DEADLINE_S):
            return await anext(self._events)

    async def types(self, count: int) -> list[str]:
        return [(await self.next()).type for _ in range(count)]


async def blocked_readers(cell: Cell) -> list[str]:
    clients = await cell.store.command("CLIENT", "LIST")
    lines = clients if isinstance(clients, str) else str(clients)
    return [line.split()[0].removeprefix("id=") for line in lines.splitlines() if "cmd=xread" in line.lower()]


async def test_events_are_followed_as_they_happen(cell: Cell) -> None:
    await cell.register("before", "en")
    follower = Follower(cell.allocator.follow(block_ms=50))
    first = asyncio.ensure_future(follower.next())
    await wait_until_async(lambda: blocked_readers(cell), "the follower reads")
    await cell.register("a", "en")
    assert (await first).type == "node.registered"
    assert (await follower.next()).type == "node.assigned"


async def test_events_are_followed_from_the_beginning_or_from_an_id_without_a_gap(cell: Cell) -> None:
    await cell.register("a", "en")
    everything = await cell.allocator.events()
    follower = Follower(cell.allocator.follow(since="-", block_ms=50))
    assert [await follower.next() for _ in everything] == everything
    await cell.register("b", "en")
    assert await follower.types(2) == ["node.registered", "node.assigned"]
    later = Follower(cell.allocator.follow(since=everything[0].id, block_ms=50))
    assert [await later.next() for _ in everything[1:]] == everything[1:]


async def test_who_follows_from_an_event_that_is_no_longer_kept_is_told(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, EVENTS_KEPT=10) as cell:
        await cell.register("a", "en")
        first = (await cell.allocator.events())[0]
        for _ in range(150):
            await cell.allocator.hold("a", owner="ops", reason="x")
            await cell.allocator.lift("a", owner="ops", reason="x")
        assert len(await cell.allocator.events()) < 150, "the stream is capped, in whole blocks"
        with pytest.raises(EventsLost):
            await anext(cell.allocator.follow(since=first.id))


async def test_a_connection_that_breaks_ends_the_following_with_an_error(cell: Cell) -> None:
    follower = Follower(cell.allocator.follow(block_ms=60_000))
    waiting = asyncio.ensure_future(follower.next())
    (reader,) = await wait_until_async(lambda: blocked_readers(cell), "the follower reads")
    await cell.store.command("CLIENT", "KILL", "ID", reader)
    with pytest.raises(StoreUnavailable):
        await waiting


# --- the check --------------------------------------------------------------------------------------------------------

GHOST_RECORD = '{"instance":"x"}\n{}'
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


async def test_the_check_reads_nodes_in_pages(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, CHUNK=2) as cell:
        for number in range(5):
            await cell.register(f"n{number}", "en")
            report = await cell.allocator.check()
            assert (report.ok, report.nodes) == (True, number + 1), report.violations


@pytest.mark.breaks_store
async def test_a_broken_class_map_does_not_keep_pools_from_being_listed(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.store.command("HSET", cell.store.key("classes"), "1", "nowhere")
    table = await cell.allocator.pools()
    assert (table.pools[0].nodes, table.unmatched_nodes) == (0, 1)


@pytest.mark.breaks_store
@pytest.mark.parametrize("stored", ["{", "[]", "null", json.dumps("text")])
async def test_what_is_stored_and_no_json_object_is_an_error_of_this_package(cell: Cell, stored: str) -> None:
    await cell.register("a", "en")
    await cell.store.command("HSET", cell.store.key("usage"), "a", f"0.5 {stored}")
    with pytest.raises(StoreError, match="JSON"):
        await cell.allocator.node("a")
    assert [node.load for node in (await cell.allocator.nodes()).nodes] == [0.5]
