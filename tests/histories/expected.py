"""What the rules say of a state: who waits for a pool and why, who is where."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tests.harness import EPOCH_MS, LEASE_MS
from tests.oracle import State, languages_of, set_name


@dataclass
class Waiting:
    nodes: int = 0
    languages: tuple[str, ...] = ()


def waiting_sets(state: State) -> dict[str, Waiting]:
    """Language sets whose classes lack nothing but an auto pool."""
    auto = json.loads(state.config["auto"])
    found: dict[str, Waiting] = defaultdict(Waiting)
    for number, of_class in state.class_facts.items():
        name = set_name(of_class)
        has_services = set(auto["require_services"] or ()) <= set(of_class.get("services", ()))
        if name and has_services and name not in state.pools and state.classes[number] == "":
            found[name].nodes += sum(1 for other in state.members.values() if other == number)
            found[name].languages = tuple(languages_of(of_class))
    return found


def denial(state: State, nodes: int) -> str:
    """Why no auto pool can be made for that many nodes; empty if one can."""
    auto = json.loads(state.config["auto"])
    autos = sum(1 for one in state.pools.values() if one["origin"] == "auto")
    if not auto["enabled"]:
        return "auto_disabled"
    if autos >= auto["max_pools"]:
        return "max_pools"
    return "below_min_nodes" if nodes < auto["min_nodes"] else ""


def reason_without_pool(state: State, of_node: dict[str, Any]) -> str:
    name = set_name(of_node)
    auto = json.loads(state.config["auto"])
    if not name:
        return "no_languages"
    if name in state.pools:
        return "name_taken" if state.pools[name]["origin"] == "declared" else "services_missing"
    if not set(auto["require_services"] or ()) <= set(of_node.get("services", ())):
        return "services_missing"
    return denial(state, waiting_sets(state)[name].nodes)


def overdue(state: State) -> list[str]:
    """Language sets that could have their pool by the policy and have none."""
    return [name for name, waiting in waiting_sets(state).items() if not denial(state, waiting.nodes)]


def facts_of_node(state: State, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = state.class_facts[state.members[node_id]]
    return found


def pool_of(state: State, node_id: str) -> str:
    return state.classes[state.members[node_id]]


def epoch_of(state: State, node_id: str) -> int:
    return int(state.sessions[node_id].split(":")[0])


def is_released(state: State, node_id: str) -> bool:
    return state.sessions[node_id].split(":")[2] == "o"


def is_offline(state: State, node_id: str) -> bool:
    """Released, or lost with its instance."""
    return is_released(state, node_id) or state.sessions[node_id].split(":")[2] == "l"


def now_of(state: State) -> int:
    return EPOCH_MS + int(state.config.get("test_offset_ms", 0))


def suspended_ms(state: State) -> int:
    """How long a step of upkeep now must expire nothing, because upkeep was away for more than half a lease."""
    now_ms, ticked_at = now_of(state), state.config.get("ticked_at")
    if ticked_at is None or not 0 <= now_ms - int(ticked_at) <= LEASE_MS / 2:
        return LEASE_MS
    return max(int(state.config.get("suspended_until", 0)) - now_ms, 0)


def idle_pools(state: State) -> set[str]:
    """Auto pools that a step of upkeep now removes: without a class for as long as the policy says."""
    idle_ttl_ms = json.loads(state.config["auto"])["idle_ttl_ms"]
    idle = {name: one["idle_since"] for name, one in state.pools.items() if one.get("idle_since") is not None}
    used = set(state.classes.values())
    return {name for name, since in idle.items() if name not in used and now_of(state) - since >= idle_ttl_ms}
