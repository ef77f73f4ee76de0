"""Tests on a real store: its fixtures, and the check of every invariant after each test."""

from __future__ import annotations

from tests.commands import cli
from tests.doors import serve, serve_on
from tests.harness import allocator, cell, invariants_hold
from tests.job_door import job_door
from tests.own_server import program, server

__all__ = ["allocator", "cell", "cli", "invariants_hold", "job_door", "program", "serve", "serve_on", "server"]
