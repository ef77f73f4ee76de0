"""Coalescing of calls: those that come while others are under way leave together, in one call of a script."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import ClassVar, Generic, TypeVar

from pyscheduler.core.limits import MAX_CALLS_AT_ONCE
from pyscheduler.errors import (
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    PyschedulerError,
    StoreError,
    StoreUnavailable,
)
from pyscheduler.scripts.calls import Call

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(Generic[Item, Result]):
    __slots__ = ("_done", "item")

    def __init__(self, item: Item, done: Callable[[Result | PyschedulerError], None]) -> None:
        self.item = item
        self._done: Callable[[Result | PyschedulerError], None] | None = done

    def tell(self, outcome: Result | PyschedulerError) -> None:
        """Hand out the outcome, once: what fails in the middle of a batch must not tell those who know already."""
        done, self._done = self._done, None
        if done is not None:
            done(outcome)


class Coalescer(ABC, Generic[Item, Result]):
    """Collects calls and sends them in batches, one batch at a time; a lone one leaves at once.

    Args:
        run: runs a script and returns its reply.
    """

    what: ClassVar[str]
    """What is collected, for errors."""

    max_batch: ClassVar[int]
    max_waiting: ClassVar[int]

    def __init__(self, run: Callable[[Call], Awaitable[list[str]]]) -> None:
        self._run = run
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._closed = False
        self._alone = 1
        self._sender: asyncio.Task[None] | None = None

    @abstractmethod
    def joins(self, batch: Sequence[Item], item: Item) -> bool:
        """Whether ``item`` may go in one call with those before it."""

    @abstractmethod
    async def send(self, batch: Sequence[Item]) -> list[Result | PyschedulerError]:
        """Sends a batch. Returns the outcomes, in order, of as many as were taken: one at least."""

    def add(self, item: Item, done: Callable[[Result | PyschedulerError], None]) -> None:
        """Sends an item with the next batch.

        Args:
            item: what to send.
            done: gets the outcome, or what the store failed with: later, not within this call. Must not raise.
        """
        error: PyschedulerError | None = None
        if self._closed:
            error = StoreUnavailable("the store is closed")
        elif len(self._waiting) >= self.max_waiting:
            error = LimitExceeded(f"{self.max_waiting} {self.what} already wait for the store")
        if error is not None:
            asyncio.get_running_loop().call_soon(done, error)
            return
        self._waiting.append(_Waiting(item, done))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name=f"pyscheduler-{self.what}")

    async def outcome(self, item: Item) -> Result:
        """Sends an item with the next batch and waits for its outcome; raises it if it is an error."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(outcome: Result | PyschedulerError) -> None:
            if future.done():
                return  # the caller was cancelled
            if isinstance(outcome, PyschedulerError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.add(item, done)
        return await future

    async def aclose(self) -> None:
        """Ends the sending; what waits ends with StoreUnavailable, what is under way with OutcomeUnknown."""
        self._closed = True
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        _fail(self._waiting, StoreUnavailable("the store is closed"))
        self._waiting.clear()

    async def _send_all(self) -> None:
        while self._waiting:
            batch = self._take()
            try:
                await self._send(batch)
            except PyschedulerError as error:
                _fail(batch, error)
            except asyncio.CancelledError:
                _fail(batch, OutcomeUnknown(f"the store was closed: the {self.what} may have been executed"))
                raise
            except BaseException as error:
                _fail(batch, StoreError(f"{self.what} failed: {error!r}"))
                raise

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch = [self._waiting.popleft()]
        items = [batch[0].item]
        while self._waiting and len(batch) < self.max_batch and self.joins(items, self._waiting[0].item):
            batch.append(self._waiting.popleft())
            items.append(batch[-1].item)
        return batch

    async def _send(self, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            outcomes = await self.send([one.item for one in batch])
        except StoreUnavailable:
            raise
        except (InvalidInput, StoreError):
            if len(batch) == 1:
                raise
            # Refused as a whole, and nothing done: whose fault it was shows when each goes by itself.
            for one in batch:
                await self._send_alone(one)
            return
        for one, outcome in zip(batch, outcomes, strict=False):
            one.tell(outcome)
        rest = batch[len(outcomes) :]
        if rest:
            await self._send_some_alone(batch, rest)
        elif len(batch) > 1:
            self._alone = 1

    async def _send_some_alone(self, batch: list[_Waiting[Item, Result]], rest: list[_Waiting[Item, Result]]) -> None:
        """The first of ``rest`` ended the call, and is taken by itself.

        The more often that happens at a stretch, the more of those after it leave with it, each in a call of its own:
        a round trip for each would hold all others up.
        """
        alone, later = rest[: self._alone], rest[self._alone :]
        self._alone = min(2 * self._alone, MAX_CALLS_AT_ONCE)
        self._waiting.extendleft(reversed(later))
        del batch[len(batch) - len(later) :]
        async with asyncio.TaskGroup() as group:
            for one in alone:
                group.create_task(self._send_alone(one))

    async def _send_alone(self, one: _Waiting[Item, Result]) -> None:
        try:
            await self._send([one])
        except PyschedulerError as error:
            one.tell(error)


def _fail(batch: Iterable[_Waiting[Item, Result]], error: PyschedulerError) -> None:
    for one in batch:
        one.tell(error)
