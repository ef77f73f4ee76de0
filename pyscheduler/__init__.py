"""pyscheduler: a node registry and pool allocator whose every decision is one atomic script inside Redis.

The public names are loaded when first used, so that importing the package (as every command does) costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator, StoreOptions
    from pyscheduler.core.document import PoolDocument
    from pyscheduler.core.facts import Facts
    from pyscheduler.core.jobs import JobAsk, JobRequest
    from pyscheduler.core.reader import load_document
    from pyscheduler.core.report import NodeReport

__version__ = "0.1.0"

_HOMES = {
    "Allocator": "pyscheduler.allocator",
    "StoreOptions": "pyscheduler.allocator",
    "Facts": "pyscheduler.core.facts",
    "NodeReport": "pyscheduler.core.report",
    "JobAsk": "pyscheduler.core.jobs",
    "JobRequest": "pyscheduler.core.jobs",
    "PoolDocument": "pyscheduler.core.document",
    "load_document": "pyscheduler.core.reader",
}

__all__ = ["Allocator", "Facts", "JobAsk", "JobRequest", "NodeReport", "PoolDocument", "StoreOptions", "load_document"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
