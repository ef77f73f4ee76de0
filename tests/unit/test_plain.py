"""Results as plain JSON values: what ``--json`` prints, and that the operator door answers the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyscheduler.core import jobs, plain, results
from pyscheduler.registry import job_views, views

HOLD = results.Hold("ops", "new driver", 1_000)
NODE = results.NodeState(
    "n1", results.NodeStatus.DRAINING, "en-zh", 1, 2, 3, "s1", -5, 0.5, ("en", "zh"), ("asr",), (HOLD,), 7
)
DETAIL = results.NodeDetail(
    NODE,
    {"asr": ["en"]},
    {"platform": "linux"},
    {"cpu": 1.5},
    results.Transition(None, "en-zh", "matched", 6, 900),
    800,
)
POOL = results.PoolSummary(1, "en-zh", "auto", 4, 3, ("en", "zh"), 9)
POOL_DETAIL = results.PoolDetail(
    POOL, 7, {"semantic": {}}, 700, (results.ClassSummary(2, 4, 3, {"asr": ["en"]}),), ("asr",), (("en", "zh"),)
)
CANDIDATE = results.Candidate(None, None, 2, 4, 3, ("en", "zh"))
CHANGE = results.PoolChange("en-zh", "added")
ENTRY = results.HistoryEntry(7, 600, "document", "me", "first", (CHANGE,), True)
EVENT = results.Event(
    "5-0", 500, "node.assigned", 7, "n1", None, "old", "en-zh", None, {"class": "2", "version": "never", "pool": "told"}
)
ATTEMPT: dict[str, Any] = {
    "job_id": "j1",
    "attempt": 2,
    "state": jobs.JobState.RESERVED,
    "node_id": "n1",
    "epoch": 3,
    "pool": "en-zh",
    "version": 7,
    "slots": 4,
    "lease_end_ms": 400,
}
JOB = jobs.Job(**ATTEMPT, tenant=None, owner="me", session="s", lease_ms=-6, reason=None)
RESERVATION = jobs.Reservation(**ATTEMPT, fresh=True)
JOB_STATUS = jobs.JobStatus("j1", 2, jobs.JobState.FINISHED, 400)
VERDICTS = (jobs.NodeVerdict("n1", "en-zh", ""), jobs.NodeVerdict("n2", None, "no_slot"))
EXPLANATION = jobs.JobExplanation(7, "n1", "en-zh", {"no_slot": 1}, ("tts",), VERDICTS)

PLAIN_NODE = {
    "node_id": "n1",
    "status": "draining",
    "pool": "en-zh",
    "pool_id": 1,
    "class": 2,
    "epoch": 3,
    "instance": "s1",
    "lease_ms": -5,
    "load": 0.5,
    "languages": ["en", "zh"],
    "services": ["asr"],
    "holds": [{"owner": "ops", "reason": "new driver", "at": 1_000}],
}
PLAIN_DETAIL = {
    **PLAIN_NODE,
    "version": 7,
    "registered_at": 800,
    "transition": {"from": None, "to": "en-zh", "reason": "matched", "version": 6, "at": 900},
    "facts": {"asr": ["en"]},
    "usage": {"cpu": 1.5},
    "record": {"platform": "linux"},
}
PLAIN_POOL = {
    "id": 1,
    "name": "en-zh",
    "origin": "auto",
    "priority": 9,
    "nodes": 4,
    "ready": 3,
    "languages": ["en", "zh"],
}
PLAIN_ATTEMPT = {
    "job_id": "j1",
    "attempt": 2,
    "state": "reserved",
    "node_id": "n1",
    "epoch": 3,
    "pool": "en-zh",
    "version": 7,
    "slots": 4,
}


@pytest.mark.parametrize(
    ("printed", "answered", "said"),
    [
        (plain.node(NODE), views.NodeView.of(NODE), PLAIN_NODE),
        (plain.node_detail(DETAIL), views.NodeDetailView.of_detail(DETAIL), PLAIN_DETAIL),
        (
            plain.pool_detail(POOL_DETAIL),
            views.PoolDetailView.of(POOL_DETAIL),
            {
                **PLAIN_POOL,
                "version": 7,
                "created_at": 700,
                "rule": {"semantic": {}},
                "classes": [{"class": 2, "nodes": 4, "ready": 3, "facts": {"asr": ["en"]}}],
                "ready_services": ["asr"],
                "ready_pairs": [{"src": "en", "tgt": "zh"}],
            },
        ),
        (
            {"candidates": [plain.candidate(CANDIDATE)]},
            views.CandidatesView.of([CANDIDATE]),
            {
                "candidates": [
                    {"pool": None, "pool_id": None, "class": 2, "nodes": 4, "ready": 3, "languages": ["en", "zh"]}
                ]
            },
        ),
        (
            plain.history_entry(ENTRY),
            views.HistoryEntryView.of(ENTRY),
            {
                "version": 7,
                "at": 600,
                "kind": "document",
                "author": "me",
                "reason": "first",
                "changes": [{"pool": "en-zh", "change": "added"}],
                "has_document": True,
            },
        ),
        (
            plain.job(JOB),
            job_views.JobView.of(JOB),
            {
                **PLAIN_ATTEMPT,
                "tenant": None,
                "owner": "me",
                "session": "s",
                "lease_end_at": 400,
                "lease_ms": -6,
                "reason": None,
            },
        ),
        (
            plain.reservation(RESERVATION, plan=False),
            job_views.ReservationView.of(RESERVATION, plan=False),
            {**PLAIN_ATTEMPT, "lease_end_at": 400, "fresh": True, "plan": False},
        ),
        (
            plain.job_status(JOB_STATUS),
            job_views.JobStatusView.of(JOB_STATUS),
            {"job_id": "j1", "attempt": 2, "state": "finished", "lease_end_at": 400},
        ),
        (
            plain.job_explanation(EXPLANATION),
            job_views.JobExplanationView.of(EXPLANATION),
            {
                "version": 7,
                "node_id": "n1",
                "pool": "en-zh",
                "reasons": {"no_slot": 1},
                "missing": ["tts"],
                "nodes": [
                    {"node_id": "n1", "pool": "en-zh", "reason": None},
                    {"node_id": "n2", "pool": None, "reason": "no_slot"},
                ],
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, views.View) else "",
)
def test_the_door_answers_what_json_prints(
    printed: plain.Document, answered: views.View, said: dict[str, object]
) -> None:
    assert printed == said
    assert json.loads(json.dumps(printed)) == said
    assert answered.model_dump(mode="json", by_alias=True) == said


def test_an_event_has_what_applies_and_what_else_its_script_wrote() -> None:
    said = {
        "id": "5-0",
        "at": 500,
        "type": "node.assigned",
        "version": 7,
        "node_id": "n1",
        "from": "old",
        "to": "en-zh",
        "class": "2",
        "pool": "told",
    }
    created = results.Event("6-0", 600, "pool.created", 8, None, "en-zh", None, None, "language set", {})
    said_of_pool = {
        "id": "6-0",
        "at": 600,
        "type": "pool.created",
        "version": 8,
        "pool": "en-zh",
        "reason": "language set",
    }
    for event, words in ((EVENT, said), (created, said_of_pool)):
        assert plain.event(event) == words
        assert views.EventView.of(event).model_dump(mode="json", by_alias=True, exclude_none=True) == words


def test_a_table_of_pools_and_an_explanation() -> None:
    table = views.PoolTableView.of(results.PoolTable(7, 6, (POOL,), 5, 4, 3))
    assert table.model_dump(mode="json", by_alias=True) == {
        "version": 7,
        "document_version": 6,
        "nodes": 5,
        "unmatched_nodes": 4,
        "unmatched_classes": 3,
        "pools": [PLAIN_POOL],
    }
    decision = results.PoolDecision("de-en", "declared", False, False, ("semantic",))
    explanation = views.ExplanationView.of(results.Explanation(DETAIL, "matched", 7, (decision,)))
    assert explanation.model_dump(mode="json", by_alias=True) == {
        "node": PLAIN_DETAIL,
        "reason": "matched",
        "version": 7,
        "decisions": [
            {"pool": "de-en", "origin": "declared", "matches": False, "chosen": False, "failed": ["semantic"]}
        ],
    }


def test_a_node_that_never_moved_has_no_transition() -> None:
    assert plain.transition(None) is None


def test_what_the_command_line_alone_says() -> None:
    assert plain.hold_result(results.HoldResult("n1", True, (HOLD,), False)) == {
        "node_id": "n1",
        "changed": True,
        "live": False,
        "holds": [{"owner": "ops", "reason": "new driver", "at": 1_000}],
    }
    assert plain.config_change(
        results.ConfigChange(6, 7, 5, True, (CHANGE,), (results.ClassMove(2, "old", None, 4),), 3)
    ) == {
        "version_before": 6,
        "version_after": 7,
        "document_version": 5,
        "dry_run": True,
        "changes": [{"pool": "en-zh", "change": "added"}],
        "moves": [{"class": 2, "from": "old", "to": None, "nodes": 4}],
        "unassigned_nodes": 3,
    }
    assert plain.reconcile_report(
        results.ReconcileReport(False, 1, 2, 3, 4, ("new",), ("old",), 5, True, 6, 7, 8, 9)
    ) == {
        "version": 8,
        "skipped": False,
        "expired": 1,
        "released": 2,
        "placed_classes": 3,
        "dropped_classes": 4,
        "created_pools": ["new"],
        "removed_pools": ["old"],
        "lapsed": 5,
        "braked": True,
        "suspended_ms": 6,
        "violations": 7,
        "ended_jobs": 9,
    }  # fmt: skip
    assert plain.check_report(results.CheckReport(False, (results.Violation(4, "what"),), 3, 2, 1)) == {
        "ok": False,
        "violations": [{"invariant": 4, "detail": "what"}],
        "nodes": 3,
        "pools": 2,
        "version": 1,
    }
