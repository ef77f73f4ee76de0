"""docs/http-api.md names every path of the operator door with its parameters and a true example, and every metric."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pyscheduler import errors
from pyscheduler.core.results import EVENT_TYPES
from pyscheduler.registry import http_paths, metrics, operator_door, operator_paths

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0].strip(): part.partition("\n")[2]
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
}

DESCRIPTION = http_paths.describe(operator_paths.PATHS)
ROUTES = {f"`GET {path}`": methods["get"] for path, methods in DESCRIPTION["paths"].items()}


def bounds(schema: dict[str, Any]) -> str:
    """Type and bounds of a parameter, in words."""
    plain = next(one for one in schema.get("anyOf", [schema]) if one["type"] != "null")
    if plain["type"] == "integer":
        return f"{plain['minimum']:,} to {plain['maximum']:,}"
    if plain["type"] == "array":
        return f"text, up to {plain['maxItems']} times"
    return f"text, up to {plain['maxLength']} characters"


def test_every_path_has_a_section_and_there_are_no_others() -> None:
    assert [heading for heading in SECTIONS if heading.startswith("`GET ")] == list(ROUTES)
    assert all(set(methods) == {"get"} for methods in DESCRIPTION["paths"].values()), "the door is read-only"
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


@pytest.mark.parametrize("heading", [heading for heading in ROUTES if "/metrics" not in heading])
def test_every_section_has_an_example_that_is_true(heading: str) -> None:
    example = re.search(r"^```json\n(.*?)^```$", SECTIONS[heading], flags=re.MULTILINE | re.DOTALL)
    assert example is not None
    answer = json.loads(example[1])
    schema = ROUTES[heading]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer, {**schema, "components": DESCRIPTION["components"]})


@pytest.mark.parametrize("heading", ROUTES)
def test_no_section_leaves_out_a_field_or_names_one_that_is_not_there(heading: str) -> None:
    example = re.search(r"^```json\n(.*?)^```$", SECTIONS[heading], flags=re.MULTILINE | re.DOTALL)
    content = ROUTES[heading]["responses"]["200"]["content"].get("application/json", {})
    if example is None or "$ref" not in content["schema"]:
        return
    model = DESCRIPTION["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert set(json.loads(example[1])) == set(model["properties"])


def test_the_form_of_errors_and_their_status() -> None:
    text = SECTIONS["Errors"]
    example = re.search(r"^```json\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert example is not None
    schema = {"$ref": "#/components/schemas/ErrorView", "components": DESCRIPTION["components"]}
    jsonschema.validate(json.loads(example[1]), schema)
    statuses = {status for route in ROUTES.values() for status in route["responses"]} - {"200"}
    for status in {*statuses, "405", "500"}:
        assert re.search(rf"^\| {status} \|", text, flags=re.MULTILINE), status
    for code in re.findall(r"`([a-z]+_[a-z_]+)`", text):
        name = "".join(word.capitalize() for word in code.split("_"))
        assert hasattr(errors, name) or f'"{code}"' in Path(operator_door.__file__).read_text(encoding="utf-8"), code


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
