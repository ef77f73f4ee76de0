"""Bad input against a real process: what it answers, that it goes on, and that it grows and logs within bounds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import click.testing
import httpx
import pytest
import redis

from pyscheduler import Allocator
from pyscheduler.cli import main
from pyscheduler.core.jobs import JobRequest
from pyscheduler.embedded import find_running
from tests.doors import connect, eventually
from tests.e2e.processes import ServeProcess
from tests.fixtures.clients import HEAD, State
from tests.peers import CLOSE, CONTINUED, PING, TEXT, connected, frame, upgrade
from tests.servers import PlainServer
from tests.support import wait_until

GROWTH_MB = 48
"""What a test may leave behind in the process's memory; the input of most is larger by far."""

LOG_LINES = 120
"""Lines that a test may make the process log."""


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad-input")


@pytest.fixture(scope="module")
def victim(state_dir: Path) -> Iterator[ServeProcess]:
    """The process that all of it is thrown at, on an embedded server."""
    process = ServeProcess(state_dir, "victim", "--state-dir", str(state_dir / "state"))
    try:
        yield process.wait_listening()
        assert process.terminate() == 0
    finally:
        process.close()


@pytest.fixture
async def survives(victim: ServeProcess, state_dir: Path) -> AsyncIterator[None]:
    """After the test the process serves a good node, has not grown, has not filled its log, and all invariants hold."""
    await _serves(victim.url)
    memory, lines = _memory_mb(victim.pid), len(victim.lines())
    yield
    assert victim.alive, victim.log.read_text()
    await _serves(victim.url)
    assert _memory_mb(victim.pid) - memory < GROWTH_MB
    written = victim.lines()
    assert len(written) - lines < LOG_LINES
    assert not [line for line in written if "defect" in line["event"] or line["event"] == "background_task_ended"]
    await _checks(_store_of(state_dir / "state"), "pyscheduler")


async def _serves(url: str) -> None:
    async with connect(url) as node:
        await node.become_ready(node_id="good")


async def _checks(redis_url: str, namespace: str) -> None:
    async with await Allocator.open(redis_url, namespace=namespace) as allocator:
        report = await allocator.check()
        assert report.ok, report.violations


def _store_of(state_dir: Path) -> str:
    url = find_running(state_dir)
    assert url is not None, "no embedded server runs"
    return url


def _memory_mb(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) // 1024


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
pytestmark = needs_proc


# --- sockets ---------------------------------------------------------------------------------------------------------


REGISTER = json.dumps(HEAD.register()).encode()

BROKEN_FRAMES = {
    "not masked": (frame(TEXT, REGISTER, masked=False), 1002),
    "compressed, which was not negotiated": (frame(TEXT, REGISTER, bits=0x40), 1002),
    "unknown opcode": (frame(5, b"x"), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "ping in pieces": (frame(PING, b"x", last=False), 1002),
    "long close reason": (frame(CLOSE, b"\x03\xe8" + b"r" * 100_000), 1002),
    "close without a whole code": (frame(CLOSE, b"\x03"), 1002),
    "close with an unknown code": (frame(CLOSE, b"\x03\xe7"), 1002),
    "close reason that is not text": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "the middle first": (frame(CONTINUED, b"x"), 1002),
    "four exabytes announced": (frame(TEXT, b"x", says=2**62), 1009),
    "a negative length announced": (frame(TEXT, b"x", says=2**63 + 1), 1009),
    "a million empty pieces": (frame(TEXT, b"", last=False) + frame(CONTINUED, b"", last=False) * 1_000_000, 1009),
    "a million small pieces": (frame(TEXT, b"[", last=False) + frame(CONTINUED, b"[", last=False) * 1_000_000, 1009),
}


@pytest.mark.parametrize(("said", "code"), BROKEN_FRAMES.values(), ids=list(BROKEN_FRAMES))
async def test_broken_frames_end_their_connection_only(
    said: bytes, code: int, victim: ServeProcess, survives: None
) -> None:
    async with connected(victim.url) as peer:
        await peer.upgrade(b"Sec-WebSocket-Extensions: permessage-deflate")

        async def send_on() -> None:
            # In parts, so that the answer is read before the connection that it closes is reset.
            for start in range(0, len(said), 200_000):
                await peer.send(said[start : start + 200_000])

        sending = asyncio.create_task(send_on())
        async with asyncio.timeout(20):
            head = await peer.reader.readexactly(4)
        await asyncio.gather(sending, return_exceptions=True)
    assert head[0] == 0x80 | CLOSE
    assert int.from_bytes(head[2:4], "big") == code


async def test_a_registration_letter_by_letter_is_one(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url, upgraded=True) as peer:
        letters = [bytes([letter]) for letter in REGISTER]
        await peer.send(frame(TEXT, letters[0], last=False))
        for letter in letters[1:-1]:
            await peer.send(frame(CONTINUED, letter, last=False) + frame(PING, b""))
        await peer.send(frame(CONTINUED, letters[-1]))
        await peer.until(b"node_register_ack")


async def test_pongs_are_not_kept_for_a_peer_that_does_not_read(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url, upgraded=True) as peer:
        before = _memory_mb(victim.pid)
        for _ in range(100):
            await peer.send(frame(PING, b"p" * 125) * 6000)
        # 75 MB of them; the buffers between us hold a few.
        assert _memory_mb(victim.pid) - before < GROWTH_MB
        # When it reads at last, the newest is there.
        await peer.send(frame(PING, b"newest"))
        await peer.until(b"newest")


async def test_a_crowd_that_says_nothing_leaves_room_for_others(victim: ServeProcess, survives: None) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(connected(victim.url))
        await _serves(victim.url)


async def test_heavy_frames_are_forgotten(victim: ServeProcess, survives: None) -> None:
    heavy = (
        b'{"type":"node_register","padding":"' + b"x" * 10_000_000 + b'"}',
        b"[" * 10_000_000,
        b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}",
    )
    async with connect(victim.url) as node:
        for _ in range(3):
            for text in heavy:
                await node.socket.send(text, text=True)
                assert (await node.receive())["code"] == "INVALID_MESSAGE"
        await node.become_ready()


async def test_a_peer_that_stops_sending_is_released(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url, upgraded=True) as peer:
        await peer.send(frame(TEXT, json.dumps(HEAD.register(node_id="half-closed")).encode()))
        await peer.until(b"node_register_ack")
        peer.writer.write_eof()
        await peer.rest()
    wait_until(
        lambda: [line for line in victim.logged("node.released") if line["node_id"] == "half-closed"], "it is released"
    )


# --- the two doors as HTTP servers -----------------------------------------------------------------------------------

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2


@pytest.mark.parametrize("door", ["node", "operator"])
async def test_what_is_not_http_is_refused_and_does_not_fill_the_log(
    door: str, victim: ServeProcess, survives: None
) -> None:
    for _ in range(2 * LOG_LINES):
        async with connected(victim.url if door == "node" else victim.operator_url) as peer:
            await peer.send(TLS_HELLO)
            assert (await peer.rest())[:12] in (b"HTTP/1.1 400", b"")


@pytest.mark.parametrize("header", [b"Cookie: " + b"a" * 10_000, b"X: y\r\n" * 150 + b"Z: y"], ids=["long", "many"])
async def test_an_upgrade_with_too_much_in_it_is_answered(header: bytes, victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url) as peer:
        await peer.send(upgrade(header))
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("door", ["node", "operator"])
async def test_headers_without_end_are_cut_off(door: str, victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url if door == "node" else victim.operator_url) as peer:
        before = _memory_mb(victim.pid)

        async def send_on() -> None:
            await peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            for _ in range(200):
                await peer.send(b"X: " + b"y" * 1_000_000 + b"\r\n")

        with pytest.raises(ConnectionError):
            await send_on()
    assert _memory_mb(victim.pid) - before < GROWTH_MB


async def test_the_operator_door_is_no_websocket_and_takes_nothing(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.operator_url) as peer:
        await peer.send(upgrade().replace(b"/ws/node", b"/health"))
        await peer.until(b"HTTP/1.1 200 ")
    async with httpx.AsyncClient(base_url=victim.operator_url, trust_env=False) as http:
        assert (await http.post("/health", content=b"x" * 50_000_000)).status_code == 405
        answer = await http.get("/api/v1/nodes/..%2f", headers={"Host": "elsewhere"})
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


# --- documents -------------------------------------------------------------------------------------------------------


def _laughs() -> str:
    lines = ['a0: &a0 ["x","x","x","x","x","x","x","x","x"]']
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


DOCUMENTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "not YAML": ("pools: [a, {b\n\t- x: @@\n", "not valid YAML"),
    "not text": (bytes(range(256)), "is not UTF-8"),
    "a program": ('!!python/object/apply:os.system ["true"]', "is not allowed"),
    "billion laughs": (_laughs(), "is not allowed"),
    "deep nesting": ("[" * 100_000, "nested deeper than"),
    "two documents": ("schema: 1\n---\nschema: 1\n", "second YAML document"),
    "duplicate pools": (
        "pools:\n- {name: a, match: {services: [asr]}}\n- {name: a, match: {services: [tts]}}\n",
        "pool name 'a' is taken",
    ),
    "100,000 pools": (
        "pools:\n" + "".join(f"- {{name: p{n}, match: {{services: [asr]}}}}\n" for n in range(100_000)),
        "longer than",
    ),
    "100,000 short pools": ("pools:\n" + "- {}\n" * 100_000, "more than 2000"),
    "no constraint": ("pools:\n- {name: a, match: {}}\n", "constrains nothing"),
    "out of reach": (
        "pools:\n- {name: a, priority: 5, match: {services: [asr]}}\n- {name: b, match: {services: [asr, tts]}}\n",
        "no node can reach pool 'b'",
    ),
    "negative limits": (
        "auto: {min_nodes: -1, max_pools: -5, idle_ttl: -10m}\nguard: {max_unassigned_share: -0.5}\n",
        "must be at least",
    ),
}


def _command(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(("text", "said"), DOCUMENTS.values(), ids=list(DOCUMENTS))
async def test_a_bad_document_is_refused_wherever_it_is_given(
    text: str | bytes, said: str, victim: ServeProcess, survives: None, state_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pools.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    state = str(state_dir / "state")
    before = (await asyncio.to_thread(_command, "config", "show", "--json", "--state-dir", state)).stdout
    for command in (["config", "check-file", str(file)], ["pool", "sync", "-f", str(file), "--state-dir", state]):
        result = await asyncio.to_thread(_command, *command)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert len(result.stderr) < 50_000
    # A process that was to begin with it does not begin.
    newcomer = ServeProcess(tmp_path, "newcomer", "--state-dir", str(tmp_path / "state"), "--pools", str(file))
    try:
        assert newcomer.wait_ended() == 2
    finally:
        newcomer.close()
    assert said in newcomer.log.read_text()
    assert (await asyncio.to_thread(_command, "config", "show", "--json", "--state-dir", state)).stdout == before


async def test_a_pool_that_no_node_matches_is_empty_and_harms_nobody(
    victim: ServeProcess, survives: None, state_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text("pools:\n- {name: rare, match: {services: [nobody-has-this]}}\n")
    state = ["--state-dir", str(state_dir / "state")]
    result = await asyncio.to_thread(_command, "pool", "sync", "-f", str(file), *state)
    assert result.exit_code == 0, result.output
    async with connect(victim.url) as node:
        assert (await node.become_ready())["pool"] == "de-en"
    listed = json.loads((await asyncio.to_thread(_command, "pool", "list", "--json", *state)).stdout)
    assert [pool["nodes"] for pool in listed if pool["name"] == "rare"] == [0]


# --- jobs ------------------------------------------------------------------------------------------------------------

ASKED = {"job_id": "j", "src": "en", "tgt": "de", "owner": "me", "lease_ms": 60_000}

BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "no JSON": (b"job_id=j", 422),
    "no text": (bytes(range(256)), 422),
    "deep nesting": (b"[" * 250_000, 422),
    "20,000 unknown members": (b"{" + b",".join(b'"%d":0' % number for number in range(20_000)) + b"}", 422),
    "a long id": (json.dumps({**ASKED, "job_id": "j" * 10_000}).encode(), 422),
    "no slots": (json.dumps({**ASKED, "slots": 0}).encode(), 422),
    "negative slots": (json.dumps({**ASKED, "slots": -5}).encode(), 422),
    "very many slots": (json.dumps({**ASKED, "slots": 10**400}).encode(), 422),
    "an unknown language": (json.dumps({**ASKED, "src": "xx"}).encode(), 503),
    "an unknown service": (json.dumps({**ASKED, "services": ["magic"]}).encode(), 503),
    "escapes": (json.dumps({**ASKED, "\x1b[2J": "\u202e"}).encode(), 422),
    "many jobs": (json.dumps({"jobs": [ASKED] * 1500, "owner": "me", "lease_ms": 1}).encode(), 422),
    "ten megabytes": (b" " * 10_000_000, 413),
}


@pytest.mark.parametrize(("body", "status"), BAD_BODIES.values(), ids=list(BAD_BODIES))
async def test_a_bad_request_for_a_job_is_named_and_changes_nothing(
    body: bytes, status: int, victim: ServeProcess, survives: None
) -> None:
    async with (
        connect(victim.url) as node,
        httpx.AsyncClient(base_url=victim.operator_url, trust_env=False) as http,
    ):
        await node.become_ready(State(languages=("en", "de")), node_id="worker")
        before = (await http.get("/api/v1/jobs")).json()["total"]
        for _ in range(20):
            answer = await http.post("/api/v1/jobs/reserve", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status, answer.text
            error = answer.json()["error"]
            assert error["message"].isprintable()
            assert len(answer.content) < 2000
            assert error["next"]
        assert (await http.get("/api/v1/jobs")).json()["total"] == before


PAIR = ("--src", "en", "--tgt", "de")

BAD_JOBS: dict[str, tuple[tuple[str, ...], int, str, str]] = {
    "an unknown language": (("reserve", "new", "--src", "xx", "--tgt", "de"), 4, "asr:xx: no node has it", "check"),
    "an unknown service": (
        ("reserve", "new", *PAIR, "--service", "magic"),
        4,
        "service:magic: no node has it",
        "check",
    ),
    "no slots": (("reserve", "new", *PAIR, "--slots", "0"), 2, "0 is not in the range", "--help"),
    "negative slots": (("reserve", "new", *PAIR, "--slots", "-3"), 2, "-3 is not in the range", "--help"),
    "an attempt from the future": (("renew", "held", "--attempt", "7"), 3, "is only at attempt 1", "--attempt 1"),
    "a reservation from the future": (("reserve", "held", *PAIR, "--attempt", "7"), 3, "only at attempt 1", "reassign"),
    "a long id": (("reserve", "j" * 10_000, *PAIR), 2, "(10000 characters) is no job id", "1 to 128 characters"),
    "finished twice": (("finish", "over", "--owner", "me"), 0, "", ""),
    "failed once finished": (("fail", "over", "--owner", "me"), 3, "job over is finished", "a job id of its own"),
    "somebody else": (("release", "held", "--owner", "you"), 3, "job held belongs to me", "--owner me"),
    "nobody's": (("release", "nobody"), 1, "no job nobody", "pyscheduler job list"),
}


@pytest.mark.parametrize(("arguments", "exit_code", "said", "step"), BAD_JOBS.values(), ids=list(BAD_JOBS))
async def test_what_is_wrong_with_a_job_is_told_with_what_to_do(
    arguments: tuple[str, ...],
    exit_code: int,
    said: str,
    step: str,
    victim: ServeProcess,
    survives: None,
    state_dir: Path,
) -> None:
    state = ("--state-dir", str(state_dir / "state"))
    async with (
        connect(victim.url) as node,
        await Allocator.open(_store_of(state_dir / "state")) as allocator,
    ):
        await node.become_ready(State(languages=("en", "de")), node_id="worker")
        for name in ("held", "over"):
            await allocator.reserve(name, JobRequest("en", "de"), owner="me", lease_ms=60_000)
        await allocator.finish_job("over", 1, owner="me")
        before = [(job.state, job.attempt) for job in await allocator.describe_jobs(["held", "over"])]
        result = await asyncio.to_thread(_command, "job", *arguments, *state)
        assert result.exit_code == exit_code, result.output
        assert said in result.stderr
        assert step in result.stderr
        assert len(result.stderr) < 1000
        assert [(job.state, job.attempt) for job in await allocator.describe_jobs(["held", "over"])] == before


# --- the process and its surroundings --------------------------------------------------------------------------------


def _started(folder: Path, *flags: str, name: str = "other") -> ServeProcess:
    return ServeProcess(folder, name, *flags)


@pytest.mark.parametrize("flag", ["--port", "--operator-port"])
def test_a_port_that_is_taken_is_named(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = _started(tmp_path, "--state-dir", str(tmp_path / "state"), flag, port)
        assert process.wait_ended() == 1
        assert f"port {port}: Address already in use; choose another with {flag}" in process.log.read_text()


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        process = _started(tmp_path, "--state-dir", str(place))
        assert process.wait_ended() == 2
        said = process.log.read_text()
        assert f"state directory {place} can't be used" in said
        assert "next: name another directory with --state-dir" in said


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        with (disk / "fill").open("wb", buffering=0) as fill:
            assert fill.write(bytes(1 << 20)) < 1 << 20
        process = _started(tmp_path, "--state-dir", str(disk / "state"), "--store-start-timeout-ms", "600")
        assert process.wait_ended() == 5
        said = process.log.read_text()
        assert "No space left on device" in said
        assert "next: free some space on that disk" in said
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [found.getsockname()[1] for found in (one, other)]
    serve = [sys.executable, "-m", "pyscheduler", "serve", "--state-dir", str(tmp_path / "state")]
    serve += ["--port", str(ports[0]), "--operator-port", str(ports[1])]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {closed}', "sh", *serve),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def is_ready() -> bool:
        assert process.returncode is None, f"it ended with {process.returncode}"
        async with httpx.AsyncClient(trust_env=False) as http:
            try:
                return (await http.get(f"http://127.0.0.1:{ports[1]}/ready")).status_code == 200
            except httpx.TransportError:
                return False

    try:
        await eventually(is_ready, "it is ready")
        await _serves(f"ws://127.0.0.1:{ports[0]}/ws/node")
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_embedded_server_may_be_killed_under_its_nodes(tmp_path: Path) -> None:
    """Two processes in one state directory, nodes on both, and the server between them killed three times."""
    state = tmp_path / "state"
    processes = [
        _started(tmp_path, "--state-dir", str(state), "--store-check-interval-ms", "100", name=name).wait_listening()
        for name in ("one", "two")
    ]
    try:
        async with connect(processes[0].url) as first, connect(processes[1].url) as second:
            await first.become_ready(node_id="first")
            await second.become_ready(node_id="second")
            for languages in (("fr", "it"), ("es", "pt"), ("de", "en")):
                with redis.Redis.from_url(_store_of(state)) as client:
                    killed = int(client.info("server")["process_id"])
                os.kill(killed, signal.SIGKILL)

                async def is_back(languages: tuple[str, str] = languages) -> bool:
                    # As nodes do, again and again: what a change had to wait for is not lost.
                    await first.heartbeat(State(languages=languages))
                    await second.heartbeat()
                    listed = await asyncio.to_thread(_command, "node", "list", "--json", "--state-dir", str(state))
                    if listed.exit_code:
                        return False
                    found = {node["node_id"]: (node["status"], node["pool"]) for node in json.loads(listed.stdout)}
                    return found == {"first": ("ready", "-".join(languages)), "second": ("ready", "de-en")}

                await eventually(is_back, "both nodes are back, under their languages")
                await _checks(_store_of(state), "pyscheduler")
        for process in processes:
            await _serves(process.url)
        assert processes[1].terminate() == 0
        assert processes[0].terminate() == 0
    finally:
        for process in processes:
            process.close()


# --- the store becomes unusable under a running process --------------------------------------------------------------

SECRET = "right-horse"


Undo = Callable[[], object]


def _lock_out(client: redis.Redis) -> Undo:
    client.config_set("requirepass", "another")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
    return lambda: client.config_set("requirepass", SECRET)


def _spoil(client: redis.Redis) -> Undo:
    client.rename("{pyscheduler}:nodes", "aside")
    client.set("{pyscheduler}:nodes", "junk")
    return lambda: client.rename("aside", "{pyscheduler}:nodes")


def _upgrade(client: redis.Redis) -> Undo:
    before = client.hget("{pyscheduler}:config", "schema")
    assert isinstance(before, bytes)
    client.hset("{pyscheduler}:config", "schema", "99")
    return lambda: client.hset("{pyscheduler}:config", "schema", before)


def _demote(client: redis.Redis) -> Undo:
    client.replicaof("127.0.0.1", "1")
    return lambda: client.replicaof("NO", "ONE")


def _fill(client: redis.Redis) -> Undo:
    client.config_set("maxmemory", "1mb")
    return lambda: client.config_set("maxmemory", "0")


TROUBLES: dict[str, tuple[Callable[[redis.Redis], Undo], str]] = {
    "wrong password": (_lock_out, "check user and password of the Redis URL"),
    "wrong type": (_spoil, "{pyscheduler}:nodes is a string, not a hash; something else writes to this namespace"),
    "newer version": (_upgrade, "upgrade pyscheduler"),
    "read-only replica": (_demote, "read-only replica"),
    "full memory": (_fill, "maxmemory"),
}


@pytest.mark.parametrize(("trouble", "said"), TROUBLES.values(), ids=list(TROUBLES))
async def test_trouble_with_the_store_is_told_and_outlived(
    trouble: Callable[[redis.Redis], Undo],
    said: str,
    make_server: Callable[..., PlainServer],
    tmp_path: Path,
) -> None:
    server = make_server(requirepass=SECRET)
    url = server.url.replace("unix://", f"unix://:{SECRET}@")
    process = _started(tmp_path, "--redis-url", url, "--store-check-interval-ms", "100").wait_listening()
    try:
        with redis.Redis.from_url(server.url, password=SECRET, single_connection_client=True) as client:
            async with connect(process.url) as old, connect(process.url) as late:
                await old.become_ready(node_id="old")
                undo = trouble(client)
                await late.send(HEAD.register(node_id="late"))
                error = await late.receive_until("error")
                assert error["code"] in ("SCHEDULER_DEPENDENCY_DOWN", "INTERNAL_ERROR")
                wait_until(
                    lambda: [line for line in process.lines() if said in str(line.get("error"))], "the log says why"
                )
                undo()

                async def is_stored() -> bool:
                    await late.send(HEAD.register(node_id="late"))
                    return bool((await late.receive())["type"] == "node_register_ack")

                await eventually(is_stored, "the late node is taken in on the same connection")
                await old.heartbeat(State(languages=("fr", "it")))
                await old.receive_until("node_status", pool="fr-it")
        await _serves(process.url)
        await _checks(url, "pyscheduler")
        assert len(process.lines()) < LOG_LINES
        assert process.terminate() == 0
        assert SECRET not in process.log.read_text()
    finally:
        process.close()
