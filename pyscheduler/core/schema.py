"""JSON Schema of the configuration document, for editors that complete and check while one types."""

from __future__ import annotations

from typing import Any

from pyscheduler.core.document import PoolDocument

_CAPITALS = {"asr": "ASR", "tts": "TTS", "gpu": "GPU", "gb": "GB", "ttl": "TTL"}


def document_schema() -> dict[str, Any]:
    """A JSON Schema, draft 2020-12, that accepts every document the reader accepts.

    The reader knows more: it also refuses repeated names, shadowed pools and durations out of bounds.
    """
    schema = PoolDocument.model_json_schema(by_alias=True)
    _mend(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "pyscheduler configuration",
        "description": "Which nodes may register, and which pool each belongs in.",
    }


def _mend(part: Any) -> None:
    if not isinstance(part, dict):
        return
    for key, member in part.get("properties", {}).items():
        _mend_member(key, member)
    if isinstance(description := part.get("description"), str):
        part["description"] = " ".join(description.replace("``", "`").split())
    for value in part.values():
        _mend(value)


def _mend_member(key: str, member: dict[str, Any]) -> None:
    """A member that may be left out is optional in the models, yet null is no value that an author may write."""
    choices = [choice for choice in member.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        del member["anyOf"]
        member.update(choices[0])
    # What a section holds by default is said at its members, where an editor shows it.
    if member.get("default") is None or isinstance(member["default"], dict):
        member.pop("default", None)
    words = " ".join(_CAPITALS.get(word, word) for word in key.split("_"))
    member["title"] = words[0].upper() + words[1:]
