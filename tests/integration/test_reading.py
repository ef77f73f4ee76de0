"""Reading: pools, nodes and candidates, each in one look."""

from __future__ import annotations

import json

import pytest

from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import InvalidInput, NotFound, StoreError
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.support import DEADLINE_S

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


# --- the check --------------------------------------------------------------------------------------------------------


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
    await cell.store.command("HSET", cell.store.key("usage"), "a", f"0.5000 {stored}")
    with pytest.raises(StoreError, match="JSON"):
        await cell.allocator.node("a")
    assert [node.load for node in (await cell.allocator.nodes()).nodes] == [0.5]
