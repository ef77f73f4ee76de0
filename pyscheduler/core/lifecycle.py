"""Lifecycle of a node as its own heartbeats drive it: registering, ready, degraded.

The rules are those of the fleet's last server that had a lifecycle (public repository TinoTau/lingua_1, revision
29a05c0). ``draining`` and ``offline`` are no business of this module: they follow from holds and closed sockets.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import force_setattr

from pyscheduler.core import ids
from pyscheduler.core.limits import MAX_REASON_CHARS
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import InvalidInput


class LifecyclePolicy(Struct, frozen=True):
    """Thresholds of the lifecycle.

    Args:
        checks_to_ready: healthy heartbeats in a row from registering to ready, 1..100.
        failures_to_degrade: failed heartbeats in a row from ready to degraded, 1..100.
        warmup_ms: time from registration after which a node that is not ready is degraded, 1..86,400,000 ms.
        core_services: service types that make a node useful; at least one must be installed. 1..32 types.
        require_all_running: true if, before a node is ready, each installed core type must have a running service;
            false if one core type is enough.

    Raises:
        InvalidInput: out of these bounds.
    """

    checks_to_ready: int = 1
    failures_to_degrade: int = 3
    warmup_ms: int = 60_000
    core_services: tuple[str, ...] = ("asr", "nmt", "tts")
    require_all_running: bool = True

    def __post_init__(self) -> None:
        for name, value, top in (
            ("checks_to_ready", self.checks_to_ready, 100),
            ("failures_to_degrade", self.failures_to_degrade, 100),
            ("warmup_ms", self.warmup_ms, 86_400_000),
        ):
            if not 1 <= value <= top:
                raise InvalidInput(f"{name} must be from 1 to {top}, not {value}")
        if not 1 <= len(self.core_services) <= 32:
            raise InvalidInput(f"core_services must name 1 to 32 service types, not {len(self.core_services)}")
        force_setattr(self, "core_services", tuple(ids.service_type(name) for name in self.core_services))


class Vitals(Struct, frozen=True):
    """What one health check looks at.

    Args:
        gpus: number of GPUs that the node registered with.
        gpu_percent: as its heartbeat says; ``None`` if it does not say (then it is not held against the node).
        running: for each installed service type, whether a service of it runs.
    """

    gpus: int
    gpu_percent: float | None
    running: Mapping[str, bool]


class StatusChange(Struct, frozen=True):
    from_: NodeStatus
    to: NodeStatus
    reason: str


class Lifecycle:
    """Status of one node, from its registration on. Times are ms of any clock that only grows."""

    __slots__ = ("_failure", "_failures", "_passes", "_policy", "_since_ms", "status")

    def __init__(self, policy: LifecyclePolicy, now_ms: int) -> None:
        self._policy = policy
        self._since_ms = now_ms
        self._passes = 0
        self._failures = 0
        self._failure = "no heartbeat yet"
        self.status = NodeStatus.REGISTERING

    def on_heartbeat(self, vitals: Vitals, now_ms: int) -> StatusChange | None:
        """Judge one heartbeat. Returns the change that it brings, if any."""
        failure = self.failure(vitals)
        if failure is not None:
            self._failure = failure
            self._passes = 0
            self._failures += 1
            if self.status is NodeStatus.READY and self._failures >= self._policy.failures_to_degrade:
                times = f"{self._failures} times in a row" if self._failures > 1 else "once"
                return self._change(NodeStatus.DEGRADED, f"Health check failed {times}: {failure}")
            return self.on_time(now_ms)
        self._failure = "too few healthy heartbeats"
        self._failures = 0
        self._passes += 1
        if self.status is NodeStatus.DEGRADED:
            return self._change(NodeStatus.READY, "Health recovered")
        if self.status is NodeStatus.REGISTERING and self._passes >= self._policy.checks_to_ready:
            return self._change(NodeStatus.READY, "Health check passed")
        return self.on_time(now_ms)

    def on_time(self, now_ms: int) -> StatusChange | None:
        """End the warm-up if its time is over. Returns the change that this brings, if any."""
        if self.status is NodeStatus.REGISTERING and now_ms - self._since_ms >= self._policy.warmup_ms:
            seconds = self._policy.warmup_ms / 1000
            return self._change(NodeStatus.DEGRADED, f"Not ready within {seconds:g} s: {self._failure}")
        return None

    def failure(self, vitals: Vitals) -> str | None:
        """Why ``vitals`` are not healthy for a node of this status; ``None`` if they are.

        A node that registers must have a core service, and every core type that it has must run; one that has been
        through that is healthy while any service runs.
        """
        if vitals.gpus < 1:
            return "no GPU is listed"
        if vitals.gpu_percent is not None and not 0 <= vitals.gpu_percent <= 100:
            return f"gpu_percent is {vitals.gpu_percent:g}, not within 0 to 100"
        if self.status is not NodeStatus.REGISTERING:
            return None if any(vitals.running.values()) else "no service is running"
        core = {name: vitals.running[name] for name in self._policy.core_services if name in vitals.running}
        if not core:
            return f"none of the services {', '.join(self._policy.core_services)} is installed"
        stopped = [name for name, runs in core.items() if not runs]
        if stopped and (self._policy.require_all_running or len(stopped) == len(core)):
            return f"not running: {', '.join(stopped)}"
        return None

    def _change(self, to: NodeStatus, reason: str) -> StatusChange:
        change = StatusChange(self.status, to, reason[:MAX_REASON_CHARS])
        self.status = to
        return change
