"""Small helpers of the tests. Waiting is done here and nowhere else: until something holds, never for a while."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

DEADLINE_S = 10.0
"""Generous: a test that passes never waits this long, and a busy machine must not fail one."""

_POLL_S = 0.01


def wait_until(predicate: Callable[[], T], description: str, deadline_s: float = DEADLINE_S) -> T:
    """Call ``predicate`` until what it returns is true, and return that.

    Args:
        predicate: looked at every 10 ms.
        description: completes the sentence "waited until ...".
        deadline_s: seconds until the test fails.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        seen = predicate()
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(_gave_up(description, deadline_s, seen))
        time.sleep(_POLL_S)


@overload
async def wait_until_async(
    predicate: Callable[[], Awaitable[T]], description: str, deadline_s: float = DEADLINE_S
) -> T: ...


@overload
async def wait_until_async(predicate: Callable[[], T], description: str, deadline_s: float = DEADLINE_S) -> T: ...


async def wait_until_async(predicate: Callable[[], Any], description: str, deadline_s: float = DEADLINE_S) -> Any:
    """:func:`wait_until` for coroutines: the loop goes on meanwhile. ``predicate`` may be a plain function, too."""
    deadline = time.monotonic() + deadline_s
    while True:
        answer = predicate()
        seen = await answer if inspect.isawaitable(answer) else answer
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(_gave_up(description, deadline_s, seen))
        await asyncio.sleep(_POLL_S)


def _gave_up(description: str, deadline_s: float, seen: object) -> str:
    return f"waited {deadline_s:g} s until {description}; at last saw {seen!r}"
