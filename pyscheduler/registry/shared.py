"""What the node connections of one process share."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.session_policy import SessionPolicy
from pyscheduler.registry.logs import Log

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator
    from pyscheduler.registry.metrics import Metrics
    from pyscheduler.registry.sockets import Sockets


def now_ms() -> int:
    """The process's monotonic clock, in ms."""
    return time.monotonic_ns() // 1_000_000


class Shared(Struct):
    """What all connections of a process share.

    Args:
        allocator: the store.
        sockets: the process's table of sockets.
        metrics: counters.
        log: the log.
        instance: id of this process.
        policy: session policy; its admission part follows the store.
        lease_ms: lease of a node, in ms.
        grace_ms: reconnect grace, in ms.
        send_timeout_ms: how long one message may take to leave, in ms.
        takeover: whether a newcomer with the id of a live node displaces it.
        job_changes: whether the operator door changes jobs.
        started_s: when the process began, by the monotonic clock.
    """

    allocator: Allocator
    sockets: Sockets
    metrics: Metrics
    log: Log
    instance: str
    policy: SessionPolicy
    lease_ms: int
    grace_ms: int
    send_timeout_ms: int
    takeover: bool
    job_changes: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process begins to stop: who waits at a door waits no longer."""
    job_waits: int = 0
    """Requests that wait for a node at the operator door."""
    started_s: float = field(default_factory=time.monotonic)

    def learn_admission(self, policy: AdmissionPolicy) -> None:
        """Later sockets begin with the admission policy that was seen last."""
        if policy != self.policy.admission:
            self.policy = replace(self.policy, admission=policy)
