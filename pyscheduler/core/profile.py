"""NodeProfile: what a node has declared so far, from its registration and the heartbeats after it.

A profile never changes: a heartbeat that declares something new makes a new one, and one that cannot be made (a bad
language code, a record beyond its bound) leaves the old one in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

from msgspec import Struct

from pyscheduler.core import ids
from pyscheduler.core.canonical import canonical_json, canonical_json_of_parsed, short_digest
from pyscheduler.core.facts import Facts
from pyscheduler.core.languages import language, languages
from pyscheduler.core.limits import MAX_RECORD_BYTES, MAX_USAGE_BYTES
from pyscheduler.core.protocol import Frame, GpuInfo, NodeHeartbeat, NodeRegister, content_error
from pyscheduler.errors import InvalidInput

_LISTS = ("installed_models", "installed_services", "capability_by_type", "capability_state")
_SECTIONS = (*_LISTS, "language_capabilities")
_METRICS = ("rerun_metrics", "processing_metrics", "asr_metrics")
_LANGUAGE_LISTS = ("asr_languages", "tts_languages", "semantic_languages")

_NO_LANGUAGE = frozenset({"*", "auto", "multi"})
"""What a model's language may say instead of one language."""

_TYPE_IN_ID = {"asr": "asr", "whisper": "asr", "nmt": "nmt", "tts": "tts"}
"""Parts of a service id that tell its type, for clients that send no type."""

_BULKY = ("supported_language_pairs", "nmt_capabilities")
"""Derived lists of the January clients that grow with the square of the languages; left out of a record too long."""


class NodeProfile(Struct, frozen=True, weakref=True):
    """What a node has declared.

    Attributes:
        declared: its registration, with the lists of later heartbeats in place of older ones; not to be changed.
            Where its JSON would be longer than 64 KiB, the bulky derived lists are left out and named.
        gpus: its GPUs, as registered.
        schema_version: its ``capability_schema_version``; ``None`` if it sent none.
        facts: what matching looks at.
        record: canonical JSON of ``declared``.
        digest: of facts and record, as :class:`~pyscheduler.core.report.NodeReport` has it.
        running: for each installed service type, whether a service of it runs. Clients that never say so (see
            ``_running``) are judged by the kinds of their enabled models and by what they call ready.
    """

    declared: Mapping[str, Any]
    gpus: tuple[GpuInfo, ...]
    schema_version: str | None
    facts: Facts
    record: str
    digest: str
    running: Mapping[str, bool]

    @classmethod
    def registered(cls, frame: Frame) -> NodeProfile:
        """The profile of a ``node_register``.

        Raises:
            FrameError: its languages, types or labels are none, or there is too much of it.
        """
        assert isinstance(frame.body, NodeRegister)
        declared = {key: value for key, value in frame.raw.items() if key not in ("type", "node_id")}
        gpus = tuple(frame.body.hardware.gpus or ())
        return _profile(frame.type, declared, gpus, frame.body.capability_schema_version)

    def merged(self, frame: Frame) -> NodeProfile:
        """The profile after a ``node_heartbeat``: ``self`` if it declares nothing new.

        A list that is absent or null is unchanged, one that is present and empty is empty.

        Raises:
            FrameError: see :meth:`registered`.
        """
        changed: dict[str, Any] = {}
        for section in _SECTIONS:
            value = frame.raw.get(section)
            if value is None:
                continue
            current = self.declared.get(section)
            if section == "language_capabilities":
                value = {**(current or {}), **{key: inner for key, inner in value.items() if inner is not None}}
            if value != current:
                changed[section] = value
        if not changed:
            return self
        return _profile(frame.type, {**self.declared, **changed}, self.gpus, self.schema_version)


_IN_USE: WeakValueDictionary[str, NodeProfile] = WeakValueDictionary()
"""Profiles by their records, which all else of them follows from: nodes that declare the same share one, which else is
most of a socket and most of what a registration takes."""


class Usage(Protocol):
    """What a node says of how busy it is."""

    @property
    def cpu_percent(self) -> float: ...
    @property
    def gpu_percent(self) -> float | None: ...
    @property
    def gpu_queue_length(self) -> int | None: ...


def load_of(usage: Usage) -> float:
    """How busy a node is, 0..1 in steps of 0.01.

    Waiting GPU work means fully busy: the client sends ``gpu_queue_length`` to say that it takes nothing more now.
    """
    if usage.gpu_queue_length:
        return 1.0
    percent = usage.cpu_percent if usage.gpu_percent is None else usage.gpu_percent
    if percent <= 0.0:
        return 0.0
    return round(percent) / 100 if percent < 100.0 else 1.0


def usage_of(frame: Frame) -> str:
    """Canonical JSON of a heartbeat's resource usage and metrics, at most 4 KiB.

    If that is too long, only the fields that the protocol names: usage is for looking at, and no reason to refuse a
    heartbeat.
    """
    assert isinstance(frame.body, NodeHeartbeat)
    text = canonical_json({**frame.raw["resource_usage"], **metrics_of(frame)})
    if len(text) > MAX_USAGE_BYTES:
        text = canonical_json(frame.body.resource_usage.model_dump(exclude_none=True))
    return text


def metrics_of(frame: Frame) -> dict[str, Any]:
    """The members of a heartbeat that belong to its usage beside ``resource_usage``."""
    return {name: frame.raw[name] for name in _METRICS if frame.raw.get(name) is not None}


def _profile(kind: str, declared: dict[str, Any], gpus: tuple[GpuInfo, ...], schema_version: str | None) -> NodeProfile:
    record = canonical_json_of_parsed(declared)
    if (known := _IN_USE.get(record)) is not None:
        return known
    services = _ready_services(kind, declared)
    spoken = _spoken(kind, declared)
    try:
        labels = ids.labels(declared.get("labels") or {})
    except InvalidInput as error:
        raise content_error(kind, "labels", error) from None
    try:
        facts = Facts(
            asr=spoken["asr_languages"],
            tts=spoken["tts_languages"],
            semantic=spoken["semantic_languages"],
            services=services,
            gpu_memory_gb=tuple(gpu.memory_gb for gpu in gpus),
            labels=labels,
            private=not declared["accept_public_jobs"],
        )
    except InvalidInput as error:
        raise content_error(kind, "", error) from None
    declared, record = _bounded(kind, declared, record)
    profile = NodeProfile(
        declared=declared,
        gpus=gpus,
        schema_version=schema_version,
        facts=facts,
        record=record,
        digest=short_digest(f"{facts.json}\n{record}"),
        running=_running(kind, declared, services),
    )
    return _IN_USE.setdefault(record, profile)


def _bounded(kind: str, declared: dict[str, Any], record: str) -> tuple[dict[str, Any], str]:
    """``declared`` and its JSON, without the bulky lists where it is too long with them."""
    spoken = declared.get("language_capabilities")
    if len(record) > MAX_RECORD_BYTES and spoken:
        bulky = [name for name in _BULKY if name in spoken]
        kept = {name: value for name, value in spoken.items() if name not in bulky}
        declared = {**declared, "language_capabilities": {**kept, "left_out": bulky}}
        record = canonical_json_of_parsed(declared)
    if len(record) > MAX_RECORD_BYTES:
        size = f"what the node declares takes {len(record)} bytes, at most {MAX_RECORD_BYTES} are kept"
        raise content_error(kind, "", InvalidInput(size))
    return declared, record


def _type(kind: str, where: str, value: object) -> str:
    try:
        return ids.service_type(value)
    except InvalidInput as error:
        raise content_error(kind, where, error) from None


def _enabled_models(declared: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [model for model in declared.get("installed_models") or () if model.get("enabled") is not False]


def _ready_services(kind: str, declared: Mapping[str, Any]) -> tuple[str, ...]:
    by_type = declared.get("capability_by_type")
    if by_type is not None:
        return tuple(_type(kind, "capability_by_type", entry["type"]) for entry in by_type if entry["ready"])
    states = declared.get("capability_state") or {}
    models = [
        _type(kind, "installed_models", model["kind"])
        for model in _enabled_models(declared)
        if _is_ready(states, model["model_id"])
    ]
    services = [
        _service_type(kind, service)
        for service in declared.get("installed_services") or ()
        if _is_ready(states, service["service_id"])
    ]
    # Each once, and counted after that: many models may be of one type.
    return tuple(sorted({name for name in models + services if name is not None}))


def _is_ready(states: Mapping[str, str], what: str) -> bool:
    return states.get(what, "").lower() == "ready"


def _service_type(kind: str, service: Mapping[str, Any]) -> str | None:
    """The type of an installed service; clients of schema 1.0 name it only within the id, as in ``nmt-m2m100``."""
    if service.get("type") is not None:
        return _type(kind, "installed_services", service["type"])
    parts = service["service_id"].lower().replace("_", "-").split("-")
    return next((_TYPE_IN_ID[part] for part in parts if part in _TYPE_IN_ID), None)


def _spoken(kind: str, declared: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    spoken = declared.get("language_capabilities")
    if spoken is None:
        return _spoken_by_models(kind, declared)
    codes = {}
    for name in _LANGUAGE_LISTS:
        try:
            codes[name] = languages(spoken.get(name) or ())
        except InvalidInput as error:
            raise content_error(kind, f"language_capabilities.{name}", error) from None
    return codes


def _spoken_by_models(kind: str, declared: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Languages of a client that knows no ``language_capabilities``: those of its enabled models."""
    found: dict[str, list[str | None]] = {name: [] for name in _LANGUAGE_LISTS}
    for model in _enabled_models(declared):
        source, target = model.get("src_lang"), model.get("tgt_lang")
        match model["kind"].lower():
            case "asr":
                found["asr_languages"].append(source)
            case "tts":
                found["tts_languages"].append(target or source)
            case "nmt":
                found["semantic_languages"] += [source, target]
    try:
        # As with their types: each once, and counted after that.
        return {
            name: languages({language(code) for code in codes if code and code.lower() not in _NO_LANGUAGE})
            for name, codes in found.items()
        }
    except InvalidInput as error:
        raise content_error(kind, "installed_models", error) from None


def _running(kind: str, declared: Mapping[str, Any], ready: tuple[str, ...]) -> dict[str, bool]:
    """For each installed service type, whether a service of it runs.

    ``installed_services`` says it. Three kinds of clients do not say it: those of schema 1.0, whose services have no
    status (then ``capability_state`` counts), those older still that have no services at all, and any that has not
    sent the list yet. Of these two, the kinds of enabled models count as installed, and as running if they are ready,
    or if the client never says what is ready. A list that is present and empty means: nothing is installed.
    """
    running: dict[str, bool] = {}
    installed = declared.get("installed_services")
    states = declared.get("capability_state") or {}
    by_type = declared.get("capability_by_type") is not None
    has_status = False
    for index, service in enumerate(installed or ()):
        if by_type:
            _require(kind, f"installed_services[{index}]", service)
        has_status = has_status or service.get("status") is not None
        name = _service_type(kind, service)
        if name is not None:
            status = service.get("status")
            runs = _is_ready(states, service["service_id"]) if status is None else status.lower() == "running"
            running[name] = running.get(name, False) or runs
    if has_status or installed == []:
        return running
    says_what_is_ready = by_type or declared.get("capability_state") is not None
    for model in _enabled_models(declared):
        running[_type(kind, "installed_models", model["kind"])] = not says_what_is_ready
    return running | dict.fromkeys(ready, True)


def _require(kind: str, where: str, service: Mapping[str, Any]) -> None:
    for name in ("type", "device", "status"):
        if service.get(name) is None:
            raise content_error(kind, f"{where}.{name}", InvalidInput("Field required since capability schema 2.0"))
