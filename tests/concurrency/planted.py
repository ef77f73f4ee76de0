"""Faults to plant: ways of doing it that are not atomic or not fenced, each of which a history must give away."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from pyscheduler import Allocator, JobRequest, NodeReport, PoolDocument, StoreOptions
from pyscheduler.core.facts import Facts
from pyscheduler.core.jobs import JobState, JobStatus, Reservation
from pyscheduler.core.results import ConfigChange, PoolTable, Registration, Session
from pyscheduler.errors import JobEnded, VersionConflict
from pyscheduler.scripts.loader import lua_directory


class _ComparesFirst(Allocator):
    """Looks whether the version is the expected one, then writes: two calls, between which somebody else may write."""

    async def sync(self, document: PoolDocument, *, expect_version: int | None = None, **rest: Any) -> ConfigChange:
        seen = (await self.document()).version
        if expect_version is not None and expect_version != seen:
            raise VersionConflict(expect_version, seen)
        return await super().sync(document, **rest)


class _ClearsFirst(Allocator):
    """Changes the facts of a node as it used to be done: clears them, then writes the new ones."""

    async def update(self, session: Session, report: NodeReport, **rest: Any) -> Registration:
        cleared = await super().update(session, dataclasses.replace(report, facts=Facts()), **rest)
        return await super().update(cleared.session, report, **rest)


class _TornRead(Allocator):
    """Reads the pools and their version in two looks."""

    async def pools(self) -> PoolTable:
        version = await self.version()
        return replace(await super().pools(), version=version)


class _CountsLater(Allocator):
    """Reads which pools there are, then how many nodes each has."""

    async def pools(self) -> PoolTable:
        table = await super().pools()
        counted = {pool.name: pool for pool in (await super().pools()).pools}
        pools = (replace(one, nodes=counted.get(one.name, one).nodes) for one in table.pools)
        return replace(table, pools=tuple(pools))


class _OwnCopy(Allocator):
    """Keeps a copy of the configuration, and looks at the store for it every so often."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._copy = 0
        self._asked = 0

    async def version(self) -> int:
        if self._asked % 8 == 0:
            self._copy = await super().version()
        self._asked += 1
        return self._copy


class _ReservesLater(Allocator):
    """Tells which node a job will get, then reserves."""

    async def reserve(self, job_id: str, request: JobRequest, **rest: Any) -> Reservation:
        planned = await super().reserve(job_id, request, **rest, dry_run=True)
        await super().reserve(job_id, request, **rest)
        return planned


class _TakesAnyEndForItsOwn(Allocator):
    """Takes a job that has ended, however that was, for one that it has finished."""

    async def finish_job(self, job_id: str, attempt: int, **rest: Any) -> JobStatus:
        try:
            return await super().finish_job(job_id, attempt, **rest)
        except JobEnded:
            return JobStatus(job_id, attempt, JobState.FINISHED, 0)


@dataclass(frozen=True)
class Planted:
    """A fault: an allocator that has it, or scripts that do.

    Args:
        subject: the object by which it is found; empty if by more than one.
        edits: file -> old text -> new text.
    """

    subject: str = ""
    allocator: type[Allocator] = Allocator
    edits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def overrides(self) -> dict[str, str]:
        found = {}
        for name, edits in self.edits.items():
            text = (lua_directory() / name).read_text(encoding="utf-8")
            for old, new in edits.items():
                assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
                text = text.replace(old, new)
            found[name] = text
        return found


PLANTED = {
    "compares, then writes": Planted("configuration", _ComparesFirst),
    "reads in two looks": Planted("configuration", _TornRead),
    "counts later": Planted("everything", _CountsLater),
    "keeps a copy": Planted("configuration", _OwnCopy),
    "clears, then writes": Planted("", _ClearsFirst),
    "a bump that does not increment": Planted(
        "configuration",
        edits={
            "bump_config_version.lua": {"local new_version = version + 1": "local new_version = version"},
            "lib/history.lua": {
                "if redis.call('EXISTS', HISTORY) == 0 then": "if true then",
                "digits(version) .. '-0'": "'*'",
            },
        },
    ),
    "ignores the expected version": Planted(
        "configuration",
        edits={
            "bump_config_version.lua": {
                "if expect_version >= 0 and expect_version ~= document_version then": "if false then"
            }
        },
    ),
    "updates without a fence": Planted(
        "node",
        edits={
            "lib/fence.lua": {
                "if previous.epoch ~= node.asked_epoch or previous.status == 'o' then": "if false then",
                "node.epoch = node.asked_epoch\n    return nil": "node.epoch = previous.epoch\n    return nil",
            }
        },
    ),
    "releases without a fence": Planted(
        "node",
        edits={
            "release_node.lua": {
                "if session.epoch ~= epoch then": "if false then",
                "make_token(epoch,": "make_token(session.epoch,",
            }
        },
    ),
    "heartbeats without a fence": Planted(
        "node", edits={"touch_nodes.lua": {"if token ~= ARGV[at + 1] then": "if not token then"}}
    ),
    "takes over when told not to": Planted(
        "node", edits={"lib/fence.lua": {"if node.takeover == '0' then": "if false then"}}
    ),
    "an epoch that does not grow": Planted(
        "node",
        edits={
            "lib/fence.lua": {
                "node.epoch = math.max(now, floor + 1, previous and previous.epoch + 1 or 0)": (
                    "node.epoch = previous and previous.epoch or now"
                )
            }
        },
    ),
    "stands back for a lease that has lapsed": Planted(
        "node",
        edits={
            "lib/fence.lua": {
                "not is_offline(previous.status) and node.lease_end > now": "not is_offline(previous.status)"
            }
        },
    ),
    "takes away who lives": Planted(
        "node",
        edits={
            "reconcile.lua": {
                "if suspended_ms == 0 and lapsed > 0 then": "if suspended_ms == 0 then",
                "LEASES, '-inf', digits(now), 'LIMIT'": "LEASES, '-inf', digits(now + 3600000), 'LIMIT'",
            }
        },
    ),
    "forgets earlier sessions": Planted(
        "node", edits={"lib/fence.lua": {"elseif is_former(header, node.session) then": "elseif false then"}}
    ),
    "reserves after it has told": Planted("job", _ReservesLater),
    "takes any end for its own": Planted("job", _TakesAnyEndForItsOwn),
    "obeys an older attempt": Planted(
        "job", edits={"update_jobs.lua": {"if attempt < job.attempt then": "if false then"}}
    ),
    "obeys anybody": Planted("job", edits={"update_jobs.lua": {"if owner ~= job.owner then": "if false then"}}),
    "reserves again for an attempt that is there": Planted(
        "job", edits={"reserve_slots.lua": {"elseif job.attempt == old.attempt then": "elseif false then"}}
    ),
    "sends a job back to the node that failed": Planted(
        "job", edits={"reserve_slots.lua": {"job.excluded[old.node] = true": ""}}
    ),
    "gives slots that are taken": Planted(
        "everything",
        edits={"lib/selecting.lua": {"look.capacity, look.capacity - job.slots": "look.capacity, math.huge"}},
    ),
    "asks no quota": Planted(
        "everything",
        edits={"reserve_slots.lua": {"if rule.slots > 0 and others + job.slots > rule.slots then": "if false then"}},
    ),
    "gives nodes that are dead": Planted(
        "everything", edits={"lib/selecting.lua": {"if not is_alive(ends[index], now) then": "if false then"}}
    ),
    "gives nodes by the configuration of before": Planted(
        "everything", edits={"lib/routes.lua": {"if found ~= tag then": "if not found then"}}
    ),
    "keeps what was reserved on a node that died": Planted(
        "everything", edits={"lib/upkeep_of_jobs.lua": {"lose(job_id, 'node_expired', now)": ""}}
    ),
    "gives no slot back": Planted(
        "everything", edits={"lib/ledger.lua": {"add_slots(job, -job.slots)": "slots_of_node(job.node)"}}
    ),
}

_MUTE = "emit = function() end"
_TWICE = """if node.registered then
    emit(now, version, 'node.registered', 'node_id', node.id, 'epoch', digits(node.epoch), 'instance', node.instance)
    emit("""
_RELEASED = "if entry.state == 'c' then\n      changed_jobs = nil\n    elseif entry.state then"

SILENT = {
    "a release without its event": Planted(
        "node.released", edits={"release_node.lua": {"redis.call('ZREM'": f"local {_MUTE}\nredis.call('ZREM'"}}
    ),
    "a hold without its event": Planted(
        "node.status", edits={"hold_node.lua": {"if held then": f"local {_MUTE}\nif held then"}}
    ),
    "a registration with two events": Planted(
        "node.registered", edits={"upsert_node_to_pool.lua": {"if node.registered then\n    emit(": _TWICE}}
    ),
    "a sync whose event is another's": Planted(
        "config.bumped", edits={"bump_config_version.lua": {"digest, 'reason', why)": "digest, 'reason', kind)"}}
    ),
    "a move without its event": Planted(
        "node.assigned",
        edits={"upsert_node_to_pool.lua": {"if node.changes_class then\n    emit(": "if false then\n    emit("}},
    ),
    "a reservation without its event": Planted(
        "job.reserved",
        edits={"reserve_slots.lua": {"write_ledger(now, version,": f"{_MUTE}\nwrite_ledger(now, version,"}},
    ),
    "an end of a job without its event": Planted(
        "job.ended", edits={"lib/ledger.lua": {"if entry.state then": _RELEASED}}
    ),
}
"""Faults of the event stream alone. ``subject``: the type of event that is missing, or too many."""


async def open_allocator(url: str, namespace: str, planted: str = "", options: StoreOptions | None = None) -> Allocator:
    """An allocator with a fault, or with none."""
    fault = (PLANTED | SILENT)[planted] if planted else Planted()
    return await fault.allocator.open(
        url, namespace=namespace, options=options or StoreOptions(), script_overrides=fault.overrides()
    )
