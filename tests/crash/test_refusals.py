"""Whatever a server may refuse a write for, it refuses the whole call: before a script's first write or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyscheduler.keys import key
from tests.crash import points
from tests.crash.rig import NAMESPACE, Prepared, Rig
from tests.crash.scenarios import SCENARIOS, WRITING
from tests.support import wait_until

EACH_THAT_WRITES = pytest.mark.parametrize("name", WRITING)


@contextmanager
def configured(rig: Rig, **settings: str) -> Iterator[None]:
    """Settings of the server for a while."""
    before = {name: rig.client.config_get(name)[name] for name in settings}
    try:
        for name, value in settings.items():
            rig.client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            rig.client.config_set(name, value)


def refused_or_done(rig: Rig, prepared: Prepared, place: str, user: str = "default") -> str:
    """One attempt; what it is refused with, or nothing. Done in part is a failure."""
    refusal = rig.attempt(prepared, user)
    points.assert_state(
        rig.look(),
        {"before": prepared.before} if refusal else {"after": prepared.after},
        f"{place}: {refusal or 'done'}",
    )
    return refusal


@EACH_THAT_WRITES
def test_a_user_who_lacks_a_permission(rig: Rig, name: str) -> None:
    """One command after another is denied, of those that the call makes."""
    prepared = rig.prepare(WRITING[name])
    for command in sorted({command.split()[0] for command in prepared.trace}):
        if not rig.shebang and command in rig.writers:
            continue  # Redis 6.2 cannot be asked beforehand
        rig.put(prepared.snapshot)
        rig.client.execute_command(
            "ACL", "SETUSER", "poor", "reset", "on", ">secret", "~*", "+@all", f"-{command.lower()}"
        )
        assert refused_or_done(rig, prepared, f"without {command}", "poor"), f"{command} is denied"
    rig.client.execute_command("ACL", "DELUSER", "poor")


def test_a_user_with_the_permissions_that_the_manual_names(rig: Rig) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = (line for line in manual.splitlines() if line.startswith("ACL SETUSER"))
    rig.client.execute_command(
        *line.replace(">PASSWORD", ">secret").replace("{pyscheduler}", f"{{{NAMESPACE}}}").split()
    )
    for name, scenario in SCENARIOS.items():
        prepared = rig.prepare(scenario)
        rig.put(prepared.snapshot)
        assert not refused_or_done(rig, prepared, name, "pyscheduler")
    rig.client.execute_command("ACL", "DELUSER", "pyscheduler")


@pytest.mark.faults
@EACH_THAT_WRITES
def test_a_user_who_may_only_read_one_of_the_keys(rig: Rig, name: str) -> None:
    if not rig.shebang:
        pytest.skip("Redis 6.2 has no permissions for reading alone")
    prepared = rig.prepare(WRITING[name])
    (call,) = prepared.calls
    names = rig.scripts[call.script].header.keys
    for poor in names:
        rig.put(prepared.snapshot)
        patterns = [f"{'%R' if each == poor else ''}~{key(NAMESPACE, each)}" for each in names]
        rig.client.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">secret", "+@all", *patterns)
        assert refused_or_done(rig, prepared, f"{poor} may only be read", "poor"), poor
    rig.client.execute_command("ACL", "DELUSER", "poor")


@EACH_THAT_WRITES
def test_too_few_replicas(rig: Rig, name: str) -> None:
    prepared = rig.prepare(WRITING[name])
    rig.put(prepared.snapshot)
    with configured(rig, **{"min-replicas-to-write": "1"}):
        refusal = refused_or_done(rig, prepared, "too few replicas")
    # Redis 6.2 does not ask for replicas when it runs a script.
    assert ("NOREPLICAS" in refusal) is rig.shebang
    points.assert_repeats(rig, prepared, "there were too few replicas")


@EACH_THAT_WRITES
def test_a_read_only_replica(rig: Rig, name: str) -> None:
    prepared = rig.prepare(WRITING[name])
    rig.put(prepared.snapshot)
    rig.client.replicaof("127.0.0.1", "1")
    try:
        assert "read only replica" in refused_or_done(rig, prepared, "a replica").lower()
    finally:
        rig.client.replicaof("NO", "ONE")
    points.assert_repeats(rig, prepared, "it was a replica")


@pytest.fixture
def rig_that_cannot_save(rig: Rig) -> Iterator[Rig]:
    """A server whose snapshots fail, and that takes no writes because of it."""
    in_the_way = rig.server.folder / "dump.rdb"
    with configured(rig, save="3600 1000000"):
        in_the_way.unlink(missing_ok=True)
        in_the_way.mkdir()
        rig.client.bgsave()
        wait_until(lambda: rig.client.info("persistence")["rdb_last_bgsave_status"] == "err", "a snapshot has failed")
        yield rig
        in_the_way.rmdir()
        rig.client.bgsave()
        wait_until(lambda: rig.client.info("persistence")["rdb_last_bgsave_status"] == "ok", "a snapshot is there")
    in_the_way.unlink()


def test_a_server_that_cannot_save(rig_that_cannot_save: Rig) -> None:
    rig = rig_that_cannot_save
    for name in WRITING:
        prepared = rig.prepare(WRITING[name])
        with configured(rig, **{"stop-writes-on-bgsave-error": "no"}):
            rig.put(prepared.snapshot)
        assert "MISCONF" in refused_or_done(rig, prepared, f"{name}, no snapshot")


@EACH_THAT_WRITES
def test_memory_that_is_full_from_any_point_on(rig: Rig, name: str) -> None:
    """It fills up in the middle of the script, from its first write on or from a later one: the script goes on."""
    prepared = rig.prepare(WRITING[name])
    late = prepared.points[prepared.first_write :]
    for point in late[:: max(1, len(late) // 3)]:
        rig.put(prepared.snapshot)
        with configured(rig, maxmemory=str(rig.used_memory() + 2_000_000)):
            rig.fill(prepared, point)
            assert rig.used_memory() > int(rig.client.config_get("maxmemory")["maxmemory"])
            rig.client.delete("ballast")
        points.assert_state(rig.look(), {"after": prepared.after}, f"memory full from point {point} on")


@EACH_THAT_WRITES
def test_memory_that_is_full_before(rig: Rig, name: str) -> None:
    """Refused, or done whole where that gives capacity back; and both just where the line is."""
    prepared = rig.prepare(WRITING[name])
    for room in (-100_000, 0, 10_000, 20_000, 40_000):
        rig.put(prepared.snapshot)
        with configured(rig, maxmemory=str(rig.used_memory() + room)):
            refusal = refused_or_done(rig, prepared, f"{room} bytes of memory left")
        assert not refusal or "memory" in refusal
        points.assert_repeats(rig, prepared, f"there were {room} bytes of memory left")


@pytest.mark.breaks_store
@pytest.mark.parametrize("name", [name for name in WRITING if name != "a_new_namespace"])
def test_a_history_whose_newest_entry_was_deleted(rig: Rig, name: str) -> None:
    """Redis remembers its id, and takes none that is not above it."""
    prepared = rig.prepare(WRITING[name])
    rig.put(prepared.snapshot)
    history, version = key(NAMESPACE, "history"), key(NAMESPACE, "config")
    number = int(str(rig.client.hget(version, "version"))) + 1
    rig.client.xadd(history, {"at": "0"}, id=f"{number}-0")
    rig.client.xdel(history, f"{number}-0")
    before = rig.look()
    refusal = rig.attempt(prepared)
    assert not refusal or rig.look() == before
    assert bool(refusal) is (prepared.before["history"] != prepared.after["history"])
