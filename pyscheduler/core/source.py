"""Text of a document -> a tree of values that know their lines. YAML and JSON; nothing here knows what a document means.

What a scalar is follows the core schema of YAML 1.2, so that ``no`` is the language Norwegian and not a boolean, and a
number with a leading zero is not octal. Anchors, aliases, tags, directives and several documents in one text are
refused: they let a small text stand for a huge one, or one text mean two things.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from pyscheduler.core.ids import shown
from pyscheduler.core.limits import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_DEPTH, MAX_DOCUMENT_VALUES
from pyscheduler.errors import DocumentInvalid, Problem

type_Path = tuple["str | int", ...]


@dataclass(slots=True)
class Scalar:
    """``refused`` marks a value that has its problem already: nothing more is to be said about it."""

    line: int
    value: str | int | float | bool | None
    refused: bool = False


@dataclass(slots=True)
class Sequence:
    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """``members``: key -> line of the key, and the value."""

    line: int
    members: dict[str, tuple[int, Node]] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping
