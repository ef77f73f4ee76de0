"""What requests about jobs say in their bodies."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pyscheduler.core.jobs import JobRequest
from pyscheduler.core.limits import (
    MAX_ATTEMPT,
    MAX_EVENT_REASON_BYTES,
    MAX_INSTANCE_ID_CHARS,
    MAX_JOB_ID_CHARS,
    MAX_JOB_SLOTS,
    MAX_LABELS,
    MAX_NODE_ID_CHARS,
    MAX_POOL_NAME_CHARS,
    MAX_REQUEST_NAMES,
    MAX_SERVICE_TYPE_CHARS,
    MAX_TENANT_CHARS,
)
from pyscheduler.registry.http_bodies import Body

MAX_JOBS_OF_A_REQUEST: Final = 128
"""Jobs of one request."""

MAX_WAIT_MS: Final = 60_000
"""How long a request may wait for a node."""

_DAY_MS: Final = 86_400_000
_LANGUAGE_CHARS: Final = 64

JobId = Annotated[str, Field(min_length=1, max_length=MAX_JOB_ID_CHARS)]
Attempt = Annotated[int, Field(ge=1, le=MAX_ATTEMPT)]
Owner = Annotated[
    str,
    Field(min_length=1, max_length=MAX_INSTANCE_ID_CHARS, description="Who asks, and alone may speak for the attempt."),
]
Lease = Annotated[
    int, Field(ge=1, le=_DAY_MS, description="How long the reservation holds without a word from its owner, in ms.")
]
Plan = Annotated[bool, Field(description="Say what would be reserved, and change nothing.")]
Wait = Annotated[int, Field(ge=0, le=MAX_WAIT_MS, description="How long to wait for a node if there is none, in ms.")]
NodeIds = Annotated[list[Annotated[str, Field(max_length=MAX_NODE_ID_CHARS)]], Field(max_length=MAX_REQUEST_NAMES)]
PoolNames = Annotated[list[Annotated[str, Field(max_length=MAX_POOL_NAME_CHARS)]], Field(max_length=MAX_REQUEST_NAMES)]


class RequestBody(Body):
    """What a job needs of its node."""

    src: Annotated[str, Field(max_length=_LANGUAGE_CHARS, description="Language that is spoken.")]
    tgt: Annotated[str, Field(max_length=_LANGUAGE_CHARS, description="Language that is wanted.")]
    services: Annotated[
        list[Annotated[str, Field(max_length=MAX_SERVICE_TYPE_CHARS)]],
        Field(max_length=MAX_REQUEST_NAMES, description="Service types that must be ready on the node."),
    ] = Field(default_factory=list)
    tenant: Annotated[str | None, Field(max_length=MAX_TENANT_CHARS, description="Whose job it is; null: public.")] = (
        None
    )
    session: Annotated[
        str | None,
        Field(max_length=MAX_JOB_ID_CHARS, description="Jobs of one session go to one node, under affinity."),
    ] = None
    slots: Annotated[int, Field(ge=1, le=MAX_JOB_SLOTS, description="Slots of the node that it takes.")] = 1
    labels: Annotated[dict[str, str], Field(max_length=MAX_LABELS, description="Labels that the node must have.")] = (
        Field(default_factory=dict)
    )
    scope: Annotated[
        Literal["eligible", "exact"] | None,
        Field(description="Any node that can serve it, or those of exactly its languages; null: as the document says."),
    ] = None
    exclude: Annotated[NodeIds, Field(description="Nodes that it must not get.")] = Field(default_factory=list)
    exclude_pools: Annotated[PoolNames, Field(description="Pools whose nodes it must not get.")] = Field(
        default_factory=list
    )

    def request(self) -> JobRequest:
        """What it asks for.

        Raises:
            InvalidInput: something is out of its alphabet; the message says what.
        """
        asked: dict[str, Any] = {name: getattr(self, name) for name in RequestBody.model_fields}
        for name in ("tenant", "session", "scope"):
            asked[name] = asked[name] or ""
        return JobRequest(**asked)


class JobBody(RequestBody):
    """A job, and what it needs."""

    job_id: JobId
    attempt: Attempt = 1


class ReserveBody(JobBody):
    """A job that wants a node."""

    owner: Owner
    lease_ms: Lease
    plan: Plan = False
    wait_ms: Wait = 0


class ReserveManyBody(Body):
    """Jobs that want a node each."""

    jobs: Annotated[list[JobBody], Field(min_length=1, max_length=MAX_JOBS_OF_A_REQUEST)]
    owner: Owner
    lease_ms: Lease
    plan: Plan = False


class ReassignBody(RequestBody):
    """A job that wants another node."""

    after: Annotated[int, Field(ge=1, le=MAX_ATTEMPT - 1, description="Attempt whose place the next one takes.")]
    owner: Owner
    lease_ms: Lease
    plan: Plan = False
    wait_ms: Wait = 0


class ExplainBody(RequestBody):
    """A job that might want a node."""

    job_id: Annotated[JobId, Field(description="Where chance decides, the id of the job does.")] = "job"


class RenewBody(Body):
    """The owner needs the reservation for longer."""

    attempt: Attempt
    owner: Owner
    lease_ms: Lease


class EndBody(Body):
    """The owner needs the reservation no more."""

    attempt: Attempt
    owner: Owner
    reason: Annotated[str, Field(max_length=MAX_EVENT_REASON_BYTES, description="Why, for the event.")] = ""
