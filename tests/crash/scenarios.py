"""What is disturbed: for every script each branch that writes, and each kind of refusal."""

from __future__ import annotations

from tests.crash import job_scenarios, node_scenarios, store_scenarios
from tests.crash.scenario import QUIET, WRITING

SCENARIOS = WRITING | QUIET
"""Every scenario, by name."""

__all__ = ["SCENARIOS", "WRITING", "job_scenarios", "node_scenarios", "store_scenarios"]
