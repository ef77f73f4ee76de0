"""Reading frames: whatever a node sends becomes a typed message or an error that says what is wrong and where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyscheduler.core import protocol
from pyscheduler.core.codes import ErrorCode
from pyscheduler.core.facts import Facts
from pyscheduler.core.limits import MAX_DEPTH, MAX_ERROR_CHARS, MAX_KEYS, MAX_MESSAGE_BYTES
from pyscheduler.core.profile import NodeProfile, load_of, usage_of
from pyscheduler.core.protocol import FrameError, JobMessage, NodeError, NodeHeartbeat, NodeRegister, parse_frame
from tests.fixtures.clients import HEAD, REVISIONS, Client, State


def refused(frame: str | bytes) -> str:
    with pytest.raises(FrameError) as error:
        parse_frame(frame)
    assert error.value.code is ErrorCode.INVALID_MESSAGE
    return str(error.value)


def changed(message: dict[str, Any], path: str, value: object) -> str:
    """``message`` with the value at ``path`` (such as ``hardware.gpus.0.name``) replaced, as text."""
    copy = json.loads(json.dumps(message))
    *parents, last = path.split(".")
    inner = copy
    for part in parents:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return json.dumps(copy)


def heartbeat(**fields: object) -> dict[str, Any]:
    return {**HEAD.heartbeat("node-1"), **fields}


def profile(message: dict[str, Any]) -> NodeProfile:
    return NodeProfile.registered(parse_frame(json.dumps(message)))


# --- every revision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", REVISIONS, ids=lambda client: client.name)
def test_messages_of_every_client_revision_are_read(client: Client) -> None:
    assert isinstance(parse_frame(json.dumps(client.register())).body, NodeRegister)
    assert isinstance(parse_frame(json.dumps(client.register(node_id="node-1"))).body, NodeRegister)
    assert isinstance(parse_frame(json.dumps(client.heartbeat("node-1")).encode()).body, NodeHeartbeat)


@pytest.mark.parametrize(
    ("kind", "fields", "body"),
    [
        ("job_result", {"job_id": "job-7", "attempt_id": 1, "success": False, "extra": {"x": 1}}, JobMessage),
        ("asr_partial", {"job_id": "job-7", "text": "a", "is_final": False}, JobMessage),
        ("job_ack", {"job_id": "job-7", "attempt_id": 1}, JobMessage),
        ("job_started", {"job_id": "job-7", "attempt_id": 1}, JobMessage),
        ("node_error", {"node_id": "n", "code": "X", "message": "m", "details": {}}, NodeError),
    ],
)
def test_the_other_messages_of_a_node_are_read(kind: str, fields: dict[str, Any], body: type) -> None:
    frame = parse_frame(json.dumps({"type": kind, **fields}))
    assert frame.type == kind
    assert isinstance(frame.body, body)


def test_unknown_fields_services_devices_and_statuses_are_accepted_and_kept() -> None:
    message = HEAD.register(State(services=("asr", "lexicon")))
    message["from_the_future"] = {"deep": [1, {"er": None}]}
    message["installed_services"][1] |= {"device": "auto", "status": "dreaming", "mem_mb": 12}
    seen = profile(message)
    assert seen.facts.services == ("asr", "lexicon")
    record = json.loads(seen.record)
    assert record["from_the_future"] == {"deep": [1, {"er": None}]}
    assert record["installed_services"][1]["device"] == "auto"
    assert record["installed_services"][1]["mem_mb"] == 12


# --- frames that are no messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("hello", "not JSON"),
        ('{"type":"node_heartbeat"} {}', "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("null", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ('"node_register"', "must be a JSON object"),
        ("{}", "no 'type'"),
        ('{"type":null}', "no 'type'"),
        ('{"type":["node_register"]}', "no 'type'"),
        ('{"type":"node_unregister"}', "unknown message type 'node_unregister': a node may send node_register,"),
        ('{"type":"job_assign"}', "unknown message type 'job_assign'"),
        ('{"type":"a\\u0000b"}', r"unknown message type 'a\\x00b'"),
        ('{"type":"node_heartbeat","type":"node_register"}', "'type' is there twice"),
        ('{"type":"x","deep":[{"b":1,"a":2,"a":1}]}', "'a' is there twice"),
        ('{"type":"x","a":NaN}', "NaN is no JSON value"),
        ('{"type":"x","a":-Infinity}', "-Infinity is no JSON value"),
        ('{"type":"x","a":1e999}', "'1e999' is too large"),
        ('{"type":"x","a":' + "9" * 21 + "}", "an integer has 21 digits"),
        ('{"type":"x","a":' + "9" * 100_000 + "}", "an integer has 100000 digits"),
        ('{"type":"x","a":"\\ud800"}', "not JSON"),
        ('{"type":"x","a":"\\udc00\\ud800"}', "not JSON"),
        ('{"type":"x","a":"\ud800"}', "not UTF-8"),
        (b'{"type":"\xff"}', "not UTF-8"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        ("[" * 500_000, "nests deeper"),
        ('{"a":' * 100_000, "nests deeper"),
        ("[" * 500_000 + "]" * 500_000, "nests deeper"),
    ],
)
def test_what_is_no_message_is_refused(frame: str | bytes, told: str) -> None:
    message = refused(frame)
    assert told.replace("\\\\", "\\") in message
    assert len(message) <= MAX_ERROR_CHARS


def test_an_integer_has_20_digits_at_most() -> None:
    assert parse_frame(json.dumps(heartbeat(x=10**20 - 1))).raw["x"] == 10**20 - 1
    assert "an integer has 21 digits, at most 20 are allowed" in refused(json.dumps(heartbeat(x=10**20)))


def test_a_long_message_is_cut_to_what_a_reply_may_hold() -> None:
    for size in (MAX_ERROR_CHARS - 1, MAX_ERROR_CHARS):
        assert str(FrameError(ErrorCode.INVALID_MESSAGE, "x" * size)) == "x" * size
    cut = str(FrameError(ErrorCode.INVALID_MESSAGE, "x" * (MAX_ERROR_CHARS + 1)))
    assert cut == "x" * (MAX_ERROR_CHARS - 3) + "..."


def test_all_problems_of_a_message_are_in_its_refusal() -> None:
    assert refused('{"type":"node_heartbeat","node_id":1,"timestamp":1}') == (
        "node_heartbeat is refused: node_id: Input should be a valid string, not 1; resource_usage: Field required"
    )


def test_an_escaped_emoji_is_no_lone_surrogate() -> None:
    frame = parse_frame(changed(heartbeat(), "node_id", "\U0001f600"))
    assert isinstance(frame.body, NodeHeartbeat)
    assert frame.body.node_id == "\U0001f600"


def test_size_is_bounded_in_bytes() -> None:
    frame = json.dumps(heartbeat(padding=""))
    room = MAX_MESSAGE_BYTES - len(frame)
    parse_frame(json.dumps(heartbeat(padding="x" * room)))
    assert "too large" in refused(json.dumps(heartbeat(padding="x" * (room + 1))))
    wide = json.dumps(heartbeat(padding="\u4e2d" * (room // 3 + 1)), ensure_ascii=False)
    assert len(wide) < MAX_MESSAGE_BYTES
    parse_frame(json.dumps(heartbeat(padding="\u4e2d" * (room // 3) + "x" * (room % 3)), ensure_ascii=False))
    assert "too large" in refused(wide)
    assert "too large" in refused(wide.encode())
    assert f"at most {MAX_MESSAGE_BYTES}" in refused("x" * 10 * MAX_MESSAGE_BYTES)


def test_depth_is_bounded_exactly_and_brackets_in_text_do_not_count() -> None:
    def nested(levels: int) -> str:
        return json.dumps(heartbeat(x=json.loads("[" * (levels - 1) + "]" * (levels - 1))))

    parse_frame(nested(MAX_DEPTH))
    assert "nests deeper than 64" in refused(nested(MAX_DEPTH + 1))
    parse_frame(json.dumps(heartbeat(x="[{" * 10_000)))
    parse_frame(json.dumps(heartbeat(x=[[]] * 10_000)))  # wide, not deep
    closed_in_text = json.loads('["]",' * 70 + "[]" + "]" * 70)
    assert "nests deeper" in refused(json.dumps(heartbeat(x=closed_in_text)))


def test_keys_are_bounded() -> None:
    parse_frame(json.dumps(heartbeat(x={f"k{i}": 1 for i in range(MAX_KEYS)})))
    assert "5000 keys" in refused(json.dumps(heartbeat(x={f"k{i}": 1 for i in range(5000)})))
    million = "{" + ",".join(f'"{i}":1' for i in range(1_000_000)) + "}"
    assert "too large" in refused(million)


# --- messages of wrong types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", ...),
        ("version", 2),
        ("platform", None),
        ("hardware", ...),
        ("hardware", []),
        ("hardware.cpu_cores", 8.0),
        ("hardware.cpu_cores", True),
        ("hardware.cpu_cores", "8"),
        ("hardware.memory_gb", -1),
        ("hardware.memory_gb", 2**32),
        ("hardware.gpus", {}),
        ("hardware.gpus.0.memory_gb", -12),
        ("hardware.gpus.0.memory_gb", 11.5),
        ("hardware.gpus.0.name", ...),
        ("installed_models", ...),
        ("installed_models", None),
        ("installed_models.0.enabled", "yes"),
        ("installed_models.0.model_id", 3),
        ("installed_services.0.service_id", ...),
        ("installed_services.0.type", 3),
        ("capability_by_type", ...),
        ("capability_by_type.0.ready", 1),
        ("capability_by_type.0.type", ...),
        ("features_supported", ...),
        ("features_supported.emotion_detection", 0),
        ("accept_public_jobs", ...),
        ("accept_public_jobs", "true"),
        ("language_capabilities", []),
        ("language_capabilities.asr_languages", "en"),
        ("language_capabilities.asr_languages", {"en": 1}),
        ("language_capabilities.asr_languages.0", 1),
        ("language_capabilities.semantic_core_ready", "no"),
        ("capability_schema_version", 2.0),
        ("node_id", 7),
        ("advanced_features", "x"),
    ],
)
def test_a_registration_with_a_wrong_field_is_refused_with_its_place(path: str, value: object) -> None:
    text = changed(HEAD.register(), path, value)
    place = path.replace(".0", "[0]")
    assert f"node_register is refused: {place}: " in refused(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("node_id", ...),
        ("node_id", None),
        ("timestamp", ...),
        ("timestamp", 1.5),
        ("timestamp", "now"),
        ("resource_usage", ...),
        ("resource_usage.cpu_percent", ...),
        ("resource_usage.cpu_percent", "12"),
        ("resource_usage.cpu_percent", True),
        ("resource_usage.gpu_percent", 1e10),
        ("resource_usage.mem_percent", None),
        ("resource_usage.running_jobs", -1),
        ("resource_usage.running_jobs", 0.0),
        ("resource_usage.gpu_queue_length", -1),
        ("installed_services", {}),
        ("processing_metrics", []),
    ],
)
def test_a_heartbeat_with_a_wrong_field_is_refused_with_its_place(path: str, value: object) -> None:
    assert f"node_heartbeat is refused: {path}: " in refused(changed(heartbeat(), path, value))


def test_the_first_few_problems_are_named_and_the_others_counted() -> None:
    services = [{"service_id": i} for i in range(10)]
    message = refused(json.dumps(heartbeat(installed_services=services)))
    assert "installed_services[0].service_id: Input should be a valid string, not 0" in message
    assert "installed_services[4].service_id" in message
    assert "installed_services[5]" not in message
    assert message.endswith("; and 5 more")


def test_lists_are_bounded() -> None:
    service = HEAD.heartbeat("n")["installed_services"][0]
    parse_frame(json.dumps(heartbeat(installed_services=[service] * 1024)))
    for field, item, size in (
        ("installed_services", service, 1025),
        ("installed_models", HEAD.register()["installed_models"][0], 1025),
        ("capability_by_type", {"type": "asr", "ready": True}, 257),
    ):
        assert f"{field}: List should have at most {size - 1}" in refused(
            json.dumps(heartbeat(**{field: [item] * size}))
        )
    many = {"asr_languages": ["en"] * 10_000}
    assert "language_capabilities.asr_languages: List should have at most 256 items" in refused(
        json.dumps(heartbeat(language_capabilities=many))
    )
    assert "at most 1024 characters" in refused(changed(HEAD.register(), "hardware.gpus.0.name", "x" * 1025))
    assert "hardware.gpus: List should have at most 64" in refused(
        changed(HEAD.register(), "hardware.gpus", [{"name": "g", "memory_gb": 1}] * 65)
    )


@pytest.mark.parametrize("node_id", ["", "{tag}", "x" * 10_000, "n\x00", "n\u043ede", "a b"])
def test_a_bad_node_id_is_named(node_id: str) -> None:
    message = refused(json.dumps(HEAD.register(node_id=node_id)))
    assert "node_register is refused: node_id: '" in message
    assert message.isascii()
    assert len(message) < 300


def test_capability_by_type_is_required_from_schema_2_0_on() -> None:
    message = HEAD.register()
    del message["capability_by_type"]
    assert refused(json.dumps(message)) == (
        "node_register is refused: capability_by_type: Field required since capability schema 2.0"
    )
    for version in ("1.0", None):
        parse_frame(json.dumps({**message, "capability_schema_version": version}))


def test_refused_content_is_repeated_shortened_and_escaped() -> None:
    message = refused(json.dumps({"type": "\u202e" * 5000}))
    assert message.isascii()
    assert len(message) < 300
    for size, place in ((64, f"labels.{'k' * 64}: "), (65, f"labels['{'k' * 60}...' (65 characters)]: ")):
        assert place in refused(changed(HEAD.register(), "labels", {"k" * size: 1}))
    odd_key = {"\u0430" * 100: "x"}
    assert refused(changed(HEAD.register(), "labels", {**odd_key, "k": 1})).isascii()


# --- content: languages, types, labels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["", "x" * 10_000, "en\n", "\u0435n", "__proto__", "{tag}", "e", "\u212aa", "en;DROP", "\U0001f600"]
)
@pytest.mark.parametrize("where", ["asr_languages", "tts_languages", "semantic_languages"])
def test_a_message_with_a_bad_language_code_is_refused_and_names_it(where: str, code: str) -> None:
    frame = parse_frame(changed(HEAD.register(), f"language_capabilities.{where}", ["en", code]))
    with pytest.raises(FrameError) as error:
        NodeProfile.registered(frame)
    message = str(error.value)
    assert f"language_capabilities.{where}: '" in message
    assert message.isascii()
    assert len(message) < 350


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("capability_by_type.0.type", "a b", "capability_by_type: 'a b'"),
        ("installed_services.0.type", "\u0430sr", r"installed_services: '\u0430sr'"),
        ("installed_services.0.type", None, "installed_services[0].type: Field required"),
        ("installed_services.0.status", ..., "installed_services[0].status: Field required"),
        ("installed_services.0.device", ..., "installed_services[0].device: Field required"),
        ("labels", {"a b": "x"}, "labels: 'a b'"),
        ("labels", {"zone": "\x00"}, r"labels: label 'zone': '\x00'"),
        ("hardware.gpus.0.name", "x" * 1024, None),
    ],
)
def test_bad_types_and_labels_are_refused_and_named(path: str, value: object, named: str | None) -> None:
    message = HEAD.register() | ({"labels": {}} if path == "labels" else {})
    frame = parse_frame(changed(message, path, value))
    if named is None:
        NodeProfile.registered(frame)
        return
    with pytest.raises(FrameError) as error:
        NodeProfile.registered(frame)
    assert named in str(error.value)


def test_facts_come_from_what_is_ready_not_from_what_is_installed() -> None:
    seen = profile(HEAD.register(State(services=("asr", "nmt", "lexicon"), stopped=("lexicon",)), node_id="n"))
    assert seen.facts == Facts(
        asr=("de", "en"), tts=("de", "en"), semantic=("de", "en"), services=("asr", "nmt"), gpu_memory_gb=(12,)
    )
    assert seen.running == {"asr": True, "nmt": True, "lexicon": False}


def test_the_record_is_all_that_was_sent_but_type_and_id() -> None:
    message = HEAD.register(node_id="node-1") | {"labels": {"Zone": "eu", "unique.host": "h1"}}
    seen = profile(message)
    assert json.loads(seen.record) == {key: value for key, value in message.items() if key not in ("type", "node_id")}
    assert seen.facts.labels == {"zone": "eu"}


def test_languages_of_clients_that_know_no_language_lists_are_those_of_their_enabled_models() -> None:
    message = REVISIONS[0].register(State(languages=("de", "en", "zh")))
    model = message["installed_models"][0]
    message["installed_models"] += [
        {**model, "model_id": "off", "src_lang": "fr", "enabled": False},
        *({**model, "model_id": f"any {code}", "src_lang": code} for code in ("", "*", "auto", "MULTI")),
        {**model, "model_id": "none", "src_lang": None},
        {**model, "model_id": "voice", "kind": "tts", "src_lang": "es", "tgt_lang": None},
    ]
    seen = profile(message)
    assert seen.facts.asr == ("de", "en", "zh")
    assert seen.facts.tts == ("de", "en", "es", "zh")
    assert seen.facts.semantic == ("de", "en", "zh")
    message["installed_models"].append({**model, "model_id": "bad", "src_lang": "\x00"})
    with pytest.raises(FrameError, match="installed_models"):
        profile(message)


def test_services_of_schema_1_0_are_the_kinds_of_ready_models_and_the_types_in_ready_service_ids() -> None:
    assert profile(REVISIONS[0].register(State(stopped=("tts",)))).facts.services == ("asr", "nmt")
    message = REVISIONS[1].register(State(services=()))
    message["installed_services"] = [
        {"service_id": name, "version": "1", "platform": "linux-x64"}
        for name in ("faster-whisper-vad", "nmt-m2m100", "piper_tts", "node-inference")
    ]
    message["capability_state"] = dict.fromkeys(("faster-whisper-vad", "nmt-m2m100", "node-inference"), "ready")
    seen = profile(message)
    assert seen.facts.services == ("asr", "nmt")
    assert seen.running == {"asr": True, "nmt": True, "tts": False}
    # Ids that name no type: the enabled models say what there is.
    message = REVISIONS[1].register(State(stopped=("tts",)))
    message["installed_services"] = [{"service_id": "node-inference", "version": "1", "platform": "linux-x64"}]
    assert profile(message).running == {"asr": True, "nmt": True, "tts": False}


@pytest.mark.parametrize(
    ("service", "kinds"),
    [("zh-asr", ("asr",)), ("Whisper_1", ("asr",)), ("nmt", ("nmt",)), ("piper_tts", ("tts",)), ("asrx", ())],
)
def test_an_id_of_a_service_may_tell_its_type(service: str, kinds: tuple[str, ...]) -> None:
    message = REVISIONS[1].register(State(services=()))
    message["installed_services"] = [{"service_id": service, "version": "1", "platform": "linux-x64"}]
    message["capability_state"] = {service: "ready"}
    assert profile(message).facts.services == kinds


def of_models(models: list[dict[str, Any]]) -> NodeProfile:
    """A client that says nothing of itself but its models, each of them ready."""
    message = REVISIONS[0].register()
    plain = message["installed_models"][0] | {"src_lang": None, "tgt_lang": None}
    named = [{**plain, **model, "model_id": f"m{index}"} for index, model in enumerate(models)]
    states = {model["model_id"]: "ready" for model in named}
    return profile({**message, "installed_models": named, "capability_state": states})


def test_the_types_of_ready_models_are_counted_and_not_the_models() -> None:
    assert of_models([{"kind": "ASR"}, {"kind": "asr"}] * 150).facts.services == ("asr",)
    assert len(of_models([{"kind": f"k{index}"} for index in range(256)]).facts.services) == 256
    with pytest.raises(FrameError, match="node_register is refused: services: 257 given, at most 256 are allowed"):
        of_models([{"kind": f"k{index}"} for index in range(257)])


def test_the_languages_of_models_are_counted_and_not_the_models() -> None:
    two = [{"kind": "nmt", "src_lang": "EN", "tgt_lang": "zh_CN"}, {"kind": "asr", "src_lang": "en"}]
    facts = of_models(two * 150).facts
    assert (facts.semantic, facts.asr) == (("en", "zh-cn"), ("en",))
    assert len(of_models([{"kind": "tts", "tgt_lang": f"en-x{index}"} for index in range(256)]).facts.tts) == 256
    with pytest.raises(FrameError, match="installed_models: more than 256 languages in one list"):
        of_models([{"kind": "tts", "tgt_lang": f"en-x{index}"} for index in range(257)])


# --- heartbeats and what they change ---------------------------------------------------------------------------------


def merged(seen: NodeProfile, message: dict[str, Any]) -> NodeProfile:
    return seen.merged(parse_frame(json.dumps(message)))


@pytest.mark.parametrize("client", REVISIONS[2:], ids=lambda client: client.name)
def test_a_heartbeat_that_says_nothing_new_changes_nothing(client: Client) -> None:
    seen = profile(client.register())
    assert merged(seen, client.heartbeat("n")) is seen


def test_absent_and_null_lists_are_unchanged_and_empty_ones_are_empty() -> None:
    seen = profile(HEAD.register())
    bare = {
        key: value for key, value in heartbeat().items() if key in ("type", "node_id", "timestamp", "resource_usage")
    }
    assert merged(seen, bare) is seen
    assert merged(seen, bare | {"language_capabilities": None, "installed_services": None}) is seen
    assert merged(seen, bare | {"language_capabilities": {"semantic_languages": None}}) is seen
    wiped = merged(seen, bare | {"language_capabilities": {"asr_languages": []}})
    assert wiped.facts.asr == ()
    assert wiped.facts.tts == ("de", "en")
    assert wiped.digest != seen.digest
    assert merged(seen, bare | {"capability_by_type": []}).facts.services == ()
    assert merged(seen, bare | {"installed_services": []}).running == {}


def test_hardware_and_labels_come_from_the_registration_only() -> None:
    seen = profile(HEAD.register())
    assert merged(seen, heartbeat(hardware={"gpus": []}, labels={"zone": "us"}, version="9")) is seen


def test_a_bad_heartbeat_leaves_the_profile_as_it_is() -> None:
    seen = profile(HEAD.register())
    with pytest.raises(FrameError, match="semantic_languages"):
        merged(seen, heartbeat(language_capabilities={"semantic_languages": ["{tag}"]}))
    assert seen.facts.semantic == ("de", "en")


def test_a_record_beyond_its_bound_is_refused_unless_only_derived_lists_make_it_so() -> None:
    message = REVISIONS[3].register()
    message["language_capabilities"]["supported_language_pairs"] = [{"src": "en", "tgt": "de"}] * 5000
    seen = profile(message)
    assert len(seen.record) < 65536
    assert json.loads(seen.record)["language_capabilities"]["left_out"] == [
        "supported_language_pairs",
        "nmt_capabilities",
    ]
    assert (
        merged(seen, REVISIONS[3].heartbeat("n") | {"language_capabilities": message["language_capabilities"]}) is seen
    )
    bulky = REVISIONS[3].register() | {"notes": ""}
    room = 65536 - len(profile(bulky).record)
    for size, kept in ((room, True), (room + 1, False)):
        assert ("left_out" not in profile(bulky | {"notes": "x" * size}).record) is kept
    short = REVISIONS[0].register() | {"notes": ""}
    room = 65536 - len(profile(short).record)
    assert len(profile(short | {"notes": "x" * room}).record) == 65536
    with pytest.raises(FrameError, match="what the node declares takes 65537 bytes, at most 65536 are kept"):
        profile(short | {"notes": "x" * (room + 1)})
    message["notes"] = "x" * 66_000
    with pytest.raises(FrameError, match="at most 65536 are kept"):
        profile(message)


@pytest.mark.parametrize(
    ("usage", "load"),
    [
        ({"cpu_percent": 80, "gpu_percent": 40.4}, 0.4),
        ({"cpu_percent": 80}, 0.8),
        ({"cpu_percent": 80, "gpu_percent": None}, 0.8),
        ({"cpu_percent": 5, "gpu_percent": 0}, 0.0),
        ({"cpu_percent": 5, "gpu_percent": 0.8}, 0.01),
        ({"cpu_percent": 5, "gpu_percent": 100.8}, 1.0),
        ({"cpu_percent": 5, "gpu_percent": 250}, 1.0),
        ({"cpu_percent": 5, "gpu_percent": -3}, 0.0),
        ({"cpu_percent": 5, "gpu_percent": 1, "gpu_queue_length": 2}, 1.0),
        ({"cpu_percent": 5, "gpu_percent": 12.345, "gpu_queue_length": 0}, 0.12),
    ],
)
def test_load(usage: dict[str, object], load: float) -> None:
    message = heartbeat(resource_usage={"mem_percent": 1, "running_jobs": 0, **usage})
    body = parse_frame(json.dumps(message)).body
    assert isinstance(body, NodeHeartbeat)
    assert load_of(body.resource_usage) == load


def test_usage_is_what_was_sent_with_its_metrics_and_bounded() -> None:
    usage = json.loads(usage_of(parse_frame(json.dumps(heartbeat()))))
    assert usage["gpu_percent"] == 40.0
    assert usage["processing_metrics"] == {"serviceEfficiencies": {"example-asr": 3.5}}
    metrics = {name: {"x": 1} for name in ("rerun_metrics", "processing_metrics", "asr_metrics")}
    message = heartbeat(**metrics, other_metrics={"x": 1})
    assert json.loads(usage_of(parse_frame(json.dumps(message)))) == message["resource_usage"] | metrics
    message = heartbeat(processing_metrics={"x": ""})
    room = 4096 - len(usage_of(parse_frame(json.dumps(message))))
    for size, kept in ((room, True), (room + 1, False)):
        message["processing_metrics"]["x"] = "x" * size
        assert ("processing_metrics" in usage_of(parse_frame(json.dumps(message)))) is kept
    message = heartbeat(processing_metrics={"serviceEfficiencies": {f"service-{i}": 1.5 for i in range(1000)}})
    text = usage_of(parse_frame(json.dumps(message)))
    assert len(text) <= 4096
    assert json.loads(text) == message["resource_usage"]


# --- replies ---------------------------------------------------------------------------------------------------------


def test_replies_are_what_clients_read() -> None:
    assert json.loads(protocol.register_ack("node-1", "registering")) == {
        "type": "node_register_ack",
        "node_id": "node-1",
        "message": "registered",
        "status": "registering",
    }
    status = protocol.node_status("n", status="ready", reason="r", timestamp=5, pool=None, pool_id=None, version=2)
    assert json.loads(status) == {
        "type": "node_status",
        "node_id": "n",
        "status": "ready",
        "reason": "r",
        "timestamp": 5,
        "pool": None,
        "pool_id": None,
        "version": 2,
    }
    assert json.loads(protocol.error_reply(ErrorCode.INTERNAL_ERROR, "m")) == {
        "type": "error",
        "code": "INTERNAL_ERROR",
        "message": "m",
    }


def test_an_error_reply_lists_places() -> None:
    with pytest.raises(FrameError) as error:
        parse_frame(changed(heartbeat(), "timestamp", "x"))
    reply = json.loads(protocol.error_reply(error.value.code, str(error.value), error.value.problems))
    assert reply["details"]["problems"] == [
        {"where": "timestamp", "message": "Input should be a valid integer, not 'x'"}
    ]


# --- fuzz ------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
valid = st.sampled_from(
    [message for client in REVISIONS for message in (client.register(), client.heartbeat("node-1"))]
    + [{"type": "job_result", "job_id": "j"}, {"type": "node_error", "node_id": "n", "code": "c", "message": "m"}]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid message with a few values, anywhere in it, replaced by any JSON or removed."""
    message = json.loads(json.dumps(draw(valid)))
    for _ in range(draw(st.integers(1, 3))):
        inner: Any = message
        for _ in range(draw(st.integers(0, 3))):
            children = list(inner.values()) if isinstance(inner, dict) else inner
            containers = [child for child in children if isinstance(child, dict | list) and child]
            if not containers:
                break
            inner = draw(st.sampled_from(containers))
        if isinstance(inner, dict):
            key = draw(st.sampled_from(sorted(inner)) | st.text(max_size=8)) if inner else draw(st.text(max_size=8))
            if draw(st.booleans()) or key not in inner:
                inner[key] = draw(json_values)
            else:
                del inner[key]
        elif inner:
            inner[draw(st.integers(0, len(inner) - 1))] = draw(json_values)
    return json.dumps(message)


def read(frame: str | bytes) -> None:
    """Read a frame as far as a session does. Whatever it is, there is a message or a FrameError that can be sent."""
    failure: FrameError | None = None
    try:
        parsed = parse_frame(frame)
        if isinstance(parsed.body, NodeRegister):
            NodeProfile.registered(parsed)
        elif isinstance(parsed.body, NodeHeartbeat):
            profile(HEAD.register()).merged(parsed)
            assert 0 <= load_of(parsed.body.resource_usage) <= 1
            assert len(usage_of(parsed)) <= 4096
    except FrameError as error:
        failure = error
    if failure is not None:
        assert 0 < len(str(failure)) <= MAX_ERROR_CHARS
        assert len(protocol.error_reply(failure.code, str(failure), failure.problems)) < 40_000


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary() | json_values.map(json.dumps))
@example("[" * 70 + "]" * 70)
@example('{"type":"node_heartbeat","type":1}')
@example('{"a":"\\ud800"}')
@example("1e999")
def test_any_text_is_a_message_or_a_frame_error(frame: str | bytes) -> None:
    read(frame)


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_any_nearly_valid_message_is_a_message_or_a_frame_error(frame: str) -> None:
    read(frame)


@settings(max_examples=200, deadline=None)
@given(valid, st.data())
def test_a_valid_message_cut_or_with_bytes_changed_is_a_message_or_a_frame_error(
    message: dict[str, Any], data: st.DataObject
) -> None:
    frame = bytearray(json.dumps(message).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    read(bytes(frame))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(st.just(1), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=60), st.integers(0, 90)
)
def test_depth_is_counted_as_a_reader_would(value: object, wrap: int) -> None:
    for _ in range(wrap):
        value = {"k": value}

    def depth(inner: object) -> int:
        if isinstance(inner, dict | list):
            return 1 + max(map(depth, inner.values() if isinstance(inner, dict) else inner))
        return 0

    frame = json.dumps(heartbeat(x=value))
    if depth(value) + 1 > MAX_DEPTH:
        assert "nests deeper" in refused(frame)
    else:
        parse_frame(frame)
