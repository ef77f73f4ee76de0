"""How a job gets its node: what the document says of selection, and what it says of tenants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from pyscheduler.core import ids
from pyscheduler.core.limits import MAX_NODE_SLOTS, MAX_POOL_NAME_CHARS, MAX_TENANT_CHARS, MAX_TENANT_SLOTS
from pyscheduler.core.rules import NotNull, Section, normal, text_schema

Strategy = Literal["least_loaded", "power_of_two", "random", "affinity"]
Scope = Literal["eligible", "exact"]
Fate = Literal["keep", "lose"]

PoolName = Annotated[
    StrictStr, normal(ids.pool_name), text_schema(f"^[a-z0-9][a-z0-9._-]{{0,{MAX_POOL_NAME_CHARS - 1}}}$")
]
_Slots = Annotated[StrictInt, Field(ge=1, le=MAX_NODE_SLOTS)]
_Quota = Annotated[StrictInt, Field(ge=0, le=MAX_TENANT_SLOTS)]


class SelectionPolicy(Section):
    """How jobs get their nodes, in every pool that does not say otherwise."""

    slots_per_node: _Slots = Field(default=4, description="Slots of a node: what its jobs may take together.")
    strategy: Strategy = Field(default="least_loaded", description="Which of a pool's nodes with a free slot is taken.")
    scope: Scope = Field(
        default="eligible",
        description="Nodes that can serve the job whatever else they do, or those of exactly its languages.",
    )
    on_new_epoch: Fate = Field(
        default="keep", description="What becomes of a node's reservations when it begins a new session."
    )
    on_drain: Fate = Field(default="keep", description="What becomes of a node's reservations when it gets a hold.")
    tenant_slots: _Quota = Field(
        default=0, description="Slots that a tenant may have at most, if nothing else is said of it; 0: no bound."
    )


class PoolSelection(Section):
    """What a pool does in its own way."""

    slots_per_node: Annotated[_Slots | None, NotNull] = Field(default=None, description="Slots of a node of this pool.")
    strategy: Annotated[Strategy | None, NotNull] = Field(
        default=None, description="Which of its nodes with a free slot is taken."
    )


class TenantRule(Section):
    """What holds for one tenant."""

    name: Annotated[
        StrictStr, normal(ids.tenant), text_schema(f"^[A-Za-z0-9._:-]{{1,{MAX_TENANT_CHARS}}}$", examples=["acme"])
    ] = Field(description="Name of the tenant, as its jobs give it.")
    pool: Annotated[PoolName | None, NotNull] = Field(
        default=None, description="Pool that is tried first for its jobs."
    )
    strict: StrictBool = Field(default=False, description="Whether its jobs get nodes of that pool alone.")
    slots: Annotated[_Quota | None, NotNull] = Field(
        default=None, description="Slots that it may have at most; 0: no bound."
    )
