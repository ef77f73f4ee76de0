"""The system that this package replaces, as far as its failures go: each process with a configuration and a numbering
of pools of its own, the store written by one plain command after another.

It does the ordinary thing right as long as nothing comes in between; ``test_regressions.py`` holds that as well.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pyscheduler.store import Reply, Store
from tests.fleet import JOB_LEASE_MS, SLOTS, Fleet, Instance, Place, Pools, Socket
from tests.harness import LEASE_MS
from tests.oracle import meets

DOCUMENT_TTL_MS = 3_600_000
SHARDS = (24, 48, 80)
"""A pool has one set of members for each size of GPU, in GB."""


class OldWay(Fleet):
    """Keys: ``document`` (expires), ``version``, ``numbers``, ``node:<id>`` (expires), ``pool:<name>:<shard>``,
    ``slots`` (how many are taken, by node), ``job:<id>`` (expires)."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        super().__init__(redis_url, namespace)
        self._instances: list[_OldInstance] = []

    def key(self, *parts: object) -> str:
        return ":".join([f"{{{self.namespace}}}", "old", *map(str, parts)])

    async def start(self, name: str) -> Instance:
        self._instances.append(_OldInstance(self, await self.connect()))
        return self._instances[-1]

    async def sync(self, *pools: dict[str, Any]) -> None:
        await self.store.command("SET", self.key("document"), json.dumps(pools), "PX", DOCUMENT_TTL_MS)
        await self.store.command("INCR", self.key("version"))
        await self.upkeep()

    async def upkeep(self) -> None:
        for instance in self._instances:
            await instance.on_timer()

    async def pass_time(self, milliseconds: int) -> None:
        await self.age_keys(milliseconds)

    async def pools(self) -> Pools:
        members: defaultdict[str, set[str]] = defaultdict(set)
        for key in await self.store.command("KEYS", self.key("pool", "*")):
            members[key.split(":")[-2]].update(await self.store.command("SMEMBERS", key))
        return {name: frozenset(nodes) for name, nodes in members.items()}

    async def pool_numbers(self) -> Mapping[str, int]:
        flat = await self.store.command("HGETALL", self.key("numbers"))
        return {name: int(number) for name, number in zip(flat[::2], flat[1::2], strict=True)}

    async def configuration(self) -> tuple[int, tuple[str, ...]]:
        version = await self.store.command("GET", self.key("version"))
        document = await self.store.command("GET", self.key("document"))
        return int(version or 0), tuple(pool["name"] for pool in json.loads(document or "[]"))

    async def able_to_serve(self, source: str, target: str) -> int:
        found = 0
        for shard in SHARDS:
            members = await self.store.command("SMEMBERS", self.key("pool", set_name([source, target]), shard))
            if not members:
                break
            found += len(members)
        return found

    async def place_of(self, job_id: str) -> Place | None:
        node_id, pool = await self.store.command("HMGET", self.key("job", job_id), "node", "pool")
        return None if node_id is None else Place(node_id, pool)


def set_name(languages: Sequence[str]) -> str:
    return "-".join(sorted(languages))


class _OldInstance(Instance):
    def __init__(self, fleet: OldWay, store: Store) -> None:
        self._fleet, self._send = fleet, store.command
        self._key = fleet.key
        self._configured_at_start: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}

    def accept(self) -> Socket:
        return _OldSocket(self)

    async def reserve(self, job_id: str, source: str, target: str) -> Place | None:
        pool = set_name([source, target])
        nodes = [node_id for shard in SHARDS for node_id in await self._members(pool, shard)]
        for node_id in sorted(nodes):
            if int(await self._send("HGET", self._key("slots"), node_id) or 0) < SLOTS:
                await self._send("HINCRBY", self._key("slots"), node_id, 1)
                await self._send("HSET", self._key("job", job_id), "node", node_id, "pool", pool)
                await self._send("PEXPIRE", self._key("job", job_id), JOB_LEASE_MS)
                return Place(node_id, pool)
        return None

    async def finish(self, job_id: str) -> None:
        node_id = await self._send("HGET", self._key("job", job_id), "node")
        if node_id is not None:
            await self._send("HINCRBY", self._key("slots"), node_id, -1)
            await self._send("DEL", self._key("job", job_id))

    async def register(self, node_id: str, languages: Sequence[str], gpu_gb: int) -> None:
        pool = self._choose(self._configured_at_start, languages)
        node = self._key("node", node_id)
        await self._send("HSET", node, "languages", ",".join(languages), "pool", pool, "gpu", gpu_gb)
        await self._send("PEXPIRE", node, LEASE_MS)
        await self._add(pool, gpu_gb, node_id)

    async def heartbeat(self, node_id: str, languages: Sequence[str]) -> None:
        pool = self._choose(await self._document(), languages)
        node = self._key("node", node_id)
        before, gpu_gb = await self._send("HMGET", node, "pool", "gpu")
        await self._send("PEXPIRE", node, LEASE_MS)
        if pool == before:
            return
        if before is not None:
            await self._remove(before, gpu_gb, node_id)
        await self._send("HSET", node, "languages", ",".join(languages), "pool", pool, "gpu", gpu_gb or SHARDS[0])
        await self._add(pool, gpu_gb or SHARDS[0], node_id)

    async def close(self, node_id: str) -> None:
        node = self._key("node", node_id)
        pool, gpu_gb = await self._send("HMGET", node, "pool", "gpu")
        await self._remove(pool, gpu_gb, node_id)
        await self._send("DEL", node)
        await self._send("HDEL", self._key("slots"), node_id)

    async def on_timer(self) -> None:
        """Takes over the configuration, and builds the index of pools anew from the nodes that there are."""
        document = await self._document()
        for key in await self._send("KEYS", self._key("pool", "*")):
            await self._send("DEL", key)
        for node in sorted(await self._send("KEYS", self._key("node", "*"))):
            languages, gpu_gb = await self._send("HMGET", node, "languages", "gpu")
            pool = self._choose(document, languages.split(","))
            await self._send("HSET", node, "pool", pool)
            await self._add(pool, gpu_gb, node.split(":")[-1])

    def _choose(self, document: list[dict[str, Any]], languages: Sequence[str]) -> str:
        declared = (pool["name"] for pool in document if meets(pool["match"], {"semantic": languages}))
        return next(declared, set_name(languages))

    async def _document(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(await self._send("GET", self._key("document")) or "[]")
        return found

    async def _add(self, pool: str, gpu_gb: int | str, node_id: str) -> None:
        members = await self._members(pool, gpu_gb)
        await self._rewrite(pool, gpu_gb, [*members, node_id])
        if pool not in self._numbers:
            self._numbers[pool] = max(self._numbers.values(), default=0) + 1
            await self._send("HSET", self._key("numbers"), pool, self._numbers[pool])

    async def _remove(self, pool: str, gpu_gb: int | str, node_id: str) -> None:
        members = await self._members(pool, gpu_gb)
        await self._rewrite(pool, gpu_gb, [member for member in members if member != node_id])

    async def _members(self, pool: str, gpu_gb: int | str) -> Reply:
        return await self._send("SMEMBERS", self._key("pool", pool, gpu_gb))

    async def _rewrite(self, pool: str, gpu_gb: int | str, members: Sequence[str]) -> None:
        await self._send("DEL", self._key("pool", pool, gpu_gb))
        if members:
            await self._send("SADD", self._key("pool", pool, gpu_gb), *members)


class _OldSocket(Socket):
    def __init__(self, instance: _OldInstance) -> None:
        self._instance = instance
        self._node_id = ""

    async def register(self, node_id: str, *languages: str, gpu_gb: int = SHARDS[0]) -> None:
        self._node_id = node_id
        await self._instance.register(node_id, languages, gpu_gb)

    async def heartbeat(self, *languages: str, claiming: str = "") -> None:
        await self._instance.heartbeat(claiming or self._node_id, languages)

    async def close(self) -> None:
        await self._instance.close(self._node_id)
