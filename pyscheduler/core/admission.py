"""Admission: which nodes may register at all.

The policy is a section of the configuration document. It is checked here, on this side, under a policy that the store
handed out; the store compares the policy's digest when it registers the node and refuses one that is out of date.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Protocol

from msgspec import Struct
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from pyscheduler.core.canonical import canonical_json, short_digest
from pyscheduler.core.codes import ErrorCode
from pyscheduler.core.ids import shown
from pyscheduler.core.limits import (
    MAX_ADMISSION_GPU_MEMORY_GB,
    MAX_GPU_NAME_PATTERN_CHARS,
    MAX_GPU_NAME_PATTERNS,
    MAX_GPUS,
    MAX_SCHEMA_VERSION_CHARS,
    MAX_SCHEMA_VERSIONS,
)
from pyscheduler.errors import InvalidInput

ABSENT_SCHEMA_VERSION = "1.0"
"""What a registration without ``capability_schema_version`` counts as: the field came with 2.0."""

_SHOWN_GPUS = 4


class Gpu(Protocol):
    """One GPU as a node reported it."""

    @property
    def name(self) -> str: ...
    @property
    def memory_gb(self) -> int: ...


class Missing(Struct, frozen=True):
    """One thing that keeps a node out. ``code`` is an error code of the node protocol."""

    code: ErrorCode
    message: str


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("only printable characters are allowed")
    return value


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    # Their order means nothing, so it must not change the digest either.
    return tuple(sorted(set(values)))


_Pattern = Annotated[StrictStr, Field(min_length=1, max_length=MAX_GPU_NAME_PATTERN_CHARS), AfterValidator(_printable)]
_SchemaVersion = Annotated[
    StrictStr, Field(min_length=1, max_length=MAX_SCHEMA_VERSION_CHARS), AfterValidator(_printable)
]


class GpuPolicy(BaseModel):
    """How many GPUs of which kind a node must have: at least ``min_count`` that satisfy both other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_count: Annotated[StrictInt, Field(ge=1, le=MAX_GPUS)] = Field(
        default=1, description="GPUs that a node must have, of the memory and name given here."
    )
    min_memory_gb: Annotated[StrictInt, Field(ge=0, le=MAX_ADMISSION_GPU_MEMORY_GB)] = Field(
        default=0, description="Memory in GB that a GPU must have to count."
    )
    name_patterns: Annotated[
        tuple[_Pattern, ...], Field(max_length=MAX_GPU_NAME_PATTERNS), AfterValidator(_each_once)
    ] = Field(default=(), description="Shell patterns, case-insensitive; a GPU counts if any fits. Empty: any name.")

    def lacks(self, gpu: Gpu) -> list[str]:
        """Why ``gpu`` does not count; empty if it does."""
        reasons = []
        if gpu.memory_gb < self.min_memory_gb:
            reasons.append(f"has {gpu.memory_gb} GB, needs {self.min_memory_gb} GB")
        if self.name_patterns and not any(
            fnmatch.fnmatchcase(gpu.name.lower(), pattern.lower()) for pattern in self.name_patterns
        ):
            reasons.append("its name fits no allowed pattern")
        return reasons

    def wants(self) -> str:
        """The demand in words."""
        text = "at least 1 GPU" if self.min_count == 1 else f"at least {self.min_count} GPUs"
        if self.min_memory_gb:
            text += f" with {self.min_memory_gb} GB or more"
        if self.name_patterns:
            patterns = ", ".join(shown(pattern) for pattern in self.name_patterns[:_SHOWN_GPUS])
            more = len(self.name_patterns) - _SHOWN_GPUS
            text += f" whose name fits {patterns}"
            if more > 0:
                text += f" or {more} more pattern" + ("s" if more > 1 else "")
        return text


class AdmissionPolicy(BaseModel):
    """The ``admission`` section of the configuration document. Applies to new registrations only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: GpuPolicy = GpuPolicy()
    schema_versions: Annotated[
        tuple[_SchemaVersion, ...], Field(min_length=1, max_length=MAX_SCHEMA_VERSIONS), AfterValidator(_each_once)
    ] = Field(
        default=("1.0", "2.0"),
        description=f"Capability schema versions that may register; an absent one counts as {ABSENT_SCHEMA_VERSION}.",
    )

    def to_json(self) -> str:
        """Canonical JSON: equal policies have equal text."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> AdmissionPolicy:
        """A policy from its JSON.

        Raises:
            InvalidInput: not JSON, or not a policy.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "text"
            raise InvalidInput(f"not an admission policy: {where}: {first['msg']}") from None

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-1 of the canonical JSON."""
        return short_digest(self.to_json())

    def check(self, gpus: Sequence[Gpu] | None, schema_version: str | None) -> list[Missing]:
        """What keeps a node out; empty if it may register.

        Args:
            gpus: the GPUs it reported; ``None`` if it reported no list at all.
            schema_version: its ``capability_schema_version``; ``None`` counts as ``"1.0"``.
        """
        missing = []
        version = ABSENT_SCHEMA_VERSION if schema_version is None else schema_version
        if version not in self.schema_versions:
            allowed = ", ".join(self.schema_versions)
            reported = shown(version) if schema_version is not None else f"none, which counts as {version}"
            missing.append(
                Missing(
                    ErrorCode.INVALID_CAPABILITY_SCHEMA,
                    f"capability_schema_version must be one of {allowed}; reported: {reported}",
                )
            )
        lacking = [(gpu, self.gpu.lacks(gpu)) for gpu in gpus or ()]
        if sum(not reasons for _, reasons in lacking) < self.gpu.min_count:
            missing.append(
                Missing(
                    ErrorCode.NO_GPU_AVAILABLE, f"a node must have {self.gpu.wants()}; reported: {_reported(lacking)}"
                )
            )
        return missing


def _reported(lacking: Sequence[tuple[Gpu, list[str]]]) -> str:
    if not lacking:
        return "no GPU"
    parts = [
        shown(gpu.name) + " (" + ("; ".join(reasons) if reasons else "counts") + ")"
        for gpu, reasons in lacking[:_SHOWN_GPUS]
    ]
    if len(lacking) > _SHOWN_GPUS:
        parts.append(f"{len(lacking) - _SHOWN_GPUS} more")
    return ", ".join(parts)
