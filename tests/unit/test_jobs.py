"""What a job asks for: in one form however it is given, and refused with what is wrong."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.jobs import NO_NODE_REASONS, JobAsk, JobRequest, JobState
from pyscheduler.errors import InvalidInput

IDS = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=12)


def test_a_request_is_in_normal_form() -> None:
    request = JobRequest(
        "ZH",
        "en-US",
        services=("tts", "ASR", "asr"),
        labels={"zone": "eu", "disk": "ssd"},
        exclude=("b", "a", "b"),
        exclude_pools=("q", "p"),
    )
    assert (request.src, request.tgt, request.services) == ("zh", "en-us", ("asr", "tts"))
    assert request.exclude == ("a", "b")
    assert request.arguments() == {
        "slots": 1,
        "tenant": "",
        "session": "",
        "src": "zh",
        "tgt": "en-us",
        "services": "asr,tts",
        "labels": '{"disk":"ssd","zone":"eu"}',
        "scope": "",
        "exclude": "a b",
        "exclude_pools": "p q",
    }
    assert JobRequest("zh", "en").arguments()["labels"] == ""
    assert JobAsk("j", request).attempt == 1


def test_a_request_is_frozen() -> None:
    given = {"zone": "eu"}
    request = JobRequest("zh", "en", labels=given)
    given["zone"] = "us"
    assert request.labels == {"zone": "eu"}
    with pytest.raises(TypeError):
        request.labels["zone"] = "us"  # type: ignore[index]


@pytest.mark.parametrize("scope", ["", "eligible", "exact"])
def test_each_scope_may_be_asked_for(scope: str) -> None:
    assert JobRequest("zh", "en", scope=scope).scope == scope


def test_as_many_names_as_are_allowed() -> None:
    names = tuple(f"n{number:02}" for number in range(64))
    request = JobRequest("zh", "en", services=names, exclude=names, exclude_pools=names)
    assert request.services == request.exclude == request.exclude_pools == names


@given(st.permutations(["asr", "nmt", "tts"]), st.permutations(["n1", "n2", "n3"]), st.permutations(["p", "q"]))
def test_what_means_the_same_has_one_digest(services: list[str], nodes: list[str], pools: list[str]) -> None:
    request = JobRequest("zh", "en", services=tuple(services), exclude=tuple(nodes), exclude_pools=tuple(pools))
    first = JobRequest("zh", "en", services=("asr", "nmt", "tts"), exclude=("n1", "n2", "n3"), exclude_pools=("p", "q"))
    assert (request, request.digest) == (first, first.digest)
    assert 0 < len(request.digest) <= 40


@pytest.mark.parametrize(
    "changed",
    [
        {"src": "de"},
        {"tgt": "de"},
        {"services": ("asr",)},
        {"tenant": "acme"},
        {"session": "talk"},
        {"slots": 2},
        {"labels": {"zone": "eu"}},
        {"scope": "exact"},
        {"exclude": ("a",)},
        {"exclude_pools": ("p",)},
    ],
)
def test_each_part_of_a_request_is_in_its_digest(changed: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"src": "zh", "tgt": "en"}
    assert JobRequest(**{**usual, **changed}).digest != JobRequest(**usual).digest


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"src": "x" * 200}, "language"),
        ({"tgt": "zh:1"}, "language"),
        ({"services": ("a b",)}, "service"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "x" * 65}, "tenant"),
        ({"session": "x" * 129}, "session"),
        ({"slots": 0}, "slots must be a whole number from 1 to 64, not 0"),
        ({"slots": 65}, "slots must be a whole number from 1 to 64, not 65"),
        ({"slots": True}, "slots must be a whole number from 1 to 64, not True"),
        ({"slots": 1.0}, "slots must be a whole number from 1 to 64, not 1.0"),
        ({"labels": {"unique.serial": "7"}}, "labels that begin with unique. are not looked at"),
        ({"scope": "any"}, "scope must be eligible, exact or empty, not 'any'"),
        ({"exclude": ("a b",)}, "node"),
        ({"exclude": tuple(f"n{number}" for number in range(65))}, "exclude: 65 given, at most 64 are allowed"),
        ({"exclude_pools": ("EN",)}, "pool"),
        ({"exclude_pools": tuple(f"p{number}" for number in range(65))}, "exclude_pools: 65 given, at most 64"),
        ({"services": tuple(f"s{number}" for number in range(65))}, "services: 65 given, at most 64 are allowed"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        JobRequest(**{"src": "zh", "tgt": "en", **wrong})
    assert said in str(refused.value)


@given(IDS, IDS)
def test_tenants_and_sessions_are_kept_as_they_are(tenant: str, session: str) -> None:
    request = JobRequest("zh", "en", tenant=tenant, session=session, slots=64)
    assert (request.tenant, request.session, request.slots) == (tenant, session, 64)


def test_states_are_words() -> None:
    assert list(JobState) == ["reserved", "running", "finished", "failed", "released", "lapsed", "lost"]


def test_reasons_are_words_in_the_order_in_which_a_node_is_looked_at() -> None:
    against_its_class = ["no_pair", "labels", "not_public", "scope", "no_pool", "tenant", "pool_excluded"]
    against_itself = ["excluded", "draining", "not_ready", "lapsed", "no_slot", "passed_over", "not_looked_at"]
    assert list(NO_NODE_REASONS) == [*against_its_class, *against_itself, "quota"]
