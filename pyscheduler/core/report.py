"""NodeReport: all that the allocator writes for one node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyscheduler.core.canonical import canonical_json, json_object, short_digest
from pyscheduler.core.facts import Facts
from pyscheduler.core.limits import MAX_RECORD_BYTES, MAX_USAGE_BYTES
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import InvalidInput

WRITTEN_STATUSES = frozenset({NodeStatus.REGISTERING, NodeStatus.READY, NodeStatus.DEGRADED})
"""What a writer may report. ``draining`` and ``offline`` follow from holds and closed sockets, in the store."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node is, can do and is doing.

    Args:
        facts: what matching looks at.
        record: JSON object of everything the node registered with, at most 64 KiB; shown, never matched.
        status: registering, ready or degraded.
        load: how busy the node is, 0..1.
        usage: JSON object of the latest resource usage, at most 4 KiB; shown, never matched.

    Attributes:
        digest: first 16 hex digits of the SHA-1 of facts and record; changes exactly when one of them does.

    Raises:
        InvalidInput: one of these is out of its bound.
    """

    facts: Facts
    record: str
    status: NodeStatus
    load: float
    usage: str
    digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        json_object(self.record, what="record", max_bytes=MAX_RECORD_BYTES)
        json_object(self.usage, what="usage", max_bytes=MAX_USAGE_BYTES)
        if self.status not in WRITTEN_STATUSES:
            raise InvalidInput(f"a node cannot be reported as {self.status}: only as registering, ready or degraded")
        if isinstance(self.load, bool) or not math.isfinite(self.load) or not 0 <= self.load <= 1:
            raise InvalidInput(f"load must be a number from 0 to 1, not {self.load!r}")
        object.__setattr__(self, "digest", short_digest(f"{self.facts.json}\n{self.record}"))

    @classmethod
    def of_checked(
        cls, facts: Facts, record: str, digest: str, status: NodeStatus, load: float, usage: str
    ) -> NodeReport:
        """A report of what was checked when it was read. ``digest``: what the class would make of the first two."""
        report = object.__new__(cls)
        put = object.__setattr__
        put(report, "facts", facts)
        put(report, "record", record)
        put(report, "digest", digest)
        put(report, "status", status)
        put(report, "load", load)
        put(report, "usage", usage)
        return report

    @classmethod
    def of(
        cls,
        facts: Facts,
        *,
        record: Mapping[str, object] | None = None,
        status: NodeStatus = NodeStatus.READY,
        load: float = 0.0,
        usage: Mapping[str, object] | None = None,
    ) -> NodeReport:
        """A report from plain objects, for callers that hold no JSON text.

        Raises:
            InvalidInput: see the class; also for a record or usage that is not JSON (NaN, say).
        """
        try:
            return cls(
                facts, canonical_json(dict(record or {})), NodeStatus(status), load, canonical_json(dict(usage or {}))
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"record and usage must be JSON objects: {error}") from error
