"""One typed call for each script. A signature that disagrees with the header of its Lua file fails at import."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, Unpack, get_args, get_type_hints

from msgspec import Struct

from pyscheduler.core.jobs import RequestArguments
from pyscheduler.scripts.loader import ScriptError, load_scripts

P = ParamSpec("P")


class Call(Struct, frozen=True):
    """A script and its encoded arguments; the keys follow from the script's header and the namespace."""

    script: str
    argv: tuple[str, ...]

    @classmethod
    def joined(cls, batch: Sequence[Call]) -> Call:
        """Calls of one script that takes its arguments any number of times, as one call."""
        return cls(batch[0].script, tuple(argument for call in batch for argument in call.argv))


def _encode(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:z.4f}"  # z: -0.0 is 0.0000
    raise TypeError(f"{value!r} cannot be an argument of a script")


def _parameters(signature: Callable[..., None]) -> Iterator[str]:
    for name, parameter in inspect.signature(signature).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (shared,) = get_args(get_type_hints(signature)[name])
            yield from shared.__annotations__
        else:
            yield name


def _verb(signature: Callable[P, None]) -> Callable[P, Call]:
    name = signature.__name__
    script = load_scripts().get(name)
    if script is None:
        raise ScriptError(f"{name}: there is no lua/{name}.lua")
    taken, parameters = tuple(_parameters(signature)), script.header.args
    # Keywords alone: their order is the header's, whatever it is here.
    if sorted(taken) != sorted(parameters):
        raise ScriptError(f"{name}: the wrapper takes {taken}, the header of lua/{name}.lua says {parameters}")
    fixed = parameters[:-1] if script.header.variadic else parameters
    rest = parameters[-1] if script.header.variadic else None

    def call(*args: P.args, **kwargs: P.kwargs) -> Call:
        if args or kwargs.keys() != set(parameters):
            raise TypeError(f"{name} takes the keywords {', '.join(parameters)}")
        argv = [_encode(kwargs[parameter]) for parameter in fixed]
        if rest is not None:
            argv.extend(kwargs[rest])  # type: ignore[arg-type]  # a sequence of str, by the signature
        return Call(name, tuple(argv))

    return call


@_verb
def open_namespace(*, auto: str, admission: str, selection: str) -> None: ...


@_verb
def upsert_node_to_pool(
    *,
    node_id: str,
    session_id: str,
    instance: str,
    mode: str,
    epoch: int,
    facts: str,
    record: str,
    digest: str,
    status: str,
    load: float,
    usage: str,
    lease_ms: int,
    admission_digest: str,
    takeover: bool,
    reason: str,
) -> None: ...


@_verb
def touch_nodes(*, lease_ms: int, nodes: Sequence[str]) -> None: ...


@_verb
def release_node(*, node_id: str, epoch: int, grace_ms: int, reason: str) -> None: ...


@_verb
def hold_node(*, node_id: str, operation: str, owner: str, reason: str, allow_unknown: bool) -> None: ...


@_verb
def bump_config_version(
    *,
    mode: str,
    document: str,
    digest: str,
    admission: str,
    expect_version: int,
    allow_empty: bool,
    force: bool,
    author: str,
    reason: str,
    kind: str,
) -> None: ...


@_verb
def reconcile(
    *,
    lease_ms: int,
    force: bool,
    expire: int,
    scan: int,
    brake_permille: int,
    brake_floor: int,
    brake_expire: int,
    min_interval_ms: int,
    grace_ms: int,
) -> None: ...


@_verb
def renew_instance(*, instance: str, lease_ms: int, info: str) -> None: ...


@_verb
def list_pools(*, name: str) -> None: ...


@_verb
def list_nodes(*, mode: str, pool: str, offset: int, limit: int, ids: Sequence[str]) -> None: ...


@_verb
def explain_node(*, node_id: str, decisions: bool) -> None: ...


@_verb
def find_pools(*, src: str, tgt: str, services: Sequence[str]) -> None: ...


@_verb
def check() -> None: ...


@_verb
def reserve_slots(
    *,
    mode: str,
    job_id: str,
    attempt: int,
    owner: str,
    lease_ms: int,
    digest: str,
    **request: Unpack[RequestArguments],
) -> None: ...


@_verb
def explain_job(*, job_id: str, **request: Unpack[RequestArguments]) -> None: ...


@_verb
def update_jobs(*, operation: str, job_id: str, attempt: int, owner: str, lease_ms: int, reason: str) -> None: ...


@_verb
def list_jobs(
    *,
    after_ms: int,
    after: str,
    limit: int,
    node: str,
    pool: str,
    tenant: str,
    owner: str,
    state: str,
    ids: Sequence[str],
) -> None: ...
