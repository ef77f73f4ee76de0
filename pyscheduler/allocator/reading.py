"""Read-only views: pools, nodes, candidates, explanations. Each is one look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyscheduler.allocator.namespace import Namespace
from pyscheduler.allocator.replies import ClassRow, NodeRow, Reply, json_of, pool_summary, transition_of
from pyscheduler.core import ids
from pyscheduler.core.languages import language
from pyscheduler.core.limits import MAX_PAGE, MAX_SHOWN_PAIRS
from pyscheduler.core.results import (
    Candidate,
    ClassSummary,
    Explanation,
    NodeDetail,
    NodePage,
    NodeState,
    PoolDecision,
    PoolDetail,
    PoolTable,
)
from pyscheduler.errors import InvalidInput, NotFound
from pyscheduler.scripts import calls


class Reading(Namespace):
    """The calls that change nothing."""

    async def pools(self) -> PoolTable:
        """Every pool with its counts, in one look."""
        version, document_version, nodes, stored, classes = await self._list_pools("")
        counts = {name: [0, 0] for name in stored}
        waiting = [0, 0]
        for row in classes:
            if row.pool in counts:
                counts[row.pool][0] += row.nodes
                counts[row.pool][1] += row.ready
            else:
                waiting[0] += row.nodes
                waiting[1] += 1 if row.nodes else 0
        table = tuple(pool_summary(name, stored[name], *counts[name]) for name in sorted(stored))
        return PoolTable(version, document_version, table, nodes, waiting[0], waiting[1])

    async def pool(self, name: str) -> PoolDetail:
        """One pool: rule, classes, and what is ready in it now.

        Raises:
            NotFound: no such pool.
        """
        version, _, _, stored, rows = await self._list_pools(ids.pool_name(name))
        classes = [
            ClassSummary(row.number, row.nodes, row.ready, json_of(row.facts_json))
            for row in sorted(rows, key=lambda row: row.number)
        ]
        services: set[str] = set()
        pairs: set[tuple[str, str]] = set()
        for row in rows:
            if row.ready:
                facts = json_of(row.facts_json)
                services.update(facts.get("services", ()))
                sources, targets = facts.get("asr", ()), facts.get("semantic", ())
                pairs.update((src, tgt) for src in sources for tgt in targets if src != tgt)
        return PoolDetail(
            summary=pool_summary(name, stored[name], sum(row.nodes for row in rows), sum(row.ready for row in rows)),
            version=version,
            rule=stored[name]["match"],
            created_at_ms=int(stored[name]["created_at"]),
            classes=tuple(classes),
            ready_services=tuple(sorted(services)),
            ready_pairs=tuple(sorted(pairs)[:MAX_SHOWN_PAIRS]),
        )

    async def find(self, src: str, tgt: str, services: Sequence[str] = ()) -> list[Candidate]:
        """Every class, and so pool, that can serve a language pair, whatever the pool is called.

        Args:
            src: source language; must be among the class's ASR languages.
            tgt: target language; must be among its semantic languages, and its TTS languages if ``tts`` is wanted.
            services: service types that must be ready, at most 64.

        Raises:
            InvalidInput: a malformed language or service.
        """
        wanted = sorted({ids.service_type(service) for service in services})
        reply = await self._reply(calls.find_pools(src=language(src), tgt=language(tgt), services=wanted))
        reply.integer()  # the version

        def candidate() -> Candidate:
            row = ClassRow(reply)
            return Candidate(row.pool, row.pool_id, row.number, reply.integer(), reply.integer(), row.languages)

        return list(reply.many(candidate))

    async def nodes(self, *, limit: int = 1000, offset: int = 0, pool: str | None = None) -> NodePage:
        """A page of the live nodes, each page in one look.

        Args:
            limit: nodes at most, 1..5000.
            offset: nodes to skip.
            pool: only nodes of this pool.

        Raises:
            NotFound: no such pool.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput(f"limit must be 1 to {MAX_PAGE}")
        if not 0 <= offset <= 1_000_000_000:
            raise InvalidInput("offset must be 0 or more")
        mode, name = ("all", "") if pool is None else ("pool", ids.pool_name(pool))
        reply = await self._reply(calls.list_nodes(mode=mode, pool=name, offset=offset, limit=limit, ids=()))
        if reply.status == "NO_POOL":
            raise _no_pool(name)
        return _page(reply)

    async def node(self, node_id: str) -> NodeDetail:
        """All that is known of a node.

        Raises:
            NotFound: no such node.
        """
        return (await self._explain(node_id, decisions=False)).node

    async def explain(self, node_id: str) -> Explanation:
        """Why a node is where it is, and for every pool each constraint that it does not meet.

        Raises:
            NotFound: no such node.
        """
        return await self._explain(node_id, decisions=True)

    async def describe(self, node_ids: Sequence[str]) -> list[NodeState]:
        """The state of the named nodes, at most 5,000, in one look; those that the store does not know are left out."""
        if len(node_ids) > MAX_PAGE:
            raise InvalidInput(f"at most {MAX_PAGE} nodes can be described at once")
        if not node_ids:
            return []
        return list(
            _page(await self._reply(calls.list_nodes(mode="ids", pool="", offset=0, limit=1, ids=list(node_ids)))).nodes
        )

    async def _list_pools(self, name: str) -> tuple[int, int, int, dict[str, dict[str, Any]], tuple[_ClassCounts, ...]]:
        reply = await self._reply(calls.list_pools(name=name))
        if reply.status == "NO_POOL":
            raise _no_pool(name)
        version, document_version, nodes = reply.integer(), reply.integer(), reply.integer()
        stored = dict(reply.many(lambda: (reply.text(), json_of(reply.text()))))
        return version, document_version, nodes, stored, reply.many(lambda: _ClassCounts(reply))

    async def _explain(self, node_id: str, *, decisions: bool) -> Explanation:
        reply = await self._reply(calls.explain_node(node_id=ids.node_id(node_id), decisions=decisions))
        if reply.status == "UNKNOWN":
            raise NotFound(f"no node {node_id}: see 'pyscheduler node list'")
        version, now_ms = reply.integer(), reply.integer()
        row, node_class = NodeRow(reply), ClassRow(reply)
        transition = transition_of(reply)
        record, usage, reason = json_of(reply.text()), json_of(reply.text()), reply.text()
        detail = NodeDetail(
            state=row.state(node_class, now_ms, version),
            facts=node_class.facts,
            record=record,
            usage=usage,
            transition=transition,
            registered_at_ms=row.epoch,
        )

        def decision() -> PoolDecision:
            name, origin, matches, chosen, failed = (reply.text() for _ in range(5))
            return PoolDecision(
                name, origin, matches == "1", chosen == "1", tuple(failed.split("\n")) if failed else ()
            )

        return Explanation(detail, reason, version, reply.many(decision))


class _ClassCounts:
    """A class as list_pools replies it: class pool nodes ready facts."""

    def __init__(self, reply: Reply) -> None:
        self.number, self.pool = reply.integer(), reply.optional()
        self.nodes, self.ready, self.facts_json = reply.integer(), reply.integer(), reply.text()


def _page(reply: Reply) -> NodePage:
    version, now_ms, total = reply.integer(), reply.integer(), reply.integer()
    rows = reply.many(lambda: NodeRow(reply))
    classes = {row.number: row for row in reply.many(lambda: ClassRow(reply))}
    return NodePage(version, total, tuple(row.state(classes[row.node_class], now_ms, version) for row in rows))


def _no_pool(name: str) -> NotFound:
    return NotFound(f"no pool {name}: see 'pyscheduler pool list'")
