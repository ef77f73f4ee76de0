"""What redis-py or a server says went wrong: whether the call was refused, and what its caller gets for it."""

from __future__ import annotations

import re

import redis.exceptions as rx

from pyscheduler.core.urls import masked_url
from pyscheduler.errors import InvalidInput, OutcomeUnknown, PyschedulerError, StoreError, StoreUnavailable

UNREACHABLE = (rx.RedisError, OSError, TimeoutError)
"""What a server that cannot be used raises while it is connected to."""

_CREDENTIALS = re.compile(
    r"NOAUTH|WRONGPASS|invalid username-password pair|invalid password|Authentication required", re.I
)

_WAIT = "wait a moment and repeat"
_REFUSALS = {
    "BUSY": "find out whose script it is; SCRIPT KILL ends one that has written nothing",
    "MISCONF": "make room on the server's disk, and read its log: it takes writes again once it can save them",
    "NOREPLICAS": "see that enough replicas are connected (min-replicas-to-write)",
    "UNBLOCKED": _WAIT,
}
"""How a server that is there refuses a call for now -> what to do about it."""


class PrimaryMoved(rx.ReadOnlyError):
    """The server that Sentinels name is not the primary, or not any more."""


def says_read_only(error: BaseException) -> bool:
    """Whether a replica refused a write. Redis 6.2 lets a script begin, and stops it at its first write."""
    text = str(error)
    return isinstance(error, rx.ReadOnlyError) or (text.startswith("Error running script") and "-READONLY" in text)


def says_moved_away(error: BaseException) -> bool:
    """Whether the server, as it says, is not the one to ask, or doubts it. Such a call has not been executed."""
    return (
        isinstance(error, rx.MovedError | rx.ClusterDownError)
        or says_read_only(error)
        or str(error).startswith("UNBLOCKED")
    )


def says_come_again(error: BaseException) -> bool:
    """Whether the call was refused only because the slot is on its way to another server."""
    return isinstance(error, rx.AskError | rx.TryAgainError)


def translate(error: BaseException, url: str, *, sent: bool) -> PyschedulerError:
    """What the caller gets for what redis-py or the server said.

    Args:
        error: what was raised or replied.
        url: URL of the store.
        sent: whether the call may have been executed.
    """
    where = masked_url(url)
    text = str(error)
    if isinstance(error, PyschedulerError):
        return error
    if isinstance(error, rx.AuthenticationError | rx.AuthorizationError) or _CREDENTIALS.search(text):
        return StoreUnavailable(f"{where} refused the credentials: check user and password of the Redis URL ({text})")
    if "PYSCHED_BADARG" in text:
        return InvalidInput(text.split("PYSCHED_BADARG", 1)[1].strip())
    if "PYSCHED_CORRUPT" in text:
        return StoreError(text.split("PYSCHED_CORRUPT", 1)[1].strip())
    if isinstance(error, PrimaryMoved):
        return StoreUnavailable(f"{where} has no primary at the moment: {text}")
    if says_read_only(error):
        return StoreUnavailable(
            f"{where} is a read-only replica: give the URL of the primary",
            "give --redis-url (PYSCHEDULER_REDIS_URL) the primary",
        )
    if (
        isinstance(error, rx.OutOfMemoryError)
        or "OOM command not allowed" in text
        or "used memory > 'maxmemory'" in text
    ):
        return StoreUnavailable(
            f"{where} is out of memory: raise its maxmemory or free some; nothing was changed",
            "raise the server's maxmemory, or free some of it",
        )
    if isinstance(error, rx.BusyLoadingError) or "LOADING" in text:
        return StoreUnavailable(f"{where} is still loading its data: try again shortly", _WAIT)
    if "NOPERM" in text or isinstance(error, rx.NoPermissionError):
        return StoreError(f"{where}: this user lacks a permission that the scripts need ({text})")
    if isinstance(error, rx.TimeoutError | TimeoutError):
        if sent:
            return OutcomeUnknown(f"{where} did not answer in time: the call may have been executed")
        return StoreUnavailable(f"{where} cannot be reached: timed out")
    if isinstance(error, rx.ClusterDownError | rx.TryAgainError | rx.AskError):
        return StoreUnavailable(
            f"{where}: the Cluster does not serve the namespace at the moment ({_name(error)}{text})",
            "see that every slot of the Cluster has a reachable primary",
        )
    if isinstance(error, rx.ResponseError):
        next_step = next((step for word, step in _REFUSALS.items() if text.startswith(word)), "")
        return StoreUnavailable(f"{where}: {text}", next_step) if next_step else StoreError(f"{where}: {text}")
    if isinstance(error, rx.ConnectionError | OSError):
        if sent:
            return OutcomeUnknown(f"the connection to {where} broke: the call may have been executed ({text})")
        return StoreUnavailable(f"{where} cannot be reached: {text}")
    return StoreError(f"{where}: {type(error).__name__}: {text}")


def _name(error: BaseException) -> str:
    """The word that a reply began with, which redis-py takes off."""
    words = {
        rx.MovedError: "MOVED ",
        rx.AskError: "ASK ",
        rx.TryAgainError: "TRYAGAIN ",
        rx.MasterDownError: "MASTERDOWN ",
    }
    return words.get(type(error), "CLUSTERDOWN " if isinstance(error, rx.ClusterDownError) else "")
