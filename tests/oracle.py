"""A second opinion on the stored state, written from the rules and not from the Lua.

It reads the raw keys, checks the invariants and replays the events. It is slow and simple on purpose. Nothing of it is
used outside the tests.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from pyscheduler.keys import KEY_NAMES
from pyscheduler.store import Store

WITHOUT_SENTINEL = {"config", "history", "events"}
STATUS = {"g": "registering", "r": "ready", "d": "degraded", "o": "offline", "l": "offline"}


@dataclass(frozen=True)
class Job:
    """A job as stored, see docs/data-model.md."""

    attempt: int
    state: str
    epoch: int
    slots: int
    version: int
    node: str
    pool: str
    tenant: str
    owner: str
    session: str
    digest: str
    reason: str

    @classmethod
    def of(cls, stored: str) -> Job:
        attempt, state, epoch, slots, version, *texts = stored.split(" ", 11)
        return cls(int(attempt), state, int(epoch), int(slots), int(version), *texts)

    @property
    def is_live(self) -> bool:
        return self.state in "vr"


@dataclass
class State:
    """The raw content of a namespace, without its sentinels."""

    config: dict[str, str] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    class_facts: dict[int, Any] = field(default_factory=dict)
    class_index: dict[str, int] = field(default_factory=dict)
    capabilities: set[str] = field(default_factory=set)
    members: dict[str, int] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    holds: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, str] = field(default_factory=dict)
    history: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    events: list[dict[str, str]] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)
    reserved: dict[str, list[str]] = field(default_factory=dict)
    tenants: dict[str, int] = field(default_factory=dict)
    tenant_rules: dict[str, str] = field(default_factory=dict)
    affinities: dict[str, str] = field(default_factory=dict)
    bare: list[str] = field(default_factory=list)
    """Keys that have no sentinel, and should."""


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return {name: value for name, value in zip(flat[::2], flat[1::2], strict=True) if name != ""}


def _scores(flat: list[Any]) -> dict[str, float]:
    return {name: float(value) for name, value in _pairs(flat).items()}


async def read_raw(store: Store) -> dict[str, Any]:
    """Every key in one look, as it is: name -> what Redis says of it.

    As JSON: Python reads that much faster than a reply of ten thousand parts.
    """
    script = "\n".join(
        [
            "local kinds, values = {}, {}",
            "for index, key in ipairs(KEYS) do",
            "  local kind = redis.call('TYPE', key).ok",
            "  if kind == 'hash' then values[index] = redis.call('HGETALL', key)",
            "  elseif kind == 'zset' then values[index] = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')",
            "  else values[index] = redis.call('XRANGE', key, '-', '+') end",
            "end",
            "return cjson.encode(values)",
        ]
    )
    keys = [store.key(name) for name in KEY_NAMES]
    # cjson writes an empty list as {}.
    values = [value or [] for value in json.loads(await store.command("EVAL", script, len(keys), *keys))]
    return dict(zip(KEY_NAMES, values, strict=True))


async def read_state(store: Store) -> State:
    """Every key in one look, read."""
    raw = await read_raw(store)
    return State(
        config=_pairs(raw["config"]),
        pools={name: json.loads(value) for name, value in _pairs(raw["pools"]).items()},
        classes={int(number): pool for number, pool in _pairs(raw["classes"]).items()},
        class_facts={int(number): json.loads(facts) for number, facts in _pairs(raw["class_facts"]).items()},
        class_index={digest: int(number) for digest, number in _pairs(raw["class_index"]).items()},
        capabilities=set(_pairs(raw["capabilities"])),
        members={node: int(score) for node, score in _scores(raw["members"]).items()},
        ready=_scores(raw["ready"]),
        leases=_scores(raw["leases"]),
        sessions=_pairs(raw["sessions"]),
        nodes={node: _record(value) for node, value in _pairs(raw["nodes"]).items()},
        holds={node: json.loads(value) for node, value in _pairs(raw["holds"]).items()},
        usage=_pairs(raw["usage"]),
        history=[(int(entry[0].split("-")[0]), _pairs(entry[1])) for entry in raw["history"]],
        events=[_pairs(entry[1]) for entry in raw["events"]],
        jobs={job: Job.of(stored) for job, stored in _pairs(raw["jobs"]).items()},
        due=_scores(raw["due"]),
        reserved={node: stored.split(" ") for node, stored in _pairs(raw["reserved"]).items()},
        tenants={tenant: int(used) for tenant, used in _pairs(raw["tenants"]).items()},
        tenant_rules=dict(zip(raw["tenant_rules"][::2], raw["tenant_rules"][1::2], strict=True)),
        affinities=_pairs(raw["affinities"]),
        bare=[name for name in KEY_NAMES if name not in WITHOUT_SENTINEL and "" not in raw[name][::2]],
    )


def _record(value: str) -> tuple[Any, Any]:
    line, record = value.split("\n", 1)
    session, instance, former, takeovers, takeover_at, *move = line.split(" ", 9)
    header = {
        "session": session,
        "instance": instance,
        "former": former.split(",") if former else [],
        "takeovers": int(takeovers),
        "takeover_at": int(takeover_at),
        "transition": dict(zip(("from", "to", "version", "at", "reason"), move, strict=True)),
    }
    return header, json.loads(record)


# --- the matcher, from the rules --------------------------------------------------------------------------------------


def languages_of(facts: dict[str, Any]) -> list[str]:
    return facts.get("semantic") or facts.get("tts") or facts.get("asr") or []


def set_name(facts: dict[str, Any]) -> str:
    name = "-".join(code.replace("-", "_") for code in sorted(languages_of(facts)))
    if len(name) > 128:
        return f"langs-{len(languages_of(facts))}-{hashlib.sha1(name.encode()).hexdigest()[:12]}"
    return name


def facts_digest(facts: dict[str, Any]) -> str:
    return hashlib.sha1(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def meets(rule: dict[str, Any], facts: dict[str, Any]) -> bool:
    for member in ("semantic", "asr", "tts"):
        has = set(facts.get(member, ()))
        constraint = rule.get(member, {})
        if "exact" in constraint and set(constraint["exact"]) != has:
            return False
        if "contains" in constraint and not set(constraint["contains"]) <= has:
            return False
        if "any" in constraint and not set(constraint["any"]) & has:
            return False
    if not set(rule.get("services", ())) <= set(facts.get("services", ())):
        return False
    if gpu := rule.get("gpu"):
        fitting = [memory for memory in facts.get("gpu_memory_gb", ()) if memory >= gpu.get("min_memory_gb", 0)]
        if len(fitting) < gpu.get("min_count", 1):
            return False
    return all(facts.get("labels", {}).get(key) == value for key, value in rule.get("labels", {}).items())


def constraints(rule: dict[str, Any]) -> int:
    groups = [rule.get(member, {}) for member in ("semantic", "asr", "tts", "services", "gpu", "labels")]
    return sum(len(group) for group in groups)


def expected_pool(state: State, facts: dict[str, Any]) -> str:
    """Where a class belongs, given the pools that exist."""
    document = json.loads(state.config.get("document") or '{"pools":[]}')
    declared = sorted(
        enumerate(document["pools"]),
        key=lambda entry: (-entry[1].get("priority", 0), -constraints(entry[1]["match"]), entry[0]),
    )
    for _, pool in declared:
        if meets(pool["match"], facts):
            return str(pool["name"])
    name = set_name(facts)
    auto = json.loads(state.config["auto"])
    has_services = set(auto["require_services"] or ()) <= set(facts.get("services", ()))
    return name if has_services and name in state.pools and state.pools[name]["origin"] == "auto" else ""


# --- the invariants ---------------------------------------------------------------------------------------------------


def violations(state: State) -> list[str]:
    """What is wrong with a state; empty if nothing is."""
    found = [f"11: {name} lacks its sentinel" for name in state.bare]
    live = set(state.members)
    for name in ("leases", "sessions", "nodes", "usage"):
        if set(getattr(state, name)) != live:
            found.append(f"1: {name} and members differ by {sorted(set(getattr(state, name)) ^ live)[:5]}")
    if not set(state.ready) <= live:
        found.append(f"3: ready knows {sorted(set(state.ready) - live)[:5]}")
    for node, number in state.members.items():
        if number not in state.classes:
            found.append(f"1: {node} is in class {number}, which is not there")
        if node not in state.sessions:
            continue
        _, token_class, letter, _ = state.sessions[node].split(":")
        if int(token_class) != number:
            found.append(f"3: {node} has class {token_class} in its token and {number} in members")
        should = letter == "r" and node not in state.holds
        if should != (node in state.ready):
            found.append(f"3: {node} is {STATUS[letter]}, held: {node in state.holds}, in ready: {node in state.ready}")
        used = slots_of(state, node)
        if node in state.ready and not 0 <= state.ready[node] - number * 1024 - used * 2 <= 1:
            found.append(f"3: {node} has ready score {state.ready[node]} in class {number} with {used} slots reserved")
    if any(not owners for owners in state.holds.values()):
        found.append("3: a hold without an owner")
    if set(state.classes) != set(state.class_facts):
        found.append("2: classes and facts differ")
    if state.class_index != {facts_digest(facts): number for number, facts in state.class_facts.items()}:
        found.append("2: the class index is not that of the facts")
    entries = set()
    for number, facts in state.class_facts.items():
        for member, prefix in (("asr", "asr"), ("semantic", "semantic"), ("tts", "tts"), ("services", "service")):
            entries |= {f"{prefix}:{item}:{number}" for item in facts.get(member, ())}
        if set_name(facts):
            entries.add(f"set:{set_name(facts)}:{number}")
        pool = state.classes.get(number, "")
        if pool and pool not in state.pools:
            found.append(f"2: class {number} maps to {pool}, which is not there")
        if pool != expected_pool(state, facts):
            found.append(f"4: class {number} {facts} maps to {pool!r}, the rules say {expected_pool(state, facts)!r}")
    if entries != state.capabilities:
        found.append(f"2: capability index differs by {sorted(entries ^ state.capabilities)[:5]}")
    document = json.loads(state.config.get("document") or '{"pools":[]}')
    declared = {pool["name"]: (pool["match"], pool["priority"]) for pool in document["pools"]}
    stored = {name: pool for name, pool in state.pools.items() if pool["origin"] == "declared"}
    if {name: (pool["match"], pool.get("priority")) for name, pool in stored.items()} != declared:
        found.append(
            f"4: the declared pools are {sorted(stored)}, the document says {sorted(declared)}, or rules differ"
        )
    numbers = [pool["id"] for pool in state.pools.values()]
    if len(set(numbers)) != len(numbers):
        found.append(f"2: pool numbers repeat: {sorted(numbers)}")
    versions = [version for version, _ in state.history]
    version = int(state.config["version"])
    if not versions or versions != list(range(versions[0], version + 1)):
        found.append(f"5: history holds {versions[:3]}..{versions[-3:]}, the version is {version}")
    return found + job_violations(state) + replay_violations(state)


def slots_of(state: State, node: str) -> int:
    """Slots that a node's live reservations take."""
    return sum(job.slots for job in state.jobs.values() if job.is_live and job.node == node)


def job_violations(state: State) -> list[str]:
    """Invariants 9 and 10."""
    found = []
    live = {name: job for name, job in state.jobs.items() if job.is_live}
    for node, (used, *names) in state.reserved.items():
        if int(used) != slots_of(state, node):
            found.append(f"9: {node} has {used} slots reserved, its jobs have {slots_of(state, node)}")
        if sorted(names) != sorted(name for name, job in live.items() if job.node == node):
            found.append(f"10: {node} names {names}")
    if {job.node for job in live.values()} != set(state.reserved):
        found.append("10: nodes with reservations differ")
    if not {job.node for job in live.values()} <= set(state.members):
        found.append("10: a reservation on a node that members lack")
    tenants: dict[str, int] = defaultdict(int)
    for job in live.values():
        if job.tenant:
            tenants[job.tenant] += job.slots
        if job.node in state.sessions and job.epoch > int(state.sessions[job.node].split(":")[0]):
            found.append(f"10: a reservation of {job.node} has a later epoch than the node")
    if tenants != state.tenants:
        found.append(f"9: tenants have {state.tenants}, their jobs {dict(tenants)}")
    ends = {name for name in state.due if not name.startswith(("@", "!"))}
    if ends != set(state.jobs):
        found.append(f"10: ends and jobs differ by {sorted(ends ^ set(state.jobs))[:5]}")
    if {name[1:] for name in state.due if name.startswith("@")} != set(state.affinities):
        found.append("10: affinities and their ends differ")
    document = json.loads(state.config.get("document") or "{}")
    rules = {"": f"{document['selection']['tenant_slots'] if document else 0} 0 "}
    for rule in document.get("tenants", ()):
        slots = rule.get("slots", document["selection"]["tenant_slots"])
        rules[rule["name"]] = f"{slots} {int(rule['strict'])} {rule.get('pool', '')}"
    if state.tenant_rules != rules:
        found.append(f"4: the rules of tenants are {state.tenant_rules}, the document says {rules}")
    return found


def replay_violations(state: State) -> list[str]:
    """Invariant 8: the events, replayed, give the state. Says nothing once the stream has been trimmed."""
    if not state.events or state.events[0].get("reason") != "namespace created":
        return []
    nodes: dict[str, dict[str, Any]] = {}
    class_pool: dict[int, str] = {}
    pools: dict[str, int] = {}
    holds: dict[str, set[str]] = defaultdict(set)
    jobs: dict[str, tuple[int, str]] = {}
    version = 0
    for event in state.events:
        kind, node = event["type"], event.get("node_id", "")
        if int(event["version"]) < version:
            return [f"8: version {event['version']} after {version}"]
        if kind == "config.bumped":
            if int(event["version"]) != version + 1:
                return [f"5: version went from {version} to {event['version']}"]
            version = int(event["version"])
        elif kind == "pool.created":
            pools[event["pool"]] = int(event["pool_id"])
        elif kind == "pool.removed":
            del pools[event["pool"]]
        elif kind == "node.registered":
            previous = nodes.get(node)
            if previous and int(event["epoch"]) <= previous["epoch"]:
                return [f"7: {node} went from epoch {previous['epoch']} to {event['epoch']}"]
            nodes[node] = {"class": int(event["class"]), "epoch": int(event["epoch"]), "status": event["status"]}
            if previous:
                nodes[node]["left"] = previous["class"]
        elif kind == "node.assigned":
            left = nodes[node].pop("left", nodes[node]["class"])
            # '' also where the class that it leaves was given its pool by the same call.
            if event["from"] not in ("", class_pool.get(left, "")):
                return [f"8: {event}, but the node was in {class_pool.get(left)!r}"]
            nodes[node]["class"] = int(event["class"])
            class_pool[int(event["class"])] = event["to"]
        elif kind == "class.remapped":
            if class_pool.get(int(event["class"]), "") != event["from"]:
                return [f"8: {event} but the class was in {class_pool.get(int(event['class']))!r}"]
            class_pool[int(event["class"])] = event["to"]
        elif kind == "job.reserved":
            if event["job_id"] in jobs:
                return [f"8: {event}, but the job is reserved"]
            jobs[event["job_id"]] = int(event["attempt"]), node
        elif kind == "job.ended":
            if jobs.pop(event["job_id"], None) != (int(event["attempt"]), node):
                return [f"8: {event}, but the job is not reserved so"]
        elif kind == "node.released":
            nodes[node]["status"] = "offline"
        elif kind == "node.expired":
            if class_pool.get(nodes[node]["class"], "") != event["from"]:
                return [f"8: {event}, but the node was in {class_pool.get(nodes[node]['class'])!r}"]
            del nodes[node]
        elif kind == "node.status":
            if node in nodes:
                nodes[node]["status"] = event["to"]
            if event.get("hold") == "set":
                holds[node].add(event["owner"])
            elif event.get("hold") == "lift":
                holds[node].discard(event["owner"])
    found = []
    if {node: entry["class"] for node, entry in nodes.items()} != state.members:
        found.append("8: the replayed members differ")
    if {node: entry["epoch"] for node, entry in nodes.items()} != {
        node: int(token.split(":")[0]) for node, token in state.sessions.items()
    }:
        found.append("8: the replayed epochs differ")
    for node, entry in nodes.items():
        letter = state.sessions.get(node, ":::").split(":")[2]
        seen = "draining" if node in state.holds and letter not in ("o", "l") else STATUS.get(letter, "")
        if entry["status"] != seen:
            found.append(f"8: {node} is {seen}, its events say {entry['status']}")
    if jobs != {name: (job.attempt, job.node) for name, job in state.jobs.items() if job.is_live}:
        found.append("8: the replayed reservations differ")
    used = set(state.members.values())
    if {number: class_pool.get(number, "") for number in used} != {
        number: state.classes.get(number) for number in used
    }:
        found.append("8: the replayed class map differs")
    if pools != {name: pool["id"] for name, pool in state.pools.items()}:
        found.append("8: the replayed pools differ")
    if {node: owners for node, owners in holds.items() if owners} != {
        node: set(owners) for node, owners in state.holds.items()
    }:
        found.append("8: the replayed holds differ")
    if version != int(state.config["version"]):
        found.append("8: the replayed version differs")
    return found
