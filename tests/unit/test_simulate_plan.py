"""What a simulated fleet chooses, and the options that it refuses."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from msgspec.structs import replace

from pyscheduler.errors import InvalidInput
from pyscheduler.simulate import messages
from pyscheduler.simulate.fleet import Snapshot, Summary
from pyscheduler.simulate.options import FleetOptions, Gpu, parse_gpus, parse_languages
from pyscheduler.simulate.plan import Churn, ChurnEvent, NodePlan
from pyscheduler.simulate.tally import BoundedCounter, Latencies, Rate, Tally

FLEET = FleetOptions(nodes=50, languages=(("en", "zh"), ("de", "en"), ("en", "fr")), churn=0.1, seed=7)


def choices(options: FleetOptions, index: int) -> list[ChurnEvent]:
    return list(islice(NodePlan(options, index).churn(), 40))


def test_equal_seeds_make_equal_choices() -> None:
    for index in range(5):
        assert choices(FLEET, index) == choices(FLEET, index)
        left, right = NodePlan(FLEET, index), NodePlan(FLEET, index)
        assert [left.usage() for _ in range(20)] == [right.usage() for _ in range(20)]
        assert [left.heartbeat_first() for _ in range(20)] == [right.heartbeat_first() for _ in range(20)]


def test_other_seeds_and_other_nodes_make_other_choices() -> None:
    assert choices(FLEET, 0) != choices(replace(FLEET, seed=8), 0)
    assert choices(FLEET, 0) != choices(FLEET, 1)


def test_heartbeats_do_not_shift_churn() -> None:
    plan = NodePlan(FLEET, 3)
    for _ in range(100):
        plan.usage()
        plan.heartbeat_first()
    assert list(islice(plan.churn(), 40)) == choices(FLEET, 3)


def test_churn_has_the_rate_and_the_mix_that_are_documented() -> None:
    events = list(islice(NodePlan(replace(FLEET, churn=2.0), 0).churn(), 4000))
    assert sum(event.wait_s for event in events) / len(events) == pytest.approx(0.5, rel=0.1)
    share = {what: sum(event.what is what for event in events) / len(events) for what in Churn}
    assert share[Churn.LANGUAGES] == pytest.approx(0.5, abs=0.05)
    assert share[Churn.CLOSE] == pytest.approx(0.25, abs=0.05)
    assert share[Churn.CUT] == pytest.approx(0.25, abs=0.05)


def test_a_language_change_is_a_change() -> None:
    plan = NodePlan(FLEET, 0)
    current = plan.languages
    for event in islice(plan.churn(), 200):
        if event.what is Churn.LANGUAGES:
            assert event.languages != current
            assert event.languages in FLEET.languages
            current = event.languages


def test_with_one_language_set_all_churn_is_drops() -> None:
    events = choices(replace(FLEET, languages=(("en", "zh"),)), 0)
    assert {event.what for event in events} == {Churn.CLOSE, Churn.CUT}


def test_without_churn_there_is_none() -> None:
    assert choices(replace(FLEET, churn=0), 0) == []


def test_nodes_take_languages_and_urls_in_turn() -> None:
    options = replace(FLEET, urls=("ws://a/ws/node", "ws://b/ws/node"), id_prefix="sim-")
    plans = [NodePlan(options, index) for index in range(4)]
    assert [plan.languages for plan in plans] == [("en", "zh"), ("de", "en"), ("en", "fr"), ("en", "zh")]
    assert [plan.url(0) for plan in plans] == ["ws://a/ws/node", "ws://b/ws/node"] * 2
    assert [plans[0].url(attempt) for attempt in range(3)] == ["ws://a/ws/node", "ws://b/ws/node", "ws://a/ws/node"]
    assert [plan.node_id for plan in plans] == ["sim-01", "sim-02", "sim-03", "sim-04"]
    assert NodePlan(FLEET, 0).node_id is None


def test_usage_stays_within_what_a_client_reports() -> None:
    plan = NodePlan(FLEET, 0)
    for _ in range(2000):
        usage: dict[str, Any] = plan.usage()
        assert 0 <= usage["gpu_percent"] <= 100
        assert usage.get("gpu_queue_length", 1) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 0},
        {"nodes": 20_001},
        {"heartbeat_s": 0},
        {"heartbeat_s": float("nan")},
        {"duration_s": 0},
        {"duration_s": float("inf")},
        {"churn": -1},
        {"reconnect_s": -1},
        {"urls": ()},
        {"urls": ("http://127.0.0.1:5010/ws/node",)},
        {"urls": ("ws://",)},
        {"urls": ("ws://host:99999/ws/node",)},
        {"urls": ("ws://[/",)},
        {"urls": ("ws://host:0/ws/node",)},
        {"urls": ("ws://a..b/ws/node",)},
        {"urls": (f"ws://{'a' * 64}.example/ws/node",)},
        {"nodes": 10**400},
        {"languages": ()},
    ],
    ids=str,
)
def test_options_out_of_bounds_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="--"):
        replace(FLEET, **change)


def test_a_password_is_repeated_nowhere() -> None:
    with pytest.raises(InvalidInput, match="--url") as refused:
        replace(FLEET, urls=("http://me:secret@host/ws/node",))
    assert "secret" not in str(refused.value)
    options = replace(FLEET, urls=("ws://me:secret@host:5010/ws/node",))
    nobody = Snapshot(1.0, 1, 0, 0, 1, {}, {})
    assert Summary(options, nobody, Tally(), gave_up=True).document()["urls"] == ["ws://me:***@host:5010/ws/node"]


def test_languages_are_sent_as_written() -> None:
    assert parse_languages("en,zh;de, en ;;EN") == (("en", "zh"), ("de", "en"), (), ("EN",))
    with pytest.raises(InvalidInput, match="256"):
        parse_languages(",".join(f"l{number}" for number in range(257)))


def test_gpus() -> None:
    assert parse_gpus(["RTX 4090:24", "A:B:8"]) == (Gpu("RTX 4090", 24), Gpu("A:B", 8))
    assert parse_gpus(["none"]) == ()
    for bad in ("RTX 4090", ":24", "RTX:", "RTX:-1", "RTX:1.5", "RTX:٣"):
        with pytest.raises(InvalidInput, match="NAME:MEMORY_GB"):
            parse_gpus([bad])


def test_a_registration_is_what_the_fleets_client_sends() -> None:
    first = json.loads(messages.register(None, languages=["en", "zh"], services=["asr", "nmt"], gpus=[Gpu("RTX", 24)]))
    assert first["node_id"] is None
    assert first["hardware"]["gpus"] == [{"name": "RTX", "memory_gb": 24}]
    assert first["capability_by_type"][0] == {"type": "asr", "ready": True, "devices": ["gpu"]}
    assert {service["type"] for service in first["installed_services"]} == {"asr", "nmt", "lexicon"}
    assert first["language_capabilities"]["semantic_languages"] == ["en", "zh"]
    without = json.loads(messages.register("n1", languages=[], services=[], gpus=[]))
    assert "gpus" not in without["hardware"]
    assert without["language_capabilities"]["semantic_core_ready"] is False


def test_counters_are_bounded() -> None:
    counter = BoundedCounter()
    for number in range(1000):
        counter.add(f"key {number}")
    assert len(counter.as_dict()) == 33
    assert counter.as_dict()["other"] == 968
    latencies = Latencies()
    for number in range(1, 30_001):
        latencies.add(number)
    assert latencies.as_dict() == {"count": 30_000, "p50": 25_000, "p95": 29_500, "p99": 29_900, "max": 30_000}
    assert Latencies().as_dict() == {"count": 0, "p50": None, "p95": None, "p99": None, "max": None}


def test_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate(window_s=5)
    for second in range(11):
        rate.look(second, second * 10)
    assert rate.look(11, 200) == pytest.approx((200 - 60) / 5)
