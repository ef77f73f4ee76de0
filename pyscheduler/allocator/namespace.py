"""A namespace of the store: opening it, and running scripts on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from pyscheduler.allocator.replies import Reply
from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.document import PoolDocument
from pyscheduler.errors import NotFound, StoreError
from pyscheduler.scripts import calls
from pyscheduler.store import Store, StoreOptions

_DEFAULT_OPTIONS = StoreOptions()
_LAYOUT = 3
"""Of the keys: SCHEMA in lua/lib/limits.lua."""


class Namespace:
    """What every part of the allocator stands on. Not for use by itself."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._create = True

    @classmethod
    async def open(
        cls,
        redis_url: str,
        *,
        namespace: str = "pyscheduler",
        options: StoreOptions = _DEFAULT_OPTIONS,
        create: bool = True,
        script_overrides: Mapping[str, str] | None = None,
    ) -> Self:
        """Connects, and creates the namespace if it is new.

        Args:
            redis_url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.
            namespace: 1..64 characters; allocators of one namespace share everything.
            options: bounds of the connection.
            create: whether to create the namespace, now and when the store comes back empty. Without it, one that is
                not there is an error: a reader that mistyped its name should not leave one behind.
            script_overrides: Lua files to replace, for tests.

        Raises:
            InvalidInput: a malformed URL or namespace.
            NotFound: ``create`` is false and the namespace is not there.
            StoreUnavailable: the store cannot be reached.
            StoreError: the namespace cannot be used: a newer layout, or keys of somebody else.
        """
        allocator = cls(await Store.open(redis_url, namespace, options, script_overrides))
        allocator._create = create
        try:
            if create or not await allocator._store.command("EXISTS", allocator._store.key("config")):
                await allocator._open_namespace()
        except BaseException:
            await allocator.aclose()
            raise
        return allocator

    async def aclose(self) -> None:
        """Closes the connection; calls that still wait end with StoreUnavailable."""
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def namespace(self) -> str:
        """Name of the namespace."""
        return self._store.namespace

    @property
    def engine(self) -> str:
        """Name and version of the server, such as ``valkey 9.1.0``."""
        return self._store.engine

    async def _open_namespace(self) -> None:
        if not self._create:
            raise NotFound(
                f"there is no namespace {self.namespace} in this store: check --namespace, "
                "or start 'pyscheduler serve', which creates it"
            )
        default = PoolDocument()
        stored = json.loads(default.canonical())
        call = calls.open_namespace(
            auto=canonical_json(stored["auto"]),
            admission=default.admission.to_json(),
            selection=canonical_json(stored["selection"]),
        )
        reply = await self._store.run(call)
        if reply[0] == "SCHEMA":
            raise self._other_layout(reply[1])
        if reply[0] == "FOREIGN":
            raise StoreError(
                f"{reply[1]} exists, but namespace {self.namespace} has no configuration: it was restored in part, or "
                "something else uses its keys; restore it whole, delete its keys, or choose another --namespace"
            )

    async def _run(self, call: calls.Call) -> list[str]:
        reply = await self._store.run(call)
        if reply[0] == "NO_NAMESPACE":
            # The store came back empty. The call has not been executed.
            await self._open_namespace()
            reply = await self._store.run(call)
        if reply[0] == "SCHEMA":
            raise self._other_layout(reply[1])
        return reply

    async def _reply(self, call: calls.Call) -> Reply:
        return Reply(await self._run(call))

    def _other_layout(self, found: str) -> StoreError:
        is_older = found.isdigit() and int(found[:20]) < _LAYOUT
        way = "it is of an older version, so use that" if is_older else "upgrade pyscheduler"
        return StoreError(
            f"namespace {self.namespace} has layout {found[:20]}, this version knows layout {_LAYOUT}: "
            f"{way}, or choose another --namespace"
        )


def unexpected(reply: Reply) -> StoreError:
    """A status word that a script of this version does not reply."""
    return StoreError(f"a script answered {reply.status}, which this version does not know")
