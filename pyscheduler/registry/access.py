"""Which store a process uses, and how it gets there: a URL, or the embedded server of its state directory."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from pyscheduler.allocator import Allocator, StoreOptions
from pyscheduler.embedded import EmbeddedServer
from pyscheduler.errors import PyschedulerError, StoreUnavailable
from pyscheduler.registry.logs import Log
from pyscheduler.settings import ServeSettings, default_state_dir

_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 4.0
_ENSURE_DEADLINE_S: Final = 5.0


class StoreAccess:
    """A process's way to its store.

    Args:
        settings: names the store, and says how long a start may wait for it.
        log: where to log.
    """

    def __init__(self, settings: ServeSettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._embedded: EmbeddedServer | None = None
        self._url = ""

    @property
    def shown_url(self) -> str:
        """The URL in use, without its password."""
        return self._settings.shown_redis_url or self._url

    @property
    def owns_store(self) -> bool:
        """Whether this process started the embedded server that it uses."""
        return self._embedded is not None and self._embedded.owner

    async def open(self) -> Allocator:
        """Open the store; one that cannot be reached is tried again until the time for a start is over.

        Raises:
            StoreUnavailable: it was not to be reached in time.
            PyschedulerError: it cannot be used.
        """
        deadline = time.monotonic() + self._settings.store_start_timeout_ms / 1000
        wait_s = _FIRST_RETRY_S
        while True:
            try:
                self._url = await self._url_to_use()
                return await self._open(self._url)
            except StoreUnavailable as error:
                if time.monotonic() + wait_s >= deadline:
                    raise
                self._log.warning("store_not_reached", error=str(error), next=f"trying again in {wait_s:g} s")
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LAST_RETRY_S)

    async def mend(self) -> Allocator | None:
        """The store does not answer: if it is the embedded server, and that has ended, start it again.

        Returns:
            An allocator that takes the place of the present one, if the store is somewhere else now.
        """
        embedded = self._embedded
        if embedded is None:
            return None
        owner = embedded.owner
        try:
            await embedded.ensure(deadline_s=_ENSURE_DEADLINE_S)
            if embedded.owner and not owner:
                self._log.warning("embedded_server_started", reason="the former one has ended", url=embedded.url)
            if embedded.url == self._url:
                return None
            allocator = await self._open(embedded.url)
        except PyschedulerError as error:
            self._log.error("embedded_server_not_there", error=str(error), next=getattr(error, "next_step", None))
            return None
        self._url = embedded.url
        return allocator

    async def close(self) -> None:
        """Let go of the embedded server; its owner ends it."""
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await embedded.close()

    async def _url_to_use(self) -> str:
        if self._settings.redis_url is not None:
            return self._settings.redis_url.get_secret_value()
        if self._embedded is None:
            self._embedded = await EmbeddedServer.open(self._settings.state_dir or default_state_dir())
        else:
            await self._embedded.ensure()
        return self._embedded.url

    async def _open(self, url: str) -> Allocator:
        options = StoreOptions(timeout_s=self._settings.store_timeout_ms / 1000)
        return await Allocator.open(url, namespace=self._settings.namespace, options=options)
