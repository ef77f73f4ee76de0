"""A stream of jobs beside a simulated fleet, against real scheduler processes."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pyscheduler import Allocator, JobRequest
from pyscheduler.cli.text import safe
from pyscheduler.core.jobs import Job
from pyscheduler.simulate import jobs as jobs_module
from pyscheduler.simulate.fleet import Fleet
from pyscheduler.simulate.job_options import JobOptions
from pyscheduler.simulate.jobs import JobStream
from pyscheduler.simulate.operator_client import OperatorClient
from pyscheduler.simulate.options import FleetOptions
from pyscheduler.simulate.view import FleetView
from pyscheduler.simulate.workplace import Workplace
from tests.e2e.processes import ServeProcess
from tests.e2e.test_simulate import all_ready, begin, finish, simulate
from tests.harness import document_of
from tests.support import wait_until_async

NOBODY = "http://127.0.0.1:9"
QUICK = ("--heartbeat", "0.2", "--reconnect", "0.2", "--languages", "en,zh;de,en")


@pytest.fixture
def serve(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Callable[..., ServeProcess]]:
    """Starts scheduler processes on the test's namespace, with further flags."""
    started: list[ServeProcess] = []

    def start(*flags: str) -> ServeProcess:
        store = ("--redis-url", redis_url, "--namespace", namespace, "--reconcile-interval-ms", "200")
        started.append(ServeProcess(tmp_path, f"serve-{len(started)}", *store, *flags))
        return started[-1].wait_listening()

    yield start
    for one in started:
        one.close()


def at(scheduler: ServeProcess) -> tuple[str, ...]:
    return "--url", scheduler.url, "--operator-url", scheduler.operator_url


async def live_jobs(allocator: Allocator) -> tuple[Job, ...]:
    return (await allocator.jobs(limit=1000, state="live")).jobs


async def nothing_is_left(allocator: Allocator, summary: dict[str, Any]) -> None:
    jobs = summary["jobs"]
    assert (jobs["left"], await live_jobs(allocator)) == (0, ())
    ended = jobs["finished"] + jobs["failed"] + jobs["lost"] + jobs["lapsed"] + jobs["released"]
    assert ended == jobs["reserved"] + jobs["reassigned"]
    assert (await allocator.check()).ok


async def test_jobs_run_and_end_and_nothing_is_left(serve: Callable[..., ServeProcess], allocator: Allocator) -> None:
    await allocator.sync(document_of(selection={"slots_per_node": 5, "strategy": "affinity"}))
    options = ("--jobs", "20", "--job-seconds", "1", "--job-lease", "1.5", "--tenants", "3", "--session-jobs", "0.6")
    # Leases lapse once a scheduler has been there for as long as a node's lease.
    scheduler = serve("--lease-ms", "3000")
    with begin(*at(scheduler), *QUICK, "--nodes", "8", "--failing-jobs", "0.2", *options) as process:

        async def busy() -> bool:
            return any(node.load > 0.15 for node in (await allocator.nodes()).nodes)

        await wait_until_async(lambda: busy(), "nodes report the load of their jobs", 30)
        assert {job.tenant for job in await live_jobs(allocator)} <= {"tenant-1", "tenant-2", "tenant-3"}

        async def many() -> bool:
            events = await allocator.events(limit=10_000)
            return sum(event.fields.get("state") == "finished" for event in events) >= 80

        await wait_until_async(lambda: many(), "jobs have finished", 60)
        process.send_signal(signal.SIGINT)
        summary = await asyncio.to_thread(finish, process)
    jobs = summary["jobs"]
    assert summary["ok"] is jobs["ok"] is True
    assert min(jobs[name] for name in ("finished", "failed", "reassigned", "renewed", "released")) > 0
    assert jobs["reserved"] + jobs["refused"].get("no_pair", 0) <= jobs["arrived"]
    assert (jobs["skipped"], jobs["errors"], jobs["lost"], jobs["lapsed"]) == (0, {}, 0, 0)
    assert jobs["sessions"]["kept"] > jobs["sessions"]["moved"]
    assert {name: pool["slots"] for name, pool in jobs["pools"].items()} == {"de-en": 20, "en-zh": 20}
    latency = jobs["reserve_ms"]
    assert latency["count"] == jobs["reserved"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    await nothing_is_left(allocator, summary)


async def test_refusals_are_counted_by_reason(serve: Callable[..., ServeProcess], allocator: Allocator) -> None:
    flags = (*at(serve()), "--nodes", "2", *QUICK, "--duration", "3", "--jobs", "30", "--job-seconds", "60")
    full = await simulate(*flags, "--odd-jobs", "0")
    assert set(full["jobs"]["refused"]) == {"no_slot"}
    assert full["jobs"]["reserved"] == 8
    told = full["jobs"]["reserved"] + full["jobs"]["refused"]["no_slot"] + full["jobs"]["unasked"]
    assert told == full["jobs"]["arrived"]
    odd = await simulate(*flags, "--odd-jobs", "1")
    assert odd["jobs"]["refused"] == {"no_pair": odd["jobs"]["arrived"] - odd["jobs"]["unasked"]}
    assert odd["jobs"]["odd"] == odd["jobs"]["arrived"] > 0
    await nothing_is_left(allocator, full)
    await nothing_is_left(allocator, odd)


async def test_the_jobs_of_killed_nodes_are_reassigned(
    serve: Callable[..., ServeProcess], allocator: Allocator
) -> None:
    scheduler = serve("--reconnect-grace-ms", "200", "--lease-ms", "1500")
    quick = ("--languages", "en,zh", "--heartbeat", "0.2")
    with (
        begin("--url", scheduler.url, "--nodes", "6", *quick, "--id-prefix", "doomed-") as doomed,
        begin(
            *(*at(scheduler), "--nodes", "6", *quick, "--jobs", "4", "--job-seconds", "3600", "--job-lease", "3"),
            *("--odd-jobs", "0", "--failing-jobs", "0"),
        ) as process,
    ):
        await all_ready(allocator, 12)

        async def there() -> bool:
            return sum(job.node_id.startswith("doomed-") for job in await live_jobs(allocator)) >= 4

        await wait_until_async(lambda: there(), "the nodes that will be killed have jobs", 30)
        doomed.kill()

        async def elsewhere() -> bool:
            return sum(job.attempt == 2 for job in await live_jobs(allocator)) >= 4

        await wait_until_async(lambda: elsewhere(), "other nodes have their jobs", 30)
        process.send_signal(signal.SIGINT)
        summary = await asyncio.to_thread(finish, process)
    jobs = summary["jobs"]
    assert jobs["lost"] >= 4
    assert jobs["failed"] == 0
    assert 0 < jobs["reassigned"] <= jobs["lost"]
    assert jobs["reassigned"] + jobs["given_up"] >= jobs["lost"]
    await nothing_is_left(allocator, summary)


async def test_a_stream_that_was_away_for_longer_than_its_leases_counts_them_as_lapsed(
    serve: Callable[..., ServeProcess], allocator: Allocator
) -> None:
    scheduler = serve("--lease-ms", "1500")
    flags = ("--nodes", "1", *QUICK, "--jobs", "3", "--job-seconds", "3600", "--job-lease", "0.5", "--odd-jobs", "0")
    # The nodes of the other one go on, and have room for all; a job on the stopped one's own node is lost with it.
    others = ("--nodes", "12", "--id-prefix", "steady-", *QUICK)
    with begin("--url", scheduler.url, *others), begin(*at(scheduler), *flags) as process:
        await all_ready(allocator, 13)

        async def there() -> bool:
            return any(job.node_id.startswith("steady-") for job in await live_jobs(allocator))

        await wait_until_async(lambda: there(), "there are jobs", 30)
        process.send_signal(signal.SIGSTOP)

        async def lapsed() -> bool:
            return any(event.fields.get("state") == "lapsed" for event in await allocator.events(limit=10_000))

        await wait_until_async(lambda: lapsed(), "leases have ended", 30)
        process.send_signal(signal.SIGCONT)

        async def again() -> bool:
            return any(job.attempt == 2 for job in await live_jobs(allocator))

        await wait_until_async(lambda: again(), "jobs are reassigned", 30)
        process.send_signal(signal.SIGINT)
        summary = await asyncio.to_thread(finish, process)
    assert summary["jobs"]["lapsed"] > 0
    assert summary["jobs"]["reassigned"] > 0
    await nothing_is_left(allocator, summary)


async def test_ctrl_c_gives_everything_back(serve: Callable[..., ServeProcess], allocator: Allocator) -> None:
    with begin(*at(serve()), "--nodes", "5", *QUICK, "--jobs", "50", "--job-seconds", "600") as process:

        async def full() -> bool:
            return len(await live_jobs(allocator)) >= 15

        await wait_until_async(lambda: full(), "jobs run", 30)
        process.send_signal(signal.SIGINT)
        summary = await asyncio.to_thread(finish, process)
    assert summary["jobs"]["released"] >= 15
    await nothing_is_left(allocator, summary)


async def test_what_nobody_answered_for_is_found_at_the_end(
    serve: Callable[..., ServeProcess], allocator: Allocator
) -> None:
    """A reservation whose answer was lost on its way, and one of somebody else."""
    scheduler = serve()
    with begin("--url", scheduler.url, "--nodes", "2", "--languages", "en,zh"):
        await all_ready(allocator, 2)
        fleet = Fleet(FleetOptions(nodes=1), JobOptions(rate=0.01, doors=(scheduler.operator_url,)))
        stream = fleet.jobs
        assert stream is not None
        stream.start()
        for job_id, owner in (("lost-answer", stream.owner), ("somebody-elses", "somebody")):
            await allocator.reserve(job_id, JobRequest("en", "zh"), owner=owner, lease_ms=60_000)
        await stream.end()
        assert (stream.tally.left, stream.tally.released) == (0, 1)
        assert [job.job_id for job in await live_jobs(allocator)] == ["somebody-elses"]


async def test_jobs_that_the_end_finds_waiting_are_counted(
    serve: Callable[..., ServeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job that came is accounted for, the last ones too: they wait while the door is slow."""
    scheduler = serve()
    asked = asyncio.Event()
    post = OperatorClient.post

    async def slow_post(self: OperatorClient, path: str, body: Any) -> Any:
        asked.set()
        await asyncio.sleep(0.3)
        return await post(self, path, body)

    monkeypatch.setattr(OperatorClient, "post", slow_post)
    fleet = Fleet(FleetOptions(nodes=1), JobOptions(rate=200, doors=(scheduler.operator_url,)))
    stream = fleet.jobs
    assert stream is not None
    stream.start()
    await asked.wait()
    tally = stream.tally
    await wait_until_async(lambda: tally.arrived >= 20, "jobs wait for the answer")
    await stream.end()
    assert tally.unasked > 0
    refused = tally.refused.total() + tally.errors.total()
    assert tally.reserved + refused + tally.unasked + tally.skipped == tally.arrived


async def test_no_more_jobs_are_under_way_than_may(
    serve: Callable[..., ServeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_JOBS_UNDER_WAY", 3)
    scheduler = serve()
    nodes = FleetOptions(nodes=2, urls=(scheduler.url,), heartbeat_s=0.1, duration_s=3)
    most = 0

    def look(fleet: Fleet) -> None:
        nonlocal most
        assert fleet.jobs is not None
        most = max(most, len(fleet.jobs.under_way))

    summary = await Fleet(nodes, JobOptions(rate=40, doors=(scheduler.operator_url,))).run(asyncio.Event(), look)
    assert summary.jobs is not None
    assert most == 3
    assert summary.jobs.tally.skipped > 10
    assert summary.ok


async def test_a_door_that_changes_nothing_ends_it(serve: Callable[..., ServeProcess]) -> None:
    scheduler = serve("--operator-changes", "off")
    summary = await simulate(*at(scheduler), "--nodes", "2", *QUICK, "--jobs", "20", exit_code=1)
    assert summary["jobs"]["ok"] is False
    assert "--operator-changes" in summary["jobs"]["stopped"]
    assert (summary["registered"], summary["lost"], summary["gave_up"]) == (2, 0, False)


async def test_no_door_is_a_failure_and_the_next_one_is_asked(
    serve: Callable[..., ServeProcess], allocator: Allocator
) -> None:
    scheduler = serve()
    flags = ("--url", scheduler.url, "--nodes", "2", *QUICK, "--jobs", "20", "--duration", "3")
    alone = await simulate(*flags, "--operator-url", NOBODY, exit_code=1)
    assert alone["jobs"]["ok"] is False
    assert (alone["jobs"]["reserved"], alone["jobs"]["left"]) == (0, None)
    assert alone["jobs"]["errors"]["refused"] > 0
    both = await simulate(*flags, "--operator-url", NOBODY, "--operator-url", scheduler.operator_url)
    assert both["jobs"]["reserved"] > 0
    assert both["jobs"]["errors"] == {}
    await nothing_is_left(allocator, both)


async def test_with_no_answer_for_long_it_gives_up(
    serve: Callable[..., ServeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "PATIENCE_S", 0.1)
    options = FleetOptions(nodes=1, urls=(serve().url,), heartbeat_s=0.1)
    summary = await Fleet(options, JobOptions(rate=50, doors=(NOBODY,))).run(asyncio.Event())
    assert summary.jobs is not None
    assert "refused" in summary.jobs.stopped
    assert not summary.ok


async def test_a_killed_scheduler_is_survived_by_the_other(
    serve: Callable[..., ServeProcess], allocator: Allocator
) -> None:
    schedulers = [serve(), serve()]
    addresses = [word for one in schedulers for word in at(one)]
    options = ("--jobs", "20", "--job-seconds", "1", "--job-lease", "5")
    with begin(*addresses, "--nodes", "10", *QUICK, *options) as process:
        await wait_until_async(lambda: live_jobs(allocator), "jobs run", 30)
        schedulers[0].kill()
        before = len(schedulers[1].logged("job_changed"))
        await wait_until_async(lambda: len(schedulers[1].logged("job_changed")) > before, "the other is asked", 30)
        await all_ready(allocator, 10)
        process.send_signal(signal.SIGINT)
        summary = await asyncio.to_thread(finish, process)
    assert summary["jobs"]["errors"] == {}
    await nothing_is_left(allocator, summary)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--jobs", "-1"], "--jobs: -1 is not within 0.01 to 200"),
        (["--jobs", "201"], "--jobs: 201 is not within 0.01 to 200"),
        (["--jobs", "many"], "'many' is not a valid float"),
        (["--jobs", "1", "--odd-jobs", "2"], "--odd-jobs: 2 is not within 0 to 1"),
        (["--jobs", "1", "--operator-url", "ws://127.0.0.1:5011"], "--operator-url: 'ws://127.0.0.1:5011' is not"),
        (["--jobs", "1", "--languages", "en;zh"], "--jobs: jobs need a language set of two languages"),
    ],
    ids=str,
)
def test_bad_options_are_bad_input(option: list[str], message: str) -> None:
    command = [sys.executable, "-m", "pyscheduler", "simulate", "--json", *option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert message in json.loads(done.stdout)["error"]["message"]
    assert done.stderr.startswith("error: ")


async def test_without_a_terminal_it_prints_lines_and_a_summary(serve: Callable[..., ServeProcess]) -> None:
    flags = (*at(serve()), "--nodes", "4", *QUICK, "--jobs", "10", "--duration", "3")
    command = [sys.executable, "-m", "pyscheduler", "simulate", *flags]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "  jobs 0  reserved 0.0/s  refused 0.0/s  " in lines[0]
    assert any(line.startswith("ok: ") and line.endswith(" got a node, no reservation is left") for line in lines)
    assert "\x1b" not in done.stdout


async def test_the_live_view_keeps_its_rows_and_columns_and_acts_on_no_terminal() -> None:
    fleet = Fleet(FleetOptions(nodes=30, languages=(("en", "zh"),)), JobOptions(rate=1))
    assert fleet.jobs is not None
    assert fleet.workplace is not None
    view = FleetView(safe, unicode=True)

    def draw() -> list[str]:
        out = Console(file=io.StringIO(), width=80, markup=False)
        out.print(view.live(fleet))
        return [line.rstrip() for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]

    for number, node in enumerate(fleet._nodes):
        node.node_id, node.registered, node.status, node.away_since_s = f"node-{number}", True, "ready", None
        node.pool = f"pool-{number % 14:02}" if number else "\x1b]0;title\x07[bold]pool[/]"
    fleet.jobs.tally.reserved, fleet.jobs.tally.arrived = 1_234_560, 1_234_567
    fleet.jobs.start()
    first = draw()
    for number in range(30):
        fleet.workplace.take(f"node-{number}", f"job-{number}", 1.0)
    fleet.workplace.take("another-fleets", "job-31", 1.0)
    fleet.jobs.tally.refused.add("\x1b[31mno_slot")
    fleet.jobs.tally.errors.add("closed")
    fleet.jobs.tally.last_problem = "\x9b2J[red]problem"
    fleet.jobs.tally.reserve_ms.add(12_345.6)
    second = draw()
    await fleet.jobs.end()
    for line in (*first, *second):
        assert len(line) <= 80, line
        assert "…" not in line
    assert [line.split()[0] for line in first if line] == [line.split()[0] for line in second[: len(first)] if line]
    assert "5 more" in "\n".join(second)
    (row,) = [line for line in second if line.startswith("pool-01")]
    assert "3 of 12" in row
    assert [line.index("load") + len("load") for line in second if line.startswith("pool ")] == [row.index("%") + 1]
    where = [line.index(" of ") for line in second if line.startswith("pool-")]
    assert len(set(where)) == 1
    text = "\n".join(second)
    assert "[red]problem" in text
    for acting in ("\x1b", "\x07", "\x9b"):
        assert acting not in text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "not answered"),
        ({"answers": 5, "jobs": 5}, "not answered"),
        ({"answers": [5], "jobs": [5]}, "not answered"),
        ({"answers": [{"status": "x", "reservation": 5}]}, "not answered"),
        ({"answers": [{"status": 200, "error": {"code": "odd"}}]}, "odd"),
    ],
    ids=str,
)
async def test_a_door_that_talks_nonsense_is_an_error_of_the_door(body: dict[str, object], code: str) -> None:
    said = json.dumps(body).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        door = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        stream = JobStream(FleetOptions(nodes=1), JobOptions(rate=2, doors=(door,)), Workplace())
        stream.start()
        await wait_until_async(lambda: stream.tally.errors.total() > 0, "an answer is counted as an error")
        await stream.end()
    stream.raise_fault()
    assert code in stream.tally.errors.as_dict()
    assert stream.tally.errors.total() == stream.tally.arrived
    assert stream.tally.left == 0


async def test_the_client_asks_the_given_doors_only_and_again_where_a_connection_had_closed(
    serve: Callable[..., ServeProcess],
) -> None:
    closing = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One answer a connection, in chunks; it is closed behind the client's back, or says nothing of HTTP."""
        head = await reader.readuntil(b"\r\n\r\n")
        if b" /bad " in head:
            writer.write(b"HELO\r\n\r\n")
        elif b" /elsewhere " in head:
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n")
        else:
            chunks = b'7\r\n{"chunk\r\n8\r\nks": 2} \r\n0\r\n\r\n'.replace(b"chunk\r\n8\r\nks", b"chunk\r\n8\r\ned")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
        await writer.drain()
        writer.close()
        closing.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = OperatorClient([url])
        for _ in range(3):
            closing.clear()
            assert dict((await client.get("/good")).document) == {"chunked": 2}
            await closing.wait()
        assert (await client.get("/elsewhere")).code == "http 302"
        assert (await client.get("/bad")).code == "no HTTP"
        client.close()
    real = OperatorClient([NOBODY, serve().operator_url])
    assert (await real.get("/health")).document["status"] == "ok"
    assert (await real.get("/nothing")).code == "not_found"
    real.close()
