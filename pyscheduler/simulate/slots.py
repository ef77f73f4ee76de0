"""How many slots a node has, as the configuration in force says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from pyscheduler.core.limits import MAX_NODE_SLOTS

# What holds while no document is in force, or none could be read.
_DEFAULT = 4


class SlotRules(Struct, frozen=True):
    """Slots of a node by the pool that it is in."""

    default: int = _DEFAULT
    by_pool: Mapping[str, int] = field(default_factory=dict)

    def of(self, pool: str | None) -> int:
        return self.by_pool.get(pool or "", self.default)

    @classmethod
    def of_document(cls, document: Any) -> SlotRules:
        """As a document says that came over the wire; what is not as it should be counts as not said."""
        by_pool = {}
        for pool in _list(_member(document, "pools")):
            slots = _slots(_member(_member(pool, "selection"), "slots_per_node"))
            if slots and isinstance(name := _member(pool, "name"), str):
                by_pool[name] = slots
        return cls(_slots(_member(_member(document, "selection"), "slots_per_node")) or _DEFAULT, by_pool)


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _slots(value: Any) -> int | None:
    return value if type(value) is int and 1 <= value <= MAX_NODE_SLOTS else None
