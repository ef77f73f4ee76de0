"""Admission: who may register, and what a refused node is told."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.codes import ErrorCode
from pyscheduler.errors import InvalidInput


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gb: int


RTX = Gpu("NVIDIA GeForce RTX 4090", 24)
OLD = Gpu("Tesla K80", 11)


def policy(**gpu: object) -> AdmissionPolicy:
    return AdmissionPolicy.model_validate({"gpu": gpu})


def codes(found: object) -> list[ErrorCode]:
    return [item.code for item in found]  # type: ignore[attr-defined]


def test_by_default_one_gpu_of_any_kind_is_enough() -> None:
    assert AdmissionPolicy().check([OLD], "2.0") == []


@pytest.mark.parametrize("gpus", [None, []])
def test_a_node_without_a_gpu_is_told_what_it_lacks(gpus: list[Gpu] | None) -> None:
    (missing,) = AdmissionPolicy().check(gpus, "2.0")
    assert missing.code is ErrorCode.NO_GPU_AVAILABLE
    assert missing.message == "a node must have at least 1 GPU; reported: no GPU"


def test_a_gpu_counts_only_if_it_has_the_memory_and_a_name_that_fits() -> None:
    demanding = policy(min_count=1, min_memory_gb=16, name_patterns=["*rtx*", "*A100*"])
    assert demanding.check([RTX], "2.0") == []
    assert demanding.check([OLD, RTX], "2.0") == []
    (missing,) = demanding.check([OLD, Gpu("RTX 2060", 6)], "2.0")
    assert missing.message == (
        "a node must have at least 1 GPU with 16 GB or more whose name fits '*A100*', '*rtx*'; reported: "
        "'Tesla K80' (has 11 GB, needs 16 GB; its name fits no allowed pattern), 'RTX 2060' (has 6 GB, needs 16 GB)"
    )


def test_exactly_the_demanded_memory_is_enough() -> None:
    assert policy(min_memory_gb=24).check([RTX], "2.0") == []
    assert codes(policy(min_memory_gb=25).check([RTX], "2.0")) == [ErrorCode.NO_GPU_AVAILABLE]


def test_enough_gpus_must_count() -> None:
    pair = policy(min_count=2, min_memory_gb=16)
    assert pair.check([RTX, RTX], None) == []
    (missing,) = pair.check([RTX, OLD], None)
    assert "at least 2 GPUs with 16 GB or more" in missing.message
    assert "'NVIDIA GeForce RTX 4090' (counts)" in missing.message


def test_a_long_list_of_gpus_makes_no_long_message() -> None:
    (missing,) = policy(min_memory_gb=16).check([Gpu("x" * 1000, 1)] * 64, "2.0")
    assert len(missing.message) < 700
    assert "60 more" in missing.message


@pytest.mark.parametrize(
    ("version", "admitted"),
    [("1.0", True), ("2.0", True), (None, True), ("3.0", False), ("", False), ("2", False)],
)
def test_schema_versions(version: str | None, admitted: bool) -> None:
    assert (AdmissionPolicy().check([RTX], version) == []) is admitted


@pytest.mark.parametrize(("version", "reported"), [(None, "none, which counts as 1.0"), ("3.0", "'3.0'")])
def test_an_absent_schema_version_counts_as_1_0(version: str | None, reported: str) -> None:
    (missing,) = AdmissionPolicy(schema_versions=("2.0", "2.1")).check([RTX], version)
    assert missing.code is ErrorCode.INVALID_CAPABILITY_SCHEMA
    assert missing.message == f"capability_schema_version must be one of 2.0, 2.1; reported: {reported}"


def test_everything_that_is_missing_is_told_at_once() -> None:
    assert codes(AdmissionPolicy().check(None, "9")) == [
        ErrorCode.INVALID_CAPABILITY_SCHEMA,
        ErrorCode.NO_GPU_AVAILABLE,
    ]


def test_a_pattern_cannot_be_made_to_take_long() -> None:
    slow = policy(name_patterns=["*a" * 60 + "b"])
    assert slow.check([Gpu("a" * 1024, 8)], "2.0")  # would take ages with a backtracking match


def test_canonical_json_and_digest_do_not_depend_on_order() -> None:
    default = AdmissionPolicy()
    assert default.to_json() == (
        '{"gpu":{"min_count":1,"min_memory_gb":0,"name_patterns":[]},"schema_versions":["1.0","2.0"]}'
    )
    same = AdmissionPolicy(schema_versions=("2.0", "1.0", "2.0"))
    assert same == default
    assert same.digest == default.digest
    assert len(default.digest) == 16
    assert policy(min_count=2).digest != default.digest


@given(
    st.integers(1, 64),
    st.integers(0, 4096),
    st.lists(st.text(st.characters(categories=["L", "N", "P"], codec="utf-8"), min_size=1, max_size=8), max_size=4),
)
def test_json_can_be_read_back(count: int, memory: int, patterns: list[str]) -> None:
    one = policy(min_count=count, min_memory_gb=memory, name_patterns=patterns)
    again = AdmissionPolicy.from_json(one.to_json())
    assert again == one
    assert again.digest == one.digest


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "text"),
        ("[]", "text"),
        ("null", "text"),
        ('{"gpu":{"min_count":0}}', "gpu.min_count"),
        ('{"gpus":{}}', "gpus"),
        ('{"schema_versions":[]}', "schema_versions"),
        ('{"schema_versions":["1.0",2]}', "schema_versions.1"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, where: str) -> None:
    with pytest.raises(InvalidInput, match=f"not an admission policy: {re.escape(where)}: "):
        AdmissionPolicy.from_json(text)


@pytest.mark.parametrize(
    "section",
    [
        {"gpu": {"min_count": 0}},
        {"gpu": {"min_count": 65}},
        {"gpu": {"min_count": True}},
        {"gpu": {"min_count": "1"}},
        {"gpu": {"min_memory_gb": -1}},
        {"gpu": {"min_memory_gb": 4097}},
        {"gpu": {"name_patterns": ["x"] * 33}},
        {"gpu": {"name_patterns": ["x" * 129]}},
        {"gpu": {"name_patterns": [""]}},
        {"gpu": {"name_patterns": ["a\nb"]}},
        {"gpu": {"name_patterns": [1]}},
        {"gpu": {"min_cuont": 1}},
        {"schema_versions": [2.0]},
        {"schema_version": ["2.0"]},
    ],
)
def test_the_policy_is_strict(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdmissionPolicy.model_validate(section)


def test_four_gpus_are_shown_and_the_rest_are_counted() -> None:
    for count, tail in ((4, "(counts)"), (5, ", 1 more")):
        (missing,) = policy(min_count=8).check([RTX] * count, None)
        assert missing.message.endswith(tail), missing.message


@pytest.mark.parametrize(
    ("patterns", "shown"),
    [
        ("abcd", "'a', 'b', 'c', 'd'"),
        ("abcde", "'a', 'b', 'c', 'd' or 1 more pattern"),
        ("abcdef", "'a', 'b', 'c', 'd' or 2 more patterns"),
    ],
)
def test_four_patterns_are_shown_and_the_rest_are_counted(patterns: str, shown: str) -> None:
    (missing,) = policy(name_patterns=list(patterns)).check([], None)
    assert missing.message == f"a node must have at least 1 GPU whose name fits {shown}; reported: no GPU"
