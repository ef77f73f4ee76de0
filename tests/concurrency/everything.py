"""A namespace as a whole: what answers say of the configuration, of nodes and of jobs together."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pyscheduler import PoolDocument
from tests.concurrency.configuration_model import Configuration, ConfigurationModel, pool_of
from tests.concurrency.history import Operation
from tests.concurrency.job_model import JobModel, JobState
from tests.concurrency.node_model import CHANGES_EVERY_NODE, SHOWS_EVERY_NODE, NodeModel, NodeState


class Everything(NamedTuple):
    """State of the configuration, of every node and of every job."""

    configuration: Configuration
    nodes: tuple[NodeState, ...]
    jobs: tuple[JobState, ...] = ()


def concerns(model: NodeModel | JobModel, operation: Operation) -> bool:
    """Whether the operation is one for the model."""
    if isinstance(model, JobModel):
        return operation.kind in ("reconcile", "read_jobs") or operation.args.get("job") == model.job_id
    if operation.kind in CHANGES_EVERY_NODE | SHOWS_EVERY_NODE:
        return True
    return bool(operation.args.get("node") == model.node_id)


class EverythingModel:
    """An operation does what it does to the configuration, to nodes and to jobs at one instant."""

    def __init__(
        self, configuration: ConfigurationModel, nodes: Sequence[NodeModel], jobs: Sequence[JobModel] = ()
    ) -> None:
        self._configuration, self._nodes, self._jobs = configuration, nodes, jobs
        self.initial = Everything(
            configuration.initial, tuple(node.initial for node in nodes), tuple(job.initial for job in jobs)
        )

    def reads(self, operation: Operation) -> bool:
        if operation.kind == "reconcile":
            result = operation.result
            return result is not None and result["expired"] == 0 and result.get("ended_jobs", 0) == 0
        if operation.kind == "read_jobs":
            return True
        if "job" in operation.args:
            return self._jobs[0].reads(operation)
        return all(model.reads(operation) for model in (self._configuration, self._nodes[0]))

    def step(self, state: Everything, operation: Operation) -> Iterator[Everything]:
        for configuration in self._configuration.step(state.configuration, operation):
            for nodes in _stepped(self._nodes, state.nodes, operation):
                for jobs in _stepped(self._jobs, state.jobs, operation):
                    after = Everything(configuration, nodes, jobs)
                    if operation.is_open or self._agree(state, after, operation):
                        yield after

    def _agree(self, before: Everything, after: Everything, operation: Operation) -> bool:
        """What an answer says of the configuration, nodes and jobs together."""
        result: Mapping[str, Any] = operation.result or {}
        configuration = after.configuration
        if operation.kind == "reserve":
            return self._agree_on_a_reservation(before, operation)
        if operation.kind == "reconcile":
            expired = sum(one.live and not two.live for one, two in zip(before.nodes, after.nodes, strict=True))
            return bool(result["expired"] == expired) and self._agree_on_ends(
                before, after, result.get("ended_jobs", 0)
            )
        if operation.kind == "read_jobs":
            sums = {"slots": _slots(after.jobs, "node"), "tenants": _slots(after.jobs, "tenant")}
            return {name: result[name] for name in sums} == sums
        if operation.kind == "read_pools":
            live = [node for node in after.nodes if node.live]
            counted = Counter(pool_of(configuration, node.facts) for node in live)
            ready = Counter(pool_of(configuration, node.facts) for node in live if node.takes_work)
            return bool(
                result["nodes"] == len(live)
                and result["unmatched_nodes"] == counted[""]
                and all(
                    (one["nodes"], one["ready"]) == (counted[one["name"]], ready[one["name"]])
                    for one in result["pools"]
                )
            )
        if operation.kind == "read_nodes":
            pools = {one.session: pool_of(configuration, one.facts) for one in after.nodes if one.live}
            return pools == {seen["instance"]: seen["pool"] or "" for seen in result["nodes"].values()}
        return True

    def _agree_on_a_reservation(self, before: Everything, operation: Operation) -> bool:
        """A node that was given could be; where there is none, there was none that surely could."""
        result: Mapping[str, Any] = operation.result or {}
        if not result.get("fresh") and result.get("error") != "NoNode":
            return True
        if result["version"] != before.configuration.version:
            return False
        request = json.loads(operation.args["request"])
        job_ids = [job.job_id for job in self._jobs]
        others = [job for job_id, job in zip(job_ids, before.jobs, strict=True) if job_id != operation.args["job"]]
        old = before.jobs[job_ids.index(operation.args["job"])]
        selection = selection_of(before.configuration.document)
        used, tenants = _slots(others, "node"), _slots(others, "tenant")
        bound = selection["tenant_slots"] if request["tenant"] else 0
        over_quota = bool(bound) and tenants.get(request["tenant"], 0) + request["slots"] > bound

        def fits(node_id: str, node: NodeState, pool: str) -> bool:
            free = selection["slots_per_node"] - used.get(node_id, 0)
            return node.takes_work and bool(pool) and _serves(node.facts, request) and request["slots"] <= free

        for model, node in zip(self._nodes, before.nodes, strict=True):
            pool = pool_of(before.configuration, node.facts) if node.live else ""
            if result.get("node") == model.node_id:
                return (
                    not over_quota
                    and fits(model.node_id, node, pool)
                    and result["pool"] == pool
                    and node.epoch in (0, result["epoch"])
                    and False in node.lapsed(operation)
                )
            is_excluded = old.node == model.node_id and old.state != "released"
            surely = not over_quota and not node.brief and not is_excluded
            if result.get("error") and surely and fits(model.node_id, node, pool):
                return False
        return bool(result.get("error"))

    def _agree_on_ends(self, before: Everything, after: Everything, ended_jobs: int) -> bool:
        """Upkeep ended what it says, had its reasons, and left nothing on a node that is no more."""
        selection, ended = selection_of(before.configuration.document), 0
        nodes = {
            model.node_id: (one, two) for model, one, two in zip(self._nodes, before.nodes, after.nodes, strict=True)
        }
        for model, one, two in zip(self._jobs, before.jobs, after.jobs, strict=True):
            if two.is_live and not nodes[two.node][1].live:
                return False
            if not one.is_live or two.is_live:
                continue
            ended += 1
            was, left = nodes[one.node]
            why = model.end_of(one)["why"]
            reasons = {
                "lease_lapsed": two.state == "lapsed",
                "node_expired": was.live and not left.live,
                "new_epoch": selection["on_new_epoch"] == "lose" and (was.epoch == 0 or was.epoch > one.epoch),
                "drained": selection["on_drain"] == "lose" and bool(was.holds),
            }
            if not reasons[why]:
                return False
        return ended == ended_jobs


def _stepped(models: Sequence[Any], states: tuple[Any, ...], operation: Operation) -> Iterator[tuple[Any, ...]]:
    """The states of all, of which those that the operation concerns have gone on."""
    at = [index for index, model in enumerate(models) if concerns(model, operation)]
    if not at:
        yield states
        return
    for gone_on in itertools.product(*(tuple(models[index].step(states[index], operation)) for index in at)):
        found = list(states)
        for index, one in zip(at, gone_on, strict=True):
            found[index] = one
        yield tuple(found)


def _slots(jobs: Sequence[JobState], by: str) -> dict[str, int]:
    """Slots that live jobs have, by node or by tenant."""
    found: Counter[str] = Counter()
    for job in jobs:
        if job.is_live:
            request = _read(job.request)
            found[job.node if by == "node" else request["tenant"]] += request["slots"]
    return {name: slots for name, slots in found.items() if name}


@functools.cache
def _read(request: str) -> Any:
    return json.loads(request)


@functools.cache
def selection_of(document: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document or PoolDocument().canonical())["selection"]
    return found


@functools.lru_cache(10_000)
def _facts(facts: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(facts)
    return found


def _serves(facts: str, request: Mapping[str, Any]) -> bool:
    found = _facts(facts)
    return request["src"] in found.get("asr", ()) and request["tgt"] in found.get("semantic", ())
