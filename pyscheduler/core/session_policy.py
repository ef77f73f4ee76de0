"""SessionPolicy: what all node sessions of a process share."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.lifecycle import LifecyclePolicy


class SessionPolicy(Struct, frozen=True):
    """Thresholds and sources of a process's sessions.

    Args:
        clock: wall-clock time in whole seconds, for ``node_status``.
        new_node_id: makes an id for a node that has none.
        admission: the admission policy as last seen; ``None``: not read yet. It may be out of date: nobody is refused
            under it without reading it anew.
        lifecycle: thresholds of the lifecycle.
        registration_timeout_ms: a socket that has not registered within this time is closed.
        silence_ms: a registered node that sends nothing for this time is closed. Longer than the lease, so that a late
            heartbeat finds its socket open.
        retry_ms: time after which a failed store call is repeated if nothing else has caused it by then.
        max_bad_frames: refused frames in a row after which the socket is closed.
    """

    clock: Callable[[], int]
    new_node_id: Callable[[], str]
    admission: AdmissionPolicy | None = None
    lifecycle: LifecyclePolicy = field(default_factory=LifecyclePolicy)
    registration_timeout_ms: int = 30_000
    silence_ms: int = 135_000
    retry_ms: int = 15_000
    max_bad_frames: int = 1000
