"""Fuzzing of the configuration reader: it takes a document whole, or says where it is wrong."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pyscheduler.core.document import PoolDocument
from pyscheduler.core.limits import MAX_PROBLEMS
from pyscheduler.core.reader import document_schema, load_document
from pyscheduler.core.source import yaml_text
from pyscheduler.errors import DocumentInvalid
from tests.fuzz.guided import Arcs, Fuzzer, Input
from tests.fuzz.mutate import mutate, of_bytes, of_json, of_lines

ROOT = Path(__file__).parents[2]
MAX_PROBLEM_CHARS = 2000

_SCHEMA = jsonschema.Draft202012Validator(document_schema())


def seeds() -> list[Input]:
    """The examples that authors have, as YAML and as JSON."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.yaml"))]
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    texts += re.findall(r"```(?:yaml|json)\n(.*?)```", page, re.DOTALL)
    plain = [json.dumps(yaml.safe_load(text), default=str) for text in texts]
    return [(text.encode(),) for text in [*texts, *plain, "", "schema: 1", "{}"]]


def check(tried: Input) -> None:
    """One text: refused with a place, or accepted and the same after every way to write it down and read it again."""
    text = b"\n".join(tried)
    try:
        document = load_document(text)
    except DocumentInvalid as error:
        check_refusal(error)
        return
    assert not _repeats_a_key(text), "accepted with a key given twice"
    for name, written in {
        "canonical": document.canonical(),
        "yaml": yaml_text(document.to_data()),
        "json": json.dumps(document.to_data()),
    }.items():
        read = PoolDocument.from_canonical(written) if name == "canonical" else load_document(written)
        assert read == document, f"another document after {name}"
        assert read.digest == document.digest
        assert read.in_match_order() == document.in_match_order()
    assert _SCHEMA.is_valid(document.to_data()), "accepted, but not by the schema"


def check_refusal(error: DocumentInvalid) -> None:
    assert 1 <= len(error.problems) <= MAX_PROBLEMS + 1
    for problem in error.problems:
        assert str(problem).isprintable(), f"control characters in {str(problem)!r}"
        assert len(str(problem)) <= MAX_PROBLEM_CHARS
    first = error.problems[0]
    if "is empty" not in first.message and "longer than" not in first.message:
        assert first.line or first.where, f"no place: {first}"


def _repeats_a_key(text: bytes) -> bool:
    """Whether a parser of somebody else's sees a key twice in one mapping. Only a text that it can read counts."""
    repeated = False

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated = repeated or len({key for key, _ in members}) < len(members)
        return dict(members)

    try:
        json.loads(text, object_pairs_hook=pairs)
        return repeated
    except ValueError:
        pass
    try:
        level = [yaml.compose(text, Loader=yaml.SafeLoader)]
    except yaml.YAMLError:
        return False
    while level:
        for node in level:
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                repeated = repeated or len(set(keys)) < len(keys)
        level = [
            child
            for node in level
            if isinstance(node, yaml.CollectionNode)
            for item in node.value
            for child in (item if isinstance(item, tuple) else (item,))
        ]
    return repeated


def fuzz(seed: int, seconds: float) -> None:
    core = ROOT / "pyscheduler" / "core"
    names = ("reader", "source", "document", "rules", "reachability", "admission")
    arcs = Arcs(*(core / f"{name}.py" for name in names))
    fuzzer = Fuzzer("documents", seeds(), partial(mutate, structured=(of_json, of_lines, of_bytes)), arcs, seed)
    try:
        fuzzer.run(check, seconds)
    finally:
        print(fuzzer.summary())


def test_a_document_is_read_whole_or_refused_with_a_place(fuzz_seed: int, fuzz_seconds: float) -> None:
    fuzz(fuzz_seed, fuzz_seconds)


@pytest.mark.soak
def test_documents_for_as_long_as_told(fuzz_seed: int, fuzz_seconds: float) -> None:
    fuzz(fuzz_seed, fuzz_seconds)
