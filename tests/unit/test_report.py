"""A report is bounded, and its digest changes exactly when its facts or its record do."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.facts import Facts
from pyscheduler.core.report import WRITTEN_STATUSES, NodeReport
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import InvalidInput

READY = NodeStatus.READY


def test_the_digest_is_of_facts_and_record() -> None:
    facts = Facts(asr=("en",))
    report = NodeReport(facts, '{"a":1}', READY, 0.5, "{}")
    assert report.digest == hashlib.sha1(b'{"asr":["en"]}\n{"a":1}').hexdigest()[:16]


facts_strategy = st.builds(
    Facts, asr=st.sets(st.sampled_from(["de", "en", "zh"])).map(tuple), gpu_memory_gb=st.sampled_from([(), (8,), (24,)])
)
records = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=2)


@given(facts_strategy, facts_strategy, records, records, st.sampled_from([0.0, 0.5]), st.sampled_from([0.1, 1.0]))
def test_the_digest_changes_exactly_with_facts_or_record(
    facts: Facts, other: Facts, record: dict[str, int], other_record: dict[str, int], load: float, other_load: float
) -> None:
    one = NodeReport.of(facts, record=record, load=load)
    two = NodeReport.of(other, record=other_record, load=other_load, status=NodeStatus.DEGRADED, usage={"x": 1})
    assert (one.digest == two.digest) == (facts == other and record == other_record)


def same(one: NodeReport, two: NodeReport) -> bool:
    """Whether two reports are alike in every field, the digest too, which equality leaves out."""
    return all(getattr(one, each.name) == getattr(two, each.name) for each in dataclasses.fields(NodeReport))


@given(facts_strategy, records, st.sampled_from(sorted(WRITTEN_STATUSES)), st.floats(0, 1), records)
def test_a_report_of_what_was_checked_is_the_one_that_the_class_makes(
    facts: Facts, record: dict[str, int], status: NodeStatus, load: float, usage: dict[str, int]
) -> None:
    made = NodeReport.of(facts, record=record, status=status, load=load, usage=usage)
    checked = NodeReport.of_checked(facts, made.record, made.digest, status, load, made.usage)
    assert same(checked, made)
    assert checked == made
    assert (hash(checked), repr(checked)) == (hash(made), repr(made))
    with pytest.raises(dataclasses.FrozenInstanceError):
        checked.load = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("status", [NodeStatus.DRAINING, NodeStatus.OFFLINE])
def test_derived_statuses_cannot_be_reported(status: NodeStatus) -> None:
    with pytest.raises(InvalidInput, match=status):
        NodeReport(Facts(), "{}", status, 0.0, "{}")


@pytest.mark.parametrize("load", [-0.01, 1.01, math.nan, math.inf, True])
def test_load_is_a_share(load: float) -> None:
    with pytest.raises(InvalidInput, match="load"):
        NodeReport(Facts(), "{}", READY, load, "{}")


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a":NaN}', '{"a":' * 5000])
def test_record_and_usage_are_json_objects(text: str) -> None:
    with pytest.raises(InvalidInput, match="record"):
        NodeReport(Facts(), text, READY, 0.0, "{}")
    with pytest.raises(InvalidInput, match="usage"):
        NodeReport(Facts(), "{}", READY, 0.0, text)


def test_record_and_usage_are_bounded_in_bytes() -> None:
    def report(record_size: int, usage_size: int, letter: str = "x") -> NodeReport:
        def text(size: int) -> str:
            return '{"a":"' + letter * ((size - 8) // len(letter.encode())) + '"}'

        return NodeReport(Facts(), text(record_size), READY, 0.0, text(usage_size))

    report(65536, 4096)
    with pytest.raises(InvalidInput, match="record is longer than 65536 bytes"):
        report(65537, 8)
    with pytest.raises(InvalidInput, match="usage is longer than 4096 bytes"):
        report(8, 4097)
    with pytest.raises(InvalidInput, match="record is longer"):
        report(65546, 8, letter="\u4e2d")  # few characters, many bytes


def test_a_report_of_facts_alone_is_that_of_an_idle_node_that_is_ready() -> None:
    assert NodeReport.of(Facts()) == NodeReport(Facts(), "{}", READY, 0.0, "{}")


def test_of_refuses_what_is_no_json() -> None:
    assert NodeReport.of(Facts(), record={"b": 1, "a": [1]}).record == '{"a":[1],"b":1}'
    for bad in ({"a": math.nan}, {"a": object()}, {1: "a", "b": 2}):
        with pytest.raises(InvalidInput):
            NodeReport.of(Facts(), record=bad)  # type: ignore[arg-type]
