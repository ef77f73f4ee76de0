"""Bad configuration documents, wherever they are given: refused, and told why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.doors import connect
from tests.e2e.processes import ServeProcess
from tests.e2e.victim import invoke, needs_proc

pytestmark = needs_proc


def _laughs() -> str:
    lines = ['a0: &a0 ["x","x","x","x","x","x","x","x","x"]']
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


DOCUMENTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "not YAML": ("pools: [a, {b\n\t- x: @@\n", "not valid YAML"),
    "not text": (bytes(range(256)), "is not UTF-8"),
    "a program": ('!!python/object/apply:os.system ["true"]', "is not allowed"),
    "billion laughs": (_laughs(), "is not allowed"),
    "deep nesting": ("[" * 100_000, "nested deeper than"),
    "two documents": ("schema: 1\n---\nschema: 1\n", "second YAML document"),
    "duplicate pools": (
        "pools:\n- {name: a, match: {services: [asr]}}\n- {name: a, match: {services: [tts]}}\n",
        "pool name 'a' is taken",
    ),
    "100,000 pools": (
        "pools:\n" + "".join(f"- {{name: p{n}, match: {{services: [asr]}}}}\n" for n in range(100_000)),
        "longer than",
    ),
    "100,000 short pools": ("pools:\n" + "- {}\n" * 100_000, "more than 2000"),
    "no constraint": ("pools:\n- {name: a, match: {}}\n", "constrains nothing"),
    "out of reach": (
        "pools:\n- {name: a, priority: 5, match: {services: [asr]}}\n- {name: b, match: {services: [asr, tts]}}\n",
        "no node can reach pool 'b'",
    ),
    "negative limits": (
        "auto: {min_nodes: -1, max_pools: -5, idle_ttl: -10m}\nguard: {max_unassigned_share: -0.5}\n",
        "must be at least",
    ),
}


@pytest.mark.parametrize(("text", "said"), DOCUMENTS.values(), ids=list(DOCUMENTS))
async def test_a_bad_document_is_refused_wherever_it_is_given(
    text: str | bytes, said: str, victim: ServeProcess, survives: None, state_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pools.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    state = str(state_dir / "state")
    before = (await asyncio.to_thread(invoke, "config", "show", "--json", "--state-dir", state)).stdout
    for command in (["config", "check-file", str(file)], ["pool", "sync", "-f", str(file), "--state-dir", state]):
        result = await asyncio.to_thread(invoke, *command)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert len(result.stderr) < 50_000
    # A process that was to begin with it does not begin.
    newcomer = ServeProcess(tmp_path, "newcomer", "--state-dir", str(tmp_path / "state"), "--pools", str(file))
    try:
        assert newcomer.wait_ended() == 2
    finally:
        newcomer.close()
    assert said in newcomer.log.read_text()
    assert (await asyncio.to_thread(invoke, "config", "show", "--json", "--state-dir", state)).stdout == before


async def test_a_pool_that_no_node_matches_is_empty_and_harms_nobody(
    victim: ServeProcess, survives: None, state_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text("pools:\n- {name: rare, match: {services: [nobody-has-this]}}\n")
    state = ["--state-dir", str(state_dir / "state")]
    result = await asyncio.to_thread(invoke, "pool", "sync", "-f", str(file), *state)
    assert result.exit_code == 0, result.output
    async with connect(victim.url) as node:
        assert (await node.become_ready())["pool"] == "de-en"
    listed = json.loads((await asyncio.to_thread(invoke, "pool", "list", "--json", *state)).stdout)
    assert [pool["nodes"] for pool in listed if pool["name"] == "rare"] == [0]
