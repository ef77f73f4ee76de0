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
from typing import Annotated, Self

from msgspec import DecodeError, Meta, Struct, convert
from msgspec.json import Decoder

from pyscheduler.core.canonical import canonical_json
from pyscheduler.core.limits import MAX_PERCENT, MAX_REPEATED_CHARS, MAX_U32, MAX_USAGE_BYTES
from pyscheduler.core.profile import metrics_of
from pyscheduler.core.protocol import Frame

_Percent = Annotated[float, Meta(ge=-MAX_PERCENT, le=MAX_PERCENT)]
_Count = Annotated[int, Meta(ge=0, le=MAX_U32)]


class RepeatedUsage(Struct, frozen=True, forbid_unknown_fields=True):
    """:class:`~pyscheduler.core.protocol.ResourceUsage` and nothing beside its members, read in a third of the time."""

    cpu_percent: _Percent
    mem_percent: _Percent
    running_jobs: _Count
    gpu_percent: _Percent | None = None
    gpu_mem_percent: _Percent | None = None
    gpu_queue_length: _Count | None = None


_MEMBERS = Decoder(dict[str, int | float | None]).decode
_USAGE_FIELDS = RepeatedUsage.__struct_fields__

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

    def read(self, text: str) -> tuple[RepeatedUsage, Callable[[], str]] | None:
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
            members = _MEMBERS(told)
            usage = convert(members, RepeatedUsage)
        except DecodeError:
            return None
        # A name that is there twice: then there are more colons than members.
        if told.count(":") != len(members):
            return None
        return usage, partial(_canonical, members, self.metrics)


def _canonical(members: Mapping[str, int | float | None], metrics: Mapping[str, str]) -> str:
    told = {name: "null" if value is None else repr(value) for name, value in members.items()}
    told.update(metrics)
    body = ",".join([f'"{name}":{told[name]}' for name in sorted(told)])
    return f"{{{body}}}"
