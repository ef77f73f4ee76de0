"""Reading of the scripts' flat replies into results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pyscheduler.core.results import Event, Hold, NodeState, NodeStatus, PoolChange, PoolSummary, Transition
from pyscheduler.errors import StoreError

T = TypeVar("T")

STATUS_LETTERS = {NodeStatus.REGISTERING: "g", NodeStatus.READY: "r", NodeStatus.DEGRADED: "d"}
_STATUS_OF_LETTER = dict.fromkeys("ol", NodeStatus.OFFLINE) | {letter: one for one, letter in STATUS_LETTERS.items()}


class Reply:
    """A cursor over a flat reply. ``status`` is its first word, or that of the row that it stands in."""

    def __init__(self, flat: Sequence[str]) -> None:
        self._flat = flat
        self._at = 1
        self.status = flat[0]

    def text(self) -> str:
        self._at += 1
        return self._flat[self._at - 1]

    def integer(self) -> int:
        return int(float(self.text()))

    def optional(self) -> str | None:
        return self.text() or None

    def next_row(self) -> bool:
        """Goes on to the status of what follows; whether anything does."""
        if self._at >= len(self._flat):
            return False
        self.status = self.text()
        return True

    def many(self, read: Callable[[], T]) -> tuple[T, ...]:
        """What ``read`` reads, as many times as the next number says."""
        return tuple(read() for _ in range(self.integer()))


def json_of(text: str) -> dict[str, Any]:
    """A stored JSON object; ``{}`` for none."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise StoreError("the store holds something that is no JSON object: see 'pyscheduler check'")
    return value


def holds_of(text: str) -> tuple[Hold, ...]:
    return tuple(
        Hold(owner, str(hold["reason"]), int(hold["at"]))
        for owner, hold in sorted(json_of(text).items(), key=lambda item: item[0])
    )


class NodeRow:
    """A node as the scripts reply it: node_id token lease_end load instance holds."""

    def __init__(self, reply: Reply) -> None:
        self.node_id = reply.text()
        self.token = reply.text()
        self.lease_end_ms = reply.integer()
        self.load = float(reply.text())
        self.instance = reply.text()
        self.holds = holds_of(reply.text())
        epoch, node_class, letter, _ = self.token.split(":")
        self.epoch, self.node_class = int(epoch), int(node_class)
        reported = _STATUS_OF_LETTER[letter]
        # The rule of lua/lib/tokens.lua: offline before draining before what the node reports.
        self.status = NodeStatus.DRAINING if self.holds and reported is not NodeStatus.OFFLINE else reported

    def state(self, node_class: ClassRow, now_ms: int, version: int) -> NodeState:
        return NodeState(
            node_id=self.node_id,
            status=self.status,
            pool=node_class.pool,
            pool_id=node_class.pool_id,
            node_class=self.node_class,
            epoch=self.epoch,
            instance=self.instance,
            lease_ms=self.lease_end_ms - now_ms,
            load=self.load,
            languages=node_class.languages,
            services=node_class.services,
            holds=self.holds,
            version=version,
        )


class ClassRow:
    """A class as the scripts reply it: class pool pool_id facts."""

    def __init__(self, reply: Reply) -> None:
        self.number = reply.integer()
        self.pool = reply.optional()
        self.pool_id = reply.integer() or None
        # Not read as Facts: they were checked when they were written, and a reader must show whatever is there.
        self.facts = json_of(reply.text())

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.facts.get("semantic") or self.facts.get("tts") or self.facts.get("asr") or ())

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(self.facts.get("services", ()))


def transition_of(reply: Reply) -> Transition | None:
    """A node's own last move as the scripts reply it: from to version at reason. None is of version 0."""
    transition = Transition(
        from_pool=reply.optional(),
        to_pool=reply.optional(),
        version=reply.integer(),
        at_ms=reply.integer(),
        reason=reply.text(),
    )
    return transition if transition.version else None


def pool_summary(name: str, stored: Mapping[str, Any], nodes: int, ready: int) -> PoolSummary:
    return PoolSummary(
        id=int(stored["id"]),
        name=name,
        origin=str(stored["origin"]),
        nodes=nodes,
        ready=ready,
        languages=rule_languages(stored["match"]),
        priority=int(stored.get("priority", 0)),
    )


def rule_languages(rule: Mapping[str, Any]) -> tuple[str, ...]:
    """The languages that a rule speaks of: the set of an auto pool, or the first constraint of semantic, tts, asr."""
    if "languages" in rule:
        return tuple(rule["languages"])
    for member in ("semantic", "tts", "asr"):
        for codes in (rule.get(member) or {}).values():
            return tuple(codes)
    return ()


def changes_of(reply: Reply) -> tuple[PoolChange, ...]:
    return reply.many(lambda: PoolChange(reply.text(), reply.text()))


def fields_of(flat: Sequence[str]) -> dict[str, str]:
    words = iter(flat)
    return dict(zip(words, words, strict=True))


def event_of(entry: Sequence[Any]) -> Event:
    fields = fields_of(entry[1])
    return Event(
        id=str(entry[0]),
        at_ms=int(fields.pop("at", "0")),
        type=fields.pop("type", ""),
        version=int(fields.pop("version", "0")),
        node_id=fields.pop("node_id", "") or None,
        pool=fields.pop("pool", "") or None,
        from_=fields.pop("from", "") or None,
        to=fields.pop("to", "") or None,
        reason=fields.pop("reason", "") or None,
        fields=fields,
    )
