"""Language codes, and the pool names made of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from pyscheduler.core.ids import shown
from pyscheduler.core.limits import MAX_LANGUAGES, MAX_POOL_NAME_CHARS
from pyscheduler.errors import InvalidInput

# Letters of both cases and both separators, ASCII only: folding comes after this check (see ids.py).
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8}){0,3}")


def language(value: object) -> str:
    """A language code in canonical form: lower case, ``_`` read as ``-``, of the shape ``zh`` or ``zh-hant-tw``.

    The shape is checked, not a registry: a code that nobody knows yet must not keep a node out.

    Raises:
        InvalidInput: not of that shape.
    """
    if isinstance(value, str) and _LANGUAGE.fullmatch(value):
        return value.lower().replace("_", "-")
    raise InvalidInput(
        f"{shown(value)} is no language code: write it like en or zh-cn "
        "(2 to 8 letters, then at most 3 parts of 1 to 8 letters or digits)"
    )


def languages(values: Iterable[object]) -> tuple[str, ...]:
    """Canonical codes, sorted, each once.

    Raises:
        InvalidInput: a bad code, or more than 256 given.
    """
    codes: set[str] = set()
    for count, value in enumerate(values, start=1):
        if count > MAX_LANGUAGES:
            raise InvalidInput(f"more than {MAX_LANGUAGES} languages in one list")
        codes.add(language(value))
    return tuple(sorted(codes))


def language_set_name(codes: Iterable[str]) -> str:
    """The name of the auto pool of a language set, ``en-zh_cn`` for ``zh-CN`` and ``en``.

    The scripts give auto pools their names; this is for those who want to know one beforehand. A code's own ``-`` is
    written ``_``, so two sets never share a name; one that would be too long becomes a count and a hash.

    Raises:
        InvalidInput: a bad code, too many, or none.
    """
    normal = languages(codes)
    if not normal:
        raise InvalidInput("a pool cannot be named after no language at all")
    name = "-".join(code.replace("-", "_") for code in normal)
    if len(name) <= MAX_POOL_NAME_CHARS:
        return name
    digest = hashlib.sha1(name.encode("ascii"), usedforsecurity=False).hexdigest()[:12]
    return f"langs-{len(normal)}-{digest}"
