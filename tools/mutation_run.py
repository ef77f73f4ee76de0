"""A run over many mutants: which ones, what became of each, and what is said of it at the end."""

from __future__ import annotations

import argparse
import random
import sys
import time
import tomllib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.mutations import Mutant, mutants_of

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).with_name("mutants_explained.toml")

_SECOND_LOOK = 10
"""How many times as many seconds of tests a mutant is tried with that has survived the cheapest."""

KILLED, SURVIVED, UNTESTED = "killed", "survived", "untested"


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        seed: of the choice of mutants.
        sample: mutants of each file at most, 0 = all.
        seconds: after which no further mutant is begun.
        files: only those whose path contains one of these; all if empty.
        again: only those that survived by this output of an earlier run, at the first or at the last look.
        budget_s: seconds of tests for a mutant's first look, as measured when nothing was wrong.
        verbose: whether to print those that are killed, too.
    """

    seed: int
    sample: int
    seconds: float
    files: tuple[str, ...]
    again: Path | None
    budget_s: float
    verbose: bool


def parse_options(program: str, purpose: str) -> Options:
    parser = argparse.ArgumentParser(prog=program, description=purpose)
    parser.add_argument("--seed", type=int, default=1, help="of the choice of mutants (default 1)")
    parser.add_argument("--sample", type=int, default=15, help="mutants of each file, 0 = all of them (default 15)")
    parser.add_argument("--seconds", type=float, default=3600, help="after which none is begun (default 3600)")
    parser.add_argument("--budget", type=float, default=5, help="seconds of tests for one mutant at first (default 5)")
    parser.add_argument("--again", type=Path, metavar="OUTPUT", help="only those that survived an earlier run")
    parser.add_argument("--verbose", action="store_true", help="name those that are killed, too")
    parser.add_argument("files", nargs="*", help="only files whose path contains one of these")
    given = parser.parse_args()
    files = tuple(given.files)
    return Options(given.seed, given.sample, given.seconds, files, given.again, given.budget, given.verbose)


def explained(path: Path = EXPLAINED) -> dict[str, str]:
    """Mutants that no test can kill, or none should, with the reason: key -> reason."""
    groups = tomllib.loads(path.read_text(encoding="utf-8"))["explained"]
    return {key: group["reason"] for group in groups for key in group["mutants"]}


def survivors(output: str) -> set[str]:
    """Keys of the mutants that an output says were alive at any time."""
    alive = tuple(f"{word:9} " for word in ("LATER", SURVIVED.upper(), UNTESTED.upper()))
    lines = (line for line in output.splitlines() if line.startswith(alive))
    return {line[15:].rpartition("  (")[0] for line in lines}


def choose(sources: Mapping[str, str], options: Options) -> list[Mutant]:
    """The mutants of a run, in an order that takes from every file early, the same for the same seed.

    Those of a larger sample contain those of a smaller one.
    """
    picked: list[tuple[int, Mutant]] = []
    wanted = survivors(options.again.read_text(encoding="utf-8")) if options.again is not None else None
    for file, text in sources.items():
        if options.files and not any(part in file for part in options.files):
            continue
        mutants = [one for one in mutants_of(file, text) if wanted is None or one.key in wanted]
        random.Random(f"{options.seed} {file}").shuffle(mutants)
        picked += enumerate(mutants[: options.sample or None])
    return [mutant for _, mutant in sorted(picked, key=lambda pair: pair[0])]


def run(mutants: Iterable[Mutant], options: Options, outcome_of: Callable[[Mutant, float], tuple[str, str]]) -> int:
    """Tries each mutant, prints what survived and a table.

    Args:
        mutants: those to try, in this order.
        options: of the command line.
        outcome_of: tries one with so many seconds of tests; returns KILLED, SURVIVED or UNTESTED, and what more there
            is to say. What survives is tried again with more, when the others are done.

    Returns:
        the exit status: 0 if nothing survived that is not explained.
    """
    begun, reasons = time.monotonic(), explained()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    looks = deque((mutant, options.budget_s) for mutant in mutants)
    survived = False
    while looks:
        mutant, budget_s = looks.popleft()
        outcome, note = "explained", ""
        if time.monotonic() - begun > options.seconds:
            outcome = "no time"
        elif mutant.key not in reasons:
            outcome, note = outcome_of(mutant, budget_s)
            if outcome == SURVIVED and budget_s == options.budget_s:
                looks.append((mutant, budget_s * _SECOND_LOOK))
                if options.verbose:
                    say(f"LATER     {mutant.line:4} {mutant.key}  ({note})")
                continue
        counts[mutant.file][outcome] += 1
        survived = survived or outcome in (SURVIVED, UNTESTED)
        if outcome in (SURVIVED, UNTESTED) or options.verbose:
            say(f"{outcome.upper():9} {mutant.line:4} {mutant.key}  ({note})")
    columns = (KILLED, SURVIVED, UNTESTED, "explained", "no time")
    say(f"\n{'file':36}" + "".join(f"{column:>11}" for column in columns))
    for file in sorted(counts):
        say(f"{file:36}" + "".join(f"{counts[file][column]:>11}" for column in columns))
    total = sum(counts.values(), Counter[str]())
    say(f"{'all':36}" + "".join(f"{total[column]:>11}" for column in columns))
    say(f"{total.total()} mutants, seed {options.seed}, {time.monotonic() - begun:.0f} s")
    return 1 if survived else 0


def say(line: str) -> None:
    print(line, flush=True, file=sys.__stdout__)
