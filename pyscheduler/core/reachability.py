"""Which pools no node can ever reach, since one that is tried earlier takes every node that would match.

A pool is called shadowed only where that can be proved from the two rules alone, whatever facts nodes may have: there
is no false alarm. Several earlier pools that only together take all its nodes are not found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from pyscheduler.core.document import DeclaredPool, match_rank
from pyscheduler.core.rules import MatchRule

_Atom = tuple[str, str, str]
"""A condition that a node meets or doesn't: what kind of condition, of which member, and the value."""

_NO_ATOM: _Atom = ("", "", "")


class _Conditions(Struct, frozen=True):
    """A rule taken apart: all ``atoms`` hold, of each set in ``any`` the node has a language, and it has the GPUs."""

    atoms: frozenset[_Atom]
    any: Mapping[str, frozenset[str]]
    gpus: int
    memory_gb: int


def shadowed(pools: Iterable[DeclaredPool]) -> list[tuple[int, int]]:
    """Each pool that an earlier one shadows: its index, and the index of the first in match order that does."""
    ranked = sorted(enumerate(pools), key=lambda entry: match_rank(entry[1]))
    conditions = [_conditions(pool.match) for _, pool in ranked]
    frequency = Counter(atom for each in conditions for atom in each.atoms)
    # Not all pools are compared with each other: each is filed under something that any pool it shadows must guarantee,
    # the rarest such thing.
    filed: defaultdict[_Atom, list[int]] = defaultdict(list)
    found = []
    for rank, (index, _) in enumerate(ranked):
        candidates = (earlier for key in _lookups(conditions[rank]) for earlier in filed.get(key, ()))
        shadow = min(
            (earlier for earlier in candidates if _implies(conditions[rank], conditions[earlier])), default=None
        )
        if shadow is not None:
            found.append((index, ranked[shadow][0]))
            continue  # what it would shadow is shadowed by the same pool as itself
        for key in _filing_keys(conditions[rank], frequency):
            filed[key].append(rank)
    return found


def _filing_keys(demanded: _Conditions, frequency: Mapping[_Atom, int]) -> Iterable[_Atom]:
    if demanded.atoms:
        return [min(demanded.atoms, key=lambda atom: (frequency[atom], atom))]
    for member, codes in demanded.any.items():
        return [("any", member, code) for code in codes]
    return [_NO_ATOM]


def _lookups(guaranteed: _Conditions) -> Iterator[_Atom]:
    yield _NO_ATOM
    yield from guaranteed.atoms
    for kind, member, code in guaranteed.atoms:
        if kind == "has":
            yield "any", member, code
    for member, codes in guaranteed.any.items():
        yield "any", member, min(codes)


def _implies(guaranteed: _Conditions, demanded: _Conditions) -> bool:
    """Whether every node that meets the one meets the other."""
    if not demanded.atoms <= guaranteed.atoms:
        return False
    if demanded.gpus and (guaranteed.gpus < demanded.gpus or guaranteed.memory_gb < demanded.memory_gb):
        return False
    for member, codes in demanded.any.items():
        some = guaranteed.any.get(member)
        if some is None and not any(("has", member, code) in guaranteed.atoms for code in codes):
            return False
        if some is not None and not some <= codes:
            return False
    return True


def _conditions(match: MatchRule) -> _Conditions:
    """What holds of each node that the rule matches, and of no other."""
    atoms: set[_Atom] = {("service", "", service) for service in match.services}
    atoms |= {("label", key, value) for key, value in match.labels.items()}
    some: dict[str, frozenset[str]] = {}
    for member, rule in (("semantic", match.semantic), ("asr", match.asr), ("tts", match.tts)):
        if rule is None:
            continue
        if rule.mode == "any" and len(rule.codes) > 1:
            some[member] = frozenset(rule.codes)
            continue
        if rule.mode == "exact":
            atoms.add(("exactly", member, ",".join(rule.codes)))
        # A node whose languages are exactly en and zh also has en.
        atoms |= {("has", member, code) for code in rule.codes}
    gpu = match.gpu
    if gpu is None:
        return _Conditions(frozenset(atoms), some, gpus=0, memory_gb=0)
    return _Conditions(frozenset(atoms), some, gpus=gpu.min_count or 1, memory_gb=gpu.min_memory_gb)
