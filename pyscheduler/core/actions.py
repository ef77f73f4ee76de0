"""What a node session asks its adapter to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

from pyscheduler.core.codes import CloseCode
from pyscheduler.core.report import NodeReport

Level = Literal["debug", "info", "warning", "error"]


class Send(Struct, frozen=True):
    """Send a text frame."""

    text: str


class ReadAdmission(Struct, frozen=True):
    """Read the admission policy in force from the store."""


class Register(Struct, frozen=True):
    """Register the node. ``epoch`` 0 begins a session; any other is this session's, which the store has lost.

    ``admission_digest`` is that of the policy under which a new session was checked; empty for an old one, to which
    admission does not apply again.
    """

    node_id: str
    report: NodeReport
    epoch: int
    admission_digest: str


class Update(Struct, frozen=True):
    """Write a changed report."""

    report: NodeReport
    reason: str


class Touch(Struct, frozen=True):
    """Renew the lease. ``None`` means unchanged since the store last acknowledged it."""

    load: float | None
    usage: str | None


class Release(Struct, frozen=True):
    """The socket is gone: release the node with its reconnect grace. The last action of a session that has one."""

    reason: str


class Close(Struct, frozen=True):
    """Close the socket with this code and reason."""

    code: CloseCode
    reason: str


class Note(Struct, frozen=True):
    """Write a log line; the adapter may count by ``event``."""

    level: Level
    event: str
    fields: Mapping[str, str | int] = field(default_factory=dict)


StoreAction = ReadAdmission | Register | Update | Touch
"""A call of the store. At most one of a session is in flight."""

Action = Send | StoreAction | Release | Close | Note
