"""The node protocol: messages that nodes send, how a frame is read, and the replies.

Reading is strict about types and generous about content: a field of a wrong type is refused, but unknown fields,
service types, devices and statuses are kept, since clients are updated apart from servers. ``docs/node-protocol.md``
describes the protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, NoReturn

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from pyscheduler.core import ids
from pyscheduler.core.admission import ABSENT_SCHEMA_VERSION
from pyscheduler.core.canonical import compact_json
from pyscheduler.core.codes import ErrorCode
from pyscheduler.core.ids import shown
from pyscheduler.core.limits import (
    MAX_DEPTH,
    MAX_ERROR_CHARS,
    MAX_GPUS,
    MAX_INSTALLED_MODELS,
    MAX_INSTALLED_SERVICES,
    MAX_INTEGER_DIGITS,
    MAX_KEYS,
    MAX_LABELS,
    MAX_LANGUAGES,
    MAX_MESSAGE_BYTES,
    MAX_PERCENT,
    MAX_SERVICES,
    MAX_SHOWN_PROBLEMS,
    MAX_TEXT_CHARS,
    MAX_U32,
)
from pyscheduler.errors import InvalidInput, Problem

# --- messages of a node ----------------------------------------------------------------------------------------------

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Count = Annotated[int, Field(ge=0, le=MAX_U32)]
Percent = Annotated[float, Field(ge=-MAX_PERCENT, le=MAX_PERCENT)]
LanguageList = Annotated[list[str], Field(max_length=MAX_LANGUAGES)]


class _Message(BaseModel):
    # Unknown fields are ignored here and kept in Frame.raw: a second copy of them in the model would serve nobody.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class GpuInfo(_Message):
    name: Text
    memory_gb: Count


class Hardware(_Message):
    cpu_cores: Count
    memory_gb: Count
    gpus: Annotated[list[GpuInfo], Field(max_length=MAX_GPUS)] | None = None


class InstalledModel(_Message):
    model_id: Text
    kind: Text
    version: Text
    src_lang: Text | None = None
    tgt_lang: Text | None = None
    dialect: Text | None = None
    enabled: bool | None = None


class InstalledService(_Message):
    """One service on a node's disk, running or not. ``type``, ``device`` and ``status`` are open sets.

    Clients of capability schema 1.0 send ``platform`` instead of these three; profile.py requires them of all others.
    """

    service_id: Text
    type: Text | None = None
    device: Text | None = None
    status: Text | None = None
    version: Text | None = None
    platform: Text | None = None


class Capability(_Message):
    """Whether the services of one type are ready. Clients add ``devices``, ``reason`` or ``ready_impl_ids``."""

    type: Text
    ready: bool


class LanguageCapabilities(_Message):
    """Languages by service; a list that is absent says nothing. January's clients add pairs and NMT details."""

    asr_languages: LanguageList | None = None
    tts_languages: LanguageList | None = None
    semantic_languages: LanguageList | None = None
    semantic_core_ready: bool | None = None


class Features(_Message):
    emotion_detection: bool | None = None
    voice_style_detection: bool | None = None
    speech_rate_detection: bool | None = None
    speech_rate_control: bool | None = None
    speaker_identification: bool | None = None
    persona_adaptation: bool | None = None


Models = Annotated[list[InstalledModel], Field(max_length=MAX_INSTALLED_MODELS)]
Services = Annotated[list[InstalledService], Field(max_length=MAX_INSTALLED_SERVICES)]
Capabilities = Annotated[list[Capability], Field(max_length=MAX_SERVICES)]
ModelStates = Annotated[dict[str, Text], Field(max_length=MAX_INSTALLED_MODELS)]


class NodeRegister(_Message):
    """The first message of a node.

    ``capability_by_type`` came with schema 2.0 and is required from then on; clients of schema 1.0 (or none) send
    ``capability_state`` instead. ``labels`` is pyscheduler's extension.
    """

    node_id: str | None = None
    version: Text
    capability_schema_version: Text | None = None
    platform: Text
    hardware: Hardware
    installed_models: Models
    installed_services: Services | None = None
    capability_by_type: Capabilities | None = None
    capability_state: ModelStates | None = None
    features_supported: Features
    advanced_features: Annotated[list[Text], Field(max_length=MAX_SERVICES)] | None = None
    accept_public_jobs: bool
    language_capabilities: LanguageCapabilities | None = None
    labels: Annotated[dict[str, str], Field(max_length=MAX_LABELS)] | None = None


class ResourceUsage(_Message):
    cpu_percent: Percent
    mem_percent: Percent
    gpu_percent: Percent | None = None
    gpu_mem_percent: Percent | None = None
    running_jobs: Count
    gpu_queue_length: Count | None = None


class NodeHeartbeat(_Message):
    """What a node does now. A list that is absent is unchanged; one that is present and empty is empty."""

    node_id: str
    timestamp: int
    resource_usage: ResourceUsage
    installed_models: Models | None = None
    installed_services: Services | None = None
    capability_by_type: Capabilities | None = None
    capability_state: ModelStates | None = None
    language_capabilities: LanguageCapabilities | None = None
    rerun_metrics: dict[str, Any] | None = None
    processing_metrics: dict[str, Any] | None = None
    asr_metrics: dict[str, Any] | None = None


class JobMessage(_Message):
    """Any message about a job. Its other fields belong to whoever assigned the job."""

    job_id: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
    attempt_id: Count | None = None


class NodeError(_Message):
    node_id: str
    code: Text
    message: str


Body = NodeRegister | NodeHeartbeat | JobMessage | NodeError

BODIES: Final[Mapping[str, type[Body]]] = {
    "node_register": NodeRegister,
    "node_heartbeat": NodeHeartbeat,
    "job_result": JobMessage,
    "asr_partial": JobMessage,
    "job_ack": JobMessage,
    "job_started": JobMessage,
    "node_error": NodeError,
}
"""Every ``type`` that a node may send."""


class Frame(Struct, frozen=True):
    """One message as read: its type, its typed known fields, and the whole object with the unknown ones."""

    type: str
    body: Body
    raw: dict[str, Any]


class FrameError(InvalidInput):
    """A frame that is refused.

    Attributes:
        code: what the ``error`` reply carries.
        problems: what is wrong and where, the first few.
    """

    def __init__(self, code: ErrorCode, message: str, problems: Sequence[Problem] = ()) -> None:
        self.code = code
        self.problems = tuple(problems)
        super().__init__(message if len(message) <= MAX_ERROR_CHARS else f"{message[: MAX_ERROR_CHARS - 3]}...")


# --- reading a frame -------------------------------------------------------------------------------------------------


class _Refused(ValueError):
    """Valid JSON for the decoder, but not for us. Its text goes into the reply."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key {shown(key)} is there twice in one object")
            seen.add(key)
    if len(value) > MAX_KEYS:
        raise _Refused(f"an object has {len(value)} keys, at most {MAX_KEYS} are allowed")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise _Refused(f"an integer has {len(digits)} digits, at most {MAX_INTEGER_DIGITS} are allowed")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value - value != 0.0:  # infinite: 1e999 is good JSON, but no number that anything could be done with
        raise _Refused(f"the number {shown(digits)} is too large")
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _invalid(message: str, problems: Sequence[Problem] = ()) -> FrameError:
    return FrameError(ErrorCode.INVALID_MESSAGE, message, problems)


def _text(frame: str | bytes) -> str:
    size = len(frame)
    if size <= MAX_MESSAGE_BYTES:
        try:
            if isinstance(frame, bytes):
                return frame.decode("utf-8")
            # Encoding also finds a lone surrogate, which a careless transport may let through. ASCII needs no look.
            if frame.isascii() or (size := len(frame.encode("utf-8"))) <= MAX_MESSAGE_BYTES:
                return frame
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            raise _invalid(f"the frame is not UTF-8: {error.reason}") from None
    raise too_large(size)


def too_large(size: int) -> FrameError:
    """The refusal of a frame of ``size`` bytes."""
    return _invalid(f"the message is too large: at least {size} bytes, at most {MAX_MESSAGE_BYTES} are allowed")


def _is_too_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def _decode(text: str) -> object:
    try:
        value = _DECODER.decode(text)
        if _SURROGATE_ESCAPE.search(text):
            # Escapes of emoji look the same as escapes of half an emoji; this decoder refuses the latter.
            from_json(text)
    except _Refused as error:
        raise _invalid(f"the message is refused: {error}") from None
    except RecursionError:
        raise _invalid(f"the message nests deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _invalid(f"the message is not JSON: {error}") from None
    # A text with at most MAX_DEPTH openers needs no look; that is every heartbeat but those of very large nodes.
    if text.count("{") + text.count("[") > MAX_DEPTH and type(value) in (dict, list) and _is_too_deep(value):
        raise _invalid(f"the message nests deeper than {MAX_DEPTH} levels")
    return value


def parse_frame(frame: str | bytes) -> Frame:
    """Read one text frame.

    Args:
        frame: the frame's text, or its bytes in UTF-8; at most 1 MiB.

    Raises:
        FrameError: not JSON, not an object, duplicate keys, numbers that are none, lone surrogates, too deep, too
            large, of an unknown type, or with missing fields or fields of a wrong type. The message says what and
            where and can be sent as it is.
    """
    raw = _decode(_text(frame))
    if not isinstance(raw, dict):
        raise _invalid("the message must be a JSON object with a field 'type'")
    kind = raw.get("type")
    if not isinstance(kind, str):
        raise _invalid("the message has no 'type', or one that is no text")
    model = BODIES.get(kind)
    if model is None:
        raise _invalid(f"unknown message type {shown(kind)}: a node may send {', '.join(BODIES)}")
    try:
        body = model.model_validate(raw)
    except ValidationError as error:
        raise _describe(kind, error) from None
    if isinstance(body, NodeRegister):
        _check_registration(body)
    return Frame(kind, body, raw)


def _check_registration(body: NodeRegister) -> None:
    if body.capability_by_type is None and body.capability_schema_version not in (None, ABSENT_SCHEMA_VERSION):
        problem = Problem("capability_by_type", "Field required since capability schema 2.0")
        raise _refusal("node_register", [problem], 1)
    if body.node_id is not None:
        try:
            ids.node_id(body.node_id)
        except InvalidInput as error:
            raise _refusal("node_register", [Problem("node_id", str(error))], 1) from None


def _place(loc: Iterable[int | str]) -> str:
    place = ""
    for part in loc:
        name = part if isinstance(part, str) and part.isascii() and part.isidentifier() and len(part) <= 64 else None
        if name is not None:
            place += f".{name}" if place else name
        else:
            place += f"[{shown(part)}]"
    return place


def _describe(kind: str, error: ValidationError) -> FrameError:
    found = error.errors(include_url=False, include_context=False)
    problems = []
    for item in found[:MAX_SHOWN_PROBLEMS]:
        given = "" if item["type"] == "missing" else f", not {shown(item['input'])}"
        problems.append(Problem(_place(item["loc"]), f"{item['msg']}{given}"))
    return _refusal(kind, problems, len(found))


def _refusal(kind: str, problems: Sequence[Problem], count: int) -> FrameError:
    listed = "; ".join(str(problem) for problem in problems)
    more = f"; and {count - len(problems)} more" if count > len(problems) else ""
    return _invalid(f"{kind} is refused: {listed}{more}", problems)


def content_error(kind: str, where: str, error: InvalidInput) -> FrameError:
    """The refusal of a message whose types are right, but not what they say (a language code, say)."""
    return _refusal(kind, [Problem(where, str(error))], 1)


# --- replies ---------------------------------------------------------------------------------------------------------


def register_ack(node_id: str, status: str) -> str:
    """Text of ``node_register_ack``: from now on the client uses ``node_id`` and sends heartbeats."""
    return compact_json({"type": "node_register_ack", "node_id": node_id, "message": "registered", "status": status})


def error_reply(code: ErrorCode, message: str, problems: Sequence[Problem] = ()) -> str:
    """Text of ``error``; ``details.problems`` lists places where there are any."""
    reply: dict[str, object] = {"type": "error", "code": code.value, "message": message}
    if problems:
        reply["details"] = {"problems": [{"where": problem.where, "message": problem.message} for problem in problems]}
    return compact_json(reply)


def node_status(
    node_id: str,
    *,
    status: str,
    reason: str,
    timestamp: int,
    pool: str | None,
    pool_id: int | None,
    version: int,
) -> str:
    """Text of ``node_status``: the fleet's old fields (``timestamp`` in seconds), and the pool that the node is in."""
    return compact_json(
        {
            "type": "node_status",
            "node_id": node_id,
            "status": status,
            "reason": reason,
            "timestamp": timestamp,
            "pool": pool,
            "pool_id": pool_id,
            "version": version,
        }
    )
