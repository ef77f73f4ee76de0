"""Coalescing of calls: those that come while others are under way leave together, in one call of a script."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, TypeVar

from pyscheduler.errors import (
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    PyschedulerError,
    StoreError,
    StoreUnavailable,
)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(ABC, Generic[Item, Result]):
    """Collects calls and sends them in batches, one batch at a time; a lone one leaves at once."""

    what: ClassVar[str]
    """What is collected, for errors."""

    max_batch: ClassVar[int]
    max_waiting: ClassVar[int]

    def __init__(self) -> None:
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    @abstractmethod
    def joins(self, batch: Sequence[Item], item: Item) -> bool:
        """Whether ``item`` may go in one call with those before it."""

    @abstractmethod
    async def send(self, batch: Sequence[Item]) -> list[Result | PyschedulerError]:
        """Sends a batch. Returns the outcomes, in order, of as many as were taken: one at least."""

    def add(self, item: Item) -> asyncio.Future[Result]:
        """A future of the result. It fails with the outcome of the item, or with what the store failed with."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= self.max_waiting:
            future.set_exception(LimitExceeded(f"{self.max_waiting} {self.what} already wait for the store"))
            return future
        self._waiting.append((item, future))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name=f"pyscheduler-{self.what}")
        return future

    async def aclose(self) -> None:
        """Ends the sending; what waits ends with StoreUnavailable, what is under way with OutcomeUnknown."""
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

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch = [self._waiting.popleft()]
        items = [batch[0][0]]
        while self._waiting and len(batch) < self.max_batch and self.joins(items, self._waiting[0][0]):
            batch.append(self._waiting.popleft())
            items.append(batch[-1][0])
        return batch

    async def _send(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            outcomes = await self.send([item for item, _ in batch])
        except StoreUnavailable:
            raise
        except (InvalidInput, StoreError):
            if len(batch) == 1:
                raise
            # Refused as a whole, and nothing done: whose fault it was shows when each goes by itself.
            for one in batch:
                try:
                    await self._send([one])
                except PyschedulerError as error:
                    _fail([one], error)
            return
        for (_, future), outcome in zip(batch, outcomes, strict=False):
            if future.done():
                continue
            if isinstance(outcome, PyschedulerError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._waiting.extendleft(reversed(batch[len(outcomes) :]))


def _fail(batch: Iterable[tuple[Item, asyncio.Future[Result]]], error: PyschedulerError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
