"""A store that becomes unusable under a running process: it is told, and outlived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.doors import connect, eventually
from tests.e2e.victim import LOG_LINES, checks, needs_proc, serves, started
from tests.fixtures.clients import HEAD, State
from tests.servers import PlainServer
from tests.support import wait_until

pytestmark = needs_proc


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
    process = started(tmp_path, "--redis-url", url, "--store-check-interval-ms", "100").wait_listening()
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
        await serves(process.url)
        await checks(url, "pyscheduler")
        assert len(process.lines()) < LOG_LINES
        assert process.terminate() == 0
        assert SECRET not in process.log.read_text()
    finally:
        process.close()
