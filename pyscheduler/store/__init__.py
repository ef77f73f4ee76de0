"""The connection to Redis, and the way to the server that holds a namespace. Only this package imports redis.

``store`` is what others use: it queues calls and hands out replies. ``route`` finds the server, behind a Cluster or
Sentinels too; ``link`` is one socket to one server; ``failures`` says what a caller gets for what went wrong.
"""

from __future__ import annotations

from pyscheduler.store.link import Reply, StoreOptions
from pyscheduler.store.store import Store, encodable

__all__ = ["Reply", "Store", "StoreOptions", "encodable"]
