"""Tests on a real store: its fixtures, and the check of every invariant after each test."""

from __future__ import annotations

from tests.harness import invariants_hold

__all__ = ["invariants_hold"]
