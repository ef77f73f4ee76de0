"""The allocator: what a scheduler, the registry process and the command line do with a namespace."""

from __future__ import annotations

from pyscheduler.allocator.configuration import Configuration
from pyscheduler.allocator.job_reading import JobReading
from pyscheduler.allocator.jobs import Jobs
from pyscheduler.allocator.nodes import Nodes
from pyscheduler.allocator.reading import Reading
from pyscheduler.allocator.upkeep import Upkeep


class Allocator(Nodes, Jobs, JobReading, Configuration, Reading, Upkeep):
    """The public API. Made by :meth:`open`; an asynchronous context manager.

    Every method may raise :class:`~pyscheduler.errors.StoreUnavailable` (not executed),
    :class:`~pyscheduler.errors.OutcomeUnknown` (perhaps executed; every method is safe to repeat) and
    :class:`~pyscheduler.errors.StoreError` (the store's content cannot be used).
    """
