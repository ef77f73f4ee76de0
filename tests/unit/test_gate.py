"""The admission of one registration under a policy that may change meanwhile."""

from __future__ import annotations

import json

import pytest

from pyscheduler.core.admission import AdmissionPolicy, GpuPolicy
from pyscheduler.core.gate import MAX_ROUNDS, AdmissionGate
from pyscheduler.core.profile import NodeProfile
from pyscheduler.core.protocol import parse_frame
from tests.fixtures.clients import HEAD

LENIENT = AdmissionPolicy()
STRICT = AdmissionPolicy(gpu=GpuPolicy(min_memory_gb=4096))


@pytest.fixture
def profile() -> NodeProfile:
    return NodeProfile.registered(parse_frame(json.dumps(HEAD.register(node_id="n"))))


def test_a_gate_waits_for_nothing_until_it_is_asked() -> None:
    gate = AdmissionGate(LENIENT)
    seen = [gate.due]
    gate.asks()
    assert [*seen, gate.due] == [False, True]


def test_who_meets_the_policy_comes_in_at_once(profile: NodeProfile) -> None:
    gate = AdmissionGate(LENIENT)
    gate.asks()
    assert gate.check(profile) == []
    assert not gate.due


def test_nobody_is_judged_before_the_policy_is_known(profile: NodeProfile) -> None:
    gate = AdmissionGate(None)
    gate.asks()
    assert gate.check(profile) is None
    gate.read(LENIENT)
    assert gate.check(profile) == []


def test_who_is_kept_out_is_so_by_a_policy_that_was_just_read(profile: NodeProfile) -> None:
    gate = AdmissionGate(STRICT)
    gate.asks()
    seen = [(gate.check(profile), gate.due)]
    gate.read(STRICT)
    refused = gate.check(profile)
    assert refused
    seen.append((None, gate.due))
    assert seen == [(None, True), (None, False)]
    assert gate.check(profile) is None, "what was read serves one check"


def test_a_policy_that_changes_again_and_again_is_followed_a_few_times_in_a_row(profile: NodeProfile) -> None:
    gate = AdmissionGate(LENIENT)
    gate.asks()
    for _ in range(MAX_ROUNDS - 1):
        assert gate.changed(STRICT)
    assert not gate.changed(STRICT)
    assert gate.check(profile) is None, "that a change came too often does not make it fresh"
    # After the wait, and for the next registration, it begins again.
    assert [gate.changed(LENIENT) for _ in range(MAX_ROUNDS)] == [True] * (MAX_ROUNDS - 1) + [False]
    gate.changed(LENIENT)
    gate.asks()
    assert [gate.changed(LENIENT) for _ in range(MAX_ROUNDS)] == [True] * (MAX_ROUNDS - 1) + [False]


def test_the_store_is_not_asked_without_end() -> None:
    assert MAX_ROUNDS == 8
