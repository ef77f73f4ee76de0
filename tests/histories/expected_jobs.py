"""What the rules say of jobs in a state: which nodes can take one, which it gets, what is against the others."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pyscheduler.core.jobs import JobRequest
from tests.histories.expected import epoch_of, facts_of_node, now_of, pool_of
from tests.oracle import Job, State, constraints, languages_of, set_name, slots_of

KEPT_MS = 600_000
"""How long an ended job, and the node of a session, is remembered."""


def selection_of(state: State) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state.config["selection"])
    return found


def over_quota(state: State, request: JobRequest, old: Job | None) -> bool:
    bound = int(state.tenant_rules[""].split()[0])
    if not request.tenant or not bound:
        return False
    given_back = old.slots if old and old.is_live and old.tenant == request.tenant else 0
    return state.tenants.get(request.tenant, 0) - given_back + request.slots > bound


def against_class(state: State, facts: dict[str, Any], pool: str, request: JobRequest) -> str:
    """The first thing that is against every node of a class; empty if nothing is."""
    serves = (
        request.src in facts.get("asr", ())
        and request.tgt in facts.get("semantic", ())
        and set(request.services) <= set(facts.get("services", ()))
        and ("tts" not in request.services or request.tgt in facts.get("tts", ()))
    )
    if not serves:
        return "no_pair"
    if any(facts.get("labels", {}).get(key) != value for key, value in request.labels.items()):
        return "labels"
    if facts.get("private") and not request.tenant:
        return "not_public"
    if (request.scope or selection_of(state)["scope"]) == "exact" and not is_exact(facts, request):
        return "scope"
    return "" if pool else "no_pool"


def is_exact(facts: dict[str, Any], request: JobRequest) -> bool:
    return set_name(facts) == set_name({"semantic": sorted({request.src, request.tgt})})


def against(state: State, node: str, request: JobRequest, old: Job | None) -> str:
    """The first thing that is against a node; empty if nothing is."""
    if reason := against_class(state, facts_of_node(state, node), pool_of(state, node), request):
        return reason
    if node in request.exclude or (old and old.state != "c" and old.node == node):
        return "excluded"
    if node in state.holds:
        return "draining"
    if node not in state.ready:
        return "not_ready"
    if state.leases[node] <= now_of(state):
        return "lapsed"
    return "no_slot" if slots_of(state, node) + request.slots > selection_of(state)["slots_per_node"] else ""


def able(state: State, request: JobRequest, old: Job | None) -> set[str]:
    """Nodes that can take the job now. ``old``: its attempt before."""
    return {node for node in state.members if not against(state, node, request, old)}


def reasons(state: State, request: JobRequest, old: Job | None) -> dict[str, int]:
    if over_quota(state, request, old):
        return {"quota": 1}
    return dict(Counter(against(state, node, request, old) for node in state.members))


def choices(state: State, request: JobRequest, old: Job | None) -> set[str]:
    """Nodes among which the rules leave the choice: of the first pool that has any that can take the job."""
    nodes = set() if over_quota(state, request, old) else able(state, request, old)
    if not nodes:
        return nodes
    first = min({pool_of(state, node) for node in nodes}, key=lambda pool: _order(state, pool, request))
    nodes = {node for node in nodes if pool_of(state, node) == first}
    strategy = selection_of(state)["strategy"]
    if strategy in ("random", "power_of_two"):
        return nodes
    former = state.affinities.get(request.session) if strategy == "affinity" and request.session else None
    if former in nodes:
        return {former}
    weights = {node: _weight(state, node) for node in nodes}
    return {node for node, weight in weights.items() if weight == min(weights.values())}


def _weight(state: State, node: str) -> tuple[float, int]:
    used = slots_of(state, node)
    load = round(state.ready[node] - state.members[node] * 1024 - 2 * used, 4)
    return max(load, used / selection_of(state)["slots_per_node"]), used


def _order(state: State, pool: str, request: JobRequest) -> tuple[Any, ...]:
    """Where a pool stands among those that are tried."""
    serving = [
        facts
        for number, facts in state.class_facts.items()
        if state.classes[number] == pool and not against_class(state, facts, pool, request)
    ]
    exact = any(is_exact(facts, request) for facts in serving)
    languages = min(len(languages_of(facts)) for facts in serving)
    document = json.loads(state.config.get("document") or '{"pools":[]}')
    ranked = sorted(
        enumerate(document["pools"]),
        key=lambda entry: (-entry[1].get("priority", 0), -constraints(entry[1]["match"]), entry[0]),
    )
    names = [one["name"] for _, one in ranked]
    return not exact, pool not in names, names.index(pool) if pool in names else 0, languages, pool


def ends(before: State, after: State) -> dict[str, set[tuple[str, str]]]:
    """Reservations that a step of upkeep between these states ends: with the states and reasons that it may give."""
    now_ms, policy = now_of(before), selection_of(before)
    found: dict[str, set[tuple[str, str]]] = {}
    for name, job in before.jobs.items():
        if not job.is_live:
            continue
        fates = set()
        is_marked = before.due.get(f"!{job.node}", now_ms + 1) <= now_ms
        if job.node not in after.members:
            fates.add(("l", "node_expired"))
        elif is_marked and policy["on_new_epoch"] == "lose" and job.epoch < epoch_of(before, job.node):
            fates.add(("l", "new_epoch"))
        elif is_marked and policy["on_drain"] == "lose" and job.node in before.holds:
            fates.add(("l", "drained"))
        if before.due[name] <= now_ms:
            fates.add(("e", "lease_lapsed"))
        if fates:
            found[name] = fates
    return found


def forgotten(before: State) -> set[str]:
    """What a step of upkeep then takes out of ``due``, by its names there: all that has come but live jobs."""
    return {
        name
        for name, at in before.due.items()
        if at <= now_of(before) and not (name in before.jobs and before.jobs[name].is_live)
    }
