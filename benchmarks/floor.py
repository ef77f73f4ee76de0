"""The floor: the least that a correct heartbeat or registration of this kind can cost a store of this kind.

One EVALSHA that takes the time, reads three fields of a node's hash, writes one, and changes the node's score in a
sorted set. 50 connections, pipelines of 16. What a row costs is given as a multiple of it, F.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks.server import StoreServer, Usage
from benchmarks.wire import Answer, pack

NODES = 10_000
_FILL = 5_000

_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('HMGET', KEYS[1], 'epoch', 'class', 'status')
redis.call('HSET', KEYS[1], 'seen', now)
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 1
"""


class Floor:
    """The floor on a server.

    Args:
        server: which.
        calls: operations of one measurement.
        nodes: how many there are. F is the floor of 10,000.
    """

    def __init__(self, server: StoreServer, calls: int, nodes: int = NODES) -> None:
        self._server = server
        sha = server.client.script_load(_SCRIPT)
        for first in range(0, nodes, _FILL):
            with server.client.pipeline(transaction=False) as fill:
                for number in range(first, min(first + _FILL, nodes)):
                    fields: dict[Any, Any] = {"epoch": number, "class": number % 200, "status": "r", "seen": 0}
                    fill.hset(f"{{floor}}:node-{number:07d}", mapping=fields)
                    fill.zadd("{floor}:leases", {f"node-{number:07d}": number})
                fill.execute()
        order = random.Random(1)
        numbers = [order.randrange(nodes) for _ in range(calls)]
        self._commands = [
            pack("EVALSHA", sha, 2, f"{{floor}}:node-{number:07d}", "{floor}:leases", f"node-{number:07d}")
            for number in numbers
        ]

    def measure(self) -> tuple[float, Usage]:
        """CPU of one floor operation in microseconds, and the whole usage."""
        usage = self._server.load(self._commands, Answer(1, b":1\r\n"))
        return usage.cpu_s * 1e6 / len(self._commands), usage
