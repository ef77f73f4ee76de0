"""What a simulated stream of jobs is asked to do, checked before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from msgspec import Struct

from pyscheduler.core.languages import language
from pyscheduler.errors import InvalidInput
from pyscheduler.simulate.options import FleetOptions, parts_of, shown_url, within

DEFAULT_DOOR = "http://127.0.0.1:5011"

MAX_JOB_RATE = 200.0
MAX_JOBS_UNDER_WAY = 10_000
MAX_TENANTS = 1_000
MAX_DOORS = 64

# None of these is assigned to a language by ISO 639: for a language that nobody speaks.
_NOBODYS = ("qaa", "qab", "qac", "qad")

Pair = tuple[str, str]


class JobOptions(Struct, frozen=True):
    """A stream of jobs.

    Args:
        rate: jobs a second, on average, 0.01..200.
        doors: operator doors; the first is asked until it fails, then the next.
        seconds: how long a job runs, on average, 0.05..3600 s.
        lease_s: lease of a reservation, 0.5..3600 s; it is renewed at a third of that.
        odd: share of jobs, 0..1, between languages that no node of the fleet serves both of.
        failing: share of jobs, 0..1, whose first attempt fails.
        in_sessions: share of jobs, 0..1, that belong to a session.
        tenants: whose the jobs are, 1..1000 tenants at random; 0: public ones.

    Raises:
        InvalidInput: an option is out of its bounds.
    """

    rate: float
    doors: tuple[str, ...] = (DEFAULT_DOOR,)
    seconds: float = 10.0
    lease_s: float = 15.0
    odd: float = 0.02
    failing: float = 0.02
    in_sessions: float = 0.3
    tenants: int = 0

    def __post_init__(self) -> None:
        within("--jobs", self.rate, 0.01, MAX_JOB_RATE)
        within("--job-seconds", self.seconds, 0.05, 3600)
        within("--job-lease", self.lease_s, 0.5, 3600)
        within("--odd-jobs", self.odd, 0, 1)
        within("--failing-jobs", self.failing, 0, 1)
        within("--session-jobs", self.in_sessions, 0, 1)
        within("--tenants", self.tenants, 0, MAX_TENANTS)
        if not 1 <= len(self.doors) <= MAX_DOORS:
            raise InvalidInput(f"--operator-url: give 1 to {MAX_DOORS} URLs")
        for door in self.doors:
            _check_door(door)


def _check_door(url: str) -> None:
    parts = parts_of(url)
    plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        what = f"the URL of an operator door such as {DEFAULT_DOOR}"
        raise InvalidInput(f"--operator-url: {shown_url(url)} is not {what}")


class Pairs(Sequence[Pair]):
    """The pairs of two different languages of a set. They are not kept: a large set has very many.

    Args:
        codes: the set, each language once.
    """

    def __init__(self, codes: Sequence[str]) -> None:
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes) * (len(self._codes) - 1)

    @overload
    def __getitem__(self, place: int) -> Pair: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Pair]: ...

    def __getitem__(self, place: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        src, tgt = divmod(place % len(self), len(self._codes) - 1)
        return self._codes[src], self._codes[tgt + (tgt >= src)]


def pairs_of(fleet: FleetOptions) -> tuple[tuple[Pairs, ...], tuple[Pair, ...]]:
    """What the nodes of a fleet can serve: the pairs of each language set, and pairs that none of them serves.

    A set of fewer than two languages has no pair, and is left out, as is what the scheduler does not take for a code.

    Raises:
        InvalidInput: no set has a pair.
    """
    sets = [sorted({code for one in codes if (code := _code(one))}) for codes in fleet.languages]
    served = tuple(pairs for pairs in map(Pairs, sets) if pairs)
    if not served:
        raise InvalidInput("--jobs: jobs need a language set of two languages or more: give one with --languages")
    spoken = sorted({code for codes in sets for code in codes})
    nobodys = next((code for code in _NOBODYS if code not in spoken), _NOBODYS[0])
    # A fleet of many languages has very many of these; a few are as odd as all.
    some = [(src, tgt) for src in spoken[:20] for tgt in spoken[:20] if src != tgt]
    known = [frozenset(codes) for codes in sets]
    crossing = [pair for pair in some if not any(codes.issuperset(pair) for codes in known)]
    return served, (*crossing, (spoken[0], nobodys))


def _code(text: str) -> str:
    try:
        return language(text)
    except InvalidInput:
        return ""
