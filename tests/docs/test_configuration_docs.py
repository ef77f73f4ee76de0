"""docs/configuration.md names every key of a configuration with its bounds and default, and its examples load."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pyscheduler.core.document import duration_text
from pyscheduler.core.limits import MAX_IDLE_TTL_MS, MIN_IDLE_TTL_MS
from pyscheduler.core.reader import document_schema, load_document
from pyscheduler.errors import DocumentInvalid

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SCHEMA = document_schema()

SECTIONS = {
    "The document": SCHEMA,
    "`admission`: which nodes may register": SCHEMA["$defs"]["AdmissionPolicy"],
    "`admission.gpu`": SCHEMA["$defs"]["GpuPolicy"],
    "`auto`: pools that make themselves": SCHEMA["$defs"]["AutoPolicy"],
    "`guard`: what one change may do": SCHEMA["$defs"]["GuardPolicy"],
    "`pools`: what you declare": SCHEMA["$defs"]["DeclaredPool"],
    "`selection`: how jobs get their nodes": SCHEMA["$defs"]["SelectionPolicy"],
    "`tenants`: what holds for one tenant": SCHEMA["$defs"]["TenantRule"],
    "`pools[].selection`: what a pool does in its own way": SCHEMA["$defs"]["PoolSelection"],
    "`match`: which nodes belong in a pool": SCHEMA["$defs"]["MatchRule"],
    "`semantic`, `asr`, `tts`": SCHEMA["$defs"]["LanguageRule"],
    "`gpu`": SCHEMA["$defs"]["GpuRule"],
}
"""Headings of the page, and the part of the schema whose keys stand below."""

TEXTS = {
    part.partition("\n")[0].strip(): part.partition("\n")[2]
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
}


def kind(member: dict[str, Any], many: bool = False) -> str:
    """The type and bounds of a key, in words."""
    if "$ref" in member:
        return "mappings" if many else "mapping"
    if "anyOf" in member:
        assert member["title"] == "Idle TTL"
        return f"duration, `{duration_text(MIN_IDLE_TTL_MS)}` to `{duration_text(MAX_IDLE_TTL_MS)}`"
    match member["type"]:
        case "string" if "enum" in member:
            return "one of " + ", ".join(f"`{choice}`" for choice in member["enum"])
        case "array":
            return f"list of {member.get('minItems', 0)} to {member['maxItems']} {kind(member['items'], many=True)}"
        case "object":
            return f"mapping of up to {member['maxProperties']} texts"
        case "integer" if "const" in member:
            return f"`{member['const']}`"
        case "integer":
            return f"whole number, {member['minimum']} to {member['maximum']}"
        case "number":
            return f"number, {member['minimum']} to {member['maximum']}"
        case "boolean":
            return "`true` or `false`"
    return "texts" if many else "text"


def row(key: str, member: dict[str, Any], required: bool) -> str:
    default = "required" if required else f"`{json.dumps(member['default'])}`" if "default" in member else ""
    referred = SCHEMA["$defs"][member["$ref"].rpartition("/")[2]] if "$ref" in member else {}
    description = member.get("description") or referred["description"]
    return f"| `{key}` | {kind(member)} | {default} | {description} |"


def test_every_section_of_the_schema_has_its_place_on_the_page() -> None:
    assert sorted(map(id, SECTIONS.values())) == sorted(map(id, [SCHEMA, *SCHEMA["$defs"].values()]))


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_keys_on_the_page_are_those_of_the_schema(heading: str) -> None:
    section = SECTIONS[heading]
    rows = [row(key, member, key in section.get("required", ())) for key, member in section["properties"].items()]
    found = [line for line in TEXTS[heading].splitlines() if line.startswith("| `")]
    assert found == rows, "the table should be\n" + "\n".join(rows)


def examples() -> list[tuple[str, str]]:
    return re.findall(r"^```yaml\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("text", "answer"), examples(), ids=lambda part: part.partition("\n")[0][:30])
def test_every_example_gets_the_answer_that_the_page_gives(text: str, answer: str) -> None:
    """An example loads, unless the page shows after it what the reader says."""
    if not answer:
        load_document(text)
        return
    with pytest.raises(DocumentInvalid) as caught:
        load_document(text)
    assert str(caught.value).splitlines() == answer.splitlines()


def test_the_page_shows_both_kinds_of_examples() -> None:
    assert {bool(answer) for _, answer in examples()} == {True, False}
    assert PAGE.count("```yaml") == len(examples())


def test_the_example_file_loads_and_uses_every_key() -> None:
    text = (ROOT / "examples" / "pools.yaml").read_text(encoding="utf-8")
    document = load_document(text, source="examples/pools.yaml")
    assert len(document.pools) >= 5
    for section in SECTIONS.values():
        for key in section["properties"]:
            assert re.search(rf"(^|[\s{{,]){key}:", text, flags=re.MULTILINE), f"{key} is not in the example"
