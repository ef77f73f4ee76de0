"""Random histories of nodes, operators, time and failures; what they do and what must hold is in ``tests/histories``.

A failure is printed as the shrunk sequence of steps; the line that was printed last replays it.
``PYSCHEDULER_TEST_SEED`` is the seed of the one turn to make, ``PYSCHEDULER_TEST_HISTORIES`` says how many histories a
turn has, and ``PYSCHEDULER_TEST_STEPS`` how many steps a history.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.engines import Engine
from tests.histories.faults import FAULTS, QUICK, planted
from tests.histories.machine import Histories
from tests.histories.nodes_with_jobs import machine
from tests.servers import PlainServer

SEED = os.environ.get("PYSCHEDULER_TEST_SEED")
HISTORIES = int(os.environ.get("PYSCHEDULER_TEST_HISTORIES") or 15)
STEPS = int(os.environ.get("PYSCHEDULER_TEST_STEPS") or 40)
SOAK_SECONDS = float(os.environ.get("PYSCHEDULER_TEST_SOAK_SECONDS") or 3600)

MANY_STEPS, SOME_STEPS = 3000, 500
"""Looks at the whole state, each after a call or two: on the engine that everybody has; and on the others, enough to
see that they are no different."""


def make_histories(machine: type[Histories], seed: int, histories: int, *phases: hypothesis.Phase) -> None:
    """Makes that many histories of ``STEPS`` steps; the same ones for the same seed."""
    settings = hypothesis.settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        phases=phases or tuple(hypothesis.Phase),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=settings)


def make_turns(
    engine: Engine,
    namespace: str,
    is_enough: Callable[[int], bool],
    say: Callable[[str], None],
    *phases: hypothesis.Phase,
) -> None:
    """Makes turns of histories, each with a fresh seed, until they are enough; or the one turn that is asked for."""
    steps = 0
    while not is_enough(steps):
        seed = int(SEED or random.SystemRandom().randrange(2**32))
        say(
            f"{steps} steps; the next turn is replayed by PYSCHEDULER_TEST_SEED={seed} "
            f"PYSCHEDULER_TEST_HISTORIES={HISTORIES} PYSCHEDULER_TEST_STEPS={STEPS} "
            f"pytest -k test_random_histories --engine {engine.name}"
        )
        made = machine(engine.url, f"{namespace}-{seed}")
        make_histories(made, seed, HISTORIES, *phases)
        steps += made.steps
        if SEED:
            return


def test_random_histories(engine: Engine, namespace: str) -> None:
    wanted = MANY_STEPS if engine.name == "embedded" else SOME_STEPS
    make_turns(engine, namespace, lambda steps: steps >= wanted, print)


@pytest.mark.soak
def test_histories_without_end(engine: Engine, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Until the time is up, on each engine. Who replays the turn that failed gets it shrunk, which takes minutes."""
    end = time.monotonic() + SOAK_SECONDS

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{max(end - time.monotonic(), 0):.0f} s to go, {text}", end="", flush=True)

    make_turns(engine, namespace, lambda steps: time.monotonic() >= end, say, hypothesis.Phase.generate)


# --- they do find what is wrong ---------------------------------------------------------------------------------------


def assert_found(make_server: Callable[[], PlainServer], fault: str, histories: int) -> None:
    faulty = machine(make_server().url, "faulty", planted(fault))
    try:
        # Found is found: without shrinking.
        make_histories(faulty, 1, histories, hypothesis.Phase.generate)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return
    pytest.fail(f"{fault}: not found in {faulty.steps} steps")


def test_every_fault_can_be_planted() -> None:
    """Also those that only the fault matrix looks for: a change of a script may have taken a fault's place away."""
    assert all(planted(fault) for fault in FAULTS)


@pytest.mark.parametrize("fault", QUICK)
def test_a_planted_fault_is_found(make_server: Callable[[], PlainServer], fault: str) -> None:
    # A few will do, as a rule; how many varies with every change of the code, whose constants Hypothesis tries.
    assert_found(make_server, fault, 200)


@pytest.mark.faults
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in QUICK])
def test_a_rarer_planted_fault_is_found(make_server: Callable[[], PlainServer], fault: str) -> None:
    assert_found(make_server, fault, 400)
