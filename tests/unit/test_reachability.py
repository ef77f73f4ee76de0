"""Shadowed pools: held against the meaning of rules, over every set of facts that a small world has."""

from __future__ import annotations

from itertools import chain, combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.document import DeclaredPool
from pyscheduler.core.reachability import shadowed
from pyscheduler.core.rules import MatchRule
from tests import oracle

CODES = ("de", "en", "zh")


def subsets(items: tuple[str, ...]) -> list[list[str]]:
    return [list(chosen) for chosen in chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))]


# The language "fr" and GPUs of 4 GB: the world must have what no rule speaks of.
WORLD: list[dict[str, Any]] = [
    {"semantic": semantic, "services": services, "gpu_memory_gb": gpus, "labels": labels}
    for semantic, services, gpus, labels in product(
        subsets((*CODES, "fr")),
        subsets(("asr", "nmt")),
        ([], [4], [4, 4], [8], [8, 8], [16], [16, 8], [16, 16]),
        ({}, {"zone": "eu"}, {"zone": "us"}),
    )
]

some_codes = st.lists(st.sampled_from(CODES), min_size=1, max_size=3, unique=True)
language_rules = st.one_of(*(st.fixed_dictionaries({mode: some_codes}) for mode in ("exact", "contains", "any")))
gpu_rules = st.fixed_dictionaries(
    {}, optional={"min_count": st.integers(1, 2), "min_memory_gb": st.sampled_from([8, 16])}
).filter(bool)
rules = st.fixed_dictionaries(
    {},
    optional={
        "semantic": language_rules,
        "services": st.lists(st.sampled_from(["asr", "nmt"]), min_size=1, unique=True),
        "gpu": gpu_rules,
        "labels": st.fixed_dictionaries({"zone": st.sampled_from(["eu", "us"])}),
    },
).filter(bool)


def pool(name: str, priority: int, match: dict[str, Any]) -> DeclaredPool:
    return DeclaredPool(name=name, priority=priority, match=MatchRule.model_validate(match))


def expected(pools: list[DeclaredPool]) -> set[tuple[int, int]]:
    """By trying it out: the pools for which one earlier pool takes every node of the world, and the first that does."""
    takes = [{i for i, facts in enumerate(WORLD) if oracle.meets(one.match.to_data(), facts)} for one in pools]
    order = sorted(
        range(len(pools)), key=lambda i: (-pools[i].priority, -oracle.constraints(pools[i].match.to_data()), i)
    )
    found = set()
    for rank, index in enumerate(order):
        hiding = next((earlier for earlier in order[:rank] if takes[index] <= takes[earlier]), None)
        if hiding is not None:
            found.add((index, hiding))
    return found


@given(st.lists(st.tuples(st.integers(-1, 1), rules), min_size=2, max_size=5))
def test_exactly_the_pools_that_one_earlier_pool_covers_are_found(drawn: list[tuple[int, dict[str, Any]]]) -> None:
    pools = [pool(f"p{index}", priority, match) for index, (priority, match) in enumerate(drawn)]
    assert set(shadowed(pools)) == expected(pools)


@pytest.mark.parametrize(
    ("earlier", "later", "shadows"),
    [
        ({"semantic": {"contains": ["en"]}}, {"semantic": {"exact": ["en", "zh"]}}, True),
        ({"semantic": {"contains": ["en", "de"]}}, {"semantic": {"exact": ["en", "zh"]}}, False),
        ({"semantic": {"exact": ["en", "zh"]}}, {"semantic": {"contains": ["en", "zh"]}}, False),
        ({"semantic": {"any": ["en", "de"]}}, {"semantic": {"contains": ["en", "zh"]}}, True),
        ({"semantic": {"any": ["en", "de"]}}, {"semantic": {"any": ["en", "zh"]}}, False),
        ({"semantic": {"any": ["en", "zh", "de"]}}, {"semantic": {"any": ["en", "zh"]}}, True),
        ({"semantic": {"any": ["en", "zh"]}}, {"semantic": {"any": ["en", "zh"]}}, True),
        ({"semantic": {"any": ["en"]}}, {"semantic": {"contains": ["en"]}}, True),
        ({"semantic": {"contains": ["en"]}}, {"semantic": {"any": ["en"]}}, True),
        ({"semantic": {"contains": ["en"]}}, {"asr": {"contains": ["en"]}}, False),
        ({"services": ["asr"]}, {"services": ["asr", "nmt"]}, True),
        ({"labels": {"zone": "eu"}}, {"labels": {"zone": "us"}}, False),
        ({"gpu": {"min_memory_gb": 8}}, {"gpu": {"min_count": 2, "min_memory_gb": 16}}, True),
        ({"gpu": {"min_memory_gb": 16}}, {"gpu": {"min_count": 2, "min_memory_gb": 16}}, True),
        ({"gpu": {"min_memory_gb": 17}}, {"gpu": {"min_count": 2, "min_memory_gb": 16}}, False),
        ({"gpu": {"min_count": 2}}, {"gpu": {"min_memory_gb": 16}}, False),
        ({"gpu": {"min_count": 1}}, {"semantic": {"exact": ["en"]}}, False),
        ({"gpu": {"min_count": 1}}, {"services": ["asr"]}, False),
        (
            {"semantic": {"any": ["de", "en"]}, "tts": {"any": ["de", "en"]}},
            {"semantic": {"contains": ["en"]}},
            False,
        ),
        (
            {"semantic": {"any": ["de", "en"]}, "tts": {"any": ["de", "en"]}},
            {"semantic": {"contains": ["en"]}, "tts": {"contains": ["de"]}},
            True,
        ),
        (
            {"semantic": {"any": ["de", "en"]}, "tts": {"any": ["de", "en"]}},
            {"semantic": {"contains": ["en"]}, "tts": {"any": ["de", "fr"]}},
            False,
        ),
        ({"gpu": {"min_count": 1}}, {"services": ["asr"], "gpu": {"min_memory_gb": 1}}, True),
        ({"semantic": {"any": ["en", "zh"]}}, {"semantic": {"any": ["de", "zh"]}}, False),
        ({"semantic": {"any": ["de", "zh"]}}, {"semantic": {"any": ["de", "en"]}}, False),
        (
            {"asr": {"contains": ["en"]}},
            {"semantic": {"any": ["de", "zh"]}, "asr": {"contains": ["en"]}, "tts": {"any": ["de", "zh"]}},
            True,
        ),
        (
            {"tts": {"any": ["de", "en", "zh"]}},
            {"semantic": {"any": ["de", "zh"]}, "tts": {"any": ["de", "zh"]}},
            True,
        ),
    ],
)
def test_whether_one_rule_covers_another(earlier: dict[str, Any], later: dict[str, Any], shadows: bool) -> None:
    pools = [pool("later", 0, later), pool("earlier", 1, earlier)]
    assert shadowed(pools) == ([(0, 1)] if shadows else [])


def test_each_shadowed_pool_is_found_with_the_first_that_shadows_it() -> None:
    assert shadowed([pool(name, 0, {"services": ["asr"]}) for name in ("a", "b", "c")]) == [(1, 0), (2, 0)]


def test_a_pool_shadows_none_that_meets_only_a_part_of_its_rule() -> None:
    zone = {"labels": {"zone": "eu"}}
    pools = [
        pool("large", 2, {**zone, "gpu": {"min_count": 4}}),
        pool("fast", 2, {**zone, "gpu": {"min_memory_gb": 9}}),
        pool("earlier", 1, {**zone, "services": ["asr"]}),
        pool("later", 0, {"services": ["asr"]}),
    ]
    assert shadowed(pools) == []


def test_the_more_specific_pool_is_tried_first_and_so_not_shadowed() -> None:
    assert shadowed([pool("wide", 0, {"services": ["asr"]}), pool("narrow", 0, {"services": ["asr", "nmt"]})]) == []
