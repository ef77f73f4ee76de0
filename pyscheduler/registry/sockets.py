"""The table of this process's node sockets: all of them, and the newest one of each node id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyscheduler.registry.connection import Connection

MAX_REMEMBERED = 100_000
"""Node ids that are remembered after their sockets are gone."""


class Sockets:
    """Every open node socket of this process. Nothing in here is state of a node: that lives in the store alone."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._holders: dict[str, Connection] = {}
        self._remembered: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """The sockets that are open now; opening and closing meanwhile does no harm."""
        return iter(tuple(self._open))

    @property
    def registered(self) -> int:
        """Number of node ids that are held here."""
        return len(self._holders)

    def add(self, connection: Connection) -> None:
        """A socket was accepted."""
        self._open.add(connection)

    def remove(self, connection: Connection) -> None:
        """A socket is gone."""
        self._open.discard(connection)
        node_id = connection.node_id
        if node_id is not None and self._holders.get(node_id) is connection:
            del self._holders[node_id]

    def claim(self, node_id: str, connection: Connection) -> Connection | None:
        """The store gave ``connection`` a session of ``node_id``.

        Returns:
            The socket that has to give way: the one of the older epoch, which may be ``connection`` itself; ``None`` if
            there is no other.
        """
        holder = self._holders.get(node_id)
        if holder is None or holder is connection:
            self._holders[node_id] = connection
            return None
        if holder.epoch > connection.epoch:
            return connection
        self._holders[node_id] = connection
        return holder

    def holder(self, node_id: str) -> Connection | None:
        """The socket that holds ``node_id`` here."""
        return self._holders.get(node_id)

    def holders(self) -> dict[str, Connection]:
        """Each node id held here with its socket, as of now."""
        return dict(self._holders)

    def remember(self, node_id: str) -> None:
        """This process acts for ``node_id``: what happens to it from now on is told in this process's log."""
        self._remembered[node_id] = None
        self._remembered.move_to_end(node_id)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def forget(self, node_id: str) -> None:
        """``node_id`` is another process's matter now."""
        self._remembered.pop(node_id, None)

    def remembers(self, node_id: str) -> bool:
        """Whether this process acts, or last acted, for ``node_id``."""
        return node_id in self._remembered
