"""Pool rules and the codes that placing a node answers with, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from pyscheduler.cli.text import safe

_MODES = {"exact": "exactly", "contains": "all of", "any": "any of"}
_LANGUAGE_LISTS = ("semantic", "asr", "tts")

REASONS = {
    "matched": "its facts meet the pool's rule",
    "no_languages": "it reports no languages, and no declared pool takes it",
    "name_taken": "a declared pool has the name that its auto pool would have, and that pool's rule does not take it",
    "services_missing": "it lacks a service that the auto policy requires",
    "auto_disabled": "no declared pool takes it, and auto pools are switched off",
    "max_pools": "no declared pool takes it, and there may be no more auto pools",
    "below_min_nodes": "no declared pool takes it, and too few nodes speak its languages for an auto pool",
    "awaiting_reconcile": "the next reconcile makes its pool",
}


def reason(code: str) -> str:
    """A placement's reason in words, or the code itself where there are none for it."""
    return REASONS.get(code, safe(code))


def rule_lines(rule: Mapping[str, object]) -> list[tuple[str, str]]:
    """A rule as pairs of what it looks at and what it wants there."""
    lines = []
    for name in ("languages", *_LANGUAGE_LISTS):
        wanted = rule.get(name)
        if isinstance(wanted, Mapping):
            lines += [(name, f"{_MODES[mode]} {_codes(wanted[mode])}") for mode in _MODES if mode in wanted]
        elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
            lines.append((name, f"exactly {_codes(wanted)}"))
    if services := rule.get("services"):
        lines.append(("services", f"all of {_codes(services)}"))
    gpu = rule.get("gpu")
    if isinstance(gpu, Mapping):
        lines.append(("gpu", _gpu_wanted(gpu)))
    labels = rule.get("labels")
    if isinstance(labels, Mapping):
        lines += [("label", f"{safe(str(key))} = {safe(str(value))}") for key, value in labels.items()]
    return lines


def wants(rule: Mapping[str, object], constraint: str) -> str:
    """What a rule wants at one constraint, such as ``semantic.exact`` or ``labels.zone``; empty if it has no such."""
    name, _, detail = constraint.partition(".")
    part = rule.get(name)
    if name == "languages" and isinstance(part, Sequence):
        return f"exactly {_codes(part)}"
    if name == "services":
        return f"{safe(detail)} ready"
    if not isinstance(part, Mapping):
        return ""
    if name in _LANGUAGE_LISTS and detail in part:
        return f"{_MODES.get(detail, safe(detail))} {_codes(part[detail])}"
    if name == "gpu":
        return _gpu_wanted(part)
    if name == "labels" and detail in part:
        return f"{safe(detail)} = {safe(str(part[detail]))}"
    return ""


def has(facts: Mapping[str, object], languages: Sequence[str], constraint: str) -> str:
    """What a node has at one constraint."""
    name, _, detail = constraint.partition(".")
    if name == "languages":
        return _codes(languages)
    if name in _LANGUAGE_LISTS or name == "services":
        return _codes(facts.get(name, ()))
    if name == "gpu":
        memory = cast(Sequence[object], facts.get("gpu_memory_gb", ()))
        return gpus(memory)
    if name == "labels":
        labels = facts.get("labels")
        if isinstance(labels, Mapping) and detail in labels:
            return f"{safe(detail)} = {safe(str(labels[detail]))}"
        return "no such label"
    return ""


def gpus(memory_gb: Sequence[object]) -> str:
    """GPUs by their memory: ``2 x 24 GB, 1 x 8 GB``."""
    counts: dict[object, int] = {}
    for size in memory_gb:
        counts[size] = counts.get(size, 0) + 1
    return ", ".join(f"{count} x {size} GB" for size, count in counts.items()) or "none"


def _gpu_wanted(gpu: Mapping[str, object]) -> str:
    count, memory = gpu.get("min_count", 1), gpu.get("min_memory_gb", 0)
    return f"at least {count} GPU{'' if count == 1 else 's'}" + (f" with {memory} GB or more" if memory else "")


def _codes(values: object) -> str:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return "none"
    shown = " ".join(safe(str(value)) for value in values[:24])
    return f"{shown} +{len(values) - 24}" if len(values) > 24 else shown
