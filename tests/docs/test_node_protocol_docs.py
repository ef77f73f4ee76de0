"""docs/node-protocol.md says what the code does: messages, fields, codes, bounds, settings and client revisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from pyscheduler.core import limits, protocol
from pyscheduler.core.codes import CloseCode, ErrorCode
from pyscheduler.settings import describe
from tests.fixtures.clients import REVISIONS

PAGE = (Path(__file__).parents[2] / "docs" / "node-protocol.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0].strip(): part.partition("\n")[2]
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
}


@pytest.mark.parametrize("kind", protocol.BODIES)
def test_every_message_of_a_node_is_described(kind: str) -> None:
    assert f"`{kind}`" in PAGE


@pytest.mark.parametrize("model", [protocol.NodeRegister, protocol.NodeHeartbeat, protocol.ResourceUsage])
def test_every_field_is_named(model: type[BaseModel]) -> None:
    kind = "`node_register`" if model is protocol.NodeRegister else "`node_heartbeat`"
    known = SECTIONS[kind] + (SECTIONS["`node_register`"] if model is protocol.NodeHeartbeat else "")
    assert [name for name in model.model_fields if f"`{name}`" not in known] == []


def test_required_fields_are_called_so() -> None:
    for row in SECTIONS["`node_register`"].splitlines():
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if row.startswith("| `") else ""):
            if name in protocol.NodeRegister.model_fields and name != "capability_by_type":
                assert ("required" in row) == protocol.NodeRegister.model_fields[name].is_required(), name


def test_every_error_code_is_described_once() -> None:
    named = re.findall(r"`([A-Z][A-Z_]+)`", SECTIONS["Error codes"])
    assert sorted(named) == sorted(ErrorCode)


def test_every_close_code_is_described() -> None:
    named = re.findall(r"^\| (\d{4}) \|", SECTIONS["Close codes"], flags=re.MULTILINE)
    assert [int(code) for code in named] == sorted(CloseCode)


def test_bounds_are_those_of_the_code() -> None:
    text = " ".join(SECTIONS["What is refused"].split())
    for bound, unit in (
        (limits.MAX_DEPTH, "levels"),
        (limits.MAX_KEYS, "keys"),
        (limits.MAX_INTEGER_DIGITS, "digits"),
        (limits.MAX_INSTALLED_MODELS, "models"),
        (limits.MAX_INSTALLED_SERVICES, "services"),
        (limits.MAX_SERVICES, "types"),
        (limits.MAX_GPUS, "GPUs"),
        (limits.MAX_LANGUAGES, "codes"),
        (limits.MAX_LABELS, "labels"),
        (limits.MAX_TEXT_CHARS, "characters"),
    ):
        assert f"{bound:,} {unit}" in text
    assert limits.MAX_MESSAGE_BYTES == 1024 * 1024
    assert "at most 1 MiB" in text
    assert f"{limits.MAX_U32:,}" in PAGE


def test_settings_exist() -> None:
    flags = {one.flag for one in describe()}
    for flag in re.findall(r"`(--[a-z-]+)`", PAGE):
        assert flag in flags or flag.replace("--no-", "--") in flags, flag


def test_every_client_revision_has_its_line() -> None:
    table = SECTIONS["Older revisions"]
    for client in REVISIONS:
        assert client.commit in table
        assert client.name in table or client.name == "head"
