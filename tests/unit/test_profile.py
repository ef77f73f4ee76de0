"""What a node's messages say of its services, where two of its lists do not agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyscheduler.core.profile import NodeProfile
from pyscheduler.core.protocol import FrameError, parse_frame
from tests.fixtures.clients import HEAD


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


def test_nodes_that_declare_the_same_share_one_profile() -> None:
    first, again, other = (
        NodeProfile.registered(parse_frame(json.dumps({**HEAD.register(node_id=name), "version": version})))
        for name, version in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first is again
    assert other is not first


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
