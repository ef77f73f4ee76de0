"""The checker on histories of jobs by hand: it must accept what can have happened, and refuse what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.results import Event
from tests.concurrency.checking import find_fault
from tests.concurrency.events import disagreements, likely_order
from tests.concurrency.history import Operation
from tests.concurrency.job_model import attempts_of
from tests.concurrency.test_linearizability import of_session, op, register
from tests.harness import document_of, facts_of

ENGLISH = facts_of("en").json
LATE = 9_000_000
NONE = {"error": "NoNode", "version": 2}


def node(when: str, session: str = "s", epoch: int = 5) -> Operation:
    return register(when, session, epoch, facts=ENGLISH, pool="en")


def wanted(slots: int = 1, tenant: str = "") -> str:
    return canonical_json({"src": "en", "tgt": "en", "slots": slots, "tenant": tenant})


def reserve(
    when: str,
    attempt: int = 1,
    result: dict[str, Any] | None = None,
    *,
    job: str = "j",
    owner: str = "me",
    request: str = "",
    brief: bool = False,
    unknown: bool = False,
    **seen: Any,
) -> Operation:
    place = {
        "attempt": attempt,
        "state": "reserved",
        "node": "n",
        "epoch": 5,
        "pool": "en",
        "version": 2,
        "fresh": True,
    }
    told = None if unknown else result or {**place, **seen}
    args = {"job": job, "attempt": attempt, "owner": owner, "request": request or wanted(), "brief": brief}
    return op(when, "reserve", told, **args)


def say(
    when: str, what: str, attempt: int, result: dict[str, Any] | None, *, owner: str = "me", brief: bool = False
) -> Operation:
    return op(when, f"{what}_job", result, job="j", attempt=attempt, owner=owner, brief=brief)


def upkeep(when: str, ended_jobs: int = 0, expired: int = 0) -> Operation:
    told = {"version": 2, "expired": expired, "created_pools": [], "removed_pools": [], "violations": 0}
    return op(when, "reconcile", {**told, "ended_jobs": ended_jobs})


def seen(when: str, state: str, slots: int, attempt: int = 1) -> Operation:
    place = {"attempt": attempt, "state": state, "owner": "me", "node": "n", "epoch": 5, "pool": "en"}
    return op(when, "read_jobs", {"jobs": {"j": place}, "slots": {"n": slots} if slots else {}, "tenants": {}})


STALE = {"error": "StaleAttempt", "attempt": 2, "state": "reserved"}
RELEASED = say("5-6", "release", 1, {"state": "released"})
LAPSED = {"j 1": {"end": "lapsed", "why": "lease_lapsed"}}
LOST = {"j 1": {"end": "lost", "why": "node_expired"}}
BEGUN = {"j 1": {"node": "n", "epoch": "5", "pool": "en", "owner": "me"}}

GOOD: dict[str, tuple[list[Operation], dict[str, dict[str, str]]]] = {
    "reserved, started and finished": (
        [
            node("1-2"),
            reserve("3-4"),
            say("5-6", "start", 1, {"state": "running"}),
            seen("7-8", "running", 1),
            say("9-10", "finish", 1, {"state": "finished"}),
            seen("11-12", "finished", 0),
            reserve("13-14", 2, {"error": "JobEnded", "state": "finished"}),
        ],
        {},
    ),
    "given back, and given again": ([node("1-2"), reserve("3-4"), RELEASED, reserve("7-8", 2)], {}),
    "asked twice": ([node("1-2"), reserve("3-8"), reserve("4-9", fresh=False)], {}),
    "refused to a stranger": (
        [node("1-2"), reserve("3-4"), say("5-6", "finish", 1, {"error": "NotOwner", "owner": "me"}, owner="you")],
        {},
    ),
    "the attempt before is refused, beside the one that takes its place": (
        [node("1-2"), reserve("3-4"), RELEASED, reserve("7-20", 2), say("8-9", "release", 1, STALE)],
        {},
    ),
    "none, while its node comes": ([node("1-9"), reserve("2-8", 1, {**NONE, "version": 1})], {}),
    "a lease that lapsed": (
        [
            node("1-2"),
            reserve("3-4", brief=True),
            upkeep(f"{LATE}-{LATE + 1}", 1),
            seen(f"{LATE + 2}-{LATE + 3}", "lapsed", 0),
        ],
        LAPSED,
    ),
    "lost with its node": (
        [
            node("1-2"),
            reserve("3-4"),
            of_session("5-6", "release", "s", 5, {"released": True}, grace_ms=0),
            upkeep("7-8", 1, 1),
            seen("9-10", "lost", 0),
        ],
        LOST,
    ),
    "an unknown outcome that happened": (
        [node("1-2"), reserve("3-", unknown=True), seen("9-10", "reserved", 1)],
        BEGUN,
    ),
    "and one that did not": (
        [node("1-2"), reserve("3-", unknown=True), op("9-10", "read_jobs", {"jobs": {}, "slots": {}, "tenants": {}})],
        {},
    ),
}

BAD: dict[str, tuple[str, list[Operation], dict[str, dict[str, str]]]] = {
    "two owners of one attempt": ("job j", [node("1-2"), reserve("3-8"), reserve("4-9", owner="you")], {}),
    "reserved twice": ("job j", [node("1-2"), reserve("3-8"), reserve("4-9")], {}),
    "the answer of another attempt": ("job j", [node("1-2"), reserve("3-4", attempt=1, state="running")], {}),
    "an older attempt obeyed": (
        "job j",
        [node("1-2"), reserve("3-4"), RELEASED, reserve("7-8", 2), say("9-10", "release", 1, {"state": "released"})],
        {},
    ),
    "an attempt to come obeyed": (
        "job j",
        [node("1-2"), reserve("3-4"), say("5-6", "renew", 2, {"state": "reserved"})],
        {},
    ),
    "a stranger obeyed": (
        "job j",
        [node("1-2"), reserve("3-4"), say("5-6", "renew", 1, {"state": "reserved"}, owner="you")],
        {},
    ),
    "a change of the request unnoticed": (
        "job j",
        [node("1-2"), reserve("3-4"), reserve("5-6", fresh=False, request=wanted(2))],
        {},
    ),
    "a finished job begun anew": (
        "job j",
        [node("1-2"), reserve("3-4"), say("5-6", "finish", 1, {"state": "finished"}), reserve("7-8", 2)],
        {},
    ),
    "back to the node that failed": (
        "job j",
        [node("1-2"), reserve("3-4"), say("5-6", "fail", 1, {"state": "failed"}), reserve("7-8", 2)],
        {},
    ),
    "ended by upkeep, and no event says so": (
        "job j",
        [
            node("1-2"),
            reserve("3-4"),
            upkeep("5-6", 1),
            say("7-8", "renew", 1, {"error": "JobEnded", "state": "lapsed"}),
        ],
        {},
    ),
    "a lease that lasts for ever": (
        "job j",
        [
            node("1-2"),
            reserve("3-4", brief=True),
            upkeep(f"{LATE}-{LATE + 1}", 1),
            seen(f"{LATE + 2}-{LATE + 3}", "reserved", 1),
        ],
        {},
    ),
    "a lease that lapses early": (
        "job j",
        [node("1-2"), reserve("3-4"), upkeep("5-6", 1), seen("7-8", "lapsed", 0)],
        LAPSED,
    ),
    "on a node that has gone": (
        "everything",
        [node("1-2"), of_session("3-4", "release", "s", 5, {"released": True}, grace_ms=9), reserve("5-6")],
        {},
    ),
    "under an epoch of before": ("everything", [node("1-2"), node("3-4", "t", 9), reserve("5-6")], {}),
    "more slots than there are": (
        "everything",
        [node("1-2"), reserve("3-4", request=wanted(3)), reserve("5-6", job="k", request=wanted(2))],
        {},
    ),
    "of another pool": ("everything", [node("1-2"), reserve("3-4", pool="other")], {}),
    "of another version": ("everything", [node("1-2"), reserve("3-4", version=1)], {}),
    "none, though there is one": ("everything", [node("1-2"), reserve("3-4", 1, NONE)], {}),
    "slots that nobody has": ("everything", [node("1-2"), reserve("3-4"), RELEASED, seen("7-8", "released", 1)], {}),
    "lost, and its node is there": (
        "everything",
        [node("1-2"), reserve("3-4"), upkeep("5-6", 1), seen("7-8", "lost", 0)],
        LOST,
    ),
    "left on a node that is no more": (
        "everything",
        [
            node("1-2"),
            reserve("3-4"),
            of_session("5-6", "release", "s", 5, {"released": True}, grace_ms=0),
            upkeep("7-8", 0, 1),
        ],
        {},
    ),
    "more ends than were told": (
        "everything",
        [node("1-2"), reserve("3-4", brief=True), upkeep("5-6", 2), seen("7-8", "lapsed", 0)],
        LAPSED,
    ),
}


@pytest.mark.parametrize("what", GOOD)
def test_accepts(what: str) -> None:
    operations, attempts = GOOD[what]
    found = find_fault(operations, attempts=attempts)
    assert found is None, found.text


@pytest.mark.parametrize("what", BAD)
def test_refuses(what: str) -> None:
    subject, operations, attempts = BAD[what]
    found = find_fault(operations, attempts=attempts)
    assert found is not None
    assert found.subject == subject, found.text


def test_a_quota_is_held_against_all_that_a_tenant_has() -> None:
    document = document_of(selection={"tenant_slots": 2}).canonical()
    told = {"before": 2, "after": 3, "document_version": 3, "changes": {}}
    acme = wanted(2, "acme")
    begun = [
        node("1-2"),
        op("3-4", "sync", told, document=document, expect_version=None),
        reserve("5-6", version=3, request=acme),
    ]
    more = reserve("7-8", job="k", version=3, request=acme)
    refused = reserve("7-8", 1, {**NONE, "version": 3}, job="k", request=acme)
    assert find_fault([*begun, refused]) is None
    assert find_fault([*begun, more]) is not None


# --- events -----------------------------------------------------------------------------------------------------------


def event(kind: str, reason: str, job: str = "j", attempt: int = 1, **fields: str) -> Event:
    told = {"job_id": job, "attempt": str(attempt), "owner": "me", "epoch": "5", **fields}
    return Event("1-0", 0, kind, 2, "n", "en", reason=reason, fields=told)


BEGAN = event("job.reserved", "new")
GAVE_BACK = event("job.ended", "release_job@5", state="released")


def test_the_events_of_jobs_are_those_that_were_asked_for() -> None:
    told = [reserve("3-4"), RELEASED]
    assert disagreements(told, [BEGAN, GAVE_BACK]) == []
    assert likely_order(told, [BEGAN, GAVE_BACK]) == ["reserve@3", "release_job@5"]
    for wrong, events in (
        ("0 job.reserved of", [GAVE_BACK]),
        ("2 job.reserved of", [BEGAN, BEGAN, GAVE_BACK]),
        ("not one job.ended of", [BEGAN]),
        ("nobody asked for job.reserved", [BEGAN, GAVE_BACK, event("job.reserved", "new", "k")]),
        ("nobody asked for", [BEGAN, GAVE_BACK, event("job.started", "")]),
        ("nobody asked for", [BEGAN, GAVE_BACK, event("job.ended", "somebody's", "k", state="failed")]),
    ):
        assert any(wrong in text for text in disagreements(told, events)), (wrong, disagreements(told, events))


def test_what_became_of_attempts_is_read_from_the_events() -> None:
    ended = event("job.ended", "lease_lapsed", state="lapsed")
    assert attempts_of([BEGAN, ended]) == {"j 1": {**BEGUN["j 1"], "end": "lapsed", "why": "lease_lapsed"}}
    assert attempts_of([BEGAN, GAVE_BACK]) == BEGUN
