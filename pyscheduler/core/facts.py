"""Facts: what matching may look at in a node. All nodes with equal facts are one capability class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pyscheduler.core import ids
from pyscheduler.core.canonical import canonical_json, json_object, short_digest
from pyscheduler.core.ids import shown
from pyscheduler.core.languages import languages
from pyscheduler.core.limits import MAX_GPUS, MAX_RECORD_BYTES, MAX_SERVICES, MAX_U32
from pyscheduler.errors import InvalidInput

UNIQUE_LABEL_PREFIX = "unique."
"""A label whose key begins so tells nodes apart; as a fact it would give every node a class of its own."""

_MEMBERS: dict[str, type] = {
    "asr": list,
    "tts": list,
    "semantic": list,
    "services": list,
    "gpu_memory_gb": list,
    "labels": dict,
    "private": bool,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """A node's facts, in normal form whatever order and case they are given in.

    Args:
        asr: languages that the node recognises, at most 256.
        tts: languages that it speaks, at most 256.
        semantic: languages that it understands and translates between, at most 256.
        services: types of the services that are ready, at most 256.
        gpu_memory_gb: GB of each GPU, one entry per GPU, at most 64.
        labels: at most 32; those whose key begins with ``unique.`` are left out.
        private: whether it takes no public jobs, those without a tenant.

    Attributes:
        json: canonical JSON, empty members left out: equal facts have equal JSON and the other way round.

    Raises:
        InvalidInput: something is out of its alphabet or bound; the message says which member.
    """

    asr: tuple[str, ...] = ()
    tts: tuple[str, ...] = ()
    semantic: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    gpu_memory_gb: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    private: bool = False
    json: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        for member in ("asr", "tts", "semantic"):
            try:
                put(self, member, languages(getattr(self, member)))
            except InvalidInput as error:
                raise InvalidInput(f"{member}: {error}") from None
        put(self, "services", _services(self.services))
        put(self, "gpu_memory_gb", _gpu_memory(self.gpu_memory_gb))
        kept = {key: value for key, value in ids.labels(self.labels).items() if not key.startswith(UNIQUE_LABEL_PREFIX)}
        put(self, "labels", MappingProxyType(kept))
        members = {
            "asr": self.asr,
            "gpu_memory_gb": self.gpu_memory_gb,
            "labels": kept,
            "private": self.private,
            "semantic": self.semantic,
            "services": self.services,
            "tts": self.tts,
        }
        put(self, "json", canonical_json({name: value for name, value in members.items() if value}))

    def __hash__(self) -> int:
        return hash(self.json)

    @property
    def languages(self) -> tuple[str, ...]:
        """The language set that names the node's auto pool: semantic, else tts, else asr."""
        return self.semantic or self.tts or self.asr

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-1 of the JSON."""
        return short_digest(self.json)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Facts from their JSON. Unknown members are refused.

        Raises:
            InvalidInput: not a JSON object, or not facts.
        """
        members = json_object(text, what="facts", max_bytes=MAX_RECORD_BYTES)
        for name, value in members.items():
            wanted = _MEMBERS.get(name)
            if wanted is None:
                raise InvalidInput(f"facts have no member {shown(name)}")
            if not isinstance(value, wanted):
                raise InvalidInput(f"facts: {name} must be a {wanted.__name__}")
        return cls(**members)  # type: ignore[arg-type]  # __post_init__ checks what is inside


def _services(values: Sequence[str]) -> tuple[str, ...]:
    if len(values) > MAX_SERVICES:
        raise InvalidInput(f"services: {len(values)} given, at most {MAX_SERVICES} are allowed")
    try:
        return tuple(sorted({ids.service_type(value) for value in values}))
    except InvalidInput as error:
        raise InvalidInput(f"services: {error}") from None


def _gpu_memory(values: Sequence[object]) -> tuple[int, ...]:
    if len(values) > MAX_GPUS:
        raise InvalidInput(f"gpu_memory_gb: {len(values)} GPUs given, at most {MAX_GPUS} are allowed")
    sizes = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_U32:
            raise InvalidInput(
                f"gpu_memory_gb: {shown(value)} is no number of GB: it must be an integer from 0 to {MAX_U32}"
            )
        sizes.append(value)
    return tuple(sorted(sizes, reverse=True))
