"""docs/http-api.md names every path of the operator door with its parameters and a true example, and every metric."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pyscheduler import errors
from pyscheduler.core.jobs import NO_NODE_REASONS
from pyscheduler.core.results import EVENT_TYPES
from pyscheduler.registry import (
    http_bodies,
    http_errors,
    http_paths,
    job_paths,
    metrics,
    operator_door,
    operator_paths,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0].strip(): part.partition("\n")[2]
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
}

DESCRIPTION = http_paths.describe(operator_paths.PATHS)
ROUTES = {
    f"`{method.upper()} {path}`": operation
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
}
BODIES = {model for path in operator_paths.PATHS for model in path.bodies.values()}
WITH_JSON = [heading for heading in ROUTES if "/metrics" not in heading]


def examples(heading: str) -> list[Any]:
    """What is asked and answered in a section, in turn; where nothing is asked, the answers."""
    return [
        json.loads(found) for found in re.findall(r"^```json\n(.*?)^```$", SECTIONS[heading], re.MULTILINE | re.DOTALL)
    ]


def answers(heading: str) -> list[Any]:
    return examples(heading)[1 if heading.startswith("`POST") else 0 :: 2]


def models_of(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that a schema names."""
    named = [one["$ref"].rpartition("/")[2] for one in schema.get("anyOf", [schema]) if "$ref" in one]
    return [DESCRIPTION["components"]["schemas"][name] for name in named]


def of_some_model(example: Any, schema: dict[str, Any]) -> None:
    """The example is what the schema says, and leaves out no member of its model."""
    jsonschema.validate(example, {**schema, "components": DESCRIPTION["components"]})
    models = models_of(schema)
    assert not models or any(set(example) == set(model["properties"]) for model in models)


def bounds(schema: dict[str, Any]) -> str:
    """Type and bounds of a parameter, in words."""
    plain = next(one for one in schema.get("anyOf", [schema]) if one["type"] != "null")
    if plain["type"] == "integer":
        return f"{plain['minimum']:,} to {plain['maximum']:,}"
    if plain["type"] == "array":
        return f"text, up to {plain['maxItems']} times"
    return f"text, up to {plain['maxLength']} characters"


def test_every_path_has_a_section_and_there_are_no_others() -> None:
    assert [heading for heading in SECTIONS if heading.startswith(("`GET ", "`POST "))] == list(ROUTES)
    assert "`GET /openapi.json`" in PAGE


@pytest.mark.parametrize("heading", ROUTES)
def test_the_section_says_what_the_description_says(heading: str) -> None:
    assert SECTIONS[heading].strip().startswith(f"{ROUTES[heading]['summary']}.")


@pytest.mark.parametrize("heading", ROUTES)
def test_every_parameter_has_its_row(heading: str) -> None:
    rows = []
    for one in ROUTES[heading].get("parameters", []):
        if one["in"] == "query":
            default = (
                "required" if one["required"] else f"`{one['schema']['default']}`" if "default" in one["schema"] else ""
            )
            rows.append(f"| `{one['name']}` | {bounds(one['schema'])} | {default} |")
    found = [line for line in SECTIONS[heading].splitlines() if line.startswith("| `")]
    assert [line[: len(row)] for line, row in zip(found, rows, strict=True)] == rows


@pytest.mark.parametrize("heading", WITH_JSON)
def test_every_section_has_an_example_that_is_true_and_whole(heading: str) -> None:
    assert answers(heading)
    for answer in answers(heading)[:1] if heading.startswith("`GET") else answers(heading):
        of_some_model(answer, ROUTES[heading]["responses"]["200"]["content"]["application/json"]["schema"])


@pytest.mark.parametrize("heading", [heading for heading in ROUTES if heading.startswith("`POST")])
def test_every_section_with_a_body_shows_one(heading: str) -> None:
    asked = examples(heading)[::2]
    schema = ROUTES[heading]["requestBody"]["content"]["application/json"]["schema"]
    assert len(asked) == len(answers(heading)) == len(models_of(schema))
    for body in asked:
        jsonschema.validate(body, {**schema, "components": DESCRIPTION["components"]})


def kind(schema: dict[str, Any]) -> str:
    """Type and bounds of a member of a body, in words."""
    plain = next(one for one in schema.get("anyOf", [schema]) if one.get("type") != "null")
    if "enum" in plain:
        return " or ".join(f"`{one}`" for one in plain["enum"])
    match plain["type"]:
        case "integer":
            return f"{plain['minimum']:,} to {plain['maximum']:,}"
        case "boolean":
            return "true or false"
        case "array":
            what = "texts" if plain["items"].get("type") == "string" else "objects"
            return f"{plain.get('minItems', 0)} to {plain['maxItems']} {what}"
        case "object":
            return f"object of up to {plain['maxProperties']} texts"
    return f"text, up to {plain['maxLength']} characters"


def test_every_member_of_a_body_has_its_row() -> None:
    kinds: dict[str, str] = {}
    for model in BODIES:
        for name, schema in model.model_json_schema()["properties"].items():
            assert kinds.setdefault(name, kind(schema)) == kind(schema), f"{name} is not the same everywhere"
    rows = {f"| `{name}` | {text} |" for name, text in kinds.items()}
    found = set(re.findall(r"^(\| `\w+` \| [^|]* \|) ", SECTIONS["Jobs"], re.MULTILINE))
    assert found == rows, "the table should have\n" + "\n".join(sorted(rows))


def test_the_bounds_of_requests_are_given() -> None:
    assert f"{http_bodies.MAX_BODY_BYTES // 1024} KiB" in SECTIONS["Jobs"]
    assert f"{job_paths.MAX_WAITING_REQUESTS} requests wait" in SECTIONS["`POST /api/v1/jobs/reserve`"]
    assert f"`retry-after: {http_errors.RETRY_AFTER_S}`" in SECTIONS["Errors"]
    assert set(NO_NODE_REASONS) == set(re.findall(r"^\| `(\w+)` \|", SECTIONS["Reasons"], re.MULTILINE))


def test_the_form_of_errors_and_their_status() -> None:
    text = SECTIONS["Errors"]
    example = re.search(r"^```json\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert example is not None
    schema = {"$ref": "#/components/schemas/ErrorView", "components": DESCRIPTION["components"]}
    jsonschema.validate(json.loads(example[1]), schema)
    statuses = {status for route in ROUTES.values() for status in route["responses"]} - {"200"}
    for status in {*statuses, "405", "500"}:
        assert re.search(rf"^\| {status} \|", text, flags=re.MULTILINE), status
    doors = "".join(
        Path(str(module.__file__)).read_text(encoding="utf-8")
        for module in (operator_door, http_errors, http_bodies, job_paths)
    )
    codes = set(re.findall(r"`([a-z]+_[a-z_]+)`", re.sub(r"^\| [a-z`].*$", "", text, flags=re.MULTILINE)))
    assert set(re.findall(r'RefusedRequest\(\s*\d+,\s*"(\w+)"', doors)) <= codes | {"stopping"}
    for code in codes:
        name = "".join(word.capitalize() for word in code.split("_"))
        assert hasattr(errors, name) or f'"{code}"' in doors, code


def row(metric: Any) -> str:
    family = metric.describe()[0]
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = " ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def test_every_metric_is_there_with_its_labels() -> None:
    rows = [row(metric) for metric in vars(metrics.Metrics()).values() if hasattr(metric, "_labelnames")]
    found = [line for line in SECTIONS["Metrics"].splitlines() if line.startswith("| `pyscheduler_")]
    assert found == rows, "the table should be\n" + "\n".join(rows)


def test_every_value_of_a_label_is_there() -> None:
    text = SECTIONS["Metrics"]
    registry = Path(metrics.__file__).parent
    values = set(EVENT_TYPES)
    for module in registry.glob("*.py"):
        source = module.read_text(encoding="utf-8")
        for arguments in re.findall(r"\.labels\(([^\n]*)\)", source):
            values.update(re.findall(r'"([a-z_]+)"', arguments))
        values.update(re.findall(r'outcome = (?:.*, )?"([a-z_]+)"', source))
    connection = (registry / "connection.py").read_text(encoding="utf-8")
    values.update(re.findall(r'return "([a-z_]+)"', connection.partition("def _outcome")[2]))
    values.update(re.findall(r': "([a-z]+)"', connection.partition("_CALL_NAMES: Final = ")[2].partition("\n")[0]))
    assert {"ok", "heartbeat", "skipped", "unknown_outcome"} <= values
    # Event types, close codes and error codes have their own pages.
    missing = sorted(value for value in values - set(EVENT_TYPES) if f"`{value}`" not in text)
    assert not missing
    for page in ("data-model.md#events", "node-protocol.md#error-codes", "node-protocol.md#close-codes"):
        assert page in text


def test_the_time_outs_are_given() -> None:
    assert f"{operator_paths.READY_TIMEOUT_S:g} s" in SECTIONS["`GET /ready`"]
    assert f"{operator_paths.FLEET_TIMEOUT_S:g} s" in SECTIONS["`GET /metrics`"]
