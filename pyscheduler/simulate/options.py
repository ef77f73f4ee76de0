"""What a simulated fleet is asked to do, checked before the first socket opens."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from pyscheduler.core.ids import shown
from pyscheduler.core.limits import MAX_GPUS, MAX_LANGUAGES
from pyscheduler.core.urls import masked_url
from pyscheduler.errors import InvalidInput

DEFAULT_URL = "ws://127.0.0.1:5010/ws/node"
DEFAULT_LANGUAGES = "en,zh;de,en"
DEFAULT_SERVICES = "asr,nmt,tts"
DEFAULT_GPU = "NVIDIA GeForce RTX 4090:24"

MAX_NODES = 20_000
MAX_URLS = 64
MAX_LANGUAGE_SETS = 1_000
MAX_SECONDS = 7 * 24 * 3600.0


class Gpu(Struct, frozen=True):
    """One GPU as a node reports it."""

    name: str
    memory_gb: int


class FleetOptions(Struct, frozen=True):
    """A fleet to simulate.

    Args:
        nodes: how many nodes, 1..20000.
        urls: node doors; node number i begins at ``urls[i % len(urls)]`` and goes one further at each reconnect.
        languages: language sets; node number i begins with ``languages[i % len(languages)]``.
        services: service types that each node runs.
        gpus: GPUs that each node reports; empty means that it reports none, and is refused.
        duration_s: how long to run; ``None`` until stopped.
        heartbeat_s: time between heartbeats, from 0.05 s.
        reconnect_s: pause before a node connects again, from 0 s.
        churn: expected number of churn events per node and second, 0..10. See :mod:`pyscheduler.simulate.plan`.
        seed: two fleets with equal options and seed choose alike.
        id_prefix: name nodes ``<prefix><number>``; empty: ask the scheduler for an id, as a fresh client does.

    Raises:
        InvalidInput: an option is out of its bounds.
    """

    nodes: int
    urls: tuple[str, ...] = (DEFAULT_URL,)
    languages: tuple[tuple[str, ...], ...] = (("en", "zh"), ("de", "en"))
    services: tuple[str, ...] = ("asr", "nmt", "tts")
    gpus: tuple[Gpu, ...] = (Gpu("NVIDIA GeForce RTX 4090", 24),)
    duration_s: float | None = None
    heartbeat_s: float = 15.0
    reconnect_s: float = 5.0
    churn: float = 0.0
    seed: int = 0
    id_prefix: str = ""

    def __post_init__(self) -> None:
        within("--nodes", self.nodes, 1, MAX_NODES)
        within("--heartbeat", self.heartbeat_s, 0.05, 3600)
        within("--reconnect", self.reconnect_s, 0, 3600)
        within("--churn", self.churn, 0, 10)
        if self.duration_s is not None:
            within("--duration", self.duration_s, 0.1, MAX_SECONDS)
        if not 1 <= len(self.urls) <= MAX_URLS:
            raise InvalidInput(f"--url: give 1 to {MAX_URLS} URLs")
        for url in self.urls:
            _check_url(url)
        if not 1 <= len(self.languages) <= MAX_LANGUAGE_SETS:
            raise InvalidInput(f"--languages: give 1 to {MAX_LANGUAGE_SETS} sets, such as {DEFAULT_LANGUAGES!r}")


def within(option: str, value: float, low: float, high: float) -> None:
    """Check a number.

    Raises:
        InvalidInput: it is below ``low``, above ``high``, or none; the message names the option.
    """
    # Said of no number, too: it is in no order with any other.
    if not low <= value <= high:
        # A whole number may be too large for a float.
        given = shown(value) if isinstance(value, int) else f"{value:g}"
        raise InvalidInput(f"{option}: {given} is not within {low:g} to {high:g}")


def parts_of(url: str) -> SplitResult:
    """The parts of a URL; empty ones where it is none, or where its host or port cannot be one."""
    try:
        parts = urlsplit(url)
        # As it will be written for the resolver: a label that is empty or too long is none.
        (parts.hostname or "").encode("idna")
        return parts if parts.port != 0 else urlsplit("")
    except ValueError:
        return urlsplit("")


def shown_url(url: str) -> str:
    """A URL as a message may repeat it: quoted, cut, and without a password."""
    return shown(masked_url(url) if "@" in url else url)


def _check_url(url: str) -> None:
    parts = parts_of(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
        raise InvalidInput(f"--url: {shown_url(url)} is not a WebSocket URL such as {DEFAULT_URL}")


def parse_languages(text: str) -> tuple[tuple[str, ...], ...]:
    """Read language sets: codes separated by ``,``, sets by ``;``. An empty set is a node that serves none.

    Codes are sent as written: what the scheduler does with an odd one is for the scheduler to show.

    Raises:
        InvalidInput: more than 256 codes in a set.
    """
    sets = []
    for part in text.split(";"):
        codes = tuple(code.strip() for code in part.split(",") if code.strip())
        if len(codes) > MAX_LANGUAGES:
            raise InvalidInput(f"--languages: at most {MAX_LANGUAGES} codes in a set")
        sets.append(codes)
    return tuple(sets)


def parse_names(text: str) -> tuple[str, ...]:
    """Read names separated by ``,``; empty ones are left out."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_gpus(texts: Sequence[str]) -> tuple[Gpu, ...]:
    """Read GPUs given as ``NAME:MEMORY_GB``; the single word ``none`` means a node without a GPU.

    Raises:
        InvalidInput: no memory, or it is not a whole number of GB; more than 64 GPUs.
    """
    if tuple(texts) == ("none",):
        return ()
    if len(texts) > MAX_GPUS:
        raise InvalidInput(f"--gpu: at most {MAX_GPUS} GPUs")
    gpus = []
    for text in texts:
        name, colon, memory = text.rpartition(":")
        if not colon or not name or not (memory.isascii() and memory.isdigit()) or len(memory) > 6:
            raise InvalidInput(f"--gpu: {text!r} is not NAME:MEMORY_GB such as {DEFAULT_GPU!r}, nor 'none'")
        gpus.append(Gpu(name, int(memory)))
    return tuple(gpus)
