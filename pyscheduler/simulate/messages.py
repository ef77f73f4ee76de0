"""The frames of a node client at schema 2.0, as the fleet's own client builds them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyscheduler.simulate.options import Gpu

_VERSION = "2.0.0"
# Shipped with the fleet's client and reported although nothing runs it: a type that schedulers must put up with.
_STOPPED_TYPE = "lexicon"


def _services(types: Sequence[str]) -> list[dict[str, object]]:
    running = [_service(kind, "gpu", "running") for kind in types]
    return [*running, _service(_STOPPED_TYPE, "cpu", "stopped")]


def _service(kind: str, device: str, status: str) -> dict[str, object]:
    return {"service_id": f"sim-{kind}", "type": kind, "device": device, "status": status, "version": "1.0.0"}


def _capabilities(types: Sequence[str]) -> list[dict[str, object]]:
    ready: list[dict[str, object]] = [{"type": kind, "ready": True, "devices": ["gpu"]} for kind in types]
    return [*ready, {"type": _STOPPED_TYPE, "ready": False, "devices": ["cpu"]}]


def _models(types: Sequence[str]) -> list[dict[str, object]]:
    return [
        {
            "model_id": f"sim-{kind}",
            "kind": kind,
            "src_lang": None,
            "tgt_lang": None,
            "dialect": None,
            "version": "1.0.0",
            "enabled": True,
        }
        for kind in types
        if kind in ("asr", "nmt", "tts")
    ]


def _language_capabilities(languages: Sequence[str]) -> dict[str, object]:
    codes = list(languages)
    return {
        "asr_languages": codes,
        "tts_languages": codes,
        "semantic_languages": codes,
        "semantic_core_ready": bool(codes),
    }


def register(node_id: str | None, *, languages: Sequence[str], services: Sequence[str], gpus: Sequence[Gpu]) -> str:
    """A ``node_register`` frame. ``node_id`` is ``None`` until a first acknowledgement has named the node."""
    hardware: dict[str, object] = {"cpu_cores": 16, "memory_gb": 64}
    if gpus:
        hardware["gpus"] = [{"name": gpu.name, "memory_gb": gpu.memory_gb} for gpu in gpus]
    return json.dumps(
        {
            "type": "node_register",
            "node_id": node_id,
            "version": _VERSION,
            "capability_schema_version": "2.0",
            "platform": "linux",
            "hardware": hardware,
            "installed_models": _models(services),
            "installed_services": _services(services),
            "capability_by_type": _capabilities(services),
            "features_supported": {
                "emotion_detection": False,
                "voice_style_detection": False,
                "speech_rate_detection": False,
                "speech_rate_control": False,
                "speaker_identification": False,
                "persona_adaptation": False,
            },
            "accept_public_jobs": True,
            "language_capabilities": _language_capabilities(languages),
        }
    )


def heartbeat(
    node_id: str,
    *,
    timestamp_ms: int,
    usage: dict[str, object],
    languages: Sequence[str],
    services: Sequence[str],
) -> str:
    """A ``node_heartbeat`` frame. ``timestamp_ms`` is the node's own clock, which schedulers ignore."""
    return json.dumps(
        {
            "type": "node_heartbeat",
            "node_id": node_id,
            "timestamp": timestamp_ms,
            "resource_usage": usage,
            "installed_models": _models(services),
            "installed_services": _services(services),
            "capability_by_type": _capabilities(services),
            "language_capabilities": _language_capabilities(languages),
        }
    )
