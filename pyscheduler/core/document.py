"""The pool configuration document: what an operator decides, as one frozen value.

:func:`pyscheduler.core.reader.load_document` makes one from YAML or JSON. The store holds its canonical JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.canonical import canonical_json, json_object, short_digest
from pyscheduler.core.ids import shown
from pyscheduler.core.limits import (
    MAX_AUTO_MIN_NODES,
    MAX_AUTO_POOLS,
    MAX_DOCUMENT_BYTES,
    MAX_IDLE_TTL_MS,
    MAX_POOLS,
    MAX_PRIORITY,
    MAX_TENANTS,
    MIN_IDLE_TTL_MS,
    MIN_PRIORITY,
)
from pyscheduler.core.rules import MatchRule, NotNull, Section, Services, repeated
from pyscheduler.core.selection import PoolName, PoolSelection, SelectionPolicy, TenantRule
from pyscheduler.errors import DocumentInvalid, InvalidInput, Problem

SCHEMA = 1
"""The one document schema that this version reads and writes."""

DEFAULT_IDLE_TTL_MS = 600_000
DEFAULT_UNASSIGNED_PERMILLE = 500

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"([0-9]{1,10})(ms|s|m|h|d)")


def duration_ms(value: object) -> int:
    """A duration in ms: a whole number of seconds, or text such as ``500ms``, ``30s``, ``10m``, ``2h``, ``1d``.

    Raises:
        ValueError: neither of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value * 1000
    if isinstance(value, str) and (parts := _DURATION.fullmatch(value)):
        return int(parts[1]) * _UNITS_MS[parts[2]]
    raise ValueError(
        f"{shown(value)} is no duration: write whole seconds, or a number and ms, s, m, h or d, such as 10m"
    )


def duration_text(ms: int) -> str:
    """``ms`` in the largest unit that needs no fraction: 600000 is ``10m``."""
    unit, size = next((unit, size) for unit, size in _UNITS_MS.items() if ms % size == 0)
    return f"{ms // size}{unit}"


def _idle_ttl_ms(value: object) -> int:
    if value is None:
        raise ValueError("has no value: write a duration such as 10m, or leave the key out")
    ms = duration_ms(value)
    if not MIN_IDLE_TTL_MS <= ms <= MAX_IDLE_TTL_MS:
        raise ValueError(
            f"must be from {duration_text(MIN_IDLE_TTL_MS)} to {duration_text(MAX_IDLE_TTL_MS)}, not {shown(value)}"
        )
    return ms


def _permille(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, not {shown(value)}")
    return round(value * 1000)


def _share(permille: int) -> float:
    return permille / 1000


def _known_schema(value: int) -> int:
    if value != SCHEMA:
        raise ValueError(f"{shown(value)} is unknown: this version reads schema {SCHEMA}")
    return value


class DeclaredPool(Section):
    """A pool that the operator declares."""

    name: PoolName = Field(description="Unique name of the pool, such as en-zh.")
    priority: Annotated[StrictInt, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY)] = Field(
        default=0, description="Pools of a higher priority are tried first."
    )
    match: MatchRule = Field(description="Which nodes belong in the pool.")
    selection: Annotated[PoolSelection | None, NotNull] = Field(
        default=None, description="What the pool does in its own way when jobs get its nodes."
    )


class AutoPolicy(Section):
    """When a pool is created by itself for nodes that no declared pool takes: one for each language set."""

    enabled: StrictBool = Field(
        default=True, description="Whether auto pools are created; existing ones stay until idle."
    )
    require_services: Services = Field(
        default=(), description="Service types that must be ready on a node for an auto pool to take it."
    )
    min_nodes: Annotated[StrictInt, Field(ge=1, le=MAX_AUTO_MIN_NODES)] = Field(
        default=1, description="Nodes of one language set that must wait before their pool is created."
    )
    max_pools: Annotated[StrictInt, Field(ge=0, le=MAX_AUTO_POOLS)] = Field(
        default=1000, description="Auto pools that may exist at the same time."
    )
    idle_ttl_ms: Annotated[
        int,
        BeforeValidator(_idle_ttl_ms),
        PlainSerializer(duration_text),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": MAX_IDLE_TTL_MS // 1000},
                    {"type": "string", "pattern": f"^{_DURATION.pattern}$"},
                ],
                "examples": ["30s", "10m", "2h", 600],
            }
        ),
    ] = Field(
        default=DEFAULT_IDLE_TTL_MS,
        alias="idle_ttl",
        json_schema_extra={"default": duration_text(DEFAULT_IDLE_TTL_MS)},
        description="How long an auto pool without nodes is kept: seconds, or 500ms, 30s, 10m, 2h, 1d.",
    )


class GuardPolicy(Section):
    """What a configuration change may do at most, unless it is forced."""

    max_unassigned_permille: Annotated[
        int,
        BeforeValidator(_permille),
        PlainSerializer(_share),
        WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
    ] = Field(
        default=DEFAULT_UNASSIGNED_PERMILLE,
        alias="max_unassigned_share",
        json_schema_extra={"default": _share(DEFAULT_UNASSIGNED_PERMILLE)},
        description=(
            "Share of the ready nodes, 0 to 1 in steps of 0.001, that may lose their pool to none by one change."
        ),
    )


class PoolDocument(Section):
    """The whole configuration. ``PoolDocument()`` is what holds before there is any.

    Equal documents have equal canonical JSON, and the other way round.
    """

    schema_version: Annotated[StrictInt, AfterValidator(_known_schema)] = Field(
        default=SCHEMA,
        alias="schema",
        description="Version of this format.",
        json_schema_extra={"const": SCHEMA},
    )
    admission: AdmissionPolicy = Field(default=AdmissionPolicy(), description="Which nodes may register at all.")
    auto: AutoPolicy = Field(default=AutoPolicy(), description="Pools that are created by themselves.")
    guard: GuardPolicy = Field(default=GuardPolicy(), description="What a configuration change may do at most.")
    selection: SelectionPolicy = Field(default=SelectionPolicy(), description="How jobs get their nodes.")
    tenants: Annotated[tuple[TenantRule, ...], Field(max_length=MAX_TENANTS)] = Field(
        default=(), description="What holds for single tenants."
    )
    pools: Annotated[tuple[DeclaredPool, ...], Field(max_length=MAX_POOLS)] = Field(
        default=(), description="The declared pools."
    )

    @model_validator(mode="after")
    def _unique_names(self) -> PoolDocument:
        for index, first in repeated(pool.name for pool in self.pools):
            raise ValueError(f"pools[{index}] and pools[{first}] have the same name {shown(self.pools[index].name)}")
        for index, first in repeated(tenant.name for tenant in self.tenants):
            raise ValueError(
                f"tenants[{index}] and tenants[{first}] have the same name {shown(self.tenants[index].name)}"
            )
        return self

    def to_data(self) -> dict[str, object]:
        """The document as an author would write it, all defaults filled in: JSON data that the reader accepts."""
        data = self.model_dump(mode="json", by_alias=True, exclude={"pools", "tenants"})
        tenants = [tenant.model_dump(mode="json", exclude_none=True) for tenant in self.tenants]
        return {**data, "tenants": tenants, "pools": [_pool_data(pool) for pool in self.pools]}

    def canonical(self) -> str:
        """The one JSON text of this document: what the store holds and what the digest is made of."""
        return self._canonical

    @cached_property
    def _canonical(self) -> str:
        auto, guard = self.auto, self.guard
        return canonical_json(
            {
                **self.to_data(),
                "auto": {**auto.model_dump(mode="json"), "idle_ttl_ms": auto.idle_ttl_ms},
                "guard": {"max_unassigned_permille": guard.max_unassigned_permille},
            }
        )

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-1 of the canonical JSON."""
        return short_digest(self.canonical())

    @classmethod
    def from_canonical(cls, text: str) -> PoolDocument:
        """The document of a canonical JSON.

        Raises:
            DocumentInvalid: not JSON, longer than 1 MiB, or no document of this schema.
        """
        try:
            data = json_object(text, what="the stored document", max_bytes=MAX_DOCUMENT_BYTES)
            return cls.model_validate(_as_written(data))
        except ValidationError as error:
            found = error.errors(include_url=False)
            raise DocumentInvalid([Problem(".".join(map(str, item["loc"])), item["msg"]) for item in found]) from None
        except InvalidInput as error:
            raise DocumentInvalid([Problem("", str(error))]) from None

    def in_match_order(self) -> tuple[DeclaredPool, ...]:
        """The pools as they are tried: by priority (high first), number of constraints (many first), document order."""
        return tuple(sorted(self.pools, key=match_rank))


def match_rank(pool: DeclaredPool) -> tuple[int, int]:
    """Sort key of the match order; a stable sort by it keeps the order of the document among equals."""
    return -pool.priority, -pool.match.constraints


def _pool_data(pool: DeclaredPool) -> dict[str, object]:
    data: dict[str, object] = {"name": pool.name, "priority": pool.priority, "match": pool.match.to_data()}
    if own := pool.selection and pool.selection.model_dump(mode="json", exclude_none=True):
        data["selection"] = own
    return data


def _as_written(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical data with its integers turned back into the units that authors write."""
    data = dict(canonical)
    if isinstance(data.get("auto"), dict):
        data["auto"] = auto = dict(data["auto"])
        if isinstance(auto.get("idle_ttl_ms"), int):
            auto["idle_ttl"] = f"{auto.pop('idle_ttl_ms')}ms"
    if isinstance(data.get("guard"), dict):
        data["guard"] = guard = dict(data["guard"])
        if isinstance(guard.get("max_unassigned_permille"), int):
            guard["max_unassigned_share"] = _share(guard.pop("max_unassigned_permille"))
    return data
