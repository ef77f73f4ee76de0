"""Auto pools: made within the call that needs them, as far as the policy allows, and removed when idle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyscheduler import NodeReport
from pyscheduler.core.results import Registration, Session
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state

ENGLISH = pool("english", semantic={"contains": ["en"]})


async def update(cell: Cell, session: Session, *languages: str, **members: Any) -> Registration:
    report = NodeReport.of(facts_of(*languages, **members))
    return await cell.allocator.update(session, report, lease_ms=LEASE_MS)


async def auto(cell: Cell, *pools: dict[str, Any], **policy: Any) -> None:
    await cell.allocator.sync(document_of(*pools, auto=policy), force=True)


async def pools_of(cell: Cell) -> dict[str, int]:
    return {row.name: row.nodes for row in (await cell.allocator.pools()).pools}


async def leave(cell: Cell, *sessions: Session) -> None:
    """The nodes are gone for good."""
    for session in sessions:
        await cell.allocator.release(session, grace_ms=0, reason="closed")
    await cell.trust_leases()
    assert (await cell.reconcile()).expired == len(sessions)


# --- made -------------------------------------------------------------------------------------------------------------


async def test_the_first_node_of_a_language_set_makes_its_pool_and_one_new_version(cell: Cell) -> None:
    before = await cell.allocator.version()
    registered = await cell.register("a", "en", "zh", instance="one")
    assert (registered.pool, registered.version) == ("en-zh", before + 1)
    entry = (await cell.allocator.history())[0]
    assert (entry.version, entry.kind, entry.author, entry.has_document) == (
        before + 1,
        "auto_pool_created",
        "one",
        False,
    )
    assert [(change.pool, change.change) for change in entry.changes] == [("en-zh", "added")]
    types = await cell.event_types()
    assert types[-4:] == ["pool.created", "config.bumped", "node.registered", "node.assigned"]
    detail = await cell.allocator.pool("en-zh")
    assert (detail.summary.origin, detail.summary.languages) == ("auto", ("en", "zh"))


async def test_another_node_of_the_set_joins_without_a_new_version(cell: Cell) -> None:
    first = await cell.register("a", "en", "zh")
    same = await cell.register("b", "en", "zh")
    different = await cell.register("c", facts=facts_of("en", "zh", gpu_memory_gb=(8, 8)))
    assert {first.pool_id, same.pool_id, different.pool_id} == {1}
    assert {first.version, same.version, different.version} == {2}
    assert first.node_class == same.node_class != different.node_class
    assert await pools_of(cell) == {"en-zh": 3}


async def test_pool_numbers_are_never_given_twice(cell: Cell) -> None:
    await auto(cell, idle_ttl="1s")
    first = await cell.register("a", "en")
    await leave(cell, first.session)
    await cell.pass_time(1000)
    assert (await cell.reconcile()).removed_pools == ("en",)
    second = await cell.register("a", "en")
    assert (first.pool_id, second.pool_id) == (1, 2)


async def test_two_processes_that_meet_a_new_set_at_once_make_one_pool(
    cell: Cell, redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace) as other:
        registered = await asyncio.gather(
            *(
                here.register(f"{name}{number}", facts=facts_of("en", "zh", gpu_memory_gb=(number,)))
                for number in range(10)
                for name, here in (("a", cell), ("b", other))
            )
        )
    assert {(node.pool, node.pool_id, node.version) for node in registered} == {("en-zh", 1, 2)}


# --- min_nodes --------------------------------------------------------------------------------------------------------


async def test_nodes_of_one_set_wait_until_they_are_enough(cell: Cell) -> None:
    """They are counted by language set, whatever else tells their classes apart."""
    await auto(cell, min_nodes=3)
    for number in range(2):
        waiting = await cell.register(f"n{number}", facts=facts_of("en", "zh", gpu_memory_gb=(number,)))
        assert (waiting.pool, waiting.reason) == (None, "below_min_nodes")
    version = await cell.allocator.version()
    third = await cell.register("n2", facts=facts_of("en", "zh", gpu_memory_gb=(2,)))
    assert (third.pool, third.version) == ("en-zh", version + 1)
    assert await pools_of(cell) == {"en-zh": 3}
    assert (await cell.allocator.pools()).unmatched_nodes == 0


async def test_a_node_that_registers_again_is_not_counted_twice(cell: Cell) -> None:
    await auto(cell, min_nodes=2)
    for number in range(3):
        registered = await cell.register("a", "en", "zh", session_id=f"s{number}")
        assert registered.reason == "below_min_nodes"


async def test_a_node_that_moves_between_classes_of_one_set_is_not_counted_twice(cell: Cell) -> None:
    await auto(cell, min_nodes=2)
    session = (await cell.register("a", "en", "zh")).session
    moved = await update(cell, session, "en", "zh", gpu_memory_gb=(8,))
    assert moved.reason == "below_min_nodes"
    back = await update(cell, moved.session, "en", "zh")
    assert back.reason == "below_min_nodes"
    assert (await cell.register("b", "en", "zh")).pool == "en-zh"
    assert await pools_of(cell) == {"en-zh": 2}


async def test_a_node_that_moves_into_a_class_that_waits_brings_the_pool_to_all(cell: Cell) -> None:
    await auto(cell, min_nodes=2)
    await cell.register("a", "en", "zh")
    mover = (await cell.register("b", "de")).session
    assert (await update(cell, mover, "en", "zh")).pool == "en-zh"
    assert await pools_of(cell) == {"en-zh": 2}


async def test_classes_that_lack_a_required_service_do_not_count_and_do_not_come_along(cell: Cell) -> None:
    await auto(cell, min_nodes=2, require_services=["asr"])
    lacking = await cell.register("lacking", facts=facts_of("en", "zh", services=("tts",)))
    assert lacking.reason == "services_missing"
    assert (await cell.register("a", facts=facts_of("en", "zh", services=("asr",)))).reason == "below_min_nodes"
    assert (await cell.register("b", facts=facts_of("en", "zh", services=("asr", "tts")))).pool == "en-zh"
    assert await pools_of(cell) == {"en-zh": 2}
    assert (await cell.allocator.explain("lacking")).reason == "services_missing"


async def test_classes_of_the_set_that_a_declared_pool_has_do_not_count_and_do_not_come_along(cell: Cell) -> None:
    await auto(cell, pool("eu", labels={"zone": "eu"}), min_nodes=2)
    for number in range(2):
        placed = await cell.register(f"eu{number}", facts=facts_of("en", labels={"zone": "eu"}))
        assert placed.pool == "eu"
    assert (await cell.register("a", "en")).reason == "below_min_nodes"
    assert (await cell.register("b", "en")).pool == "en"
    assert await pools_of(cell) == {"eu": 2, "en": 2}


async def test_a_pool_that_is_there_takes_single_nodes(cell: Cell) -> None:
    """min_nodes is about making a pool, not about keeping it."""
    first = await cell.register("a", "en", "zh")
    await auto(cell, min_nodes=5)
    await leave(cell, first.session)
    assert (await cell.register("b", facts=facts_of("en", "zh", gpu_memory_gb=(1,)))).pool == "en-zh"


# --- max_pools --------------------------------------------------------------------------------------------------------


async def test_beyond_max_pools_nodes_wait_and_the_largest_group_is_placed_first(cell: Cell) -> None:
    await auto(cell, max_pools=1, idle_ttl="1s")
    holder = (await cell.register("holder", "ja")).session
    for node_id, language in (("a", "de"), ("b1", "en"), ("b2", "en"), ("c", "fr")):
        assert (await cell.register(node_id, language)).reason == "max_pools"
    await leave(cell, holder)
    await cell.reconcile()
    await cell.pass_time(1000)
    version = await cell.allocator.version()
    report = await cell.reconcile()
    assert (report.removed_pools, report.created_pools, report.placed_classes) == (("ja",), ("en",), 1)
    assert report.version == version + 1, "one step, one version"
    assert await pools_of(cell) == {"en": 2}
    entry = (await cell.allocator.history())[0]
    assert [(change.pool, change.change) for change in entry.changes] == [("ja", "removed"), ("en", "added")]


async def test_groups_of_equal_size_are_placed_by_name(cell: Cell) -> None:
    await auto(cell, max_pools=0)
    for language in ("fr", "de", "en"):
        await cell.register(language, language)
    await auto(cell, max_pools=2)
    assert await pools_of(cell) == {"de": 1, "en": 1}


async def test_declared_pools_do_not_count_as_auto_pools(cell: Cell) -> None:
    await auto(cell, ENGLISH, pool("japanese", semantic={"contains": ["ja"]}), max_pools=1)
    assert (await cell.register("a", "de")).pool == "de"
    assert (await cell.register("a2", "de")).pool == "de"
    assert (await cell.register("b", "fr")).reason == "max_pools"
    assert (await cell.register("b2", "fr")).reason == "max_pools"


async def test_declared_pools_do_not_count_for_a_class_that_waits_either(cell: Cell) -> None:
    await auto(cell, ENGLISH, pool("japanese", semantic={"contains": ["ja"]}), max_pools=1, min_nodes=2)
    assert (await cell.register("a", "de")).reason == "below_min_nodes"
    assert (await cell.register("a2", "de")).pool == "de"


async def test_however_many_classes_can_never_be_placed_the_others_are(cell: Cell) -> None:
    """A step that looked at the first few only would never come to them."""
    await auto(cell, pool("de", labels={"zone": "nowhere"}), max_pools=1, idle_ttl="1s")
    for number in range(5):
        registered = await cell.register(f"n{number}", facts=facts_of("de", gpu_memory_gb=(number,)))
        assert registered.reason == "name_taken"
    holder = (await cell.register("holder", "ja")).session
    assert (await cell.register("late", "fr")).reason == "max_pools"
    await leave(cell, holder)
    await cell.reconcile()
    await cell.pass_time(1000)
    assert (await cell.reconcile(scan=1)).created_pools == ("fr",)


async def test_reconcile_counts_the_nodes_of_a_set_over_all_its_classes(cell: Cell) -> None:
    await auto(cell, max_pools=1, min_nodes=1, idle_ttl="1s")
    holder = (await cell.register("holder", "ja")).session
    await auto(cell, max_pools=1, min_nodes=3, idle_ttl="1s")
    for number in range(3):
        waiting = await cell.register(f"n{number}", facts=facts_of("en", gpu_memory_gb=(number,)))
        assert waiting.reason == "max_pools"
    await leave(cell, holder)
    await cell.reconcile()
    await cell.pass_time(1000)
    assert (await cell.reconcile(scan=1)).placed_classes == 3
    assert await pools_of(cell) == {"en": 3}


async def test_a_node_that_leaves_in_the_same_step_does_not_count_any_more(cell: Cell) -> None:
    await auto(cell, max_pools=1, idle_ttl="1s")
    await cell.register("holder", "ja", lease_ms=1)
    stays = await cell.register("stays", "fr")
    for node_id in ("goes1", "goes2"):
        await cell.register(node_id, "en", lease_ms=1)
    await cell.pass_time(10_000)
    await cell.allocator.heartbeat(stays.session, lease_ms=LEASE_MS)
    assert (await cell.reconcile()).expired == 3
    await cell.pass_time(1000)
    assert (await cell.reconcile()).created_pools == ("fr",)


async def test_a_class_that_is_dropped_in_the_same_step_does_not_come_along(cell: Cell) -> None:
    await auto(cell, max_pools=1, idle_ttl="1s")
    holder = (await cell.register("holder", "ja")).session
    stays = (await cell.register("stays", "fr")).session
    goes = (await cell.register("goes", facts=facts_of("fr", gpu_memory_gb=(1,)))).session
    await leave(cell, holder)
    await cell.allocator.release(goes, grace_ms=0, reason="closed")
    await cell.pass_time(1000)
    await cell.allocator.heartbeat(stays, lease_ms=LEASE_MS)
    report = await cell.reconcile()
    assert (report.expired, report.dropped_classes) == (1, 1)
    assert (report.removed_pools, report.created_pools, report.placed_classes) == (("ja",), ("fr",), 1)


async def test_reconcile_places_no_class_that_lacks_a_required_service(cell: Cell) -> None:
    await auto(cell, max_pools=1, idle_ttl="1s", require_services=["asr"])
    holder = (await cell.register("holder", "ja")).session
    await cell.register("lacking", facts=facts_of("en", services=("tts",)))
    await cell.register("has", facts=facts_of("en", services=("asr",)))
    await leave(cell, holder)
    await cell.pass_time(1000)
    report = await cell.reconcile()
    assert (report.created_pools, report.placed_classes) == (("en",), 1)
    assert (await cell.pool_of("has"), await cell.pool_of("lacking")) == ("en", None)


# --- idle -------------------------------------------------------------------------------------------------------------


async def test_a_pool_without_nodes_is_kept_for_its_time_and_then_removed(cell: Cell) -> None:
    await auto(cell, idle_ttl="10m")
    await leave(cell, (await cell.register("a", "en")).session)
    await cell.pass_time(590_000)
    report = await cell.reconcile()
    assert (report.removed_pools, await pools_of(cell)) == ((), {"en": 0})
    version = await cell.allocator.version()
    await cell.pass_time(20_000)
    report = await cell.reconcile()
    assert (report.removed_pools, report.version) == (("en",), version + 1)
    entry = (await cell.allocator.history())[0]
    assert (entry.kind, entry.author) == ("auto_pool_removed", "reconcile")
    assert (await cell.event_types())[-3:] == ["pool.removed", "config.bumped", "reconcile.ran"]


async def test_pools_that_go_together_go_in_the_order_of_their_names(cell: Cell) -> None:
    await auto(cell, idle_ttl="10m")
    codes = ("nl", "de", "sv", "en", "pl", "fr", "it")
    for code in codes:
        await leave(cell, (await cell.register(code, code)).session)
    await cell.reconcile()
    await cell.pass_time(610_000)
    assert (await cell.reconcile()).removed_pools == tuple(sorted(codes))


async def test_a_pool_that_is_used_again_is_not_idle_any_more(cell: Cell) -> None:
    await auto(cell, idle_ttl="10m")
    await leave(cell, (await cell.register("a", "en")).session)
    await cell.pass_time(590_000)
    session = (await cell.register("a", "en", session_id="s2")).session
    await cell.reconcile()
    await leave(cell, session)
    await cell.pass_time(590_000)
    assert (await cell.reconcile()).removed_pools == ()
    await cell.pass_time(20_000)
    assert (await cell.reconcile()).removed_pools == ("en",)


async def test_a_pool_that_was_used_again_and_then_lost_its_nodes_to_another_is_kept_for_its_time(cell: Cell) -> None:
    await auto(cell, idle_ttl="10m")
    await leave(cell, (await cell.register("a", "en")).session)
    await cell.pass_time(590_000)
    await cell.register("a", "en", session_id="s2", lease_ms=86_400_000)
    await cell.reconcile()
    await auto(cell, ENGLISH, idle_ttl="10m")
    await cell.pass_time(20_000)
    assert (await cell.reconcile()).removed_pools == ()
    await cell.pass_time(610_000)
    assert (await cell.reconcile()).removed_pools == ("en",)


async def test_a_short_visit_between_two_steps_counts_as_use(cell: Cell) -> None:
    await auto(cell, idle_ttl="10m")
    await leave(cell, (await cell.register("a", "en")).session)
    await cell.pass_time(590_000)
    await cell.allocator.release((await cell.register("b", "en")).session, grace_ms=0, reason="closed")
    await cell.pass_time(20_000)
    report = await cell.reconcile()
    assert (report.expired, report.removed_pools) == (1, ())


async def test_a_pool_stays_while_a_node_in_grace_is_in_it(cell: Cell) -> None:
    await auto(cell, idle_ttl="1s")
    session = (await cell.register("a", "en")).session
    await cell.allocator.release(session, grace_ms=30_000, reason="closed")
    await cell.pass_time(5_000)
    await cell.reconcile()
    await cell.pass_time(5_000)
    assert (await cell.reconcile()).removed_pools == ()
    assert await cell.pool_of("a") == "en"


async def test_declared_pools_are_never_idle(cell: Cell) -> None:
    await auto(cell, ENGLISH, idle_ttl="1s")
    await cell.reconcile()
    await cell.pass_time(10_000)
    assert (await cell.reconcile()).removed_pools == ()


# --- the policy changes -----------------------------------------------------------------------------------------------


async def test_existing_pools_stay_when_auto_pools_are_switched_off(cell: Cell) -> None:
    await auto(cell, idle_ttl="1s")
    session = (await cell.register("a", "en")).session
    await auto(cell, enabled=False, idle_ttl="1s")
    assert await cell.pool_of("a") == "en"
    assert (await cell.register("b", facts=facts_of("en", gpu_memory_gb=(1,)))).pool == "en"
    assert (await cell.register("c", "de")).reason == "auto_disabled"
    sessions = [session, (await cell.register("b", facts=facts_of("en", gpu_memory_gb=(1,)), session_id="s")).session]
    await leave(cell, *sessions)
    await cell.pass_time(1000)
    assert (await cell.reconcile()).removed_pools == ("en",)


async def test_a_stricter_policy_about_services_takes_classes_out_at_once(cell: Cell) -> None:
    await cell.register("a", facts=facts_of("en", services=("asr", "vad")))
    await cell.register("b", facts=facts_of("en", services=("asr",)))
    change_version = await cell.allocator.version()
    await auto(cell, require_services=["vad"])
    assert (await cell.pool_of("a"), await cell.pool_of("b")) == ("en", None)
    assert await cell.allocator.version() == change_version + 1
    await auto(cell, require_services=[])
    assert (await cell.pool_of("a"), await cell.pool_of("b")) == ("en", "en")


@pytest.mark.parametrize(
    ("strict", "loose"),
    [
        ({"enabled": False}, {"enabled": True}),
        ({"max_pools": 0}, {"max_pools": 1}),
        ({"min_nodes": 2}, {"min_nodes": 1}),
        ({"require_services": ["vad"]}, {"require_services": ["asr"]}),
    ],
)
async def test_a_looser_policy_places_the_waiting_nodes_at_once(
    cell: Cell, strict: dict[str, Any], loose: dict[str, Any]
) -> None:
    await auto(cell, **strict)
    assert (await cell.register("a", "en")).pool is None
    await auto(cell, **loose)
    assert await cell.pool_of("a") == "en"


# --- names that declared pools take and give back ---------------------------------------------------------------------


async def test_a_declared_pool_takes_over_the_auto_pool_of_its_name_with_its_number(cell: Cell) -> None:
    first = await cell.register("a", "en", "zh")
    change = await cell.allocator.sync(document_of(pool("en-zh", semantic={"contains": ["en"]})))
    assert [(one.pool, one.change) for one in change.changes] == [("en-zh", "changed")]
    detail = await cell.allocator.pool("en-zh")
    assert (detail.summary.origin, detail.summary.id, detail.summary.nodes) == ("declared", first.pool_id, 1)
    assert change.moves == (), "its nodes did not move"


async def test_a_declared_pool_that_does_not_match_turns_the_nodes_of_its_name_away(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.allocator.sync(document_of(pool("en-zh", labels={"zone": "eu"})), force=True)
    assert (await cell.allocator.explain("a")).reason == "name_taken"


async def test_a_declared_pool_that_is_removed_leaves_its_nodes_an_auto_pool_in_the_same_step(cell: Cell) -> None:
    await cell.allocator.sync(document_of(ENGLISH))
    await cell.register("a", "en", "zh")
    change = await cell.allocator.sync(document_of(), allow_empty=True)
    assert [(one.pool, one.change) for one in change.changes] == [("en-zh", "added"), ("english", "removed")]
    assert [(move.from_pool, move.to_pool, move.nodes) for move in change.moves] == [("english", "en-zh", 1)]
    assert (change.unassigned_nodes, change.version_after) == (0, change.version_before + 1)
    assert await pools_of(cell) == {"en-zh": 1}


async def test_a_name_given_back_by_a_declared_pool_goes_to_the_auto_pool_with_its_number(cell: Cell) -> None:
    await cell.allocator.sync(document_of(pool("en-zh", labels={"zone": "eu"})))
    assert (await cell.register("a", "en", "zh")).reason == "name_taken"
    change = await cell.allocator.sync(document_of(), allow_empty=True)
    assert [(one.pool, one.change) for one in change.changes] == [("en-zh", "changed")]
    detail = await cell.allocator.pool("en-zh")
    assert (detail.summary.origin, detail.summary.id, detail.summary.nodes) == ("auto", 1, 1)


async def test_an_auto_pool_survives_a_sync_of_the_declared_ones(cell: Cell) -> None:
    first = await cell.register("a", "de")
    before = (await read_state(cell.store)).pools["de"]
    await cell.allocator.sync(document_of(ENGLISH))
    assert (await read_state(cell.store)).pools["de"] == before
    assert await cell.pool_of("a") == first.pool == "de"


async def test_an_empty_auto_pool_that_a_declared_one_replaced_is_not_idle(cell: Cell) -> None:
    await auto(cell, idle_ttl="1s")
    await leave(cell, (await cell.register("a", "en")).session)
    await auto(cell, pool("en", semantic={"contains": ["en"]}), idle_ttl="1s")
    await cell.pass_time(10_000)
    assert (await cell.reconcile()).removed_pools == ()
    assert "idle_since" not in (await read_state(cell.store)).pools["en"]
