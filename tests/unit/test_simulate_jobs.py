"""What a simulated stream of jobs asks for, how it counts, and the options that it refuses."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from string import ascii_lowercase
from typing import Any

import pytest
from msgspec.structs import replace

from pyscheduler.errors import InvalidInput
from pyscheduler.simulate.job_options import JobOptions, pairs_of
from pyscheduler.simulate.job_plan import JobPlan, PlannedJob
from pyscheduler.simulate.job_summary import JobsSummary
from pyscheduler.simulate.job_tally import JobTally, nearest
from pyscheduler.simulate.operator_client import Answer
from pyscheduler.simulate.options import FleetOptions
from pyscheduler.simulate.plan import NodePlan
from pyscheduler.simulate.pools import PoolsLook
from pyscheduler.simulate.slots import SlotRules
from pyscheduler.simulate.workplace import Workplace

FLEET = FleetOptions(nodes=10, languages=(("en", "zh"), ("de", "EN"), ("fr",)), seed=7)
JOBS = JobOptions(rate=20, tenants=3)


def drawn(options: JobOptions = JOBS, fleet: FleetOptions = FLEET, count: int = 2000) -> list[PlannedJob]:
    return list(islice(JobPlan(fleet, options).jobs(), count))


def test_equal_seeds_make_equal_jobs() -> None:
    assert drawn() == drawn()
    assert drawn() != drawn(fleet=replace(FLEET, seed=8))


def test_rate_length_and_shares_are_those_that_are_documented() -> None:
    jobs = drawn(replace(JOBS, seconds=4, odd=0.1, failing=0.2, in_sessions=0.5), count=6000)
    assert [job.number for job in jobs] == list(range(1, 6001))
    assert sum(job.wait_s for job in jobs) / len(jobs) == pytest.approx(1 / 20, rel=0.1)
    assert sum(job.seconds for job in jobs) / len(jobs) == pytest.approx(4, rel=0.1)
    assert sum(job.odd for job in jobs) / len(jobs) == pytest.approx(0.1, abs=0.02)
    failing = [job for job in jobs if job.fails_after_s is not None]
    assert len(failing) / len(jobs) == pytest.approx(0.2, abs=0.02)
    assert all(0 <= (job.fails_after_s or 0) <= job.seconds for job in failing)
    assert sum(bool(job.session) for job in jobs) / len(jobs) == pytest.approx(0.5 * 0.9, abs=0.03)
    assert sum(job.weight for job in jobs) / len(jobs) == pytest.approx(1, rel=0.05)


def test_jobs_are_between_languages_that_a_node_has_and_odd_ones_are_not() -> None:
    served = {("en", "zh"), ("zh", "en"), ("de", "en"), ("en", "de")}
    jobs = drawn(replace(JOBS, odd=0.3))
    assert {(job.src, job.tgt) for job in jobs if not job.odd} == served
    odd = {(job.src, job.tgt) for job in jobs if job.odd}
    assert not odd & served
    assert {("de", "zh"), ("fr", "en"), ("de", "qaa")} <= odd


def test_a_session_keeps_its_languages_and_its_tenant() -> None:
    sessions: dict[str, set[tuple[str, str, str]]] = {}
    for job in drawn(replace(JOBS, in_sessions=1)):
        if job.session:
            sessions.setdefault(job.session, set()).add((job.src, job.tgt, job.tenant))
    assert len(sessions) > 50
    assert {len(what) for what in sessions.values()} == {1}


def test_tenants() -> None:
    assert {job.tenant for job in drawn()} == {"tenant-1", "tenant-2", "tenant-3"}
    assert {job.tenant for job in drawn(replace(JOBS, tenants=0))} == {""}


def test_a_fleet_that_speaks_everything_has_odd_jobs_all_the_same() -> None:
    served, odd = pairs_of(replace(FLEET, languages=(("en", "zh"),)))
    assert [list(pairs) for pairs in served] == [[("en", "zh"), ("zh", "en")]]
    assert odd == (("en", "qaa"),)
    assert ("en", "qab") in pairs_of(replace(FLEET, languages=(("en", "qaa"),)))[1]


def test_sets_of_very_many_languages_take_little_room() -> None:
    codes = tuple(f"{first}{second}" for first in ascii_lowercase for second in ascii_lowercase)[:256]
    tracemalloc.start()
    try:
        served, _ = pairs_of(replace(FLEET, languages=(codes,) * 20))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert [len(pairs) for pairs in served] == [256 * 255] * 20
    assert len(set(served[0])) == 256 * 255
    assert (served[0][0], served[0][-1]) == ((codes[0], codes[1]), (codes[255], codes[254]))


@pytest.mark.parametrize("languages", [((),), (("en",), ("zh",)), (("en", "EN"),), (("en", "???"),)], ids=str)
def test_a_fleet_without_a_pair_has_no_jobs(languages: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(InvalidInput, match=r"--jobs: .*--languages"):
        JobPlan(replace(FLEET, languages=languages), JOBS)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"rate": -1}, "--jobs"),
        ({"rate": 0.001}, "--jobs"),
        ({"rate": 201}, "--jobs"),
        ({"rate": float("nan")}, "--jobs"),
        ({"seconds": 0}, "--job-seconds"),
        ({"seconds": float("inf")}, "--job-seconds"),
        ({"lease_s": 0.1}, "--job-lease"),
        ({"odd": 1.1}, "--odd-jobs"),
        ({"failing": -0.1}, "--failing-jobs"),
        ({"in_sessions": 2}, "--session-jobs"),
        ({"tenants": -1}, "--tenants"),
        ({"tenants": 1001}, "--tenants"),
        ({"doors": ()}, "--operator-url"),
        ({"doors": ("ws://127.0.0.1:5011",)}, "--operator-url"),
        ({"doors": ("http://",)}, "--operator-url"),
        ({"doors": ("http://host:99999",)}, "--operator-url"),
        ({"doors": ("http://[/",)}, "--operator-url"),
        ({"doors": ("http://host/api",)}, "--operator-url"),
        ({"doors": ("http://me@host",)}, "--operator-url"),
        ({"doors": ("http://:secret@host",)}, "--operator-url"),
        ({"doors": ("http://a..b",)}, "--operator-url"),
        ({"tenants": 10**400}, "--tenants"),
    ],
    ids=str,
)
def test_options_out_of_bounds_are_refused(change: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{option}: ") as refused:
        replace(JOBS, **change)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [
        ({"no_pair": 3}, "no_pair"),
        ({"no_pair": 1, "no_slot": 2}, "no_slot"),
        ({"no_slot": 2, "not_ready": 1}, "no_slot"),
        ({"quota": 1}, "quota"),
        ({}, "no_nodes"),
        ({"brand_new": 3}, "brand_new"),
        ({"no_pair": 2, "not_looked_at": 1}, "not_looked_at"),
        ({"no_pair": "3"}, "no_pair"),
    ],
    ids=str,
)
def test_a_refusal_is_counted_under_what_was_against_the_nearest_node(reasons: dict[str, Any], reason: str) -> None:
    assert nearest(reasons) == reason


def test_slots_are_those_of_the_document() -> None:
    rules = SlotRules.of_document(
        {
            "selection": {"slots_per_node": 8},
            "pools": [{"name": "small", "selection": {"slots_per_node": 2}}, {"name": "usual", "selection": {}}],
        }
    )
    assert [rules.of(pool) for pool in ("small", "usual", "other", None)] == [2, 8, 8, 8]
    broken: list[Any] = [None, [], {"selection": 1, "pools": {}}]
    for bad in (*broken, {"selection": {"slots_per_node": "8"}, "pools": [1, {}]}):
        assert SlotRules.of_document(bad) == SlotRules(4, {})


def test_a_node_is_as_busy_as_its_jobs_make_it() -> None:
    workplace = Workplace()
    workplace.slots = SlotRules(4, {"small": 2})
    workplace.take("node-1", "job-1", 0.5)
    workplace.take("node-1", "job-2", 1.5)
    workplace.take("node-2", "job-3", 1.0)
    assert (workplace.jobs("node-1"), workplace.jobs("node-3"), workplace.jobs(None), workplace.everywhere()) == (
        *(2, 0, 0, 3),
    )
    assert (workplace.busy("node-1", "usual"), workplace.busy("node-1", "small")) == (0.5, 1.0)
    workplace.leave("node-1", "job-2")
    workplace.leave("node-1", "job-1")
    workplace.leave("node-1", "job-1")
    assert (workplace.busy("node-1", None), workplace.everywhere()) == (0, 1)


def test_usage_at_work_follows_the_jobs() -> None:
    plan = NodePlan(FLEET, 0)
    for busy, least, most in ((0.0, 0, 10), (0.5, 45, 60), (1.0, 94, 100), (1.5, 100, 100)):
        usages: list[dict[str, Any]] = [plan.usage_at_work(3, busy) for _ in range(200)]
        assert {usage["running_jobs"] for usage in usages} == {3}
        assert all(least <= usage["gpu_percent"] <= most for usage in usages)
        assert not any("gpu_queue_length" in usage for usage in usages)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ((200, b'{"a": 1}'), Answer(200, {"a": 1})),
        ((200, b"<html>"), Answer(200, {}, "http 200")),
        ((200, b"[1]"), Answer(200, {}, "http 200")),
        ((409, b'{"error": {"code": "job_ended"}}'), Answer(409, {"code": "job_ended"}, "job_ended")),
        ((502, b"Bad Gateway"), Answer(502, {}, "http 502")),
        ((302, b'{"error": "x"}'), Answer(302, {}, "http 302")),
    ],
    ids=str,
)
def test_whatever_a_door_answers_is_an_answer(body: tuple[int, bytes], answer: Answer) -> None:
    assert Answer.of(*body) == answer


def test_a_stream_is_well_if_it_was_answered_and_nothing_is_left() -> None:
    def ok(stopped: str = "", **counts: Any) -> bool:
        return JobsSummary(JOBS, "me", 1.0, JobTally(**counts), PoolsLook({}, 0), stopped).ok

    assert ok(left=0)
    assert ok(arrived=3, reserved=3, left=0)
    assert not ok(arrived=3, left=0)
    assert not ok(arrived=3, reserved=3, left=1)
    assert not ok(arrived=3, reserved=3, left=None)
    assert not ok("changes are off", left=0)
