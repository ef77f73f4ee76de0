"""What may happen to a script at one of its points, each done for real and held against what must hold then.

Each function raises AssertionError, with the point and the call there, if the state is neither that before nor that
after, or if repeating the call does not lead where one undisturbed call leads.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from enum import StrEnum

from tests.crash.rig import Content, Prepared, Rig
from tests.support import DEADLINE_S, wait_until


def reads_after_the_first_write(rig: Rig, prepared: Prepared) -> list[str]:
    """Calls that could still find something wrong when it is too late. Empty for a script that keeps the order."""
    late = prepared.trace[prepared.first_write :]
    return [command for command in late if command.split()[0] not in rig.writers]


def repeats(prepared: Prepared) -> None:
    """A caller that did not get the reply repeats its call: nothing more comes of it."""
    assert_state(prepared.again, {"after": prepared.after}, "the call repeated")
    assert prepared.reply_again in ("OK", "EXISTS", "UNCHANGED"), f"the call repeated: {prepared.reply_again}"


def script_fails(rig: Rig, prepared: Prepared, point: int) -> None:
    """A call of Redis raises an error."""
    rig.put(prepared.snapshot)
    rig.fail(prepared, point)
    assert_state(rig.look(), {"before": prepared.before}, f"an error at {_place(prepared, point)}")


def script_is_killed(rig: Rig, prepared: Prepared, point: int) -> None:
    """SCRIPT KILL while the script waits: done before its first write, refused after it."""
    rig.put(prepared.snapshot)
    rig.begin(prepared, point)
    killed = rig.kill_script()
    if not killed:
        rig.crash()
    place = _place(prepared, point)
    assert killed is (point <= prepared.first_write), f"killed: {killed} at {place}"
    assert_state(rig.look(), {"before": prepared.before}, f"SCRIPT KILL at {place}")


def server_dies(rig: Rig, prepared: Prepared, point: int) -> None:
    """The server is killed while the script waits, starts again, and the caller repeats its call."""
    rig.put(prepared.snapshot)
    rig.begin(prepared, point)
    rig.crash()
    place = f"the server died at {_place(prepared, point)}"
    assert_state(rig.look(), {"before": prepared.before, "after": prepared.after}, place)
    assert_repeats(rig, prepared, place)


def server_dies_before_the_reply_is_read(rig: Rig, prepared: Prepared) -> None:
    """The server has done all and said so, and dies: what it has acknowledged is kept."""
    rig.put(prepared.snapshot)
    for call in prepared.calls:
        rig.send(call)
    rig.crash()
    assert_state(rig.look(), {"after": prepared.after}, "the server died after its answer")
    assert_repeats(rig, prepared, "the server died after its answer")


# A client of nothing but a socket: what it sends comes on its standard input, and how much of it as an argument.
_CLIENT = """
import os, signal, socket, sys
path, size, reads = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "reads"
server = socket.socket(socket.AF_UNIX)
server.connect(path)
server.sendall(sys.stdin.buffer.read()[:size])
if reads:
    server.recv(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Moment(StrEnum):
    """When a client dies."""

    BEFORE_SENDING = "before it has sent anything"
    IN_THE_MIDDLE = "in the middle of its call"
    BEFORE_READING = "before it has read the reply"
    AFTER_THE_REPLY = "when it has its reply"


def client_dies(rig: Rig, prepared: Prepared, moment: Moment) -> None:
    """The process that calls is killed; another one repeats its call."""
    rig.put(prepared.snapshot)
    place = f"the client died {moment}"
    wire = b"".join(rig.wire(call) for call in prepared.calls)
    size = {Moment.BEFORE_SENDING: 0, Moment.IN_THE_MIDDLE: len(wire) // 2}.get(moment, len(wire))
    reads = "reads" if moment is Moment.AFTER_THE_REPLY else ""
    clients = rig.count_clients()
    command = [sys.executable, "-I", "-S", "-c", _CLIENT, rig.socket_path, str(size), reads]
    died = subprocess.run(command, input=wire, timeout=DEADLINE_S)
    assert died.returncode == -signal.SIGKILL, f"the client ended with {died.returncode}"
    wait_until(lambda: rig.count_clients() == clients, "the server has noticed")
    state = {"before": prepared.before} if size < len(wire) else {"after": prepared.after}
    assert_state(rig.look(), state, place)
    assert_repeats(rig, prepared, place)


def log_is_torn(rig: Rig, prepared: Prepared, choose: slice) -> int:
    """The server dies while it writes its log: the log ends anywhere in what the call wrote. Returns how many ends.

    Args:
        rig: the server.
        prepared: the scenario.
        choose: which of the ends are tried.
    """
    rig.put(prepared.snapshot)
    log = rig.log_file()
    begin = log.stat().st_size
    rig.run(prepared.calls)
    whole = log.read_bytes()
    ends = _ends(whole, begin)[choose]
    for end in ends:
        rig.start_again_with(log, whole[:end])
        place = f"the log ends after {end - begin} of {len(whole) - begin} bytes"
        assert_state(rig.look(), {"before": prepared.before, "after": prepared.after}, place)
        assert_repeats(rig, prepared, place)
    return len(ends)


def _ends(log: bytes, begin: int) -> list[int]:
    """Places in what was written last: each command's begin and middle, and a byte before the end."""
    starts = [index + 2 for index in _occurrences(log, b"\r\n*", begin - 2)]
    assert starts, "the call has written to the log"
    middles = [(first + second) // 2 for first, second in zip(starts, [*starts[1:], len(log)], strict=True)]
    return sorted({*starts, *middles, len(log) - 1})


def _occurrences(text: bytes, part: bytes, begin: int) -> Iterable[int]:
    at = text.find(part, begin)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def assert_repeats(rig: Rig, prepared: Prepared, place: str) -> None:
    """The client, which has no reply, repeats its call with the ordinary scripts."""
    was_done = rig.look() == prepared.after != prepared.before
    rig.run(prepared.calls)
    wanted = {"again": prepared.again} if was_done else {"after": prepared.after}
    assert_state(rig.look(), wanted, f"the call repeated after {place}")


def assert_state(found: Content, allowed: dict[str, Content], place: str) -> None:
    if found in allowed.values():
        return
    closest = min(allowed, key=lambda name: len(_differences(found, allowed[name])))
    differ = "\n".join(_differences(found, allowed[closest]))
    raise AssertionError(f"{place}: the state is not that {' nor that '.join(allowed)}; from {closest}:\n{differ}")


def _differences(found: Content, wanted: Content) -> list[str]:
    differ = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    return [f"  {name}: {found.get(name)} is not {wanted.get(name)}" for name in differ]


def _place(prepared: Prepared, point: int) -> str:
    if point == len(prepared.trace):
        return f"point {point}, before the reply"
    side = "before" if point < prepared.first_write else "at" if point == prepared.first_write else "after"
    return f"point {point} ({prepared.trace[point]}), {side} the first write"
