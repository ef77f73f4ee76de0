"""Settings of the processes: each one a flag, an environment variable and a key of a settings file.

A value is looked for in this order: flag, environment variable (``PYSCHEDULER_`` and the name in capitals), settings
file, default. The file is TOML, flat, its keys the names below; an unknown key is refused. Settings are frozen once
made. :func:`describe` lists them all: the command line builds its flags from that list, and the documentation is tested
against it.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import annotated_types
from msgspec import Struct
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from pyscheduler import keys
from pyscheduler.core import ids
from pyscheduler.core.limits import MAX_MESSAGE_BYTES
from pyscheduler.core.urls import StoreUrl, masked_url
from pyscheduler.errors import InvalidInput, Problem

ENV_PREFIX = "PYSCHEDULER_"

MAX_SETTINGS_BYTES = 64 * 1024
"""Size of a settings file. A full one has about 2 kB."""

_HOUR_MS = 3_600_000


class SettingsInvalid(InvalidInput):
    """Settings break rules; ``problems`` lists every one of them and says which flag, variable or key it came from."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def default_state_dir() -> Path:
    """Where the embedded server keeps its data unless told otherwise: ``pyscheduler`` in the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return root / "pyscheduler"


def _no_bool(value: object) -> object:
    # pydantic would take a TOML `true` for 1.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _namespace(value: str) -> str:
    try:
        return keys.namespace(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _instance_id(value: str | None) -> str | None:
    try:
        return None if value is None else ids.instance_id(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _redis_url(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    StoreUrl.parse(value.get_secret_value())
    return value


def _host(value: str) -> str:
    if any(char.isspace() or not char.isprintable() for char in value):
        raise ValueError("must be a host name or an address")
    return value


def _port(value: object) -> object:
    # An orchestrator that announces services through the environment writes tcp://ADDRESS:PORT into <SERVICE>_PORT.
    if isinstance(value, str) and value.startswith("tcp://"):
        raise ValueError(
            "must be a number, but is an address of the kind that Kubernetes sets for a service named 'pyscheduler': "
            "give --port, or set enableServiceLinks: false for the pod"
        )
    return value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _services(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(ids.service_type(one) for one in value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _none_if_empty(value: object) -> object:
    # As in the environment; the directory that an empty path means is hardly ever the one that was meant.
    return None if value == "" else value


def _expanded(value: Path | None) -> Path | None:
    return None if value is None else value.expanduser()


_Integer = Annotated[int, BeforeValidator(_no_bool)]
_Port = Annotated[_Integer, BeforeValidator(_port), Field(ge=0, le=65_535)]
_Host = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_host)]
_Services = Annotated[
    tuple[str, ...], BeforeValidator(_split), AfterValidator(_services), Field(min_length=1, max_length=32)
]
_File = Annotated[Path | None, BeforeValidator(_none_if_empty), AfterValidator(_expanded)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def load(cls, *, file: Path | None = None, flags: Mapping[str, object] | None = None) -> Self:
        """Settings from flags, environment, file and defaults, in this order.

        Args:
            file: a TOML settings file.
            flags: values by setting name; ``None`` means that the flag was not given.

        Raises:
            SettingsInvalid: the file cannot be read or has unknown keys, or a value breaks its rule.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        from_env = _read_environment(cls)
        from_file = _read_file(cls, file) if file is not None else {}
        try:
            return cls(**{**from_file, **from_env, **given})
        except ValidationError as error:
            raise SettingsInvalid(_problem(one, given, from_env, file) for one in error.errors()) from None


class StoreSettings(_Settings):
    """Which store to use. Shared by every command that reads or writes one."""

    redis_url: Annotated[SecretStr | None, AfterValidator(_redis_url)] = Field(
        default=None,
        description="Store to use: redis://, rediss://, unix:// or redis+sentinel://. "
        "Without it, the embedded server of the state directory.",
    )
    namespace: Annotated[str, AfterValidator(_namespace)] = Field(
        default="pyscheduler", description="Namespace (cell) within the store: 1 to 64 of A-Z a-z 0-9 . _ : -."
    )
    state_dir: _File = Field(
        default=None,
        description="State directory of the embedded server. "
        "By default 'pyscheduler' in $XDG_STATE_HOME or ~/.local/state.",
    )

    @property
    def shown_redis_url(self) -> str | None:
        """The URL without its password."""
        return None if self.redis_url is None else masked_url(self.redis_url.get_secret_value())

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not turn up in a log: the store's password, as written in the URL and as meant."""
        if self.redis_url is None:
            return ()
        parts = urlsplit(self.redis_url.get_secret_value())
        written = [parts.password or "", *(value for key, value in parse_qsl(parts.query) if key.endswith("password"))]
        return tuple({form for one in written for form in (one, unquote(one), quote(one)) if one})


class ServeSettings(StoreSettings):
    """Settings of ``pyscheduler serve``."""

    # --- doors
    host: _Host = Field(
        default="127.0.0.1",
        description="Address that the node door listens on. 0.0.0.0: all; put it behind a firewall.",
    )
    port: _Port = Field(default=5010, description="Port of the node door; 0 picks a free one.")
    operator_host: _Host = Field(
        default="127.0.0.1",
        description="Address that the operator door listens on. It has no authentication: keep it away from nodes.",
    )
    operator_port: _Port = Field(default=5011, description="Port of the operator door; 0 picks a free one.")
    operator_changes: Literal["loopback", "on", "off"] = Field(
        default="loopback",
        description="Whether jobs can be changed through the operator door; "
        "loopback: only while it listens on a loopback address.",
    )
    max_connections: Annotated[_Integer, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="Node connections at most; one more is closed with code 1013."
    )
    max_frame_bytes: Annotated[_Integer, Field(ge=1024, le=256 * 1024 * 1024)] = Field(
        default=16 * 1024 * 1024,
        description="Size of a WebSocket message beyond which its connection is closed, in bytes.",
    )
    max_message_bytes: Annotated[_Integer, Field(ge=1024, le=MAX_MESSAGE_BYTES)] = Field(
        default=MAX_MESSAGE_BYTES,
        description="Size of a message beyond which it is answered with an error, in bytes; the connection stays.",
    )

    # --- identity and start
    instance_id: Annotated[str | None, AfterValidator(_instance_id)] = Field(
        default=None,
        description="Name of this process among those that share the store: 1 to 64 of A-Z a-z 0-9 . _ : -. "
        "By default host name, process number and a random part.",
    )
    pools: _File = Field(
        default=None, description="Configuration document that is applied at start if the namespace has none yet."
    )
    store_start_timeout_ms: Annotated[_Integer, Field(ge=0, le=_HOUR_MS)] = Field(
        default=30_000, description="How long the start waits for a store that cannot be reached, in ms."
    )

    store_timeout_ms: Annotated[_Integer, Field(ge=50, le=_HOUR_MS)] = Field(
        default=5_000, description="How long a store call may take before its outcome counts as unknown, in ms."
    )

    # --- nodes
    node_id_conflict: Literal["takeover", "refuse"] = Field(
        default="takeover",
        description="A second connection with the id of a live node: takeover closes the first, refuse the second.",
    )
    lease_ms: Annotated[_Integer, Field(ge=100, le=_HOUR_MS)] = Field(
        default=45_000,
        description="How long a node counts as alive after a heartbeat, in ms. Nodes send one every 15 s.",
    )
    reconnect_grace_ms: Annotated[_Integer, Field(ge=0, le=_HOUR_MS)] = Field(
        default=30_000, description="How long a node keeps its pool after its connection closed, in ms."
    )
    register_timeout_ms: Annotated[_Integer, Field(ge=100, le=_HOUR_MS)] = Field(
        default=30_000, description="How long a new connection may take to register, in ms. A slow node needs 13 s."
    )
    silence_timeout_ms: Annotated[_Integer | None, Field(ge=100, le=_HOUR_MS)] = Field(
        default=None, description="How long a registered node may be silent, in ms. By default three times the lease."
    )
    warmup_ms: Annotated[_Integer, Field(ge=1, le=_HOUR_MS)] = Field(
        default=60_000, description="How long a node may take to become ready before it counts as degraded, in ms."
    )
    checks_to_ready: Annotated[_Integer, Field(ge=1, le=100)] = Field(
        default=1, description="Healthy heartbeats in a row that make a registering node ready."
    )
    failures_to_degrade: Annotated[_Integer, Field(ge=1, le=100)] = Field(
        default=3, description="Failed heartbeats in a row that make a ready node degraded."
    )
    core_services: _Services = Field(
        default=("asr", "nmt", "tts"),
        description="Service types of which a node must have one installed to become ready, with commas between.",
    )
    require_all_running: bool = Field(
        default=True,
        description="Whether each core service type that a node has installed must run before it is ready, or one.",
    )
    send_timeout_ms: Annotated[_Integer, Field(ge=100, le=_HOUR_MS)] = Field(
        default=10_000, description="How long a node may take to accept a reply before its connection is cut, in ms."
    )

    # --- background work
    reconcile_interval_ms: Annotated[_Integer, Field(ge=50, le=_HOUR_MS)] = Field(
        default=5_000, description="Time between two reconcile passes of this process, in ms, give or take a fifth."
    )
    resync_interval_ms: Annotated[_Integer, Field(ge=100, le=_HOUR_MS)] = Field(
        default=30_000, description="Time between two comparisons of this process's nodes with the store, in ms."
    )
    store_check_interval_ms: Annotated[_Integer, Field(ge=50, le=_HOUR_MS)] = Field(
        default=1_000, description="Time between two checks whether the store can be reached, in ms."
    )
    instance_lease_ms: Annotated[_Integer, Field(ge=300, le=_HOUR_MS)] = Field(
        default=15_000, description="How long this process counts as alive after it last said so, in ms."
    )
    recovery_concurrency: Annotated[_Integer, Field(ge=1, le=1024)] = Field(
        default=64, description="Nodes registered again at the same time after the store lost them."
    )
    shutdown_timeout_ms: Annotated[_Integer, Field(ge=100, le=_HOUR_MS)] = Field(
        default=5_000, description="How long an orderly stop may take, in ms. What is left then is cut."
    )

    # --- logs
    log_format: Literal["text", "json"] = Field(default="text", description="Form of the log on the error stream.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important lines that are logged."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_message_bytes > self.max_frame_bytes:
            raise ValueError("max_message_bytes must not be above max_frame_bytes")
        return self

    def takes_changes(self, operator_address: str) -> bool:
        """Whether the operator door changes jobs, given the address that it really listens on."""
        if self.operator_changes == "loopback":
            return ipaddress.ip_address(operator_address.partition("%")[0]).is_loopback
        return self.operator_changes == "on"

    @property
    def silence_ms(self) -> int:
        """How long a registered node may be silent, in ms."""
        return 3 * self.lease_ms if self.silence_timeout_ms is None else self.silence_timeout_ms


# --- the list of settings --------------------------------------------------------------------------------------------


SettingKind = Literal["text", "integer", "choice", "path", "switch", "list"]


class Setting(Struct, frozen=True):
    """One setting as documentation and command line need it.

    Args:
        name: name in the settings file and in Python.
        flag: flag of the command line, such as ``--lease-ms``.
        env: environment variable.
        kind: ``text``, ``integer``, ``choice``, ``path``, ``switch`` (on or off) or ``list`` (text with commas).
        default: default value as text, number or truth value; ``None`` where there is none, or where it is worked out
            as the description says.
        minimum: least value, for integers.
        maximum: greatest value, for integers.
        choices: values of a choice.
        secret: true if the value must not be shown.
        description: one or two sentences.
    """

    name: str
    flag: str
    env: str
    kind: SettingKind
    default: str | int | bool | None
    minimum: int | None
    maximum: int | None
    choices: tuple[str, ...]
    secret: bool
    description: str


def describe(model: type[StoreSettings] = ServeSettings) -> tuple[Setting, ...]:
    """Every setting of ``model``, in the order in which it declares them."""
    return tuple(_setting(name, info) for name, info in model.model_fields.items())


def _setting(name: str, info: FieldInfo) -> Setting:
    types, metadata = _parts(info.annotation)
    metadata = [*metadata, *info.metadata]
    choices = next((get_args(one) for one in types if get_origin(one) is Literal), ())
    kind: SettingKind = "text"
    default = info.default
    if get_origin(_bare(info.annotation)) is tuple:
        kind, default = "list", ",".join(default)
    elif choices:
        kind = "choice"
    elif bool in types:
        kind = "switch"
    elif int in types:
        kind = "integer"
    elif Path in types:
        kind = "path"
    return Setting(
        name=name,
        flag="--" + name.replace("_", "-"),
        env=ENV_PREFIX + name.upper(),
        kind=kind,
        default=default,
        minimum=_bound(metadata, annotated_types.Ge, "ge"),
        maximum=_bound(metadata, annotated_types.Le, "le"),
        choices=tuple(str(one) for one in choices),
        secret=SecretStr in types,
        description=info.description or "",
    )


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _parts(annotation: Any) -> tuple[list[Any], list[Any]]:
    # The plain types of an annotation, and all that is attached to them at any depth.
    if get_origin(annotation) is Annotated:
        inner, *attached = get_args(annotation)
        types, metadata = _parts(inner)
        for one in attached:
            metadata.extend(one.metadata if isinstance(one, FieldInfo) else [one])
        return types, metadata
    if get_origin(annotation) is Literal or not get_args(annotation):
        return [annotation], []
    types, metadata = [], []
    for argument in get_args(annotation):
        more_types, more_metadata = _parts(argument)
        types += more_types
        metadata += more_metadata
    return types, metadata


def _bound(metadata: Iterable[Any], kind: type, attribute: str) -> int | None:
    for one in metadata:
        if isinstance(one, kind):
            value = getattr(one, attribute)
            return value if isinstance(value, int) else None
    return None


# --- reading and telling ---------------------------------------------------------------------------------------------


def _read_environment(model: type[_Settings]) -> dict[str, str]:
    # An empty variable is how compose files write "not set". Case plays no part in the names.
    found = {name.upper(): value for name, value in os.environ.items() if value}
    return {name: found[env] for name in model.model_fields if (env := ENV_PREFIX + name.upper()) in found}


def _read_file(model: type[_Settings], file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise SettingsInvalid(
            [Problem("", f"cannot read the settings file {file}: {error.strerror or error}")]
        ) from None
    if len(data) > MAX_SETTINGS_BYTES:
        raise SettingsInvalid([Problem("", f"the settings file {file} is larger than {MAX_SETTINGS_BYTES} bytes")])
    try:
        values = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsInvalid([Problem("", f"the settings file {file} is not TOML: {error}")]) from None
    unknown = [key for key in values if key not in model.model_fields]
    if unknown:
        raise SettingsInvalid(Problem(ids.shown(key), _unknown(model, file, key)) for key in unknown)
    return values


def _unknown(model: type[_Settings], file: Path, key: str) -> str:
    near = difflib.get_close_matches(key.replace("-", "_").lower(), model.model_fields, n=1)
    return f"unknown key in {file}" + (f"; did you mean {near[0]}?" if near else "")


def _problem(error: Any, given: Mapping[str, object], from_env: Mapping[str, object], file: Path | None) -> Problem:
    message = str(error["msg"]).removeprefix("Value error, ")
    name = str(error["loc"][0]) if error["loc"] else ""
    if not name:
        return Problem("settings", message)
    if error["type"] == "extra_forbidden":
        return Problem(ids.shown(name), "there is no such setting")
    if name in given:
        return Problem("--" + name.replace("_", "-"), message)
    if name in from_env:
        return Problem(ENV_PREFIX + name.upper(), message)
    return Problem(f"{name} in {file}" if file is not None else name, message)
