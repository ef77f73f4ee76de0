"""The command line. ``main`` is its entry point."""

from __future__ import annotations

from pyscheduler.cli.root import main

__all__ = ["main"]
