"""The way to the one server that may write a namespace: named by the URL, owner of a Cluster's slot, or a primary
that Sentinels know."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import redis.exceptions as rx
from redis.crc import key_slot

from pyscheduler.core.urls import Address, StoreUrl, masked_url
from pyscheduler.errors import InvalidInput, StoreError, StoreUnavailable
from pyscheduler.store.failures import UNREACHABLE, PrimaryMoved, says_come_again, says_moved_away
from pyscheduler.store.link import Dialer, Link, StoreOptions, fields_of

MAX_REDIRECTS: Final = 16
"""Servers that one search tries."""

MAX_KNOWN_NODES: Final = 64
"""Nodes of a Cluster that are remembered, to search from when the owner of the slot is gone."""

_FIRST_PAUSE_S: Final = 0.01
_LAST_PAUSE_S: Final = 0.25


def pause_s(times: int) -> float:
    """How long to wait before asking again what was refused ``times`` times in a row, from 1."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(times - 1, 16), _LAST_PAUSE_S) * random.uniform(0.5, 1.0)


class Route(ABC):
    """How the server of a namespace is found.

    Args:
        dialer: opens sockets.
        options: bounds.
    """

    follows_primary = False
    """Whether another server may take the place of a primary that has become a replica."""

    def __init__(self, dialer: Dialer, options: StoreOptions) -> None:
        self._dialer = dialer
        # One server may take as long as it always could, and several not much longer than a call.
        self._search_s = max(options.timeout_s, options.connect_timeout_s)

    async def connect(self) -> Link:
        """A socket to the server that may write the namespace.

        Raises:
            StoreError: what is there cannot be used.
            Exception: one of UNREACHABLE, or StoreUnavailable.
        """
        async with asyncio.timeout(self._search_s):
            return await self._search()

    async def connect_to(self, address: Address) -> Link:
        """A socket to a server that another one pointed to for one call."""
        return await self._dialer.open(address)

    def refuses_for_now(self, link: Link | None, error: BaseException) -> bool:
        """Whether a call was refused in a way that passes: it has not been executed, and can be repeated.

        Args:
            link: where; ``None`` if no server was found.
            error: what was replied, or raised by :meth:`connect`.
        """
        if link is not None and link.cluster:
            return says_moved_away(error) or says_come_again(error)
        if self.follows_primary:
            return says_moved_away(error)
        return link is None and isinstance(error, rx.ClusterDownError)

    @abstractmethod
    async def _search(self) -> Link: ...

    def moved(self, address: Address) -> None:  # noqa: B027
        """A server has said where the slot is now: to be asked first."""


class Servers(Route):
    """The server that the URL names, or the nodes of a Cluster.

    Args:
        url: names one or several.
        key: a key of the namespace.
    """

    def __init__(self, dialer: Dialer, options: StoreOptions, url: StoreUrl, key: str) -> None:
        super().__init__(dialer, options)
        self._key = key
        self._slot = key_slot(key.encode())
        self._seeds: list[Address | None] = _in_some_order(url.hosts) or [None]
        self._known: list[Address | None] = list(self._seeds)

    def moved(self, address: Address) -> None:
        self._remember([address, *self._known])

    async def _search(self) -> Link:
        failed: dict[Address | None, Exception] = {}
        target = self._known[0]
        for hop in range(MAX_REDIRECTS):
            try:
                link, owner = await self._try(target)
            except UNREACHABLE as error:
                failed[target] = error
            else:
                if owner == target:
                    return link
                await link.close()
                if owner not in failed:
                    target = owner
                    if hop:
                        # Two nodes may point to each other until the news of a move has reached both.
                        await asyncio.sleep(pause_s(hop))
                    continue
                failed[target] = failed[owner]
            # To the end, so that a search which takes too long for all of them begins with others the next time.
            self._remember([*(one for one in self._known if one != target), target])
            left = [one for one in self._known if one not in failed]
            if not left:
                raise failed[target]
            target = left[0]
        raise StoreUnavailable(
            f"{MAX_REDIRECTS} nodes of the Cluster did not lead to the owner of slot {self._slot}: try again shortly"
        )

    async def _try(self, target: Address | None) -> tuple[Link, Address | None]:
        """A socket to a server, and who owns the slot by its account."""
        link = await self._dialer.open(target)
        try:
            return link, await self._owner_by(link)
        except BaseException:
            await link.close()
            raise

    async def _owner_by(self, link: Link) -> Address | None:
        """Who owns the slot, by this server: itself, or the address of another."""
        if not link.cluster:
            if len(self._seeds) > 1:
                raise StoreError(
                    "the Redis URL names several hosts, which must be nodes of one Cluster, "
                    f"but {shown(link.address)} is a server by itself: name that one alone"
                )
            return link.address
        found, slots = await link.round_trip([("EXISTS", self._key), ("CLUSTER", "SLOTS")])
        if isinstance(found, rx.MovedError):
            if link.address is None:
                raise StoreError(
                    f"this node of a Cluster does not own slot {self._slot}, and a Unix socket leads to no other: "
                    "give a redis:// URL"
                )
            return address_in(found, link.address)
        if isinstance(found, rx.ClusterDownError):
            raise found
        if isinstance(slots, list) and link.address is not None:
            self._remember([link.address, *self._seeds, *self._nodes_in(slots, link.address)])
        return link.address

    def _nodes_in(self, slots: list[Any], asked: Address) -> list[Address]:
        """The nodes of a CLUSTER SLOTS reply, those of our slot first: a replica takes its owner's place."""
        ours = [one for one in slots if one[0] <= self._slot <= one[1]]
        nodes = [node for one in (*ours, *slots) for node in one[2:]]
        return [(node[0] or asked[0], node[1]) for node in nodes if node[0] not in (None, "?")]

    def _remember(self, nodes: Sequence[Address | None]) -> None:
        self._known = list(dict.fromkeys(nodes))[:MAX_KNOWN_NODES]


class Sentinels(Route):
    """Sentinels, which know the primary of a service.

    Args:
        url: names them and the service.
        sentinels: opens sockets to them.
    """

    follows_primary = True

    def __init__(self, dialer: Dialer, options: StoreOptions, url: StoreUrl, sentinels: Dialer) -> None:
        super().__init__(dialer, options)
        self._service = url.service
        self._sentinels = sentinels
        self._hosts = _in_some_order(url.hosts)

    async def _search(self) -> Link:
        failure: Exception | None = None
        for sentinel in list(self._hosts):
            try:
                link = await self._primary_by(sentinel)
            except UNREACHABLE as error:
                # What a Sentinel says outweighs that another one is not there.
                failure = failure if isinstance(failure, PrimaryMoved) else error
                # To the end, so that a search which takes too long for all of them begins with others the next time.
                self._hosts = [*(one for one in self._hosts if one != sentinel), sentinel]
            else:
                return link
        assert failure is not None
        raise failure

    async def _primary_by(self, sentinel: Address) -> Link:
        link = await self._sentinels.open(sentinel, look=False)
        try:
            found = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            await link.close()
        if not found:
            raise PrimaryMoved(f"the Sentinel at {shown(sentinel)} knows no service {self._service}")
        address = (str(found[0]), int(found[1]))
        link = await self._dialer.open(address)
        try:
            role = fields_of(await link.ask("INFO", "replication")).get("role")
            if role != "master":
                # Sentinels may name a server that is being replaced, or has come back and is not demoted yet.
                raise PrimaryMoved(f"the Sentinel at {shown(sentinel)} names {shown(address)}, which is a replica")
        except BaseException:
            await link.close()
            raise
        return link


def route_of(url: str, key: str, options: StoreOptions) -> Route:
    """The route of a URL.

    Args:
        url: of the store.
        key: a key of the namespace.
        options: bounds.

    Raises:
        InvalidInput: it is no URL of a store.
    """
    try:
        parts = StoreUrl.parse(url)
    except ValueError as error:
        raise InvalidInput(f"{masked_url(url)!r} is no Redis URL: it {error}") from None
    dialer = Dialer(parts.server, url, options)
    if parts.service:
        return Sentinels(dialer, options, parts, Dialer(parts.sentinel, url, options))
    return Servers(dialer, options, parts, key)


def _in_some_order(hosts: Sequence[Address]) -> list[Any]:
    """Processes begin with different hosts, and one that begins anew is not held up by the same silent ones again."""
    return random.sample(hosts, len(hosts))


def address_in(error: rx.AskError, asked: Address) -> Address:
    """Where a redirection points. A node that does not know its own address leaves the host empty."""
    return (error.host or asked[0], error.port)


def shown(address: Address | None) -> str:
    """An address in words."""
    return "the socket" if address is None else f"{address[0]}:{address[1]}"
