"""The model of epochs and leases holds in every state that it has, and in none of its faulty forms.

It is checked by SPIN, exhaustively. docs/formal-model.md links its steps to the scripts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyscheduler.scripts import load_scripts

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "formal" / "leases.pml"
PAGE = (ROOT / "docs" / "formal-model.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)\.lua` \| (.+?) \| (.*) \|$", flags=re.MULTILINE)
MEMORY_MB = 2_000
FAULTS = re.findall(r"^ \*   ([A-Z_]+) ", MODEL.read_text(encoding="utf-8"), flags=re.MULTILINE)

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")),
    reason="SPIN and gcc are not installed (Debian: spin, gcc, libc6-dev)",
)


@dataclass(frozen=True)
class Verdict:
    """What a search of every state said."""

    errors: int
    states: int
    complete: bool
    violated: str
    output: str


def check(folder: Path, *switches: str, deadline_s: float = 600) -> Verdict:
    """Searches every state of the model, compiled with these switches."""
    flags = [f"-D{switch}" for switch in switches]
    subprocess.run(["spin", *flags, "-a", MODEL], cwd=folder, check=True, timeout=60)
    subprocess.run(
        ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c"],
        cwd=folder,
        check=True,
        timeout=120,
    )
    found = subprocess.run(["./pan", "-m100000"], cwd=folder, capture_output=True, text=True, timeout=deadline_s)
    output = found.stdout
    counts = re.search(r"errors: (\d+)\s+(\d+) states, stored", output)
    assert counts, f"the search did not come to an end:\n{output}{found.stderr}"
    violated = re.search(r"assertion violated (.*) \(at depth", output)
    return Verdict(
        errors=int(counts[1]),
        states=int(counts[2]),
        complete="Search not completed" not in output and "max search depth too small" not in output,
        violated=violated[1] if violated else "",
        output=output,
    )


@needs_spin
def test_one_node_in_every_state_there_is(tmp_path: Path) -> None:
    """With an outage of the store and the death of a process."""
    verdict = check(tmp_path, "NODES=1")
    assert (verdict.errors, verdict.complete) == (0, True), verdict.output
    assert verdict.states > 500_000, "the model has lost most of what it had"
    unreached = re.findall(r", state \d+, \"(.*)\"", verdict.output)
    assert unreached == ["-end-"], "a step of the model that nothing leads to shows nothing"


@pytest.mark.faults
@needs_spin
def test_two_nodes_in_every_state_there_is(tmp_path: Path) -> None:
    """With shorter leases and fewer epochs: two nodes have the product of their states."""
    verdict = check(tmp_path, "NODES=2", deadline_s=1_800)
    assert (verdict.errors, verdict.complete) == (0, True), verdict.output
    assert verdict.states > 1_000_000, "the model has lost most of what it had"


@pytest.mark.parametrize("fault", FAULTS)
@needs_spin
def test_each_fault_is_found(tmp_path: Path, fault: str) -> None:
    verdict = check(tmp_path, "NODES=1", fault)
    assert verdict.errors == 1
    assert verdict.violated


def test_there_are_faults_to_find() -> None:
    assert "NO_FENCING" in FAULTS
    assert all(f"`{fault}`" in PAGE for fault in FAULTS)


def test_every_script_is_modelled_or_left_out_with_a_reason() -> None:
    rows = {name: (steps, left) for name, steps, left in ROW.findall(PAGE)}
    assert set(rows) == set(load_scripts())
    inlines = set(re.findall(r"^inline (\w+)", MODEL.read_text(encoding="utf-8"), flags=re.MULTILINE))
    for script, (steps, left) in rows.items():
        named = set(re.findall(r"`(\w+)`", steps))
        assert named <= inlines, f"{script}: the model has no {named - inlines}"
        assert named or (steps, bool(left)) == ("left out", True), f"{script}: no step, and no reason"
