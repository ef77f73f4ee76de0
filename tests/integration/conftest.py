"""Tests on a real store: its fixtures, and the check of every invariant after each test."""

from __future__ import annotations

from tests.harness import allocator, cell, invariants_hold

__all__ = ["allocator", "cell", "invariants_hold"]
