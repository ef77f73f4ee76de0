"""The registry process: ``pyscheduler serve``."""

from __future__ import annotations
