"""Rules: what a node's facts must be to belong in a pool.

These models say what may be written. What they mean is said once, by the matcher in the scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pyscheduler.core import ids
from pyscheduler.core.facts import UNIQUE_LABEL_PREFIX
from pyscheduler.core.ids import shown
from pyscheduler.core.languages import language
from pyscheduler.core.limits import (
    MAX_GPUS,
    MAX_LABEL_KEY_CHARS,
    MAX_LABEL_VALUE_CHARS,
    MAX_LABELS,
    MAX_LANGUAGES,
    MAX_MATCH_GPU_MEMORY_GB,
    MAX_SERVICE_TYPE_CHARS,
    MAX_SERVICES,
)
from pyscheduler.errors import InvalidInput

T = TypeVar("T")


class Section(BaseModel):
    """Base of every part of a document: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def repeated(names: Iterable[object]) -> list[tuple[int, int]]:
    """Each entry that equals an earlier one: its index and the index of the first of its like."""
    first: dict[object, int] = {}
    return [(index, first[name]) for index, name in enumerate(names) if first.setdefault(name, index) != index]


def normal(check: Callable[[object], str]) -> AfterValidator:
    """``check`` as a validator: pydantic collects a ValueError and goes on, anything else would end the validation."""

    def validate(value: object) -> str:
        try:
            return check(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    return AfterValidator(validate)


def _sorted_once(values: tuple[str, ...]) -> tuple[str, ...]:
    # The order of a set means nothing, so it must not change the digest either.
    return tuple(sorted(set(values)))


def _not_null(value: object) -> object:
    # A key whose lines below were commented out would otherwise pass as "no constraint" and let every node in.
    if value is None:
        raise ValueError("has no value: fill it in, or leave the key out")
    return value


def _matchable_label_key(value: object) -> str:
    key = ids.label_key(value)
    if key.startswith(UNIQUE_LABEL_PREFIX):
        raise InvalidInput(
            f"no node can ever match: labels that begin with {UNIQUE_LABEL_PREFIX} are recorded, but not looked at"
        )
    return key


def _with_rule(handler: Callable[[Any], T], data: object, breach: str) -> T:
    """What ``handler`` makes of ``data``, unless there is a ``breach``, which is added to what the handler finds wrong.

    An "after" validator is skipped when a member is wrong, and then a part of the problems would go unsaid.
    """
    try:
        value = handler(data)
    except ValidationError as error:
        if not breach:
            raise
        found = [
            InitErrorDetails(
                type=PydanticCustomError(item["type"], "{text}", {**item.get("ctx", {}), "text": item["msg"]}),
                loc=item["loc"],
                input=item["input"],
            )
            for item in error.errors(include_url=False)
        ]
        found.append(
            InitErrorDetails(type=PydanticCustomError("value_error", "{error}", {"error": breach}), input=data)
        )
        raise ValidationError.from_exception_data(error.title, found) from None
    if breach:
        raise ValueError(breach)
    return value


def _frozen_labels(data: object, handler: Callable[[Any], Mapping[str, str]]) -> Mapping[str, str]:
    breach = ""
    if isinstance(data, Mapping):
        keys = [key.lower() for key in data if isinstance(key, str)]
        if repeats := repeated(keys):
            twice = ", ".join(shown(keys[index]) for index, _ in repeats)
            breach = f"given more than once: {twice} (keys are compared in lower case)"
    return MappingProxyType(dict(sorted(_with_rule(handler, data, breach).items())))


def text_schema(pattern: str, **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, **more})


# The patterns below are for editors only: they repeat what the functions of `ids` and `languages` check, and a test
# holds the two together.
_LanguageCode = Annotated[
    StrictStr, normal(language), text_schema("^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,3}$", examples=["en", "zh-cn"])
]
_ServiceType = Annotated[
    StrictStr,
    normal(ids.service_type),
    text_schema(f"^[A-Za-z0-9_.-]{{1,{MAX_SERVICE_TYPE_CHARS}}}$", examples=["asr"]),
]
_Languages = Annotated[
    tuple[_LanguageCode, ...], Field(min_length=1, max_length=MAX_LANGUAGES), AfterValidator(_sorted_once)
]
Services = Annotated[tuple[_ServiceType, ...], Field(max_length=MAX_SERVICES), AfterValidator(_sorted_once)]
_Labels = Annotated[
    Mapping[Annotated[StrictStr, normal(_matchable_label_key)], Annotated[StrictStr, normal(ids.label_value)]],
    Field(max_length=MAX_LABELS),
    WrapValidator(_frozen_labels),
    PlainSerializer(dict),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_LABELS,
            "propertyNames": {
                "pattern": f"^(?![Uu][Nn][Ii][Qq][Uu][Ee]\\.)[A-Za-z0-9_./-]{{1,{MAX_LABEL_KEY_CHARS}}}$"
            },
            "additionalProperties": {"type": "string", "maxLength": MAX_LABEL_VALUE_CHARS},
        }
    ),
]
NotNull = BeforeValidator(_not_null)


LANGUAGE_MODES = ("exact", "contains", "any")


class LanguageRule(Section):
    """What a node's language set must be: exactly one of the three members is given."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [mode]} for mode in LANGUAGE_MODES]})

    exact: Annotated[_Languages | None, NotNull] = Field(
        default=None, description="The node has these languages and no other."
    )
    contains: Annotated[_Languages | None, NotNull] = Field(
        default=None, description="The node has all of these languages; more do no harm."
    )
    any: Annotated[_Languages | None, NotNull] = Field(
        default=None, description="The node has at least one of these languages."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _one_mode(cls, data: Any, handler: ModelWrapValidatorHandler[LanguageRule]) -> LanguageRule:
        given = [mode for mode in LANGUAGE_MODES if mode in data] if isinstance(data, Mapping) else []
        too_many = f"give one of exact, contains and any, not {' and '.join(given)}" if len(given) > 1 else ""
        rule = _with_rule(handler, data, too_many)
        if isinstance(data, Mapping) and not given:
            raise ValueError("constrains nothing: give one of exact, contains and any, or leave the key out")
        return rule

    @property
    def mode(self) -> str:
        """Which member is given: ``exact``, ``contains`` or ``any``."""
        return next(mode for mode in LANGUAGE_MODES if getattr(self, mode) is not None)

    @property
    def codes(self) -> tuple[str, ...]:
        """The languages of that member, sorted."""
        codes: tuple[str, ...] = getattr(self, self.mode)
        return codes


class GpuRule(Section):
    """GPUs that a node must have: at least ``min_count`` with at least ``min_memory_gb`` each."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    min_count: Annotated[StrictInt | None, Field(ge=1, le=MAX_GPUS), NotNull] = Field(
        default=None, description="GPUs that must have that memory; 1 if left out."
    )
    min_memory_gb: Annotated[StrictInt, Field(ge=0, le=MAX_MATCH_GPU_MEMORY_GB)] = Field(
        default=0, description="Memory in GB that each of these GPUs must have."
    )

    @model_validator(mode="after")
    def _constrains(self) -> GpuRule:
        if self.min_count is None and self.min_memory_gb == 0:
            raise ValueError("constrains nothing: give min_count, or a min_memory_gb above 0, or leave the key out")
        return self


class MatchRule(Section):
    """What a node's facts must be to belong in a pool. All that is given must hold; something must be given."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    semantic: Annotated[LanguageRule | None, NotNull] = Field(
        default=None, description="Languages that the node understands and translates between."
    )
    asr: Annotated[LanguageRule | None, NotNull] = Field(
        default=None, description="Languages that the node recognises."
    )
    tts: Annotated[LanguageRule | None, NotNull] = Field(default=None, description="Languages that the node speaks.")
    services: Services = Field(default=(), description="Service types that must all be ready on the node.")
    gpu: Annotated[GpuRule | None, NotNull] = Field(default=None, description="GPUs that the node must have.")
    labels: _Labels = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Labels that the node must have, each with exactly this value.",
    )

    @model_validator(mode="after")
    def _constrains(self) -> MatchRule:
        if not self.constraints:
            raise ValueError(
                "constrains nothing, so every node would match: give at least one of "
                "semantic, asr, tts, services, gpu and labels"
            )
        return self

    @property
    def constraints(self) -> int:
        """How specific the rule is: one for each language rule, service, label and given member of ``gpu``.

        A ``gpu.min_memory_gb`` of 0 asks for nothing and counts for nothing.
        """
        count = sum(rule is not None for rule in (self.semantic, self.asr, self.tts))
        count += len(self.services) + len(self.labels)
        if self.gpu is not None:
            count += (self.gpu.min_count is not None) + (self.gpu.min_memory_gb > 0)
        return count

    def to_data(self) -> dict[str, object]:
        """The rule as JSON data without what constrains nothing: as many members and entries as it has constraints."""
        data: dict[str, object] = self.model_dump(mode="json", exclude_none=True)
        if self.gpu is not None and self.gpu.min_memory_gb == 0:
            data["gpu"] = {"min_count": self.gpu.min_count}
        return {member: value for member, value in data.items() if value}
