"""Profiles: which nodes share one, and what messages say of services where two of their lists do not agree."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest

from pyscheduler.core.profile import NodeProfile
from pyscheduler.core.protocol import FrameError, parse_frame
from tests.fixtures.clients import GPU, HEAD, State

# --- lists that do not agree -----------------------------------------------------------------------------------------


def running(services: list[dict[str, Any]] | None, **changed: object) -> dict[str, bool]:
    message = {**HEAD.register(node_id="n"), **changed, "installed_services": services}
    return dict(NodeProfile.registered(parse_frame(json.dumps(message))).running)


def service(kind: str, status: str | None = "running") -> dict[str, Any]:
    return {"service_id": f"{kind}-1", "type": kind, "device": "gpu", "status": status, "version": "1"}


READY = [{"type": kind, "ready": True} for kind in ("asr", "nmt", "tts")]


@pytest.mark.parametrize("others", [[], [service("nmt")]])
def test_a_status_of_a_service_counts_and_not_what_is_called_ready(others: list[dict[str, Any]]) -> None:
    stopped = running([service("asr", "stopped"), *others], capability_by_type=READY)
    assert stopped == {"asr": False, **({"nmt": True} if others else {})}


def test_one_running_service_of_a_type_is_enough_whatever_the_order() -> None:
    for statuses in (("running", "stopped"), ("stopped", "running")):
        assert running([service("asr", status) for status in statuses]) == {"asr": True}


def test_an_empty_list_says_that_nothing_is_installed() -> None:
    assert running([], capability_by_type=READY) == {}


def test_without_the_list_the_models_count_and_run_if_they_are_ready() -> None:
    assert running(None, capability_by_type=READY[:1]) == {"asr": True, "nmt": False, "tts": False}
    older = {"capability_by_type": None, "capability_schema_version": None}
    assert running(None, **older) == {"asr": True, "nmt": True, "tts": True}


def test_a_node_that_takes_no_public_jobs_is_private() -> None:
    for public in (True, False):
        message = {**HEAD.register(node_id="n"), "accept_public_jobs": public}
        assert NodeProfile.registered(parse_frame(json.dumps(message))).facts.private is not public


def test_a_service_without_a_status_beside_one_with_it_runs_if_it_is_called_ready() -> None:
    services = [service("asr"), service("nmt", None)]
    older = {"capability_by_type": None, "capability_schema_version": None}
    assert running(services, **older, capability_state={"nmt-1": "Ready"}) == {"asr": True, "nmt": True}
    assert running(services, **older, capability_state=None) == {"asr": True, "nmt": False}


def test_the_kind_of_a_model_that_stands_for_a_service_is_a_service_type() -> None:
    models = [{**HEAD.register(node_id="n")["installed_models"][0], "kind": "a b", "model_id": "m"}]
    older = {"capability_by_type": None, "capability_schema_version": None, "capability_state": {"m": "ready"}}
    for changed in ({}, older):
        with pytest.raises(FrameError, match="node_register is refused: installed_models: 'a b' is no service type"):
            running(None, installed_models=models, **changed)


# --- profiles are shared ---------------------------------------------------------------------------------------------


def registered(message: dict[str, Any]) -> NodeProfile:
    return NodeProfile.registered(parse_frame(json.dumps(message)))


def merged(seen: NodeProfile, message: dict[str, Any]) -> NodeProfile:
    return seen.merged(parse_frame(json.dumps(message)))


def test_nodes_that_declare_the_same_share_one_profile() -> None:
    message = HEAD.register(node_id="a") | {"notes": {"a": 1, "b": "\u4e2d"}}
    seen = registered(message)
    assert registered(message | {"node_id": "b"}) is seen
    assert registered({key: message[key] for key in sorted(message, reverse=True)}) is seen
    assert NodeProfile.registered(parse_frame(json.dumps(message, ensure_ascii=False, indent=1))) is seen


def test_a_node_that_comes_to_declare_what_another_does_shares_its_profile() -> None:
    german, chinese = State(languages=("de", "en")), State(languages=("zh", "en"))
    seen, other = registered(HEAD.register(german)), registered(HEAD.register(chinese))
    assert other is not seen
    assert merged(seen, HEAD.heartbeat("a", chinese)) is other
    assert merged(other, HEAD.heartbeat("b", german)) is seen


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("notes", 1.0),
        ("notes", True),
        ("notes", "1"),
        ("notes", None),
        ("more", None),
        ("version", "2.0.1"),
        ("platform", "windows"),
        ("capability_schema_version", "2.1"),
        ("capability_schema_version", None),
        ("hardware", {"cpu_cores": 9, "memory_gb": 32, "gpus": [GPU]}),
        ("hardware", {"cpu_cores": 8, "memory_gb": 32, "gpus": [{**GPU, "name": "Example RTX 13"}]}),
        ("hardware", {"cpu_cores": 8, "memory_gb": 32, "gpus": [GPU, GPU]}),
        ("hardware", {"cpu_cores": 8, "memory_gb": 32}),
        ("installed_services", []),
        ("capability_by_type", []),
        ("language_capabilities", None),
        ("accept_public_jobs", False),
        ("labels", {"zone": "eu"}),
    ],
)
def test_a_node_that_declares_anything_else_has_a_profile_of_its_own(name: str, value: object) -> None:
    message = HEAD.register(node_id="a") | {"notes": 1}
    seen, other = registered(message), registered(message | {name: value})
    assert other is not seen
    assert json.dumps(other.declared[name]) == json.dumps(value)
    assert other.digest != seen.digest
    assert other.schema_version == (value if name == "capability_schema_version" else "2.0")
    hardware = value if isinstance(value, dict) and name == "hardware" else message["hardware"]
    assert [gpu.model_dump() for gpu in other.gpus] == hardware.get("gpus", [])


REFUSED = [
    ({"language_capabilities": {"asr_languages": ["{tag}"]}}, "asr_languages"),
    ({"labels": {"a b": "x"}}, "labels"),
    ({"capability_by_type": [{"type": "a b", "ready": True}]}, "capability_by_type"),
    ({"installed_services": [{"service_id": "asr-1"}]}, "Field required since capability schema 2.0"),
    ({"installed_services": [service("a b")]}, "installed_services"),
    ({"notes": "x" * 65_536}, "at most 65536 are kept"),
]
"""What is refused at each step of the making of a profile, with what the refusal says."""


@pytest.mark.parametrize(("changed", "named"), REFUSED)
def test_what_is_refused_once_is_refused_again(changed: dict[str, Any], named: str) -> None:
    message = HEAD.register(node_id="a")
    seen = registered(message)
    refusals = []  # held, and with them whatever was made before something was refused
    for _ in range(3):
        with pytest.raises(FrameError, match=f"node_register is refused: .*{named}") as refusal:
            registered(message | changed)
        refusals.append(refusal)
    assert registered(message) is seen
    if changed.keys() <= HEAD.heartbeat("a").keys():
        for _ in range(3):
            with pytest.raises(FrameError, match=f"node_heartbeat is refused: .*{named}") as refusal:
                merged(seen, HEAD.heartbeat("a") | changed)
            refusals.append(refusal)


def test_nodes_whose_bulky_lists_are_left_out_share_one_profile_whatever_stood_in_them() -> None:
    def message(pairs: object, asr: str = "en") -> dict[str, Any]:
        spoken = {"asr_languages": [asr], "supported_language_pairs": pairs}
        return HEAD.register(node_id="a") | {"language_capabilities": spoken}

    long, other_long = ([{"src": "en", "tgt": code}] * 5000 for code in ("de", "zh"))
    seen = registered(message(long))
    assert seen.declared["language_capabilities"] == {"asr_languages": ["en"], "left_out": ["supported_language_pairs"]}
    assert registered(message(long)) is seen
    assert registered(message(other_long)) is seen
    # What decides anything is never left out, and a list that fits is none of these.
    assert registered(message(long, "de")).facts.asr == ("de",)
    assert registered(message([])) is not seen


def test_a_profile_lasts_as_long_as_a_node_that_has_it() -> None:
    seen = registered(HEAD.register(node_id="a") | {"notes": "of this test alone"})
    kept = weakref.ref(seen)
    gc.collect()
    assert kept() is seen
    del seen
    gc.collect()
    assert kept() is None
