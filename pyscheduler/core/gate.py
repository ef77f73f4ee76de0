"""AdmissionGate: the admission of one registration, by a policy that may change under it."""

from __future__ import annotations

from pyscheduler.core.admission import AdmissionPolicy, Missing
from pyscheduler.core.profile import NodeProfile

MAX_ROUNDS = 8
"""Times in a row that the policy may change under one registration before it waits for the next tick."""


class AdmissionGate:
    """What a registration was checked under, and whether that may be out of date.

    Args:
        policy: the policy as last seen by this process; ``None``: not read yet.
    """

    __slots__ = ("_fresh", "_rounds", "due", "policy")

    def __init__(self, policy: AdmissionPolicy | None) -> None:
        self.policy = policy
        self.due = False
        self._fresh = False
        self._rounds = 0

    def asks(self) -> None:
        """A registration came and is to be checked."""
        self.due = True
        self._rounds = 0

    def check(self, profile: NodeProfile) -> list[Missing] | None:
        """What keeps the node out; empty if it may come in; ``None`` if the policy has to be read from the store first.

        Nobody is refused under a policy that may be out of date, since a refusal is final for some clients. To admit
        under one is safe: the store compares its digest.
        """
        fresh, self._fresh = self._fresh, False
        if self.policy is None:
            return None
        missing = self.policy.check(profile.gpus, profile.schema_version)
        if missing and not fresh:
            return None
        self.due = False
        return missing

    def read(self, policy: AdmissionPolicy) -> None:
        """``policy`` was read because ``check`` wanted it: the next check may refuse under it."""
        self.policy = policy
        self._fresh = True

    def changed(self, policy: AdmissionPolicy) -> bool:
        """The store refused a registration, since ``policy`` is in force now. False if that happens too often."""
        self.policy = policy
        self._rounds += 1
        self._fresh = self._rounds < MAX_ROUNDS
        if not self._fresh:
            self._rounds = 0
        return self._fresh
