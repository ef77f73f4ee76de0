"""The configuration: one document, one version, one step; what is planned is what is applied."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pyscheduler import PoolDocument
from pyscheduler.core.results import ConfigChange, NodeStatus
from pyscheduler.errors import GuardRefused, InvalidInput, NotFound, StoreError, VersionConflict
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state

EN = pool("english", semantic={"contains": ["en"]})
DE = pool("german", semantic={"contains": ["de"]})
ZONE = pool("zone", labels={"zone": "eu"})
NO_AUTO: dict[str, Any] = {"enabled": False}


def changes(change: ConfigChange) -> list[tuple[str, str]]:
    return [(one.pool, one.change) for one in change.changes]


def moves(change: ConfigChange) -> list[tuple[str | None, str | None, int]]:
    return [(move.from_pool, move.to_pool, move.nodes) for move in change.moves]


# --- one step ---------------------------------------------------------------------------------------------------------


async def test_a_sync_moves_every_node_in_one_step_and_says_what_it_did(cell: Cell) -> None:
    for node_id, languages in (("a", ("en", "zh")), ("b", ("en", "zh")), ("c", ("de",)), ("d", ("fr",))):
        await cell.register(node_id, *languages)
    before = await cell.allocator.version()
    change = await cell.allocator.sync(document_of(EN, DE), author="ann", reason="first try")
    assert (change.version_before, change.version_after, change.document_version) == (before, before + 1, before + 1)
    assert not change.dry_run
    assert changes(change) == [("english", "added"), ("german", "added")]
    assert moves(change) == [("en-zh", "english", 2), ("de", "german", 1)]
    assert change.unassigned_nodes == 0
    assert {row.name: row.nodes for row in (await cell.allocator.pools()).pools} == {
        "en-zh": 0,
        "english": 2,
        "de": 0,
        "german": 1,
        "fr": 1,
    }
    entry = (await cell.allocator.history())[0]
    assert (entry.version, entry.kind, entry.author, entry.reason) == (before + 1, "document", "ann", "first try")
    assert entry.has_document


async def test_a_move_has_one_event_for_its_class(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.allocator.sync(document_of(EN), author="ann", reason="why not")
    *_, created, remapped, bumped = await cell.allocator.events()
    assert (created.type, created.pool, created.fields["origin"]) == ("pool.created", "english", "declared")
    assert (remapped.type, remapped.from_, remapped.to) == ("class.remapped", "en-zh", "english")
    assert (remapped.fields["nodes"], remapped.reason) == ("1", "document")
    assert (bumped.type, bumped.fields["author"], bumped.reason) == ("config.bumped", "ann", "why not")
    assert {created.version, remapped.version, bumped.version} == {await cell.allocator.version()}


async def test_a_sync_does_not_touch_a_single_node(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    before = await read_state(cell.store)
    await cell.allocator.sync(document_of(EN))
    after = await read_state(cell.store)
    for name in ("members", "ready", "leases", "sessions", "nodes", "usage", "capabilities", "class_facts"):
        assert getattr(after, name) == getattr(before, name)
    await cell.allocator.heartbeat(session, lease_ms=LEASE_MS)


async def test_the_document_is_kept_as_it_was_given(cell: Cell) -> None:
    assert (await cell.allocator.document()).json == ""
    document = document_of(
        EN, pool("p", labels={"zone": "北京"}), auto={"max_pools": 7}, guard={"max_unassigned_share": 1}
    )
    change = await cell.allocator.sync(document)
    stored = await cell.allocator.document()
    assert (stored.version, stored.json) == (change.version_after, document.canonical())
    assert PoolDocument.from_canonical(stored.json) == document


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([EN], [EN, DE], [("german", "added")]),
        ([EN, DE], [EN], [("german", "removed")]),
        ([EN], [pool("english", semantic={"contains": ["de"]})], [("english", "changed")]),
        ([EN], [pool("english", priority=1, semantic={"contains": ["en"]})], [("english", "changed")]),
        ([EN], [pool("english", semantic={"contains": ["EN", "en"]})], []),
        ([ZONE], [pool("zone", labels={"zone": "EU"})], [("zone", "changed")]),
        ([pool("p", gpu={"min_count": 1})], [pool("p", gpu={"min_count": 1, "min_memory_gb": 1})], [("p", "changed")]),
        ([EN, DE], [DE, EN], []),
        ([pool("p", services=["a"], priority=1)], [pool("p", labels={"a": "b"}, priority=1)], [("p", "changed")]),
        ([pool("p", services=["a"], labels={"a": "b"})], [pool("p", labels={"a": "b"})], [("p", "changed")]),
        ([pool("p", services=["a"], labels={"a": "b"})], [pool("p", services=["a"])], [("p", "changed")]),
    ],
)
async def test_the_changes_are_those_of_the_rules(
    cell: Cell, old: list[dict[str, Any]], new: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    await cell.allocator.sync(document_of(*old))
    assert changes(await cell.allocator.sync(document_of(*new))) == expected


async def test_a_pool_keeps_its_number_as_long_as_it_is_declared(cell: Cell) -> None:
    await cell.allocator.sync(document_of(DE, EN))
    numbers = {row.name: row.id for row in (await cell.allocator.pools()).pools}
    await cell.allocator.sync(document_of(EN, ZONE, pool("german", priority=9, semantic={"any": ["de"]})))
    await cell.allocator.sync(document_of(ZONE, EN))
    await cell.allocator.sync(document_of(DE, ZONE, EN))
    now = {row.name: row.id for row in (await cell.allocator.pools()).pools}
    assert now["english"] == numbers["english"]
    assert now["german"] not in (*numbers.values(), now["zone"]), "it was away: it is another pool now"


async def test_the_same_document_again_changes_nothing(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.allocator.sync(document_of(EN, DE))
    before = await read_state(cell.store)
    change = await cell.allocator.sync(document_of(EN, DE), author="somebody else")
    assert change.version_before == change.version_after == change.document_version
    assert (change.changes, change.moves, change.unassigned_nodes) == ((), (), 0)
    assert await read_state(cell.store) == before


async def test_the_same_document_again_counts_the_unassigned(cell: Cell) -> None:
    document = document_of(auto={"max_pools": 1})
    await cell.allocator.sync(document)
    for node_id, language in (("a", "ja"), ("b", "en"), ("c", "de")):
        await cell.register(node_id, language)
    assert (await cell.allocator.sync(document)).unassigned_nodes == 2


async def test_a_pool_is_as_old_as_its_first_declaration(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN))
    created_at_ms = (await cell.allocator.pool("english")).created_at_ms
    await cell.advance(60_000)
    await cell.allocator.sync(document_of(pool("english", priority=9, semantic={"any": ["en"]}), DE))
    assert (await cell.allocator.pool("english")).created_at_ms == created_at_ms
    assert (await cell.allocator.pool("german")).created_at_ms >= created_at_ms + 60_000


async def test_author_and_reason_have_bounds(cell: Cell) -> None:
    before = await read_state(cell.store)
    for words in ({"author": "a" * 129}, {"reason": "r" * 257}, {"author": "\ud800"}):
        with pytest.raises(InvalidInput):
            await cell.allocator.sync(document_of(EN), **words)  # type: ignore[arg-type]
    assert await read_state(cell.store) == before
    await cell.allocator.sync(document_of(EN), author="Ärztin", reason="weil's so ist\n")
    assert (await cell.allocator.history())[0].author == "Ärztin"


async def test_two_thousand_pools_are_one_step_too(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    many = [pool(f"p{number}", labels={"number": str(number)}) for number in range(1999)]
    change = await cell.allocator.sync(document_of(*many, EN))
    assert len(change.changes) == 2000
    assert moves(change) == [("en-zh", "english", 1)]
    change = await cell.allocator.sync(document_of(EN))
    assert len(change.changes) == 1999


# --- planning ---------------------------------------------------------------------------------------------------------

PLANS = [
    document_of(EN, DE),
    document_of(DE, auto=NO_AUTO),
    document_of(pool("en-zh", labels={"zone": "eu"})),
    document_of(ZONE, auto={"require_services": ["vad"]}),
    document_of(pool("all", gpu={"min_count": 1})),
    document_of(EN, auto={"max_pools": 1}),
    document_of(),
]


@pytest.mark.parametrize("document", PLANS)
async def test_a_dry_run_says_what_the_sync_then_does_and_writes_nothing(cell: Cell, document: PoolDocument) -> None:
    await cell.allocator.sync(document_of(EN))
    for node_id, languages in (("a", ("en", "zh")), ("b", ("en", "de")), ("c", ("de",)), ("d", ("fr",))):
        await cell.register(node_id, *languages)
    await cell.register("e", facts=facts_of("ja", labels={"zone": "eu"}))
    before = await read_state(cell.store)
    planned = await cell.allocator.sync(document, allow_empty=True, force=True, dry_run=True)
    assert planned.dry_run
    assert await read_state(cell.store) == before
    done = await cell.allocator.sync(document, allow_empty=True, force=True)
    for field in ("version_before", "version_after", "document_version", "changes", "moves", "unassigned_nodes"):
        assert getattr(planned, field) == getattr(done, field), field


async def test_a_dry_run_is_refused_for_the_reasons_for_which_the_sync_would_be(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN))
    await cell.register("a", "en")
    with pytest.raises(VersionConflict):
        await cell.allocator.sync(document_of(DE), expect_version=1, dry_run=True)
    with pytest.raises(GuardRefused):
        await cell.allocator.sync(document_of(), dry_run=True)
    with pytest.raises(GuardRefused):
        await cell.allocator.sync(document_of(DE, auto=NO_AUTO), dry_run=True)


# --- two operators ----------------------------------------------------------------------------------------------------


async def test_an_operator_who_has_not_seen_the_last_document_is_refused(cell: Cell) -> None:
    seen = (await cell.allocator.document()).version
    first = await cell.allocator.sync(document_of(EN), expect_version=seen)
    before = await read_state(cell.store)
    with pytest.raises(VersionConflict) as conflict:
        await cell.allocator.sync(document_of(DE), expect_version=seen)
    assert (conflict.value.expected, conflict.value.actual) == (seen, first.document_version)
    assert await read_state(cell.store) == before
    await cell.allocator.sync(document_of(DE), expect_version=first.document_version)


async def test_an_auto_pool_born_in_between_is_no_conflict(cell: Cell) -> None:
    first = await cell.allocator.sync(document_of(EN))
    await cell.register("a", "fr")
    assert await cell.allocator.version() == first.version_after + 1
    second = await cell.allocator.sync(document_of(EN, DE), expect_version=first.document_version)
    assert second.version_after == first.version_after + 2


async def test_a_sync_that_is_repeated_because_its_reply_was_lost_is_no_conflict(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN), expect_version=0)
    again = await cell.allocator.sync(document_of(EN), expect_version=0)
    assert again.version_before == again.version_after


async def test_of_two_syncs_at_once_one_wins(cell: Cell, redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace) as other:
        outcomes = await asyncio.gather(
            cell.allocator.sync(document_of(EN), expect_version=0),
            other.allocator.sync(document_of(DE), expect_version=0),
            return_exceptions=True,
        )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConfigChange", "VersionConflict"]


async def test_a_version_that_cannot_be_expected_is_refused(cell: Cell) -> None:
    with pytest.raises(InvalidInput):
        await cell.allocator.sync(document_of(EN), expect_version=-1)


# --- guards -----------------------------------------------------------------------------------------------------------


async def test_an_empty_document_replaces_a_non_empty_one_only_if_that_is_said(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN, DE))
    before = await read_state(cell.store)
    with pytest.raises(GuardRefused, match="all 2 declared"):
        await cell.allocator.sync(document_of(), force=True)
    assert await read_state(cell.store) == before
    change = await cell.allocator.sync(document_of(), allow_empty=True)
    assert changes(change) == [("english", "removed"), ("german", "removed")]


async def test_an_empty_document_may_replace_an_empty_one(cell: Cell) -> None:
    await cell.allocator.sync(document_of())
    assert (await cell.allocator.sync(document_of(auto={"max_pools": 3}))).document_version == 3


async def fleet_of_ten(cell: Cell, english: int) -> None:
    await cell.allocator.sync(document_of(EN, DE, auto=NO_AUTO))
    for number in range(10):
        await cell.register(f"n{number}", "en" if number < english else "de")


@pytest.mark.parametrize(
    ("english", "share", "refused"), [(5, 0.5, False), (6, 0.5, True), (1, 0.0, True), (10, 1.0, False)]
)
async def test_a_change_that_leaves_too_many_ready_nodes_without_a_pool_is_refused(
    cell: Cell, english: int, share: float, refused: bool
) -> None:
    await fleet_of_ten(cell, english)
    document = document_of(DE, auto=NO_AUTO, guard={"max_unassigned_share": share})
    if refused:
        before = await read_state(cell.store)
        with pytest.raises(GuardRefused, match=f"{english} of 10 ready nodes"):
            await cell.allocator.sync(document)
        assert await read_state(cell.store) == before
        assert (await cell.allocator.sync(document, force=True)).unassigned_nodes == english
    else:
        assert (await cell.allocator.sync(document)).unassigned_nodes == english


async def test_the_guard_counts_ready_nodes_only(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN, DE, auto=NO_AUTO))
    for number in range(5):
        await cell.register(f"degraded{number}", "en", status=NodeStatus.DEGRADED)
        await cell.register(f"held{number}", "en")
        await cell.allocator.hold(f"held{number}", owner="ops", reason="maintenance")
    await cell.register("ready", "de")
    assert (await cell.allocator.sync(document_of(DE, auto=NO_AUTO))).unassigned_nodes == 10


async def test_nodes_that_had_no_pool_before_do_not_count_against_a_change(cell: Cell) -> None:
    await cell.allocator.sync(document_of(DE, auto=NO_AUTO))
    for number in range(9):
        await cell.register(f"n{number}", "fr")
    await cell.register("a", "de")
    change = await cell.allocator.sync(document_of(DE, EN, auto=NO_AUTO, guard={"max_unassigned_share": 0}))
    assert change.unassigned_nodes == 9


async def test_nodes_that_find_an_auto_pool_at_once_are_not_lost(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN))
    await cell.register("a", "en", "zh")
    await cell.allocator.sync(document_of(DE, guard={"max_unassigned_share": 0}))
    assert await cell.pool_of("a") == "en-zh"


async def test_auto_pools_that_are_there_count_against_the_limit(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN, auto={"max_pools": 1}))
    await cell.register("a", "en", "zh")
    await cell.register("b", "fr")
    change = await cell.allocator.sync(document_of(DE, auto={"max_pools": 1}))
    assert (await cell.pool_of("a"), await cell.pool_of("b")) == (None, "fr")
    assert change.unassigned_nodes == 1


async def test_where_auto_pools_are_limited_the_largest_groups_find_theirs(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN))
    await cell.register("a", "en", "zh")
    for number in range(2):
        await cell.register(f"b{number}", facts=facts_of("en", "fr", gpu_memory_gb=(number,)))
    change = await cell.allocator.sync(document_of(DE, auto={"max_pools": 1}))
    assert (await cell.pool_of("a"), await cell.pool_of("b0"), await cell.pool_of("b1")) == (None, "en-fr", "en-fr")
    assert change.unassigned_nodes == 1


# --- history and rollback ---------------------------------------------------------------------------------------------


async def test_the_history_holds_every_version_newest_first(cell: Cell) -> None:
    await cell.allocator.sync(document_of(EN), author="ann")
    await cell.register("a", "fr")
    await cell.allocator.sync(document_of(EN, DE), author="bob")
    entries = await cell.allocator.history()
    assert [(entry.version, entry.kind, entry.author, entry.has_document) for entry in entries] == [
        (4, "document", "bob", True),
        (3, "auto_pool_created", "test", False),
        (2, "document", "ann", True),
        (1, "created", "", False),
    ]
    assert [entry.version for entry in await cell.allocator.history(limit=2)] == [4, 3]
    for limit in (0, 1001):
        with pytest.raises(InvalidInput):
            await cell.allocator.history(limit=limit)


async def test_a_long_history_is_read_whole(cell: Cell) -> None:
    for number in range(40):
        await cell.allocator.sync(document_of(EN, auto={"max_pools": number}))
    assert [entry.version for entry in await cell.allocator.history(limit=1000)] == list(range(41, 0, -1))
    assert [entry.version for entry in await cell.allocator.history(limit=33)] == list(range(41, 8, -1))


async def test_a_rollback_applies_an_earlier_document_as_a_new_version(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    good = await cell.allocator.sync(document_of(EN, auto={"max_pools": 9}))
    await cell.allocator.sync(document_of(DE))
    change = await cell.allocator.rollback(good.version_after, author="ann")
    assert change.version_after == good.version_after + 2
    assert changes(change) == [("english", "added"), ("german", "removed")]
    assert await cell.pool_of("a") == "english"
    stored = await cell.allocator.document()
    assert (stored.version, stored.json) == (change.version_after, document_of(EN, auto={"max_pools": 9}).canonical())
    entry = (await cell.allocator.history())[0]
    assert (entry.kind, entry.author, entry.reason) == ("rollback", "ann", f"rollback to version {good.version_after}")


async def test_the_document_of_a_version_that_an_auto_pool_made_is_the_one_that_was_in_force(cell: Cell) -> None:
    first = await cell.allocator.sync(document_of(EN))
    for number in range(40):
        await cell.register(f"n{number}", f"{'abcdefghij'[number % 10]}{'abcd'[number // 10]}")
    last_auto = await cell.allocator.version()
    await cell.allocator.sync(document_of(DE))
    found = await cell.allocator.document(last_auto)
    assert (found.version, found.json) == (first.version_after, document_of(EN).canonical())
    await cell.allocator.rollback(last_auto)
    assert (await cell.allocator.document()).json == document_of(EN).canonical()


async def test_a_rollback_to_a_document_without_pools_is_meant(cell: Cell) -> None:
    empty = await cell.allocator.sync(document_of())
    await cell.allocator.sync(document_of(EN))
    assert changes(await cell.allocator.rollback(empty.version_after)) == [("english", "removed")]


async def test_a_rollback_to_the_document_in_force_changes_nothing(cell: Cell) -> None:
    change = await cell.allocator.sync(document_of(EN))
    before = await read_state(cell.store)
    assert (await cell.allocator.rollback(change.version_after)).version_after == change.version_after
    assert await read_state(cell.store) == before


async def test_a_rollback_obeys_guard_expected_version_and_dry_run(cell: Cell) -> None:
    first = await cell.allocator.sync(document_of(DE, auto=NO_AUTO))
    second = await cell.allocator.sync(document_of(EN, auto=NO_AUTO))
    await cell.register("a", "en")
    before = await read_state(cell.store)
    with pytest.raises(GuardRefused):
        await cell.allocator.rollback(first.version_after)
    with pytest.raises(VersionConflict):
        await cell.allocator.rollback(first.version_after, expect_version=first.document_version, force=True)
    planned = await cell.allocator.rollback(first.version_after, force=True, dry_run=True)
    assert await read_state(cell.store) == before
    done = await cell.allocator.rollback(first.version_after, force=True, expect_version=second.document_version)
    assert done.unassigned_nodes == 1
    assert (planned.moves, planned.unassigned_nodes) == (done.moves, done.unassigned_nodes)


async def test_moves_come_in_the_order_of_the_classes_whatever_the_order_of_the_store(cell: Cell) -> None:
    """A hash whose values are long has no order."""
    await cell.allocator.sync(document_of(pool("p" * 100, semantic={"contains": ["en"]})))
    for number in range(40):
        await cell.register(f"n{number}", facts=facts_of("en", gpu_memory_gb=(number,)))
    change = await cell.allocator.sync(document_of(pool("english", semantic={"contains": ["en"]})))
    assert [move.node_class for move in change.moves] == list(range(1, 41))


@pytest.mark.parametrize(("version", "error"), [(0, InvalidInput), (-1, InvalidInput), (1, NotFound), (99, NotFound)])
async def test_a_version_without_a_document_cannot_be_rolled_back_to(
    cell: Cell, version: int, error: type[Exception]
) -> None:
    await cell.allocator.sync(document_of(EN))
    with pytest.raises(error):
        await cell.allocator.rollback(version)
    with pytest.raises(error):
        await cell.allocator.document(version)


async def test_a_history_that_is_full_forgets_the_oldest(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, HISTORY_KEPT=3) as cell:
        for number in range(5):
            await cell.allocator.sync(document_of(EN, auto={"max_pools": 9 - number}))
        assert [entry.version for entry in await cell.allocator.history()] == [6, 5, 4]
        for version in (1, 3):
            with pytest.raises(NotFound):
                await cell.allocator.rollback(version)
        await cell.allocator.rollback(4)
        for number in range(3):
            await cell.register(f"n{number}", "abc"[number] * 2)
        with pytest.raises(NotFound, match="no longer"):
            await cell.allocator.document(await cell.allocator.version())
        assert (await cell.allocator.document()).version == 7, (
            "the document in force is kept, whatever the history forgets"
        )
        assert (await cell.allocator.check()).ok


@pytest.mark.breaks_store
async def test_a_history_that_is_ahead_stops_a_change_before_it_begins(cell: Cell) -> None:
    """An entry's id is its version: none can be skipped or given twice, even if the counter was reset by hand."""
    await cell.allocator.sync(document_of(EN))
    await cell.store.command("HSET", cell.store.key("config"), "version", "1")
    before = await read_state(cell.store)
    with pytest.raises(StoreError, match="ahead"):
        await cell.allocator.sync(document_of(DE))
    with pytest.raises(StoreError, match="ahead"):
        await cell.register("a", "fr")
    assert await read_state(cell.store) == before


async def test_a_canonical_document_survives_the_way_through_lua(cell: Cell) -> None:
    """cjson makes {} of an empty list: so the document passes unread, and the rules come back as they were."""
    rules = [
        pool("a", services=["asr"], labels={"1": "x", "zone": 'quote " and \\ and / \u00e9'}),
        pool("b", priority=-1000, gpu={"min_memory_gb": 4096}, tts={"any": ["en", "zh-hant-tw"]}),
    ]
    document = document_of(*rules)
    await cell.allocator.sync(document)
    stored = json.loads((await cell.allocator.document()).json)
    assert stored["auto"]["require_services"] == []
    assert [(await cell.allocator.pool(name)).rule for name in ("a", "b")] == [
        entry["match"] for entry in stored["pools"]
    ]
