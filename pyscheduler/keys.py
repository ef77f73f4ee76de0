"""Names of the keys of a namespace: a fixed handful, all in one Cluster slot by the hash tag."""

from __future__ import annotations

import re

from pyscheduler.errors import InvalidInput

KEY_NAMES = (
    "config",
    "pools",
    "classes",
    "class_facts",
    "class_index",
    "capabilities",
    "members",
    "ready",
    "leases",
    "sessions",
    "nodes",
    "holds",
    "usage",
    "history",
    "events",
    "instances",
    "jobs",
    "due",
    "reserved",
    "tenants",
    "tenant_rules",
    "routes",
    "affinities",
)
"""Every key there is. Node ids are fields and members of these, never parts of key names."""

_NAMESPACE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def namespace(value: str) -> str:
    """Validates the name of a namespace, also called a cell.

    Raises:
        InvalidInput: it is empty, longer than 64 characters, or has others than ``A-Z a-z 0-9 . _ : -``.
    """
    if not _NAMESPACE.fullmatch(value):
        raise InvalidInput("a namespace is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    return value


def key(namespace: str, name: str) -> str:
    """The Redis key called ``name`` (one of :data:`KEY_NAMES`) of a namespace."""
    return f"{{{namespace}}}:{name}"
