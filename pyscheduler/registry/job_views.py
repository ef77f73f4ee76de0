"""What the operator door answers about jobs: models, so that its OpenAPI description is true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from pyscheduler.core import jobs, plain
from pyscheduler.registry.views import ErrorBody, View

_LEASE_END = "When its lease ends; of an ended one, when it is forgotten."


class _AttemptView(View):
    job_id: str
    attempt: int
    state: str = Field(description="reserved, running, finished, failed, released, lapsed or lost.")
    node_id: str
    epoch: int = Field(description="Epoch of the node when its slots were reserved.")
    pool: str = Field(description="Pool in which the node was chosen.")
    version: int = Field(description="Config version under which it was.")
    slots: int


class JobView(_AttemptView):
    """All that is known of a job: its latest attempt."""

    tenant: str | None
    owner: str
    session: str | None
    lease_end_at: int = Field(description=_LEASE_END)
    lease_ms: int = Field(description="What is left until then, in ms.")
    reason: str | None = Field(description="Why it ended; null while it has not.")

    @classmethod
    def of(cls, value: jobs.Job) -> Self:
        return cls.model_validate(plain.job(value))


class JobPageView(View):
    """A page of jobs."""

    version: int
    total: int = Field(description="All jobs that are known, whatever was asked for.")
    limit: int
    next: str | None = Field(description="What to give as 'after' for the page after this one; null: there is none.")
    jobs: tuple[JobView, ...]


class ReservationView(_AttemptView):
    """What an attempt of a job has, or had."""

    lease_end_at: int = Field(description=_LEASE_END)
    fresh: bool = Field(description="Whether this very request reserved it; false for one that was repeated.")
    plan: bool = Field(description="Whether nothing was changed: it is only what would be reserved.")

    @classmethod
    def of(cls, value: jobs.Reservation, *, plan: bool) -> Self:
        return cls.model_validate(plain.reservation(value, plan=plan))


class AnswerView(View):
    """What became of one of several jobs: a reservation, or an error."""

    job_id: str
    status: int = Field(description="Status that the job would have been answered with by itself.")
    reservation: ReservationView | None = None
    error: ErrorBody | None = None


class AnswersView(View):
    """What became of several jobs, in their order."""

    answers: tuple[AnswerView, ...]


class JobStatusView(View):
    """What a job is now."""

    job_id: str
    attempt: int
    state: str
    lease_end_at: int = Field(description=_LEASE_END)

    @classmethod
    def of(cls, value: jobs.JobStatus) -> Self:
        return cls.model_validate(plain.job_status(value))


class VerdictView(View):
    """What is against a node for a job."""

    node_id: str
    pool: str | None
    reason: str | None = Field(description="null: nothing.")


class JobExplanationView(View):
    """Which node a job would get, and what is against each node."""

    version: int
    node_id: str | None = Field(description="The node that it would get; null: none.")
    pool: str | None
    reasons: Mapping[str, int] = Field(
        description="How many nodes fail each condition; quota counts the job itself, and then nothing else is counted."
    )
    missing: tuple[str, ...] = Field(description="Capabilities that no node has at all.")
    nodes: tuple[VerdictView, ...] = Field(description="At most 1,000.")

    @classmethod
    def of(cls, value: jobs.JobExplanation) -> Self:
        return cls.model_validate(plain.job_explanation(value))
