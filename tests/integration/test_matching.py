"""Which pool a node belongs in: rules, their order, and the reason where no pool takes a node."""

from __future__ import annotations

from typing import Any

import pytest

from pyscheduler import Facts, NodeReport
from pyscheduler.core.languages import language_set_name
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool

NO_AUTO: dict[str, Any] = {"enabled": False}


def facts(**members: Any) -> Facts:
    return Facts(**members)


MATCHES: list[tuple[dict[str, Any], Facts, bool]] = [
    ({"semantic": {"exact": ["zh", "en"]}}, facts(semantic=("en", "zh")), True),
    ({"semantic": {"exact": ["zh", "en"]}}, facts(semantic=("en", "zh", "de")), False),
    ({"semantic": {"exact": ["zh", "en"]}}, facts(semantic=("en",)), False),
    ({"semantic": {"exact": ["zh", "en"]}}, facts(semantic=("en", "de")), False),
    ({"semantic": {"exact": ["zh", "en"]}}, facts(asr=("en", "zh"), tts=("en", "zh")), False),
    ({"semantic": {"contains": ["en"]}}, facts(semantic=("en", "zh")), True),
    ({"semantic": {"contains": ["en", "de"]}}, facts(semantic=("en", "zh")), False),
    ({"semantic": {"contains": ["en"]}}, facts(), False),
    ({"semantic": {"any": ["fr", "zh"]}}, facts(semantic=("en", "zh")), True),
    ({"semantic": {"any": ["fr", "de"]}}, facts(semantic=("en", "zh")), False),
    ({"semantic": {"any": ["fr", "de"]}}, facts(), False),
    ({"semantic": {"contains": ["zh"]}}, facts(semantic=("zh-cn",)), False),
    ({"semantic": {"contains": ["ZH_cn"]}}, facts(semantic=("zh-CN",)), True),
    ({"semantic": {"exact": ["en"]}}, facts(semantic=("en", "zh")), False),
    ({"semantic": {"contains": ["en"]}, "tts": {"any": ["fr"]}}, facts(semantic=("en", "zh"), tts=("en",)), False),
    ({"semantic": {"contains": ["en"]}, "gpu": {"min_count": 1}}, facts(semantic=("en", "zh")), False),
    ({"services": ["asr"], "gpu": {"min_memory_gb": 16}}, facts(services=("asr",), gpu_memory_gb=(8,)), False),
    ({"services": ["asr"], "labels": {"zone": "eu"}}, facts(services=("asr",), labels={"zone": "us"}), False),
    ({"services": ["semantic"]}, facts(services=("semantic",)), True),
    ({"semantic": {"contains": ["en"]}}, facts(services=("en", "semantic"), tts=("en",)), False),
    ({"asr": {"exact": ["en"]}}, facts(asr=("en",), semantic=("de", "fr")), True),
    ({"asr": {"contains": ["en"]}}, facts(semantic=("en",)), False),
    ({"tts": {"any": ["en"]}}, facts(tts=("en", "de")), True),
    ({"tts": {"any": ["en"]}}, facts(asr=("en",)), False),
    ({"asr": {"contains": ["en"]}, "tts": {"contains": ["zh"]}}, facts(asr=("en",), tts=("zh",)), True),
    ({"asr": {"contains": ["en"]}, "tts": {"contains": ["zh"]}}, facts(asr=("en",), tts=("de",)), False),
    ({"services": ["asr", "nmt"]}, facts(services=("asr", "nmt", "tts")), True),
    ({"services": ["asr", "nmt"]}, facts(services=("asr", "tts")), False),
    ({"services": ["asr"]}, facts(), False),
    ({"gpu": {"min_count": 1}}, facts(gpu_memory_gb=(8,)), True),
    ({"gpu": {"min_count": 1}}, facts(), False),
    ({"gpu": {"min_count": 2}}, facts(gpu_memory_gb=(24,)), False),
    ({"gpu": {"min_count": 2}}, facts(gpu_memory_gb=(24, 0)), True),
    ({"gpu": {"min_memory_gb": 16}}, facts(gpu_memory_gb=(8, 16)), True),
    ({"gpu": {"min_memory_gb": 16}}, facts(gpu_memory_gb=(8, 15)), False),
    ({"gpu": {"min_memory_gb": 16}}, facts(), False),
    ({"gpu": {"min_count": 2, "min_memory_gb": 16}}, facts(gpu_memory_gb=(24, 16, 8)), True),
    ({"gpu": {"min_count": 2, "min_memory_gb": 16}}, facts(gpu_memory_gb=(24, 8, 8)), False),
    ({"labels": {"zone": "eu"}}, facts(labels={"zone": "eu", "rack": "7"}), True),
    ({"labels": {"zone": "eu"}}, facts(labels={"zone": "EU"}), False),
    ({"labels": {"zone": "eu"}}, facts(labels={"rack": "eu"}), False),
    ({"labels": {"zone": ""}}, facts(labels={"zone": ""}), True),
    ({"labels": {"zone": ""}}, facts(), False),
    ({"labels": {"zone": "北京 \u00e9 🚀"}}, facts(labels={"zone": "北京 e\u0301 🚀"}), True),
    ({"labels": {"Zone": "eu", "rack": "7"}}, facts(labels={"zone": "eu", "RACK": "7"}), True),
    ({"labels": {"zone": "eu", "rack": "7"}}, facts(labels={"zone": "eu", "rack": "8"}), False),
    (
        {"semantic": {"contains": ["en"]}, "services": ["asr"], "gpu": {"min_count": 1}, "labels": {"zone": "eu"}},
        facts(semantic=("en", "zh"), services=("asr",), gpu_memory_gb=(8,), labels={"zone": "eu"}),
        True,
    ),
    ({"semantic": {"contains": ["en"]}, "services": ["tts"]}, facts(semantic=("en",), services=("asr",)), False),
]


@pytest.mark.parametrize(("rule", "node", "matches"), MATCHES)
async def test_a_node_is_in_a_declared_pool_if_it_meets_every_constraint(
    cell: Cell, rule: dict[str, Any], node: Facts, matches: bool
) -> None:
    await cell.allocator.sync(document_of(pool("p", **rule), auto=NO_AUTO))
    assert (await cell.register("a", facts=node)).pool == ("p" if matches else None)
    (decision,) = (await cell.allocator.explain("a")).decisions
    assert (decision.matches, decision.chosen) == (matches, matches)
    assert bool(decision.failed) is not matches


@pytest.mark.parametrize(("rule", "node", "matches"), MATCHES)
async def test_a_sync_places_a_node_as_its_registration_would_have(
    cell: Cell, rule: dict[str, Any], node: Facts, matches: bool
) -> None:
    await cell.allocator.sync(document_of(auto=NO_AUTO))
    await cell.register("a", facts=node)
    await cell.allocator.sync(document_of(pool("p", **rule), auto=NO_AUTO))
    assert await cell.pool_of("a") == ("p" if matches else None)


# --- the order of pools -----------------------------------------------------------------------------------------------

NODE = facts(semantic=("en", "zh"), services=("asr", "nmt"), gpu_memory_gb=(24,), labels={"zone": "eu"})
EN = {"semantic": {"contains": ["en"]}}
ZH = {"semantic": {"contains": ["zh"]}}
ASR = {"services": ["asr"]}


@pytest.mark.parametrize(
    ("pools", "first"),
    [
        ([pool("a", **EN), pool("b", priority=1, **ZH)], "b"),
        ([pool("a", priority=-1, **EN), pool("b", priority=-2, **ZH)], "a"),
        ([pool("a", priority=1, **EN), pool("b", **ZH, **ASR, labels={"zone": "eu"})], "a"),
        ([pool("a", **EN), pool("b", **ZH, **ASR)], "b"),
        ([pool("a", **EN), pool("b", services=["asr", "nmt"])], "b"),
        ([pool("a", **EN), pool("b", gpu={"min_count": 1, "min_memory_gb": 8})], "b"),
        ([pool("a", **EN, **ASR), pool("b", gpu={"min_count": 1, "min_memory_gb": 0}, labels={"zone": "eu"})], "a"),
        ([pool("a", semantic={"contains": ["en", "zh"]}), pool("b", **ASR)], "a"),
        ([pool("b", **ZH), pool("a", **EN)], "b"),
        ([pool("a", **EN), pool("b", **ZH)], "a"),
    ],
)
async def test_pools_are_tried_by_priority_then_the_most_specific_then_in_document_order(
    cell: Cell, pools: list[dict[str, Any]], first: str
) -> None:
    await cell.allocator.sync(document_of(*pools))
    assert (await cell.register("n", facts=NODE)).pool == first
    explanation = await cell.allocator.explain("n")
    assert [decision.pool for decision in explanation.decisions if decision.chosen] == [first]
    assert {decision.pool for decision in explanation.decisions if decision.matches} >= {"a", "b"}


@pytest.mark.parametrize("priorities", [(5, 4, 2, 3, 1), (1, 2, 3, 4, 5), (3, 5, 1, 4, 2)])
async def test_pools_are_tried_by_priority_in_whatever_order_they_are_declared(
    cell: Cell, priorities: tuple[int, ...]
) -> None:
    await cell.allocator.sync(document_of(*(pool(f"p{number}", priority=number, **EN) for number in priorities)))
    await cell.register("n", facts=NODE)
    decisions = (await cell.allocator.explain("n")).decisions
    assert [decision.pool for decision in decisions] == ["p5", "p4", "p3", "p2", "p1"]


ONE_AND_TWO: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"semantic": {"contains": ["en"]}}, {"semantic": {"any": ["en", "zh"]}, "asr": {"contains": ["en"]}}),
    ({"asr": {"exact": ["en"]}}, {"asr": {"any": ["en", "zh"]}, "tts": {"exact": ["en"]}}),
    ({"tts": {"any": ["en"]}}, {"tts": {"contains": ["en", "zh"]}, "semantic": {"exact": ["en"]}}),
    ({"services": ["asr"]}, {"services": ["asr", "nmt"]}),
    ({"gpu": {"min_count": 1}}, {"gpu": {"min_count": 1, "min_memory_gb": 8}}),
    ({"labels": {"zone": "eu"}}, {"labels": {"zone": "eu", "rack": "7"}}),
]
"""Rules of each kind, with one constraint and with two."""


@pytest.mark.parametrize(("kind", "other"), [(kind, other) for kind in range(6) for other in range(6)])
async def test_a_constraint_of_any_kind_counts_as_much_as_one_of_another(cell: Cell, kind: int, other: int) -> None:
    rules = {"one": ONE_AND_TWO[kind][0], "two": ONE_AND_TWO[other][1]}
    await cell.allocator.sync(document_of(*(pool(name, **rule) for name, rule in rules.items())))
    await cell.register("n", facts=NODE)
    decisions = (await cell.allocator.explain("n")).decisions
    assert [decision.pool for decision in decisions if decision.origin == "declared"] == ["two", "one"]


async def test_a_declared_pool_comes_before_the_auto_pool_whatever_its_priority(cell: Cell) -> None:
    await cell.register("n", facts=NODE)
    await cell.allocator.sync(document_of(pool("last", priority=-1000, **EN)))
    assert await cell.pool_of("n") == "last"
    assert (await cell.register("m", facts=NODE)).pool == "last"


async def test_pools_of_equal_rank_that_change_places_in_the_document_change_places_in_matching(cell: Cell) -> None:
    await cell.allocator.sync(document_of(pool("a", **EN), pool("b", **ZH)))
    await cell.register("n", facts=NODE)
    change = await cell.allocator.sync(document_of(pool("b", **ZH), pool("a", **EN)))
    assert [(move.from_pool, move.to_pool, move.nodes) for move in change.moves] == [("a", "b", 1)]
    assert await cell.pool_of("n") == "b"


# --- the auto pool of a language set ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (facts(semantic=("zh", "en"), tts=("fr",), asr=("de",)), "en-zh"),
        (facts(tts=("fr", "de"), asr=("en",)), "de-fr"),
        (facts(asr=("zh", "EN")), "en-zh"),
        (facts(semantic=("zh-CN", "en")), "en-zh_cn"),
        (facts(semantic=("zh-hant-tw", "zh-hans")), "zh_hans-zh_hant_tw"),
        (facts(semantic=("en",)), "en"),
    ],
)
async def test_an_auto_pool_is_named_after_what_a_node_translates_else_speaks_else_hears(
    cell: Cell, node: Facts, name: str
) -> None:
    assert (await cell.register("a", facts=node)).pool == name == language_set_name(node.languages)


async def test_250_languages_are_one_pool_with_a_name_of_its_own(cell: Cell) -> None:
    codes = [f"{first}{second}{third}" for first in "abcdefghij" for second in "abcde" for third in "vwxyz"]
    registered = await cell.register("a", *codes)
    assert registered.pool is not None
    assert registered.pool.startswith("langs-250-")
    assert registered.pool == language_set_name(codes)
    assert (await cell.allocator.pool(registered.pool)).summary.languages == tuple(sorted(codes))
    assert len(await cell.allocator.find("aav", "jez")) == 1
    assert (await cell.register("b", *codes[:-1])).pool != registered.pool


async def test_the_longest_name_that_is_no_hash_is_of_128_characters(cell: Cell) -> None:
    codes = [f"{letter}bcdefg" for letter in "abcdefghijklmnop"]
    exactly = (await cell.register("a", *codes[:15], "pbcdefgh")).pool
    assert exactly is not None
    assert len(exactly) == 128
    over = (await cell.register("b", *codes[:14], "obcdefgh", "pbcdefgh")).pool
    assert over is not None
    assert over.startswith("langs-16-")


async def test_nodes_with_equal_facts_are_one_class_however_they_say_them(cell: Cell) -> None:
    first = await cell.register("a", facts=facts(semantic=("zh", "en"), labels={"zone": "eu", "unique.host": "a"}))
    second = await cell.register(
        "b", facts=facts(semantic=("EN", "zh", "en"), labels={"ZONE": "eu", "unique.host": "b"})
    )
    other = await cell.register("c", facts=facts(semantic=("zh", "en"), labels={"zone": "us"}))
    assert first.node_class == second.node_class != other.node_class
    assert first.pool == second.pool == other.pool


async def test_a_node_that_changes_its_facts_changes_its_pool_in_one_step(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    changed = await cell.allocator.update(session, NodeReport.of(facts_of("de", "fr")), lease_ms=LEASE_MS)
    assert (changed.pool, changed.session.epoch) == ("de-fr", session.epoch)
    node = await cell.allocator.node("a")
    assert node.transition is not None
    assert (node.transition.from_pool, node.transition.to_pool) == ("en-zh", "de-fr")
    assert node.transition.reason == "facts_changed"
    moved = [event for event in await cell.allocator.events() if event.type == "node.assigned"][-1]
    assert (moved.from_, moved.to, moved.reason) == ("en-zh", "de-fr", "facts_changed")
    assert {row.name: row.nodes for row in (await cell.allocator.pools()).pools} == {"en-zh": 0, "de-fr": 1}


async def test_a_node_whose_record_alone_changes_stays_in_its_class(cell: Cell) -> None:
    first = await cell.register("a", "en", record={"version": 1})
    report = NodeReport.of(facts_of("en"), record={"version": 2})
    changed = await cell.allocator.update(first.session, report, lease_ms=LEASE_MS, reason="record_changed")
    assert changed.node_class == first.node_class
    assert changed.session.token != first.session.token
    assert (await cell.allocator.node("a")).record == {"version": 2}
    assert await cell.event_types("a") == ["node.registered", "node.assigned"]


# --- no pool ----------------------------------------------------------------------------------------------------------


async def reason_of(cell: Cell, node_id: str) -> str:
    """The reason that explaining gives; registering again must give the same."""
    explanation = await cell.allocator.explain(node_id)
    assert explanation.node.state.pool is None
    assert not [decision for decision in explanation.decisions if decision.chosen]
    return explanation.reason


@pytest.mark.parametrize(
    ("sections", "node", "reason"),
    [
        ({}, facts(services=("asr",)), "no_languages"),
        ({"auto": {"enabled": False}}, facts_of("en"), "auto_disabled"),
        ({"auto": {"max_pools": 0}}, facts_of("en"), "max_pools"),
        ({"auto": {"min_nodes": 2}}, facts_of("en"), "below_min_nodes"),
        ({"auto": {"require_services": ["asr", "vad"]}}, facts_of("en"), "services_missing"),
    ],
)
async def test_a_node_that_no_pool_takes_stays_registered_with_the_reason(
    cell: Cell, sections: dict[str, Any], node: Facts, reason: str
) -> None:
    await cell.allocator.sync(document_of(pool("other", labels={"zone": "nowhere"}), **sections))
    first = await cell.register("a", facts=node)
    assert (first.pool, first.pool_id, first.reason) == (None, None, reason)
    assert await reason_of(cell, "a") == reason
    assert (await cell.register("a", facts=node)).reason == reason, "said again, of a class that is known"

    table = await cell.allocator.pools()
    assert (table.nodes, table.unmatched_nodes, table.unmatched_classes) == (1, 1, 1)
    (node_seen,) = (await cell.allocator.nodes()).nodes
    assert node_seen.pool is None
    assert await cell.allocator.heartbeat(first.session, lease_ms=LEASE_MS) == table.version


@pytest.mark.parametrize("label", [{"zone": "eu"}, {"origin": "auto"}])
async def test_a_declared_pool_owns_its_name(cell: Cell, label: dict[str, str]) -> None:
    """A rule may well look like a part of what is stored of an auto pool."""
    await cell.allocator.sync(document_of(pool("en-zh", labels=label)))
    for node_id in ("a", "b"):
        registered = await cell.register(node_id, "en", "zh")
        assert (registered.pool, registered.reason) == (None, "name_taken")
    assert await reason_of(cell, "a") == "name_taken"
    assert (await cell.register("c", facts=facts_of("en", "zh", labels=label))).pool == "en-zh"


async def test_a_pool_that_does_not_say_what_it_needs_takes_its_classes_all_the_same(cell: Cell) -> None:
    """A release before pools said so wrote it, or the rule demands nothing that can be said."""
    quoted = {"zone": 'a "quoted" \\\\ path/to'}
    await cell.allocator.sync(
        document_of(
            pool("plain", semantic={"contains": ["en"]}),
            pool("quoted", labels=quoted),
            pool("either", asr={"any": ["ja", "ko"]}),
            pool("strong", gpu={"min_count": 2}),
            auto=NO_AUTO,
        )
    )
    stored = await cell.store.command("HGET", cell.store.key("pools"), "plain")
    older = stored.replace('"needs":"semantic:en",', "")
    assert older != stored
    await cell.store.command("HSET", cell.store.key("pools"), "plain", older)
    classes = {
        "plain": facts_of("en"),
        "quoted": facts(labels=quoted),
        "either": facts(asr=("ko",)),
        "strong": facts(gpu_memory_gb=(8, 8)),
        None: facts(asr=("fr",)),
    }
    assert {name: (await cell.register(str(name), facts=of)).pool for name, of in classes.items()} == {
        name: name for name in classes
    }


# --- explaining -------------------------------------------------------------------------------------------------------


async def test_explaining_names_each_constraint_that_failed_in_a_fixed_order(cell: Cell) -> None:
    labels = {f"label{number}": "x" for number in range(9)}
    strict = pool(
        "strict",
        semantic={"exact": ["en"]},
        asr={"contains": ["en", "fr"]},
        tts={"any": ["fr"]},
        services=["vad", "asr", "lid"],
        gpu={"min_count": 2},
        labels=labels,
    )
    memory = pool("memory", gpu={"min_memory_gb": 48})
    await cell.allocator.sync(
        document_of(strict, memory, pool("mine", semantic={"contains": ["en"]}, services=["asr"]))
    )
    await cell.register("other", "de")
    await cell.register("a", "en", "zh")

    explanation = await cell.allocator.explain("a")
    assert explanation.reason == "matched"
    decisions = {decision.pool: decision for decision in explanation.decisions}
    assert list(decisions) == ["strict", "mine", "memory", "de"], "in match order, then the auto pools"
    assert decisions["strict"].failed == (
        "semantic.exact",
        "asr.contains",
        "tts.any",
        "services.lid",
        "services.vad",
        "gpu.min_count",
        *(f"labels.{label}" for label in sorted(labels)),
    )
    assert decisions["memory"].failed == ("gpu.min_memory_gb",)
    assert decisions["mine"].chosen
    assert decisions["mine"].failed == ()
    assert (decisions["de"].origin, decisions["de"].failed) == ("auto", ("languages.exact",))


async def test_explaining_says_which_services_an_auto_pool_misses(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.allocator.sync(document_of(auto={"require_services": ["asr", "vad"]}), force=True)
    (decision,) = (await cell.allocator.explain("a")).decisions
    assert (decision.pool, decision.matches, decision.failed) == ("en", False, ("services.vad",))
    assert await reason_of(cell, "a") == "services_missing"


async def test_a_waiting_node_that_could_have_its_pool_waits_for_the_next_reconcile(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"max_pools": 1, "idle_ttl": "1s"}))
    first = await cell.register("a", "de")
    await cell.register("b", "en")
    await cell.allocator.update(first.session, NodeReport.of(facts_of("en")), lease_ms=LEASE_MS)
    assert await reason_of(cell, "b") == "max_pools"
    await cell.reconcile()
    await cell.pass_time(1000)
    await cell.reconcile()
    assert await cell.pool_of("b") == "en"


async def test_facts_of_the_greatest_size_can_be_written_and_read(cell: Cell) -> None:
    """What one node says must never keep the others from being listed."""
    codes = [
        f"abcdefgh-{first}bcdefgh-{second}bcdefgh-{third}bcdefgh"
        for first in "abcd"
        for second in "abcdefgh"
        for third in "abcdefgh"
    ]
    labels = {f"{number:064d}": "🚀" * 128 for number in range(32)}
    services = [f"{number:064d}" for number in range(256)]
    huge = facts(
        asr=codes, tts=codes, semantic=codes, services=services, gpu_memory_gb=(2**32 - 1,) * 64, labels=labels
    )
    assert len(huge.json) > 65_536
    assert len(huge.languages) == 256
    registered = await cell.register("a", facts=huge)
    assert [node.languages for node in (await cell.allocator.nodes()).nodes] == [huge.languages]
    assert (await cell.allocator.node("a")).facts["gpu_memory_gb"] == [2**32 - 1] * 64
    assert registered.pool is not None
    assert (await cell.allocator.pool(registered.pool)).ready_services == huge.services
