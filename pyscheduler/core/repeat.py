"""Repeat: a heartbeat that says what the last one of its socket said, but for its time and its resource usage.

Nearly every heartbeat is one. What surrounds the two places that differ has been read and validated once; where the
bytes around them are the same, so is what they say, and only what stands in the two places is read. Anything that is
not exactly so is no repeat, and is read as a whole by :func:`~pyscheduler.core.protocol.parse_frame`, which alone
refuses frames.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

from msgspec import Struct
from pydantic import ValidationError
from pydantic_core import from_json

from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.limits import MAX_REPEATED_CHARS, MAX_USAGE_BYTES
from pyscheduler.core.profile import metrics_of
from pyscheduler.core.protocol import Frame, ResourceUsage

_USAGE_FIELDS = ResourceUsage.model_fields.keys()
_USAGE = ResourceUsage.__pydantic_validator__

# A JSON text's only way to begin with these three members; whatever the values are, the next token is a member.
_BEFORE = re.compile(
    r'\{\s*"type"\s*:\s*"node_heartbeat"\s*,\s*"node_id"\s*:\s*"[A-Za-z0-9._:-]*"\s*,\s*"timestamp"\s*:\s*', re.ASCII
)
# An integer, and an object without escapes, lists and objects inside: printable ASCII but for these characters.
_BETWEEN = re.compile(
    r'-?(?:0|[1-9][0-9]{0,17})[ \t\n\r]*,[ \t\n\r]*"resource_usage"[ \t\n\r]*:[ \t\n\r]*(\{[ -Z^-z|~]{0,1024}\})'
)
_NUMBER_CHARS = len("-2.2250738585072014e-308")
_MOST_USAGE_CHARS = len("{}") + sum(len(name) + len('"":,') + _NUMBER_CHARS for name in _USAGE_FIELDS)


class Repeat(Struct):
    """The text of a heartbeat around its time and its resource usage.

    Attributes:
        before: the text up to the time.
        after: the text from the end of the usage on. Nodes of one kind share it.
        metrics: canonical JSON of each member beside ``resource_usage`` that is part of a node's usage.
    """

    before: str
    after: str
    metrics: Mapping[str, str]

    @classmethod
    def of(cls, text: str, frame: Frame) -> Self | None:
        """What a repeat of ``text`` has to look like; ``None`` if its members stand in another order.

        Args:
            text: a heartbeat's text; one of more than 16 Ki characters is not kept.
            frame: what has been read of it.
        """
        if len(text) > MAX_REPEATED_CHARS or (before := _BEFORE.match(text)) is None:
            return None
        between = _BETWEEN.match(text, before.end())
        metrics = {name: canonical_json(value) for name, value in metrics_of(frame).items()}
        room = MAX_USAGE_BYTES - sum(len(name) + len(value) + len('"":,') for name, value in metrics.items())
        if between is None or room < _MOST_USAGE_CHARS:
            return None
        return cls(before.group(), sys.intern(text[between.end() :]), metrics)

    def read(self, text: str) -> tuple[ResourceUsage, Callable[[], str]] | None:
        """The resource usage of a repeat; ``None`` if ``text`` is none.

        Beside it, what makes its canonical JSON with the metrics: of heartbeats that come faster than they can be
        stored, only the last is.
        """
        if not text.startswith(self.before):
            return None
        between = _BETWEEN.match(text, len(self.before))
        if between is None or text[between.end() :] != self.after:
            return None
        told = between.group(1)
        try:
            usage: ResourceUsage = _USAGE.validate_json(told)
        except ValidationError:
            return None
        # A member that is there twice, one that is not known, or a text: then there are more colons than members.
        if told.count(":") != len(usage.model_fields_set):
            return None
        return usage, partial(_canonical, told, self.metrics)


def _canonical(usage: str, metrics: Mapping[str, str]) -> str:
    told = {name: "null" if value is None else repr(value) for name, value in from_json(usage).items()}
    told.update(metrics)
    body = ",".join([f'"{name}":{told[name]}' for name in sorted(told)])
    return f"{{{body}}}"
