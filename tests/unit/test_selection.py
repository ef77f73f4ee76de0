"""What a document says of selection and of tenants: each choice, its bounds, and what holds when nothing is said."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pyscheduler.core.document import PoolDocument
from pyscheduler.core.schema import document_schema
from pyscheduler.core.selection import PoolSelection, SelectionPolicy, TenantRule

STRATEGIES = ("least_loaded", "power_of_two", "random", "affinity")


def tenant(**members: Any) -> TenantRule:
    return TenantRule.model_validate({"name": "acme", **members})


def test_what_holds_when_nothing_is_said() -> None:
    assert SelectionPolicy().model_dump() == {
        "slots_per_node": 4,
        "strategy": "least_loaded",
        "scope": "eligible",
        "on_new_epoch": "keep",
        "on_drain": "keep",
        "tenant_slots": 0,
    }
    assert PoolSelection().model_dump() == {"slots_per_node": None, "strategy": None}
    assert tenant().model_dump() == {"name": "acme", "pool": None, "strict": False, "slots": None}


@pytest.mark.parametrize(
    ("member", "choices"),
    [
        ("strategy", STRATEGIES),
        ("scope", ("eligible", "exact")),
        ("on_new_epoch", ("keep", "lose")),
        ("on_drain", ("keep", "lose")),
        ("slots_per_node", (1, 500)),
        ("tenant_slots", (0, 1_000_000)),
    ],
)
def test_each_choice_and_bound_of_all_pools_is_taken(member: str, choices: tuple[object, ...]) -> None:
    for choice in choices:
        assert getattr(SelectionPolicy.model_validate({member: choice}), member) == choice


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        (SelectionPolicy, {"strategy": "fastest"}),
        (SelectionPolicy, {"scope": "any"}),
        (SelectionPolicy, {"on_new_epoch": "wait"}),
        (SelectionPolicy, {"on_drain": "wait"}),
        (SelectionPolicy, {"slots_per_node": 0}),
        (SelectionPolicy, {"slots_per_node": 501}),
        (SelectionPolicy, {"slots_per_node": True}),
        (SelectionPolicy, {"tenant_slots": -1}),
        (SelectionPolicy, {"tenant_slots": 1_000_001}),
        (SelectionPolicy, {"slots": 1}),
        (PoolSelection, {"strategy": "fastest"}),
        (PoolSelection, {"strategy": None}),
        (PoolSelection, {"slots_per_node": 0}),
        (PoolSelection, {"slots_per_node": 501}),
        (PoolSelection, {"slots_per_node": None}),
        (PoolSelection, {"scope": "exact"}),
        (TenantRule, {}),
        (TenantRule, {"name": "a b"}),
        (TenantRule, {"name": "acme", "pool": "EN"}),
        (TenantRule, {"name": "acme", "pool": None}),
        (TenantRule, {"name": "acme", "strict": 1}),
        (TenantRule, {"name": "acme", "slots": -1}),
        (TenantRule, {"name": "acme", "slots": 1_000_001}),
        (TenantRule, {"name": "acme", "slots": None}),
    ],
)
def test_anything_else_is_refused(section: type[SelectionPolicy], wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section.model_validate(wrong)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pool_may_select_in_its_own_way(strategy: str) -> None:
    for slots in (1, 500):
        own = PoolSelection.model_validate({"slots_per_node": slots, "strategy": strategy})
        assert (own.slots_per_node, own.strategy) == (slots, strategy)


def test_what_may_be_said_of_a_tenant() -> None:
    for slots in (0, 1_000_000):
        given = {"name": "Acme:7", "pool": "en-zh", "strict": True, "slots": slots}
        assert tenant(**given).model_dump() == given


def test_the_schema_says_the_same() -> None:
    sections = document_schema()["$defs"]
    policy, own, rule = (sections[name]["properties"] for name in ("SelectionPolicy", "PoolSelection", "TenantRule"))
    for member in (policy["slots_per_node"], own["slots_per_node"]):
        assert (member["minimum"], member["maximum"]) == (1, 500)
    for member in (policy["tenant_slots"], rule["slots"]):
        assert (member["minimum"], member["maximum"]) == (0, 1_000_000)
    assert policy["strategy"]["enum"] == own["strategy"]["enum"] == list(STRATEGIES)
    assert rule["name"]["pattern"] == "^[A-Za-z0-9._:-]{1,64}$"
    assert rule["name"]["examples"] == ["acme"]
    assert rule["pool"]["pattern"] == "^[a-z0-9][a-z0-9._-]{0,127}$"
    assert (
        PoolDocument.model_validate({"tenants": [{"name": "t" * 64, "pool": "p" * 128}]}).tenants[0].pool == "p" * 128
    )
