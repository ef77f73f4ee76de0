"""The public asynchronous API over the scripts."""

from __future__ import annotations

from pyscheduler.allocator.allocator import Allocator
from pyscheduler.store import StoreOptions

__all__ = ["Allocator", "StoreOptions"]
