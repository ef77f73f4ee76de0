"""Tests on a real store: its fixtures, the process that bad input is thrown at, and the check of every invariant."""

from __future__ import annotations

from tests.e2e.victim import state_dir, survives, victim
from tests.harness import allocator, cell, invariants_hold

__all__ = ["allocator", "cell", "invariants_hold", "state_dir", "survives", "victim"]
