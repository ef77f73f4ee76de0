"""What a simulated stream of jobs will ask for, drawn from the seed before it asks."""

from __future__ import annotations

import random
from collections.abc import Iterator

from msgspec import Struct

from pyscheduler.simulate.job_options import JobOptions, Pair, pairs_of
from pyscheduler.simulate.options import FleetOptions

_OPEN_SESSIONS = 16
_JOBS_OF_A_SESSION = 10


class PlannedJob(Struct, frozen=True):
    """A job to come.

    Attributes:
        number: from 1, in the order in which they come.
        wait_s: time since the job before.
        odd: no node of the fleet is meant to serve the pair.
        tenant, session: empty for none.
        seconds: how long it runs.
        fails_after_s: when its first attempt fails; ``None`` if it does not.
        weight: how busy it makes its node, 0.5..1.5 of what a slot is meant for.
    """

    number: int
    wait_s: float
    src: str
    tgt: str
    odd: bool
    tenant: str
    session: str
    seconds: float
    fails_after_s: float | None
    weight: float


class JobPlan:
    """The jobs of a stream.

    They come at random times, independently of each other (a Poisson process). A job is between two languages of one
    language set, each set as often as the others, as nodes have them. How long one runs is exponential: most are short,
    a few are long. Sixteen sessions are open at a time, each between two languages; one has ten jobs on average.
    """

    def __init__(self, fleet: FleetOptions, options: JobOptions) -> None:
        self._options = options
        self._sets, self._odd_pairs = pairs_of(fleet)
        self._random = random.Random(f"{fleet.seed}:jobs")
        self._sessions: list[tuple[str, Pair, str]] = []
        self._sessions_begun = 0

    def jobs(self) -> Iterator[PlannedJob]:
        """The jobs, without end."""
        draw, options, number = self._random, self._options, 0
        while True:
            number += 1
            wait_s, seconds = draw.expovariate(options.rate), draw.expovariate(1 / options.seconds)
            fails_after_s = draw.random() * seconds if draw.random() < options.failing else None
            weight = draw.uniform(0.5, 1.5)
            session = ""
            odd = draw.random() < options.odd
            if odd:
                (src, tgt), tenant = draw.choice(self._odd_pairs), self._tenant()
            elif draw.random() < options.in_sessions:
                session, (src, tgt), tenant = self._of_a_session()
            else:
                (src, tgt), tenant = self._pair(), self._tenant()
            yield PlannedJob(number, wait_s, src, tgt, odd, tenant, session, seconds, fails_after_s, weight)

    def _pair(self) -> Pair:
        return self._random.choice(self._random.choice(self._sets))

    def _tenant(self) -> str:
        count = self._options.tenants
        return f"tenant-{self._random.randint(1, count)}" if count else ""

    def _of_a_session(self) -> tuple[str, Pair, str]:
        draw = self._random
        place = draw.randrange(_OPEN_SESSIONS)
        if place < len(self._sessions) and draw.random() >= 1 / _JOBS_OF_A_SESSION:
            return self._sessions[place]
        self._sessions_begun += 1
        begun = (str(self._sessions_begun), self._pair(), self._tenant())
        if place < len(self._sessions):
            self._sessions[place] = begun
        else:
            self._sessions.append(begun)
        return begun
