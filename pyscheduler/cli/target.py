"""Which store a command talks to, and how it gets there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from pyscheduler.errors import StoreUnavailable

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator

T = TypeVar("T")


class NoStore(StoreUnavailable):
    """No URL was given and no embedded server runs on the state directory."""


class StoreTarget(Struct, frozen=True):
    """The store options of a command, as given."""

    redis_url: str | None
    namespace: str
    state_dir: str | None

    def url(self) -> str:
        """The URL to use: the one given, else that of the embedded server which runs on the state directory.

        A command never starts the embedded server: it would have to outlive the command to be of use, and belongs to
        the scheduler that owns the directory.

        Raises:
            NoStore: neither is there.
        """
        if self.redis_url:
            return self.redis_url
        from pathlib import Path

        from pyscheduler import embedded, settings

        directory = Path(self.state_dir) if self.state_dir else settings.default_state_dir()
        url = embedded.find_running(directory)
        if url is None:
            raise NoStore(
                f"no store: no --redis-url was given, and no scheduler runs on the state directory {directory}",
                "start one with 'pyscheduler serve', or name a store with --redis-url (PYSCHEDULER_REDIS_URL)",
            )
        return url


def with_allocator(store: StoreTarget, call: Callable[[Allocator], Awaitable[T]], *, create: bool = False) -> T:
    """Open the store, run ``call`` on it, close it, return what it returned.

    A namespace that is not there is created only by a command that is given what to put into it: with ``create``.
    """
    import asyncio

    async def run() -> T:
        from pyscheduler.allocator import Allocator

        async with await Allocator.open(store.url(), namespace=store.namespace, create=create) as allocator:
            return await call(allocator)

    return asyncio.run(run())
