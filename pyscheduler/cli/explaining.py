"""Why a node is where it is: each pool's decision, with what its rule wants and what the node has."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from pyscheduler.cli import output
from pyscheduler.cli.rules import has, reason, wants
from pyscheduler.core import plain

if TYPE_CHECKING:
    from rich.console import Console

    from pyscheduler.allocator import Allocator
    from pyscheduler.core import results

_MOST_POOLS = 50


class Explained(Struct, frozen=True):
    """An explanation and the rules of the pools in it, as far as they could be read beside it."""

    explanation: results.Explanation
    rules: Mapping[str, Mapping[str, object]]


def explained(node_id: str) -> Callable[[Allocator], Awaitable[Explained]]:
    """A call that explains a node and reads the rules of the pools that it was compared with."""

    async def call(allocator: Allocator) -> Explained:
        explanation = await allocator.explain(node_id)
        stored, pools = await allocator.document(), await allocator.pools()
        rules: dict[str, Mapping[str, object]] = {
            pool.name: {"languages": list(pool.languages)} for pool in pools.pools if pool.origin == "auto"
        }
        for pool in json.loads(stored.json).get("pools", ()) if stored.json else ():
            rules[pool["name"]] = pool["match"]
        # Separate looks: a configuration that changed in between must not be shown as the one that decided.
        return Explained(explanation, rules if pools.version == explanation.version else {})

    return call


def _failed(found: Explained, decision: results.PoolDecision) -> list[tuple[str, str, str]]:
    node = found.explanation.node
    rule = found.rules.get(decision.pool, {})
    return [
        (constraint, wants(rule, constraint), has(node.facts, node.state.languages, constraint))
        for constraint in decision.failed
    ]


def explanation_document(found: Explained) -> plain.Document:
    """The explanation as plain JSON values. ``failed`` names constraints, for programs; ``missing`` is for people."""
    explanation = found.explanation
    state = explanation.node.state
    return {
        "node_id": state.node_id,
        "pool": state.pool,
        "reason": explanation.reason,
        "version": explanation.version,
        "decisions": [
            {
                **plain.decision(decision),
                "missing": [
                    {"constraint": constraint, "wants": wanted, "has": had}
                    for constraint, wanted, had in _failed(found, decision)
                ],
            }
            for decision in explanation.decisions
        ],
        "node": plain.node_detail(explanation.node),
    }


def show_explanation(out: Console, found: Explained) -> None:
    """Why the node is where it is, then every other pool: one line for each constraint that failed."""
    explanation = found.explanation
    state = explanation.node.state
    output.heading(out, "why")
    where = f"in {state.pool}" if state.pool is not None else "without a pool"
    out.print(output.text(f"{where}: {reason(explanation.reason)}"))
    # The nearest first: a pool that lacks one thing is the one that was meant.
    others = sorted(
        (decision for decision in explanation.decisions if not decision.chosen), key=lambda one: len(one.failed)
    )
    if not others:
        return
    output.heading(out, "other pools, nearest first")
    grid = output.table(out, "POOL", "CONSTRAINT", "WANTS", "HAS")
    for decision in others[:_MOST_POOLS]:
        failed = _failed(found, decision)
        if not failed:
            output.row(grid, decision.pool, output.text("met, but another pool comes first", "dim"), "", "")
        for position, (constraint, wanted, had) in enumerate(failed):
            output.row(grid, decision.pool if position == 0 else "", output.text(constraint, "red"), wanted, had)
    output.show(out, grid)
    if len(others) > _MOST_POOLS:
        out.print(output.text(f"{len(others) - _MOST_POOLS} more pools: --json lists them", "dim"))
