"""Lifecycle: the rules of the January servers, on heartbeats and time alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscheduler.core.lifecycle import Lifecycle, LifecyclePolicy, StatusChange, Vitals
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import InvalidInput

REGISTERING, READY, DEGRADED = NodeStatus.REGISTERING, NodeStatus.READY, NodeStatus.DEGRADED
GOOD = Vitals(1, 40.0, {"asr": True, "nmt": True})
NOTHING_RUNS = Vitals(1, 40.0, {"asr": False, "nmt": False})
HOT = Vitals(1, 100.5, GOOD.running)


@dataclass
class Node:
    """A node that beats every 15 s."""

    policy: LifecyclePolicy = field(default_factory=LifecyclePolicy)
    now_ms: int = 1_000

    def __post_init__(self) -> None:
        self.life = Lifecycle(self.policy, self.now_ms)

    def beat(self, vitals: Vitals) -> StatusChange | None:
        self.now_ms += 15_000
        return self.life.on_heartbeat(vitals, self.now_ms)

    def wait(self, ms: int) -> StatusChange | None:
        self.now_ms += ms
        return self.life.on_time(self.now_ms)


def test_one_healthy_heartbeat_makes_a_node_ready() -> None:
    node = Node()
    assert node.beat(GOOD) == StatusChange(REGISTERING, READY, "Health check passed")
    assert node.beat(GOOD) is None


@pytest.mark.parametrize(
    ("vitals", "why"),
    [
        (Vitals(0, 40.0, GOOD.running), "no GPU is listed"),
        (Vitals(1, -0.1, GOOD.running), "gpu_percent is -0.1, not within 0 to 100"),
        (Vitals(1, 100.1, GOOD.running), "gpu_percent is 100.1, not within 0 to 100"),
        (Vitals(1, 40.0, {}), "none of the services asr, nmt, tts is installed"),
        (Vitals(1, 40.0, {"lexicon": True, "semantic": True}), "none of the services asr, nmt, tts is installed"),
        (Vitals(1, 40.0, {"asr": True, "nmt": False, "tts": False}), "not running: nmt, tts"),
        (Vitals(1, 0.0, {"asr": True}), None),
        (Vitals(1, 100.0, {"asr": True, "lexicon": False}), None),
        (Vitals(1, None, {"tts": True}), None),
    ],
)
def test_what_a_registering_node_needs(vitals: Vitals, why: str | None) -> None:
    node = Node()
    assert node.life.failure(vitals) == why
    node.beat(vitals)
    assert node.life.status is (READY if why is None else REGISTERING)


def test_a_ready_node_needs_any_service_and_degrades_at_the_third_failure_in_a_row() -> None:
    node = Node()
    node.beat(GOOD)
    assert node.beat(Vitals(1, 40.0, {"asr": False, "lexicon": True})) is None
    for _ in range(3):  # never three in a row: a good heartbeat clears the count
        assert node.beat(NOTHING_RUNS) is None
        assert node.beat(HOT) is None
        assert node.beat(GOOD) is None
    assert node.beat(NOTHING_RUNS) is None
    assert node.beat(HOT) is None
    change = node.beat(NOTHING_RUNS)
    assert change == StatusChange(READY, DEGRADED, "Health check failed 3 times in a row: no service is running")


def test_a_degraded_node_recovers_at_its_next_healthy_heartbeat() -> None:
    node = Node(LifecyclePolicy(failures_to_degrade=1))
    node.beat(GOOD)
    change = node.beat(NOTHING_RUNS)
    assert change is not None
    assert change.reason == "Health check failed once: no service is running"
    assert node.beat(NOTHING_RUNS) is None
    assert node.beat(Vitals(1, 40.0, {"asr": True, "nmt": False})) == StatusChange(DEGRADED, READY, "Health recovered")
    assert node.beat(NOTHING_RUNS) is not None  # the count began anew


@pytest.mark.parametrize(("failures", "times"), [(1, "once"), (2, "2 times in a row")])
def test_a_node_that_is_degraded_is_told_how_often_it_failed(failures: int, times: str) -> None:
    node = Node(LifecyclePolicy(failures_to_degrade=failures))
    node.beat(GOOD)
    changes = [node.beat(NOTHING_RUNS) for _ in range(failures)]
    assert changes[:-1] == [None] * (failures - 1)
    assert changes[-1] == StatusChange(READY, DEGRADED, f"Health check failed {times}: no service is running")


def test_a_node_that_is_not_ready_when_the_warm_up_ends_is_degraded_and_told_why() -> None:
    node = Node()
    assert node.wait(59_999) is None
    assert node.wait(1) == StatusChange(REGISTERING, DEGRADED, "Not ready within 60 s: no heartbeat yet")
    assert node.wait(600_000) is None

    node = Node()
    for _ in range(3):
        assert node.beat(NOTHING_RUNS) is None
    change = node.beat(NOTHING_RUNS)  # the fourth comes at 60 s, and no tick has come before it
    assert change == StatusChange(REGISTERING, DEGRADED, "Not ready within 60 s: not running: asr, nmt")


def test_a_healthy_heartbeat_is_too_late_if_it_is_not_yet_enough() -> None:
    node = Node(LifecyclePolicy(checks_to_ready=2, warmup_ms=10))
    assert node.beat(GOOD) == StatusChange(REGISTERING, DEGRADED, "Not ready within 0.01 s: too few healthy heartbeats")


def test_a_healthy_heartbeat_wins_over_a_warm_up_that_just_ended() -> None:
    node = Node(LifecyclePolicy(warmup_ms=10))
    assert node.beat(GOOD) == StatusChange(REGISTERING, READY, "Health check passed")


def test_thresholds_are_the_policys() -> None:
    node = Node(LifecyclePolicy(checks_to_ready=2, core_services=("OCR",), require_all_running=False))
    good = Vitals(1, 0.0, {"ocr": True})
    assert node.beat(good) is None
    assert node.beat(GOOD) is None  # has none of the core services: the count begins anew
    assert node.beat(good) is None
    assert node.beat(good) == StatusChange(REGISTERING, READY, "Health check passed")

    lenient = Node(LifecyclePolicy(require_all_running=False))
    assert lenient.beat(Vitals(1, 0.0, {"asr": True, "tts": False})) is not None
    assert Node(LifecyclePolicy(require_all_running=False)).beat(NOTHING_RUNS) is None


@pytest.mark.parametrize(
    "bounds",
    [
        {"checks_to_ready": 0},
        {"failures_to_degrade": 0},
        {"failures_to_degrade": 101},
        {"warmup_ms": 0},
        {"warmup_ms": 86_400_001},
        {"core_services": ()},
        {"core_services": ("a b",)},
        {"core_services": ("x",) * 33},
    ],
)
def test_policies_out_of_bounds_are_refused(bounds: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        LifecyclePolicy(**bounds)  # type: ignore[arg-type]


vitals_strategy = st.builds(
    Vitals,
    st.integers(0, 2),
    st.sampled_from([None, -1.0, 0.0, 50.0, 101.0]),
    st.dictionaries(st.sampled_from(["asr", "nmt", "lexicon"]), st.booleans()),
)


@given(st.lists(vitals_strategy | st.integers(0, 40_000), max_size=30))
def test_every_change_follows_the_diagram_and_no_reason_is_missing(steps: list[Vitals | int]) -> None:
    node = Node()
    allowed = {(REGISTERING, READY), (REGISTERING, DEGRADED), (READY, DEGRADED), (DEGRADED, READY)}
    for step in steps:
        before = node.life.status
        change = node.beat(step) if isinstance(step, Vitals) else node.wait(step)
        if change is None:
            assert node.life.status is before
        else:
            assert (change.from_, change.to) == (before, node.life.status)
            assert (change.from_, change.to) in allowed
            assert 0 < len(change.reason) <= 200
    if node.now_ms - 1_000 >= 60_000:
        node.wait(0)
        assert node.life.status is not REGISTERING


@pytest.mark.parametrize(
    ("name", "top"), [("checks_to_ready", 100), ("failures_to_degrade", 100), ("warmup_ms", 86_400_000)]
)
def test_each_threshold_goes_from_1_to_its_bound(name: str, top: int) -> None:
    for fits in (1, top):
        assert getattr(LifecyclePolicy(**{name: fits}), name) == fits
    for too_far in (0, top + 1):
        with pytest.raises(InvalidInput, match=f"{name} must be from 1 to {top}, not {too_far}"):
            LifecyclePolicy(**{name: too_far})


def test_core_services_are_1_to_32() -> None:
    for count in (1, 32):
        assert len(LifecyclePolicy(core_services=("x",) * count).core_services) == count
    for count in (0, 33):
        with pytest.raises(InvalidInput, match=f"core_services must name 1 to 32 service types, not {count}"):
            LifecyclePolicy(core_services=("x",) * count)
