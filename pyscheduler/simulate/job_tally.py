"""Counters of a simulated stream of jobs."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import field

from pyscheduler.core.jobs import NO_NODE_REASONS
from pyscheduler.simulate.tally import BoundedCounter, Latencies, Problems

_NO_NODES = "no_nodes"


class JobTally(Problems):
    """What has become of the jobs so far.

    Attributes:
        arrived: jobs that have come.
        odd: of these, those that no node of the fleet is meant to serve.
        skipped: of these, those that were not asked for, because too many were under way.
        unasked: of these, those that were still to be asked for when the end came.
        reserved: first attempts that got a node.
        refused: attempts that got none, by what was against the node that came nearest.
        reassigned: further attempts that got a node.
        lost, lapsed: attempts that ended so: with their node, or with their lease.
        given_up: jobs that ended unfinished after their last attempt.
        released: attempts given back because the simulation ended.
        session_kept, session_moved: reservations of a session on the node that it had before, and on another one.
        errors: requests that were answered otherwise, or by nobody.
        left: live reservations that are left after the end; ``None``: not known, or not over.
        reserve_ms: from a job's arrival to its reservation.
    """

    arrived: int = 0
    odd: int = 0
    skipped: int = 0
    unasked: int = 0
    reserved: int = 0
    refused: BoundedCounter = field(default_factory=BoundedCounter)
    started: int = 0
    renewed: int = 0
    finished: int = 0
    failed: int = 0
    lost: int = 0
    lapsed: int = 0
    reassigned: int = 0
    given_up: int = 0
    released: int = 0
    session_kept: int = 0
    session_moved: int = 0
    errors: BoundedCounter = field(default_factory=BoundedCounter)
    left: int | None = None
    reserve_ms: Latencies = field(default_factory=Latencies)

    @property
    def answered(self) -> bool:
        """Whether a door has ever said what comes of a job."""
        return self.reserved > 0 or self.refused.total() > 0

    def document(self) -> dict[str, object]:
        """As plain JSON values."""
        names = (
            *("arrived", "odd", "skipped", "unasked", "reserved", "started", "renewed", "finished", "failed"),
            *("lost", "lapsed", "reassigned", "given_up", "released", "left"),
        )
        return {
            **{name: getattr(self, name) for name in names},
            "refused": self.refused.as_dict(),
            "errors": self.errors.as_dict(),
            "sessions": {"kept": self.session_kept, "moved": self.session_moved},
            "reserve_ms": self.reserve_ms.as_dict(),
        }


def nearest(reasons: Mapping[str, object]) -> str:
    """What was against the node that came nearest to having a job: nodes are looked at in the order of the reasons.

    Args:
        reasons: how many nodes fail each condition.
    """
    known = [reason for reason in NO_NODE_REASONS if isinstance(reasons.get(reason), int)]
    return known[-1] if known else next(iter(reasons), _NO_NODES)
