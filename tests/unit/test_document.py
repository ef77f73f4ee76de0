"""The document as a value: its canonical text, its digest, the way back, and the match order of its pools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from pyscheduler.core.canonical import short_digest
from pyscheduler.core.document import (
    AutoPolicy,
    DeclaredPool,
    GuardPolicy,
    PoolDocument,
    duration_ms,
    duration_text,
)
from pyscheduler.core.limits import MAX_IDLE_TTL_MS, MIN_IDLE_TTL_MS
from pyscheduler.core.rules import LanguageRule, MatchRule
from pyscheduler.errors import DocumentInvalid

EVERYTHING: dict[str, Any] = {
    "schema": 1,
    "admission": {"gpu": {"min_count": 2, "min_memory_gb": 8, "name_patterns": ["*RTX*"]}, "schema_versions": ["2.0"]},
    "auto": {"enabled": False, "require_services": ["ASR"], "min_nodes": 3, "max_pools": 200, "idle_ttl": "10m"},
    "guard": {"max_unassigned_share": 0.25},
    "pools": [
        {
            "name": "en-zh",
            "priority": 10,
            "match": {
                "semantic": {"exact": ["zh", "en"]},
                "asr": {"contains": ["en"]},
                "tts": {"any": ["zh_CN", "en"]},
                "services": ["nmt", "asr"],
                "gpu": {"min_count": 1, "min_memory_gb": 8},
                "labels": {"Zone": "eu"},
            },
        }
    ],
}

DEFAULT_TEXT = (
    '{"admission":{"gpu":{"min_count":1,"min_memory_gb":0,"name_patterns":[]},"schema_versions":["1.0","2.0"]},'
    '"auto":{"enabled":true,"idle_ttl_ms":600000,"max_pools":1000,"min_nodes":1,"require_services":[]},'
    '"guard":{"max_unassigned_permille":500},"pools":[],"schema":1,'
    '"selection":{"on_drain":"keep","on_new_epoch":"keep","scope":"eligible","slots_per_node":4,'
    '"strategy":"least_loaded","tenant_slots":0},"tenants":[]}'
)


def rule(**members: Any) -> MatchRule:
    return MatchRule.model_validate(members)


def pool(name: str, priority: int = 0, **match: Any) -> DeclaredPool:
    return DeclaredPool(name=name, priority=priority, match=rule(**match))


def test_canonical_text_of_everything() -> None:
    document = PoolDocument.model_validate(EVERYTHING)
    assert document.canonical() == (
        '{"admission":{"gpu":{"min_count":2,"min_memory_gb":8,"name_patterns":["*RTX*"]},"schema_versions":["2.0"]},'
        '"auto":{"enabled":false,"idle_ttl_ms":600000,"max_pools":200,"min_nodes":3,"require_services":["asr"]},'
        '"guard":{"max_unassigned_permille":250},'
        '"pools":[{"match":{"asr":{"contains":["en"]},"gpu":{"min_count":1,"min_memory_gb":8},"labels":{"zone":"eu"},'
        '"semantic":{"exact":["en","zh"]},"services":["asr","nmt"],"tts":{"any":["en","zh-cn"]}},'
        '"name":"en-zh","priority":10}],"schema":1,'
        '"selection":{"on_drain":"keep","on_new_epoch":"keep","scope":"eligible","slots_per_node":4,'
        '"strategy":"least_loaded","tenant_slots":0},"tenants":[]}'
    )


def test_without_a_document_the_defaults_hold() -> None:
    assert PoolDocument().canonical() == DEFAULT_TEXT
    assert PoolDocument.model_validate({}) == PoolDocument()


def test_a_pool_without_a_priority_has_that_of_zero() -> None:
    without = DeclaredPool.model_validate({"name": "a", "match": {"services": ["asr"]}})
    assert without == pool("a", 0, services=["asr"])


def test_what_constrains_nothing_is_not_in_the_canonical_text() -> None:
    document = PoolDocument(pools=(pool("a", services=["asr"], labels={}, gpu={"min_count": 1, "min_memory_gb": 0}),))
    assert json.loads(document.canonical())["pools"][0]["match"] == {"gpu": {"min_count": 1}, "services": ["asr"]}


@pytest.mark.parametrize("data", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_canonical_text_and_the_written_data_lead_back_to_the_document(data: dict[str, Any]) -> None:
    document = PoolDocument.model_validate(data)
    again = PoolDocument.from_canonical(document.canonical())
    assert again == document
    assert again.canonical() == document.canonical()
    assert PoolDocument.model_validate(document.to_data()) == document


def test_written_data_has_the_units_that_authors_write() -> None:
    data = PoolDocument.model_validate(EVERYTHING).to_data()
    assert data["auto"] == {
        "enabled": False, "require_services": ["asr"], "min_nodes": 3, "max_pools": 200, "idle_ttl": "10m"
    }  # fmt: skip
    assert data["guard"] == {"max_unassigned_share": 0.25}
    assert json.loads(json.dumps(data)) == data


def test_equal_meaning_gives_equal_digests() -> None:
    other = json.loads(json.dumps(EVERYTHING))
    other["auto"]["idle_ttl"] = 600
    other["pools"][0]["match"]["semantic"]["exact"] = ["EN", "zh", "en"]
    other["pools"][0]["match"]["services"] = ["asr", "nmt", "asr"]
    one, two = PoolDocument.model_validate(EVERYTHING), PoolDocument.model_validate(other)
    assert one == two
    assert one.digest == two.digest == short_digest(one.canonical())
    other["pools"][0]["priority"] = 11
    assert PoolDocument.model_validate(other).digest != one.digest


def test_the_order_of_pools_is_part_of_the_meaning() -> None:
    first, second = pool("a", services=["asr"]), pool("b", services=["tts"])
    assert PoolDocument(pools=(first, second)).digest != PoolDocument(pools=(second, first)).digest


def test_a_document_is_frozen() -> None:
    document = PoolDocument.model_validate(EVERYTHING)
    with pytest.raises(ValidationError):
        document.pools = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        document.pools[0].match.labels["zone"] = "us"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "", "the stored document is not JSON"),
        ("[]", "", "the stored document must be a JSON object"),
        ('{"schema":2}', "schema", "this version reads schema 1"),
        ('{"pools":[{"name":"a"}]}', "pools.0.match", "required"),
        ('{"auto":{"idle_ttl_ms":true}}', "auto.idle_ttl", "no duration"),
        ('{"auto":5,"guard":[]}', "auto", "valid dictionary"),
        ('{"x":"' + "a" * 1024 * 1024 + '"}', "", "longer than"),
    ],
)
def test_a_stored_text_that_is_no_document_is_refused(text: str, where: str, message: str) -> None:
    with pytest.raises(DocumentInvalid) as caught:
        PoolDocument.from_canonical(text)
    problem = caught.value.problems[0]
    assert where in problem.where
    assert message in problem.message


def test_two_pools_of_one_name_cannot_even_be_constructed() -> None:
    with pytest.raises(ValidationError, match="same name 'a'"):
        PoolDocument(pools=(pool("a", services=["asr"]), pool("a", services=["tts"])))
    with pytest.raises(ValidationError, match=r"tenants\[1\] and tenants\[0\] have the same name 'acme'"):
        PoolDocument.model_validate({"schema": 1, "tenants": [{"name": "acme"}, {"name": "acme", "slots": 1}]})


def test_how_a_pool_selects_is_part_of_its_canonical_text() -> None:
    own = {"name": "a", "match": {"services": ["asr"]}, "selection": {"slots_per_node": 2}}
    text = PoolDocument.model_validate({"schema": 1, "pools": [own]}).canonical()
    assert json.loads(text)["pools"][0]["selection"] == {"slots_per_node": 2}
    assert PoolDocument.from_canonical(text).canonical() == text
    plain = PoolDocument.model_validate({"schema": 1, "pools": [{**own, "selection": {}}]}).canonical()
    assert "selection" not in json.loads(plain)["pools"][0]


# --- match order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "constraints"),
    [
        ({"semantic": {"exact": ["en", "zh"]}}, 1),
        ({"semantic": {"any": ["en"]}, "asr": {"contains": ["en"]}, "tts": {"exact": ["en"]}}, 3),
        ({"services": ["asr", "nmt", "asr"]}, 2),
        ({"labels": {"zone": "eu", "tier": "1"}}, 2),
        ({"gpu": {"min_memory_gb": 8}}, 1),
        ({"gpu": {"min_memory_gb": 1}}, 1),
        ({"gpu": {"min_count": 1}}, 1),
        ({"gpu": {"min_count": 2, "min_memory_gb": 8}}, 2),
        ({"gpu": {"min_count": 2, "min_memory_gb": 0}}, 1),
        (EVERYTHING["pools"][0]["match"], 8),
    ],
)
def test_a_rule_counts_as_many_constraints_as_its_canonical_form_has_entries(
    match: dict[str, Any], constraints: int
) -> None:
    assert rule(**match).constraints == constraints
    # The scripts count the entries of what they are given.
    members: dict[str, Any] = rule(**match).to_data()
    assert sum(map(len, members.values())) == constraints


def test_pools_are_tried_by_priority_then_constraints_then_order() -> None:
    document = PoolDocument(
        pools=(
            pool("low", -1, services=["asr", "nmt", "tts"]),
            pool("first", services=["asr"]),
            pool("second", services=["tts"]),
            pool("specific", services=["asr", "tts"]),
            pool("high", 1, services=["nmt"]),
        )
    )
    assert [one.name for one in document.in_match_order()] == ["high", "specific", "first", "second", "low"]


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (1, 1000),
        (600, 600_000),
        ("500ms", 500),
        ("30s", 30_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
    ],
)
def test_durations(value: object, milliseconds: int) -> None:
    assert duration_ms(value) == milliseconds
    assert AutoPolicy.model_validate({"idle_ttl": value}).idle_ttl_ms == milliseconds
    assert duration_ms(duration_text(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    "value",
    ["", "10", "m", "1h30m", "1.5h", "-1s", "10 m", "10M", "\u0661s", 1.5, True, None, [], "9" * 20 + "s", 0, 2592001],
)
def test_what_is_no_duration_or_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        AutoPolicy.model_validate({"idle_ttl": value})


def test_an_idle_ttl_goes_from_its_least_to_its_greatest() -> None:
    for value, ms in (("100ms", MIN_IDLE_TTL_MS), (2_592_000, MAX_IDLE_TTL_MS)):
        assert AutoPolicy.model_validate({"idle_ttl": value}).idle_ttl_ms == ms
    for value in ("99ms", "2592000001ms"):
        with pytest.raises(ValidationError, match=f"must be from 100ms to 30d, not '{value}'"):
            AutoPolicy.model_validate({"idle_ttl": value})


@pytest.mark.parametrize(("share", "permille"), [(0, 0), (0.0, 0), (0.0004, 0), (0.3335, 334), (0.999, 999), (1, 1000)])
def test_shares_are_kept_in_thousandths(share: float, permille: int) -> None:
    assert GuardPolicy.model_validate({"max_unassigned_share": share}).max_unassigned_permille == permille


@pytest.mark.parametrize(
    "text", ['{"schema":1,"auto":{"idle_ttl_ms":"x"}}', '{"schema":1,"guard":{"max_unassigned_permille":"x"}}']
)
def test_canonical_data_that_is_none_is_refused_and_no_crash(text: str) -> None:
    with pytest.raises(DocumentInvalid):
        PoolDocument.from_canonical(text)


def test_what_is_no_document_is_said_of_the_stored_one() -> None:
    with pytest.raises(DocumentInvalid, match=r"^the stored document must be a JSON object$"):
        PoolDocument.from_canonical("[]")
    with pytest.raises(DocumentInvalid, match=r"^pools\.0\.match: Field required$"):
        PoolDocument.from_canonical('{"pools":[{"name":"a"}]}')


def test_what_a_rule_breaks_is_found_beside_what_is_wrong_in_it() -> None:
    with pytest.raises(ValidationError) as refused:
        LanguageRule.model_validate({"contains": ["en"], "any": ["x"]})
    wrong, *_, breach = refused.value.errors()
    assert (wrong["type"], wrong["loc"]) == ("value_error", ("any", 0))
    assert wrong["msg"].startswith("Value error, 'x' is no language code: write it like en or zh-cn ")
    assert wrong["msg"].endswith("(2 to 8 letters, then at most 3 parts of 1 to 8 letters or digits)")
    assert (breach["type"], breach["loc"]) == ("value_error", ())
    assert breach["msg"] == "give one of exact, contains and any, not contains and any"
