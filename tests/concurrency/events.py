"""The event stream against a recorded history: what was acknowledged has its event, what has an event was asked for,
and the stream's order is one in which it can have happened.

An event names its operation: by its reason, or, of a registration, by the instance that its session claims.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from pyscheduler import Allocator
from pyscheduler.core.results import Event
from tests.concurrency.history import Operation
from tests.concurrency.job_model import ENDS, UPKEEP_ENDS

_PAGE = 10_000
_BEGINNINGS = {"reserve": "job.reserved", "start_job": "job.started"}


async def all_events(allocator: Allocator) -> list[Event]:
    events: list[Event] = []
    while page := await allocator.events(since=events[-1].id if events else "-", limit=_PAGE):
        events += page
    return events


def disagreements(operations: Sequence[Operation], events: Sequence[Event]) -> list[str]:
    """What the stream and the history say differently; empty if nothing."""
    looks = (_without_event, _updates_without_event, _not_asked_for, _out_of_order, _of_jobs)
    return [found for look in looks for found in look(operations, events)]


def likely_order(operations: Sequence[Operation], events: Sequence[Event]) -> list[str]:
    """Ids of operations in the order of their events.

    A call whose outcome is unknown and its repetition may both have been the one that registered: both stand there.
    """
    by_id = {one.id: one for one in operations}
    registered: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    begun: defaultdict[tuple[str, str, int], list[str]] = defaultdict(list)
    for one in operations:
        if one.kind == "register" and not one.error:
            epoch = one.result["epoch"] if one.result else 0
            registered[one.args["session"], epoch].append(one.id)
    for one in operations:
        if one.kind in _BEGINNINGS and not one.error and (one.result or {}).get("fresh", True):
            begun[_BEGINNINGS[one.kind], one.args["job"], one.args["attempt"]].append(one.id)
    found: list[str] = []
    for event in events:
        if event.type in _BEGINNINGS.values():
            found += begun[event.type, event.fields["job_id"], int(event.fields["attempt"])]
        elif event.type == "node.registered":
            instance, epoch = event.fields["instance"], int(event.fields["epoch"])
            found += registered[instance, 0] + registered[instance, epoch][:1]
        elif event.reason in by_id:
            found.append(event.reason)
    return list(dict.fromkeys(found))


def _without_event(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    by_reason = Counter((event.type, event.reason) for event in events)
    registered = Counter(
        (event.node_id, event.fields["instance"], int(event.fields["epoch"]))
        for event in events
        if event.type == "node.registered"
    )
    bumped = {event.version for event in events if event.type == "config.bumped"}
    released: defaultdict[str, int] = defaultdict(int)
    for one in operations:
        result = one.result
        if one.kind == "release":
            released[one.args["session"]] += by_reason["node.released", one.id]
        if result is None or one.error:
            continue
        if one.kind == "sync" and by_reason["config.bumped", one.id] != (result["before"] != result["after"]):
            yield f"{by_reason['config.bumped', one.id]} config.bumped of {one}"
        if one.kind in ("register", "update") and result["version"] > 1 and result["version"] not in bumped:
            yield f"no config.bumped of the version of {one}"
        if one.kind == "register" and registered[one.args["node"], one.args["session"], result["epoch"]] != 1:
            yield f"not one node.registered of {one}"
        if one.kind in ("hold", "lift") and by_reason["node.status", one.id] != result["changed"]:
            yield f"not one node.status of {one}"
    for one in operations:
        if one.kind == "release" and one.result == {"released": True} and released[one.args["session"]] != 1:
            yield f"not one node.released of the session of {one}"
    expired = sum(event.type == "node.expired" for event in events)
    told = sum(one.result["expired"] for one in operations if one.kind == "reconcile" and one.result)
    if expired < told or (expired > told and not any(one.is_open for one in operations if one.kind == "reconcile")):
        yield f"{expired} node.expired, but upkeep said {told}"


def _updates_without_event(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    """An update has an event where class or status changed. From what, is known where every report was answered."""
    by_reason = Counter((event.type, event.reason) for event in events)
    reports: defaultdict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        if one.kind in ("register", "update") and not one.error:
            reports[one.args["session"]].append(one)
    for reported in reports.values():
        if any(one.is_open for one in reported):
            continue
        for before, one in itertools.pairwise(reported):
            was, now = before.result or {}, one.result or {}
            if one.kind != "update" or was["epoch"] != now["epoch"]:
                continue
            # Without a pool, the reason says why there is none.
            if now["pool"] and by_reason["node.assigned", one.id] != (was["node_class"] != now["node_class"]):
                yield f"{by_reason['node.assigned', one.id]} node.assigned of {one} after {before}"
            if by_reason["node.status", one.id] != (before.args["status"] != one.args["status"]):
                yield f"{by_reason['node.status', one.id]} node.status of {one} after {before}"


def _not_asked_for(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    by_id = {one.id: one for one in operations}
    sessions: defaultdict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        if one.kind == "register":
            sessions[one.args["session"]].append(one)
    for event in events:
        if event.type == "node.registered":
            asked = sessions[event.fields["instance"]]
            epoch = int(event.fields["epoch"])
            if not any(one.is_open or (one.result or {}).get("epoch") == epoch for one in asked):
                yield f"nobody registered for {event}"
        elif event.type in ("node.released", "node.status") or event.fields.get("kind") == "document":
            named = by_id.get(event.reason or "")
            if named is not None and named.error:
                yield f"{event} of a refused {named}"
            # A repeated registration that reports another status has its mode for a reason.
            if named is None and event.reason not in ("new", "resume"):
                yield f"nobody asked for {event}"


def _out_of_order(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    by_id = {one.id: one for one in operations}
    latest: Operation | None = None
    for event in events:
        one = by_id.get(event.reason or "")
        if one is None:
            continue
        if latest is not None and one.completed_ns < latest.invoked_ns:
            yield f"the event of {one} comes after that of {latest}"
        if latest is None or one.invoked_ns > latest.invoked_ns:
            latest = one


def _of_jobs(operations: Sequence[Operation], events: Sequence[Event]) -> Iterator[str]:
    """Each attempt that somebody was told of began once and was asked for; its end was asked for, or is upkeep's."""
    begun = Counter(
        (event.fields["job_id"], int(event.fields["attempt"]), event.fields["owner"])
        for event in events
        if event.type == "job.reserved"
    )
    asked = defaultdict(list)
    for one in operations:
        if one.kind == "reserve":
            key = one.args["job"], one.args["attempt"], one.args["owner"]
            asked[key].append(one)
            if one.result and one.result.get("fresh") and begun[key] != 1:
                yield f"{begun[key]} job.reserved of {one}"
    for key, times in begun.items():
        if times != 1 or not any(one.is_open or (one.result or {}).get("fresh") for one in asked[key]):
            yield f"nobody asked for job.reserved of {key}"
    started = {one.args["job"] for one in operations if one.kind == "start_job" and not one.error}
    by_id = {one.id: one for one in operations}
    ended = Counter((event.fields["job_id"], event.fields["attempt"]) for event in events if event.type == "job.ended")
    for event in events:
        if event.type == "job.started" and event.fields["job_id"] not in started:
            yield f"nobody asked for {event}"
        if event.type == "job.ended" and event.reason not in ("reassigned", *UPKEEP_ENDS):
            named = by_id.get(event.reason or "")
            if named is None or named.error or named.args["job"] != event.fields["job_id"]:
                yield f"nobody asked for {event}"
    for one in operations:
        if one.kind in ENDS and one.result and not one.error and ended[one.args["job"], str(one.args["attempt"])] != 1:
            yield f"not one job.ended of {one}"
