"""The commands about jobs: what they answer, in both forms, and how they fail."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Any

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest
from tests.commands import Cli, error_of
from tests.harness import Cell, document_of, facts_of
from tests.support import wait_until_async

PAIR = ("--src", "zh", "--tgt", "en")
ZH_EN = JobRequest("zh", "en")


async def test_the_life_of_a_job(cli: Cli, cell: Cell) -> None:
    registration = await cell.register("n1", "en", "zh")
    reserved = await cli.json("job", "reserve", "j", *PAIR, "--service", "asr", "--owner", "me", "--lease", "90")
    now = await cell.now_ms()
    assert now + 80_000 < reserved.pop("lease_end_at") <= now + 90_000
    assert reserved == {
        "job_id": "j",
        "attempt": 1,
        "state": "reserved",
        "node_id": "n1",
        "epoch": registration.session.epoch,
        "pool": "en-zh",
        "version": registration.version,
        "slots": 1,
        "fresh": True,
        "plan": False,
    }
    assert (await cli.json("job", "reserve", "j", *PAIR, "--service", "asr", "--owner", "me"))["fresh"] is False
    for word, state in (("renew", "reserved"), ("start", "running"), ("finish", "finished"), ("finish", "finished")):
        status = await cli.json("job", word, "j", "--owner", "me")
        assert status.pop("lease_end_at") > now
        assert status == {"job_id": "j", "attempt": 1, "state": state}
    shown = await cli.json("job", "show", "j")
    assert shown.pop("lease_end_at") - await cell.now_ms() <= (left := shown.pop("lease_ms")) <= 600_000
    assert left > 590_000
    assert shown == {
        "job_id": "j",
        "attempt": 1,
        "state": "finished",
        "node_id": "n1",
        "epoch": registration.session.epoch,
        "pool": "en-zh",
        "version": registration.version,
        "slots": 1,
        "tenant": None,
        "owner": "me",
        "session": None,
        "reason": "finish",
    }


async def test_a_further_attempt(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh")
    first = await cli.json("job", "reserve", "j", *PAIR)
    await cli.json("job", "fail", "j", "--reason", "out of memory", "--attempt", "1")
    assert (await cli.json("job", "show", "j"))["reason"] == "out of memory"
    plan = await cli.json("job", "reassign", "j", *PAIR, "--plan")
    second = await cli.json("job", "reassign", "j", *PAIR, "--owner", "other", "--after", "1")
    assert {first["node_id"], second["node_id"]} == {"n1", "n2"}
    assert (plan["node_id"], plan["attempt"], second["attempt"]) == (second["node_id"], 2, 2)
    await cli.json("job", "release", "j", "--owner", "other")
    assert (await cli.json("job", "reassign", "j", *PAIR))["attempt"] == 3


async def test_what_people_see(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    page = (await cli("job", "reserve", "j", *PAIR, "--plan")).stdout
    assert "not reserved: this is a plan" in page
    assert await cli.json("job", "list") == []
    assert "0 jobs, version 2" in (await cli("job", "list")).stdout
    page = (await cli("job", "reserve", "j", *PAIR, "--owner", "me", "--tenant", "acme", "--session", "talk")).stdout
    for words in ("job j", "state    reserved", "node     n1 (epoch", "owner    me", "lease    60 s, until"):
        assert words in page, words
    assert (
        "it was already"
        in (await cli("job", "reserve", "j", *PAIR, "--owner", "me", "--tenant", "acme", "--session", "talk")).stdout
    )
    page = (await cli("job", "show", "j")).stdout
    for words in ("tenant   acme", "session  talk", "pool     en-zh (chosen under version 2)", "left ("):
        assert words in page, words
    await cli("job", "reserve", "k", *PAIR, "--owner", "me", "--slots", "2")
    assert re.fullmatch(
        r"k: released \(attempt 1, known until [\d :-]+\)\n",
        (await cli("job", "release", "k", "--owner", "me", "--reason", "hung up")).stdout,
    )
    table = (await cli("job", "list")).stdout
    assert re.search(r"^j +reserved +1 +n1 +en-zh +1 +acme +me +\d+ s$", table, re.MULTILINE)
    assert re.search(r"^k +released +1 +n1 +en-zh +2 +public +me +hung up$", table, re.MULTILINE)
    assert "2 jobs, version 2" in table
    page = (await cli("job", "show", "k")).stdout
    for words in ("forgotten  in 10 min", "reason     hung up", "tenant     public"):
        assert words in page, words


async def test_jobs_can_be_chosen(cli: Cli, cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 1}))
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "de", "en", "zh")
    await cli.json("job", "reserve", "one", *PAIR, "--owner", "me", "--tenant", "acme")
    await cli.json("job", "reserve", "two", *PAIR, "--owner", "other")
    await cli.json("job", "finish", "two", "--owner", "other")

    async def ids(*options: str) -> list[str]:
        return [one["job_id"] for one in await cli.json("job", "list", *options)]

    assert await ids() == ["one", "two"]
    assert await ids("--node", "n1", "--state", "live") == ["one"]
    assert await ids("--node", "n2") == await ids("--pool", "de-en-zh") == await ids("--state", "finished") == ["two"]
    assert await ids("--tenant", "acme") == await ids("--owner", "me") == await ids("--limit", "1") == ["one"]
    assert "1 job of 2" in (await cli("job", "list", "--limit", "1")).stdout
    await cli("job", "list", "--state", "dead", exit_code=2)
    await cli("job", "list", "--node", "a b", exit_code=2)
    await cli("job", "list", "--limit", "0", exit_code=2)


async def test_jobs_of_several_pages_are_listed_whole(cli: Cli, cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"slots_per_node": 500}))
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh") for number in range(5)))
    for half in range(3):
        asks = [JobAsk(f"job-{half}-{number}", ZH_EN) for number in range(700)]
        await cell.allocator.reserve_many(asks, owner="me", lease_ms=600_000)
    assert len({one["job_id"] for one in await cli.json("job", "list")}) == 2100


async def test_an_explanation(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh", load=0.5)
    await cell.register("n3", "de", "fr")
    await cell.register("n4", facts=facts_of("en", "zh", private=True))
    explained = await cli.json("job", "explain", *PAIR)
    assert explained.pop("version") > 1
    assert {(one["node_id"], one["reason"]) for one in explained.pop("nodes")} == {
        ("n1", None),
        ("n2", None),
        ("n3", "no_pair"),
        ("n4", "not_public"),
    }
    reasons = {"no_pair": 1, "not_public": 1, "passed_over": 2}
    assert explained == {"node_id": "n1", "pool": "en-zh", "reasons": reasons, "missing": []}
    page = (await cli("job", "explain", "j", *PAIR, "--service", "asr")).stdout
    for words in (
        "zh → en, asr",
        "gets n1 of en-zh",
        "n1    en-zh  chosen",
        "n2    en-zh  able",
        "n3    de-fr  no_pair",
    ):
        assert words in page, words
    assert re.search(r"1 +not_public +no public jobs taken", page)
    page = (await cli("job", "explain", "--src", "xx", "--tgt", "en")).stdout
    for words in ("gets no node", "no node has asr:xx", "4 nodes looked at"):
        assert words in page, words
    await cell.allocator.sync(document_of(tenants=[{"name": "acme", "slots": 1}]))
    assert (
        "the tenant has no slots left"
        in (await cli("job", "explain", *PAIR, "--tenant", "acme", "--slots", "2")).stdout
    )


async def test_an_explanation_shows_fifty_nodes(cli: Cli, cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh") for number in range(60)))
    assert "10 more nodes: --json lists them" in (await cli("job", "explain", *PAIR)).stdout
    assert len((await cli.json("job", "explain", *PAIR))["nodes"]) == 60


async def test_why_there_is_no_node(cli: Cli, cell: Cell) -> None:
    error = error_of(await cli.json("job", "reserve", "j", *PAIR, exit_code=4))
    assert (error["code"], error["problems"][0]["message"]) == ("no_node", "there are no nodes")
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh")
    await cell.register("n3", "de", "fr")
    await cell.allocator.hold("n1", owner="ops", reason="repair")
    error = error_of(await cli.json("job", "reserve", "j", *PAIR, "--slots", "5", exit_code=4))
    assert error["message"] == "no node for job j"
    assert [(one["where"], one["message"]) for one in error["problems"]] == [
        ("draining", "1 node: held: 'pyscheduler node show' says why"),
        ("no_pair", "1 node: not these languages, or a service is missing"),
        ("no_slot", "1 node: too few slots free"),
    ]
    assert "job explain j" in error["next"]
    error = error_of(
        await cli.json("job", "reserve", "j", "--src", "xx", "--tgt", "en", "--service", "magic", exit_code=4)
    )
    assert [one["where"] for one in error["problems"]] == ["no_pair", "asr:xx", "service:magic"]
    assert "check the codes and the services" in error["next"]
    told = (await cli("job", "reserve", "j", "--src", "xx", "--tgt", "en", exit_code=4)).stderr
    for words in ("error: no node for job j", "- asr:xx: no node has it", "next: check the codes"):
        assert words in told, words


CONFLICTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("reserve", "j", *PAIR, "--attempt", "7"), "future_attempt", "give --attempt 2; "),
    (("renew", "j", "--attempt", "1"), "stale_attempt", "pyscheduler job show j"),
    (("start", "j", "--attempt", "3"), "future_attempt", "'pyscheduler job reassign j' asks for attempt 3"),
    (("release", "j", "--owner", "somebody"), "not_owner", "--owner me, if you may"),
    (("reserve", "j", *PAIR, "--owner", "me", "--attempt", "2", "--slots", "2"), "request_changed", "job reassign j"),
    (("finish", "done", "--attempt", "1", "--owner", "me"), "", ""),
    (("fail", "done", "--owner", "me"), "job_ended", "new work needs a job id of its own"),
    (("reassign", "done", *PAIR), "job_ended", "new work needs a job id of its own"),
    (("renew", "failed", "--owner", "me"), "job_ended", "'pyscheduler job reassign failed' makes a further attempt"),
)


@pytest.mark.parametrize(("arguments", "code", "said"), CONFLICTS, ids=[" ".join(one[0]) for one in CONFLICTS])
async def test_what_does_not_fit_what_is_there(
    cli: Cli, cell: Cell, arguments: tuple[str, ...], code: str, said: str
) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh")
    for name in ("j", "done", "failed"):
        await cell.allocator.reserve(name, ZH_EN, owner="me", lease_ms=60_000)
    await cell.allocator.reassign("j", ZH_EN, after=1, owner="me", lease_ms=60_000)
    await cell.allocator.finish_job("done", 1, owner="me")
    await cell.allocator.fail_job("failed", 1, owner="me")
    owner = () if "--owner" in arguments else ("--owner", "me")
    document = await cli.json("job", *arguments, *owner, exit_code=3 if code else 0)
    if code:
        error = error_of(document)
        assert error["code"] == code
        assert said in error["next"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("reserve", "j", "--src", "zh"), 2, "--tgt"),
        (("reserve", *PAIR), 2, "Missing argument"),
        (("reserve", "j" * 10_000, *PAIR), 2, "(10000 characters) is no job id"),
        (("reserve", "a b", *PAIR), 2, "'a b' is no job id"),
        (("reserve", "j", *PAIR, "--slots", "0"), 2, "--slots"),
        (("reserve", "j", *PAIR, "--slots", "-1"), 2, "--slots"),
        (("reserve", "j", *PAIR, "--slots", "65"), 2, "--slots"),
        (("reserve", "j", "--src", "z!", "--tgt", "en"), 2, "z!"),
        (("reserve", "j", *PAIR, "--service", "a b"), 2, "service type"),
        (("reserve", "j", *PAIR, "--label", "zone"), 2, "'zone' is no label: one looks like zone=eu"),
        (("reserve", "j", *PAIR, "--label", "zone=eu", "--label", "zone=us"), 2, "given twice"),
        (("reserve", "j", *PAIR, "--label", "unique.id=7"), 2, "unique."),
        (("reserve", "j", *PAIR, "--scope", "best"), 2, "--scope"),
        (("reserve", "j", *PAIR, "--owner", "a/b"), 2, "'a/b' is no owner"),
        (("reserve", "j", *PAIR, "--lease", "0"), 2, "--lease"),
        (("reserve", "j", *PAIR, "--attempt", "0"), 2, "--attempt"),
        (("reserve", "j", *PAIR, "--wait", "0"), 2, "--wait"),
        (("reserve", "j", *PAIR, "--wait", "1", "--plan"), 2, "a plan does not wait"),
        (("reassign", "nobody", *PAIR), 1, "no job nobody"),
        (("renew", "nobody"), 1, "no job nobody"),
        (("finish", "nobody", "--attempt", "1"), 1, "pyscheduler job list"),
        (("show", "nobody"), 1, "no job nobody: it was never reserved, or has been forgotten"),
        (("show", "j" * 10_000), 2, "is no job id"),
        (("explain", "--src", "en"), 2, "--tgt"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
async def test_bad_input_is_named(cli: Cli, arguments: tuple[str, ...], exit_code: int, said: str) -> None:
    result = await cli("job", *arguments, exit_code=exit_code)
    assert said in result.stderr
    assert len(result.stderr) < 1000
    error = error_of(await cli.json("job", *arguments, exit_code=exit_code))
    assert error["exit_code"] == exit_code


async def test_who_waits_gets_the_first_node_that_there_is(cli: Cli, cell: Cell) -> None:
    command = asyncio.create_task(cli.json("job", "reserve", "j", *PAIR, "--wait", "30"))
    await wait_until_async(lambda: _follows(cell), "the command waits")
    await cell.register("n1", "en", "zh")
    assert (await command)["node_id"] == "n1"


async def test_a_wait_ends_with_the_reasons(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "de", "fr")
    error = error_of(await cli.json("job", "reserve", "j", *PAIR, "--wait", "0.1", exit_code=4))
    assert error["problems"][0]["where"] == "no_pair"


async def test_an_interrupt_ends_a_wait_and_leaves_nothing_behind(cli: Cli, cell: Cell) -> None:
    with cli.start("job", "reserve", "j", *PAIR, "--wait", "60") as process:
        await wait_until_async(lambda: _follows(cell), "the command waits")
        process.send_signal(signal.SIGINT)
        _, told = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 130
    assert told.strip() == "error: interrupted"
    await cell.register("n1", "en", "zh")
    assert await cli.json("job", "list") == []


async def _follows(cell: Cell) -> Any:
    """Whether somebody waits for events."""
    clients = str(await cell.store.command("CLIENT", "LIST"))
    return "cmd=xread" in clients
