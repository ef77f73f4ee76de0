"""Jobs at the operator door: what it answers, also where the allocator refuses."""

from __future__ import annotations

from tests.harness import document_of
from tests.job_door import OWNED, PAIR, WANTED, JobDoor

# --- the life of a job ------------------------------------------------------------------------------------------------


async def test_the_life_of_a_job(job_door: JobDoor) -> None:
    registration = await job_door.node("a", "en", "zh")
    reserved = await job_door.reserve("j", services=["ASR", "nmt"], slots=2)
    assert reserved.pop("lease_end_at") > 1_700_000_000_000
    assert reserved == {
        "job_id": "j",
        "attempt": 1,
        "state": "reserved",
        "node_id": "a",
        "epoch": registration.session.epoch,
        "pool": "en-zh",
        "version": registration.version,
        "slots": 2,
        "fresh": True,
        "plan": False,
    }
    assert (await job_door.reserve("j", services=["nmt", "asr"], slots=2))["fresh"] is False
    shown = await job_door.get("/api/v1/jobs/j")
    assert (shown["state"], shown["tenant"], shown["session"], shown["reason"]) == ("reserved", None, None, None)
    assert 0 < shown["lease_ms"] <= 60_000
    said = {"attempt": 1, **OWNED}
    assert (await job_door.post("j/renew", {**said, "lease_ms": 90_000}))["state"] == "reserved"
    assert (await job_door.post("j/start", said))["state"] == "running"
    ended = {"attempt": 1, "owner": "me", "reason": "all said"}
    assert (await job_door.post("j/finish", ended))["state"] == "finished"
    assert (await job_door.post("j/finish", ended))["state"] == "finished"
    assert (await job_door.get("/api/v1/jobs/j"))["reason"] == "all said"
    assert [line["operation"] for line in job_door.scheduler.logged("job_changed")] == [
        "reserve",
        "renew",
        "start",
        "finish",
        "finish",
    ]
    assert {(line["owner"], line["job_id"], line["peer"]) for line in job_door.scheduler.logged("job_changed")} == {
        ("me", "j", "127.0.0.1")
    }


async def test_a_further_attempt_goes_elsewhere(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    await job_door.node("b", "en", "zh")
    first = await job_door.reserve("j")
    assert (await job_door.post("j/fail", {"attempt": 1, "owner": "me"}))["state"] == "failed"
    second = await job_door.post("j/reassign", {"after": 1, **WANTED, "owner": "other"})
    assert (second["attempt"], second["fresh"]) == (2, True)
    assert {first["node_id"], second["node_id"]} == {"a", "b"}
    assert (await job_door.post("j/release", {"attempt": 2, "owner": "other"}))["state"] == "released"


async def test_a_plan_changes_nothing(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    planned = await job_door.reserve("j", plan=True)
    assert (planned["node_id"], planned["plan"]) == ("a", True)
    await job_door.get("/api/v1/jobs/j", 404)
    await job_door.post("j/reassign", {"after": 1, **WANTED, "plan": True})
    many = await job_door.post("reserve", {"jobs": [{"job_id": "k", **PAIR}], **OWNED, "plan": True})
    assert many["answers"][0]["reservation"]["plan"] is True
    assert (await job_door.get("/api/v1/jobs"))["total"] == 0
    assert (
        "plan does not wait"
        in (await job_door.refused("reserve", {"job_id": "j", **WANTED, "plan": True, "wait_ms": 1}, 422))["message"]
    )
    assert job_door.scheduler.logged("job_changed") == []


async def test_many_at_once_have_answers_of_their_own(job_door: JobDoor) -> None:
    await job_door.scheduler.allocator.sync(document_of(selection={"slots_per_node": 2}))
    await job_door.node("a", "en", "zh")
    jobs = [
        {"job_id": "one", **PAIR},
        {"job_id": "two", "src": "zh", "tgt": "fr"},
        {"job_id": "three", **PAIR, "attempt": 3},
    ]
    answers = (await job_door.post("reserve", {"jobs": [*jobs, {"job_id": "four", **PAIR}], **OWNED}))["answers"]
    assert [(one["job_id"], one["status"]) for one in answers] == [
        ("one", 200),
        ("two", 503),
        ("three", 200),
        ("four", 503),
    ]
    assert answers[0]["reservation"]["node_id"] == "a"
    assert "error" not in answers[0]
    assert answers[1]["error"]["reasons"] == {"no_pair": 1}
    assert "reservation" not in answers[1]
    assert answers[3]["error"]["code"] == "no_node"
    (line,) = job_door.scheduler.logged("job_changed")
    assert (line["jobs"], line["nodes"], line["first"]) == (2, 1, ["one", "three"])


async def test_jobs_page_by_page(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    await job_door.node("b", "de", "en", "zh")
    for number in range(5):
        await job_door.reserve(f"job-{number}", owner=f"owner-{number % 2}", tenant="acme" if number else None)
    page = await job_door.get("/api/v1/jobs")
    assert (page["total"], page["limit"], page["next"]) == (5, 100, None)
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await job_door.get("/api/v1/jobs", limit=2, **after)
        seen += [one["job_id"] for one in page["jobs"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(seen) == [f"job-{number}" for number in range(5)]

    async def ids(**query: str) -> list[str]:
        return [one["job_id"] for one in (await job_door.get("/api/v1/jobs", **query))["jobs"]]

    assert await ids(owner="owner-1") == ["job-1", "job-3"]
    assert await ids(node="a", state="live") == ["job-0", "job-1", "job-2", "job-3"]
    assert await ids(pool="de-en-zh", tenant="acme") == ["job-4"]
    assert await ids(state="finished") == []


async def test_an_explanation(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    await job_door.node("b", "de", "fr")
    await job_door.scheduler.allocator.hold("a", owner="ops", reason="repair")
    explained = await job_door.post("explain", PAIR)
    assert (explained["node_id"], explained["reasons"]) == (None, {"draining": 1, "no_pair": 1})
    assert {(one["node_id"], one["reason"]) for one in explained["nodes"]} == {("a", "draining"), ("b", "no_pair")}
    explained = await job_door.post("explain", {"src": "de", "tgt": "fr", "job_id": "j", "services": ["asr"]})
    assert explained["node_id"] == "b"
    assert {"node_id": "b", "pool": "de-fr", "reason": None} in explained["nodes"]


# --- refusals of the allocator ----------------------------------------------------------------------------------------


async def test_what_does_not_fit_what_is_there_is_a_conflict(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    await job_door.reserve("j")
    await job_door.post("j/reassign", {"after": 1, **WANTED, "scope": "exact"}, 503)
    wanted = {"job_id": "j", **WANTED}
    cases = (
        ("reserve", {**wanted, "owner": "other"}, "not_owner", {"owner": "me"}),
        ("reserve", {**wanted, "slots": 2}, "request_changed", {"attempt": 1}),
        ("reserve", {**wanted, "attempt": 3}, "future_attempt", {"attempt": 1}),
        ("j/reassign", {"after": 2, **WANTED}, "future_attempt", {"attempt": 1}),
        ("j/renew", {"attempt": 2, **OWNED}, "future_attempt", {"attempt": 1}),
        ("j/start", {"attempt": 1, **OWNED, "owner": "other"}, "not_owner", {"owner": "me"}),
        ("j/release", {"attempt": 1, "owner": "other"}, "not_owner", {"owner": "me"}),
    )
    for path, body, code, fields in cases:
        error = await job_door.refused(path, body, 409)
        assert error["code"] == code
        assert error["next"]
        assert fields.items() <= error.items()
    await job_door.node("b", "en", "zh")
    await job_door.post("j/reassign", {"after": 1, **WANTED})
    stale = await job_door.refused("j/finish", {"attempt": 1, "owner": "me"}, 409)
    assert (stale["code"], stale["attempt"], stale["state"]) == ("stale_attempt", 2, "reserved")
    await job_door.post("j/finish", {"attempt": 2, "owner": "me"})
    for path, body in (("j/fail", {"attempt": 2, "owner": "me"}), ("j/reassign", {"after": 2, **WANTED})):
        ended = await job_door.refused(path, body, 409)
        assert (ended["code"], ended["state"]) == ("job_ended", "finished")
        assert "job id of its own" in ended["next"]


async def test_a_job_that_nobody_knows(job_door: JobDoor) -> None:
    for path, body in (
        ("x/renew", {"attempt": 1, **OWNED}),
        ("x/start", {"attempt": 1, **OWNED}),
        ("x/finish", {"attempt": 1, "owner": "me"}),
        ("x/fail", {"attempt": 1, "owner": "me"}),
        ("x/release", {"attempt": 1, "owner": "me"}),
    ):
        assert (await job_door.refused(path, body, 404))["code"] == "not_found"
    assert (await job_door.get("/api/v1/jobs/x", 404))["error"]["code"] == "not_found"


async def test_why_there_is_no_node(job_door: JobDoor) -> None:
    await job_door.scheduler.allocator.sync(document_of(selection={"slots_per_node": 1, "tenant_slots": 1}))
    error = await job_door.refused("reserve", {"job_id": "j", **WANTED}, 503)
    assert (error["code"], error["reasons"]) == ("no_node", {})
    await job_door.node("a", "en", "zh")
    await job_door.reserve("held", tenant="acme")
    error = await job_door.refused("reserve", {"job_id": "j", **WANTED}, 503)
    assert (error["reasons"], error["missing"]) == ({"no_slot": 1}, [])
    assert "wait_ms" in error["next"]
    error = await job_door.refused("reserve", {"job_id": "j", **WANTED, "tenant": "acme"}, 503)
    assert error["reasons"] == {"quota": 1}
    error = await job_door.refused("reserve", {"job_id": "j", **WANTED, "src": "xx", "services": ["magic"]}, 503)
    assert error["missing"] == ["asr:xx", "service:magic"]
    assert "waiting brings none" in error["next"]
    lines = await job_door.metrics()
    for line in (
        'pyscheduler_job_reservations_total{outcome="reserved"} 1.0',
        'pyscheduler_job_reservations_total{outcome="no_node"} 4.0',
        'pyscheduler_job_refusals_total{reason="no_slot"} 1.0',
        'pyscheduler_job_refusals_total{reason="quota"} 1.0',
        'pyscheduler_job_refusals_total{reason="no_pair"} 1.0',
        "pyscheduler_job_waits 0.0",
    ):
        assert line in lines


async def test_what_is_counted_of_updates(job_door: JobDoor) -> None:
    await job_door.node("a", "en", "zh")
    await job_door.reserve("j")
    await job_door.reserve("j")
    await job_door.reserve("k", plan=True)
    await job_door.post("j/start", {"attempt": 1, **OWNED})
    await job_door.post("j/release", {"attempt": 2, "owner": "me"}, 409)
    lines = await job_door.metrics()
    for line in (
        'pyscheduler_job_reservations_total{outcome="repeated"} 1.0',
        'pyscheduler_job_reservations_total{outcome="planned"} 1.0',
        'pyscheduler_job_updates_total{operation="start",outcome="ok"} 1.0',
        'pyscheduler_job_updates_total{operation="release",outcome="future_attempt"} 1.0',
    ):
        assert line in lines


# --- the switch -------------------------------------------------------------------------------------------------------


async def test_without_a_store_it_says_so(job_door: JobDoor) -> None:
    await job_door.scheduler.allocator._reservations.aclose()
    for body in ({"job_id": "j", **WANTED}, {"jobs": [{"job_id": "j", **PAIR}, {"job_id": "k", **PAIR}], **OWNED}):
        error = await job_door.refused("reserve", body, 503)
        assert error["code"] == "store_unavailable"
        assert error["next"]
