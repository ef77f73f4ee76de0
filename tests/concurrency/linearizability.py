"""Is there an order of the operations, each at one instant of its call, in which every answer is right?

The search is that of Wing and Gong (Testing and Verifying Concurrent Objects, 1993): take one of the operations that no
other precedes, and go on from the state after it. As Lowe has it (Testing for Linearizability, 2017), a set of
operations and the state after them is looked at once, whatever order led there. Herlihy and Wing (Linearizability: A
Correctness Condition for Concurrent Objects, 1990) give the definition, and that each object may be checked by itself.
An operation with an unknown outcome may be put anywhere after its call, or left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tests.concurrency.history import NEVER, Operation

S = TypeVar("S", bound=Hashable)

BUDGET = 100_000
"""Sets of operations that one search looks at; beyond that it gives up. A run of the tests needs some thousand."""


class Model(Protocol[S]):
    """What an object does when it is used by one client at a time."""

    @property
    def initial(self) -> S: ...

    def step(self, state: S, operation: Operation) -> Iterable[S]:
        """The states in which the operation, with its answer, may leave the object; none if that cannot be."""

    def reads(self, operation: Operation) -> bool:
        """Whether it never changes the state, so that a history may be looked at without it."""


@dataclass(frozen=True)
class Verdict(Generic[S]):
    """What a search found.

    Args:
        ok: whether there is an order; ``None`` if the search gave up.
        looked_at: sets of operations, with their states, that were looked at.
        order: the order, or the longest beginning of one.
        state: the state after it.
        stuck: operations with an answer that have no place after it.
    """

    ok: bool | None
    looked_at: int
    order: tuple[Operation, ...]
    state: S
    stuck: tuple[Operation, ...]


@dataclass(frozen=True)
class _Place(Generic[S]):
    """A place in a search: operation ``at`` came last, ``done`` has a bit for each that came, ``coming`` may follow."""

    at: int
    before: _Place[S] | None
    done: int
    state: S
    coming: Iterator[tuple[int, S]]


class _Search(Generic[S]):
    """One search. Operations are numbered: those with an answer by their call, then the open ones."""

    def __init__(self, model: Model[S], operations: Sequence[Operation], likely: Sequence[str]) -> None:
        self.model = model
        closed = sorted((one for one in operations if not one.is_open), key=lambda one: one.invoked_ns)
        still_open = [one for one in operations if one.is_open and not model.reads(one)]
        self.operations = [*closed, *still_open]
        self.closed = len(closed)
        self.all_closed = (1 << self.closed) - 1
        self.ranks = _ranks(self.operations, likely)

    def next_steps(self, done: int, state: S) -> Iterator[tuple[int, S]]:
        """The operations that may come next, by their numbers, and the states after them: likely ones first."""
        first_answer = NEVER
        possible: list[int] = []
        at = _lowest_zero(done)
        while at < self.closed and self.operations[at].invoked_ns <= first_answer:
            if not done >> at & 1:
                possible.append(at)
                first_answer = min(first_answer, self.operations[at].completed_ns)
            at += 1
        possible += (at for at in range(self.closed, len(self.operations)) if not done >> at & 1)
        steps: list[tuple[int, S]] = []
        for at in possible:
            operation = self.operations[at]
            if operation.invoked_ns > first_answer:
                continue
            after = tuple(self.model.step(state, operation))
            if after == (state,) and self.model.reads(operation):
                # It fits here and never changes anything: an order that has it later is as good with it here.
                yield at, state
                return
            # An open one that has no effect may as well be left out.
            steps += ((at, one) for one in after if not operation.is_open or one != state)
        steps.sort(key=lambda step: self.ranks[step[0]])
        yield from steps

    def run(self, budget: int) -> Verdict[S]:
        start = self.model.initial
        seen = {(0, start)}
        # Depth first, by hand: histories are longer than Python's stack is deep.
        path = [_Place[S](-1, None, 0, start, self.next_steps(0, start))]
        best, most = path[0], -1
        while path:
            here = path[-1]
            placed = (here.done & self.all_closed).bit_count()
            if placed > most:
                best, most = here, placed
            if placed == self.closed:
                return self._verdict(True, len(seen), here)
            for at, after in here.coming:
                key = (here.done | 1 << at, after)
                if key not in seen:
                    if len(seen) >= budget:
                        return self._verdict(None, len(seen), best)
                    seen.add(key)
                    path.append(_Place(at, here, *key, self.next_steps(*key)))
                    break
            else:
                path.pop()
        return self._verdict(False, len(seen), best)

    def _verdict(self, ok: bool | None, looked_at: int, place: _Place[S]) -> Verdict[S]:
        stuck = tuple(self.operations[at] for at in range(self.closed) if not place.done >> at & 1)
        order = []
        before: _Place[S] | None = place
        while before is not None and before.before is not None:
            order.append(self.operations[before.at])
            before = before.before
        return Verdict(ok, looked_at, tuple(order[::-1]), place.state, stuck)


def _lowest_zero(number: int) -> int:
    return (~number & number + 1).bit_length() - 1


def _ranks(operations: Sequence[Operation], likely: Sequence[str]) -> list[tuple[float, int]]:
    """What to try first: the operations in their likely order, and in between, by their answers, those not in it."""
    place = {operation_id: number for number, operation_id in enumerate(likely)}
    answered = sorted(one.completed_ns for one in operations if one.id in place)

    def rank(one: Operation) -> tuple[float, int]:
        by_time = len(operations) if one.is_open else bisect_left(answered, one.completed_ns) - 0.5
        return place.get(one.id, by_time), one.completed_ns

    return [rank(one) for one in operations]


def check(
    model: Model[S], operations: Sequence[Operation], budget: int = BUDGET, likely: Sequence[str] = ()
) -> Verdict[S]:
    """Searches for an order of a history.

    Args:
        model: says what is right, and where it begins.
        operations: the history.
        budget: see :data:`BUDGET`.
        likely: ids of operations in an order that is probably right. The verdict does not hang on it, the time does.
    """
    return _Search(model, operations, likely).run(budget)


def smallest(model: Model[S], operations: Sequence[Operation], budget: int = BUDGET) -> list[Operation]:
    """A small part of a history without an order that has none itself: its shortest such beginning, with few reads.

    Nothing is done that could spoil a good history: it is cut off at a time, at which what is not yet answered becomes
    open, and operations that only read are left out.
    """

    def is_bad(part: Sequence[Operation]) -> bool:
        return check(model, part, budget).ok is False

    part = _shortest_beginning(operations, is_bad)
    while True:
        fewer = _with_few_reads(model, part, is_bad)
        if len(fewer) == len(part):
            return part
        part = _shortest_beginning(fewer, is_bad)


def until(operations: Iterable[Operation], end_ns: int) -> list[Operation]:
    """A history as it stood at a time."""
    begun = (one for one in operations if one.invoked_ns <= end_ns)
    return [one if one.completed_ns <= end_ns else one.opened() for one in begun]


def _shortest_beginning(operations: Sequence[Operation], is_bad: Callable[[list[Operation]], bool]) -> list[Operation]:
    ends = sorted(one.completed_ns for one in operations if not one.is_open)
    # A beginning of a good history is good, so the first bad one can be found by halving.
    at = bisect_left(ends, True, key=lambda end_ns: is_bad(until(operations, end_ns)))
    return until(operations, ends[min(at, len(ends) - 1)])


def _with_few_reads(
    model: Model[S], part: list[Operation], is_bad: Callable[[list[Operation]], bool]
) -> list[Operation]:
    size = len(part)
    while size:
        at = 0
        while at < len(part):
            kept = [one for one in part[at : at + size] if not model.reads(one)]
            fewer = [*part[:at], *kept, *part[at + size :]]
            if len(fewer) < len(part) and is_bad(fewer):
                part = fewer
                at += len(kept)
            else:
                at += size
        size //= 2
    return part
