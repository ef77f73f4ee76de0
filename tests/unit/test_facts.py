"""Facts have one text for one meaning: equal facts, equal JSON, and the other way round."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.facts import Facts
from pyscheduler.errors import InvalidInput

codes = st.lists(st.from_regex(r"[a-z]{2,3}(-[a-z]{2})?", fullmatch=True), max_size=6)
facts_members = st.fixed_dictionaries(
    {
        "asr": codes,
        "tts": codes,
        "semantic": codes,
        "services": st.lists(st.sampled_from(["asr", "nmt", "tts", "lexicon"]), max_size=5),
        "gpu_memory_gb": st.lists(st.integers(0, 96), max_size=4),
        "labels": st.dictionaries(
            st.from_regex(r"[a-z]{1,4}", fullmatch=True),
            st.text(st.characters(codec="utf-8", categories=["L", "N"]), max_size=5),
            max_size=4,
        ),
    }
)


def test_json_is_canonical_and_leaves_empty_members_out() -> None:
    facts = Facts(
        semantic=("zh", "en"),
        asr=("en",),
        tts=("de",),
        services=("TTS", "asr"),
        gpu_memory_gb=(8, 24),
        labels={"Zone": "eu"},
        private=True,
    )
    assert facts.json == (
        '{"asr":["en"],"gpu_memory_gb":[24,8],"labels":{"zone":"eu"},"private":true,'
        '"semantic":["en","zh"],"services":["asr","tts"],"tts":["de"]}'
    )
    assert Facts().json == "{}"
    assert Facts(labels={"name": "Z\u00fcrich"}).json == '{"labels":{"name":"Z\\u00fcrich"}}'


def test_one_entry_per_gpu_is_kept() -> None:
    assert Facts(gpu_memory_gb=(24, 24)).json == '{"gpu_memory_gb":[24,24]}'


def test_labels_that_are_unique_to_a_node_are_no_facts() -> None:
    assert Facts(labels={"unique.host": "a", "zone": "eu"}) == Facts(labels={"Unique.Host": "b", "zone": "eu"})
    assert "unique" not in Facts(labels={"unique.host": "a"}).json


@given(facts_members, st.randoms())
def test_order_and_repetition_do_not_matter(members: dict[str, Any], rng: random.Random) -> None:
    shuffled: dict[str, Any] = {}
    for name, value in members.items():
        items = list(value.items() if name == "labels" else value)
        rng.shuffle(items)
        if name not in ("labels", "gpu_memory_gb"):
            items += items[:1]
        shuffled[name] = dict(items) if name == "labels" else items
    one, other = Facts(**members), Facts(**shuffled)
    assert one == other
    assert one.json == other.json
    assert hash(one) == hash(other)
    assert one.digest == other.digest


@given(facts_members, facts_members)
def test_facts_are_equal_exactly_if_their_json_is(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = Facts(**one), Facts(**other)
    assert (a == b) == (a.json == b.json)


@given(facts_members)
def test_json_can_be_read_back(members: dict[str, Any]) -> None:
    facts = Facts(**members)
    assert Facts.from_json(facts.json) == facts
    assert json.loads(facts.json) == json.loads(json.dumps(json.loads(facts.json), sort_keys=True))


def test_the_language_set_is_semantic_then_tts_then_asr() -> None:
    assert Facts(semantic=("en",), tts=("de",), asr=("zh",)).languages == ("en",)
    assert Facts(tts=("de",), asr=("zh",)).languages == ("de",)
    assert Facts(asr=("zh",)).languages == ("zh",)
    assert Facts().languages == ()


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"asr": ["en", "{tag}"]}, r"asr: '\{tag\}'"),
        ({"tts": "en"}, "tts: 'e'"),
        ({"services": ["a b"]}, "services: 'a b'"),
        ({"services": ["s"] * 257}, "at most 256"),
        ({"gpu_memory_gb": [-1]}, "gpu_memory_gb: -1"),
        ({"gpu_memory_gb": [True]}, "gpu_memory_gb: True"),
        ({"gpu_memory_gb": [8.0]}, r"gpu_memory_gb: 8\.0"),
        ({"gpu_memory_gb": [2**32]}, "gpu_memory_gb: 4294967296"),
        ({"gpu_memory_gb": [1] * 65}, "at most 64"),
        ({"labels": {"a b": "x"}}, "'a b'"),
    ],
)
def test_what_is_out_of_bounds_is_named(members: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Facts(**members)  # type: ignore[arg-type]


def test_bounds_are_exact() -> None:
    assert len(Facts(services=[f"s{i}" for i in range(256)]).services) == 256
    assert len(Facts(gpu_memory_gb=[1] * 64).gpu_memory_gb) == 64


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"color":[]}', '{"asr":1}', '{"asr":[1]}', '{"labels":[]}', '{"gpu_memory_gb":{}}', "NaN"]
)
def test_what_is_no_facts_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^facts\b|^asr: 1 is"):
        Facts.from_json(text)


def test_the_members_of_their_json_are_of_one_type_each() -> None:
    for member in ("asr", "tts", "semantic", "services", "gpu_memory_gb"):
        assert Facts.from_json(f'{{"{member}":[]}}') == Facts()
        with pytest.raises(InvalidInput, match=f"{member} must be a list"):
            Facts.from_json(f'{{"{member}":{{}}}}')
    with pytest.raises(InvalidInput, match="labels must be a dict"):
        Facts.from_json('{"labels":[]}')
    assert Facts.from_json('{"private":true}') == Facts(private=True)
    with pytest.raises(InvalidInput, match="private must be a bool"):
        Facts.from_json('{"private":1}')


def test_the_memory_of_a_gpu_is_an_integer_of_32_bits() -> None:
    assert Facts(gpu_memory_gb=(0, 2**32 - 1)).gpu_memory_gb == (2**32 - 1, 0)
    for wrong in (-1, 2**32, True, 1.0):
        with pytest.raises(InvalidInput, match="from 0 to 4294967295"):
            Facts(gpu_memory_gb=(wrong,))


def test_the_digest_is_that_of_the_json() -> None:
    one = Facts(asr=("en",))
    assert one.digest == hashlib.sha1(one.json.encode()).hexdigest()[:16]
