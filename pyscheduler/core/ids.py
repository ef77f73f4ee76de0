"""Identifiers: normalised and bounded in one place.

Each function returns the normal form or raises :class:`~pyscheduler.errors.InvalidInput` with a message that repeats
the refused value shortened and escaped, so that it can go into a log or a reply as it is.

Alphabets are ASCII on purpose. Case folding comes after the alphabet check wherever it happens: ``str.lower`` maps some
letters outside ASCII into it (the Kelvin sign becomes ``k``), and a look-alike must not turn into the real thing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from pyscheduler.core.limits import (
    MAX_INSTANCE_ID_CHARS,
    MAX_JOB_ID_CHARS,
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_NODE_ID_CHARS,
    MAX_POOL_NAME_CHARS,
    MAX_SERVICE_TYPE_CHARS,
    MAX_SHOWN_CHARS,
    MAX_TENANT_CHARS,
)
from pyscheduler.errors import InvalidInput

_NODE_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_NODE_ID_CHARS}}}")
_INSTANCE_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_INSTANCE_ID_CHARS}}}")
_POOL_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_POOL_NAME_CHARS - 1}}}")
_TENANT = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_TENANT_CHARS}}}")
_JOB_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_JOB_ID_CHARS}}}")
_LABEL_KEY = re.compile(rf"[A-Za-z0-9_./-]{{1,{MAX_LABEL_KEY_CHARS}}}")
_SERVICE_TYPE = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_SERVICE_TYPE_CHARS}}}")


def shown(value: object, limit: int = MAX_SHOWN_CHARS) -> str:
    """``value`` as an error message may repeat it: quoted, ASCII, escaped, cut after ``limit`` characters."""
    if not isinstance(value, str):
        text = ascii(value) if isinstance(value, bool | int | float | type(None)) else type(value).__name__
        return text if len(text) <= limit else f"{text[:limit]}..."
    quoted = ascii(value[:limit])
    if len(value) > limit or len(quoted) > limit + 2:
        return f"{quoted[: limit + 1]}...{quoted[0]} ({len(value)} characters)"
    return quoted


def _matched(value: object, pattern: re.Pattern[str], what: str, rule: str) -> str:
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise InvalidInput(f"{shown(value)} is no {what}: it must be {rule}")


def node_id(value: object) -> str:
    """A node id: 1..128 of ``[A-Za-z0-9._:-]``, kept as given."""
    return _matched(value, _NODE_ID, "node id", f"1 to {MAX_NODE_ID_CHARS} characters of A-Z a-z 0-9 . _ : -")


def instance_id(value: object) -> str:
    """The id of a scheduler process: 1..64 of ``[A-Za-z0-9._:-]``, kept as given."""
    return _matched(
        value, _INSTANCE_ID, "instance id", f"1 to {MAX_INSTANCE_ID_CHARS} characters of A-Z a-z 0-9 . _ : -"
    )


def tenant(value: object) -> str:
    """The name of a tenant: 1..64 of ``[A-Za-z0-9._:-]``, kept as given."""
    return _matched(value, _TENANT, "tenant", f"1 to {MAX_TENANT_CHARS} characters of A-Z a-z 0-9 . _ : -")


def session(value: object) -> str:
    """The name of a session of jobs: 1..128 of ``[A-Za-z0-9._:-]``, kept as given."""
    return _matched(value, _JOB_ID, "session", f"1 to {MAX_JOB_ID_CHARS} characters of A-Z a-z 0-9 . _ : -")


def owner(value: object) -> str:
    """The name of an owner of jobs: 1..64 of ``[A-Za-z0-9._:-]``, kept as given."""
    return _matched(value, _INSTANCE_ID, "owner", f"1 to {MAX_INSTANCE_ID_CHARS} characters of A-Z a-z 0-9 . _ : -")


def job_id(value: object) -> str:
    """The id of a job: 1..128 of ``[A-Za-z0-9._:-]``, kept as given."""
    return _matched(value, _JOB_ID, "job id", f"1 to {MAX_JOB_ID_CHARS} characters of A-Z a-z 0-9 . _ : -")


def pool_name(value: object) -> str:
    """A pool name: 1..128 of ``[a-z0-9._-]``, the first a letter or digit. Not folded: ``EN-ZH`` is refused."""
    return _matched(
        value,
        _POOL_NAME,
        "pool name",
        f"1 to {MAX_POOL_NAME_CHARS} characters of a-z 0-9 . _ -, the first a letter or a digit",
    )


def service_type(value: object) -> str:
    """A service type such as ``asr``, lower-cased: 1..64 of ``[a-z0-9_.-]``. Any type is accepted, known or not."""
    return _matched(
        value, _SERVICE_TYPE, "service type", f"1 to {MAX_SERVICE_TYPE_CHARS} characters of a-z 0-9 _ . -"
    ).lower()


def label_key(value: object) -> str:
    """A label's key, lower-cased: 1..64 of ``[a-z0-9_./-]``."""
    return _matched(value, _LABEL_KEY, "label key", f"1 to {MAX_LABEL_KEY_CHARS} characters of a-z 0-9 _ . / -").lower()


def label_value(value: object) -> str:
    """A label's value in Unicode form NFC: 0..128 printable characters."""
    if isinstance(value, str) and len(value) <= MAX_LABEL_VALUE_CHARS:
        normal = unicodedata.normalize("NFC", value)
        if normal.isprintable() and len(normal) <= MAX_LABEL_VALUE_CHARS:
            return normal
    raise InvalidInput(
        f"{shown(value)} is no label value: it must be text of at most {MAX_LABEL_VALUE_CHARS} printable characters"
    )


def labels(value: Mapping[object, object] | Mapping[str, str]) -> dict[str, str]:
    """Labels in normal form, sorted by key: at most 32.

    Raises:
        InvalidInput: too many, a bad key or value, or two keys that are the same once lower-cased.
    """
    if len(value) > MAX_LABELS:
        raise InvalidInput(f"{len(value)} labels: at most {MAX_LABELS} are allowed")
    normal: dict[str, str] = {}
    for raw_key, raw_value in value.items():
        key = label_key(raw_key)
        if key in normal:
            raise InvalidInput(f"label {shown(key)} is given twice (keys are compared in lower case)")
        try:
            normal[key] = label_value(raw_value)
        except InvalidInput as error:
            raise InvalidInput(f"label {shown(key)}: {error}") from None
    return dict(sorted(normal.items()))
