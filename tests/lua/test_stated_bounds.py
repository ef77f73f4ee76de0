"""Every bound that a script's header states is its bound: what lies on it is taken, what lies one beyond is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from pyscheduler.errors import InvalidInput
from pyscheduler.scripts import calls, load_scripts
from tests.cells import limited_cell
from tests.harness import Cell, document_of, pool
from tests.lua.baseline import baseline, populate, with_argument

_ARGUMENT = re.compile(r"^--   \d+ +(\w+) +(.*)$", re.MULTILINE)
_RANGE = re.compile(r"(?:up to |(\d+)\.\.)(\d+)( characters| hex digits| bytes)?(?! times)")
NOT_AS_TEXT = {("upsert_node_to_pool", "load")}
"""Fractions: tests/lua/test_malformed.py has those."""


@dataclass(frozen=True)
class Bound:
    script: str
    argument: str
    low: int
    high: int
    unit: str

    def value(self, size: int) -> str:
        """A value of that size, otherwise as good as the header wants it."""
        if self.unit == "":
            return str(size)
        if self.unit == "bytes":
            shell = '{"labels":{"x":"%s"}}' if self.argument == "facts" else '{"x":"%s"}'
            return shell % ("y" * (size - len(shell) + 2))
        return "a" * size


def stated() -> list[Bound]:
    bounds = []
    for name, script in load_scripts().items():
        header = script.source.split("-- REPLY")[0]
        for argument, text in _ARGUMENT.findall(header.split("-- ARGV")[1]):
            if (name, argument) not in NOT_AS_TEXT and (found := _RANGE.search(text)):
                unit = (found[3] or "").strip()
                bounds.append(Bound(name, argument, int(found[1] or 0), int(found[2]), unit))
    return bounds


def test_the_headers_state_bounds() -> None:
    assert len(stated()) > 25
    assert {bound.unit for bound in stated()} == {"", "characters", "hex digits", "bytes"}


@pytest.mark.parametrize("bound", stated(), ids=lambda bound: f"{bound.script}-{bound.argument}")
async def test_what_is_on_a_bound_is_taken_and_what_is_beyond_is_not(cell: Cell, bound: Bound) -> None:
    call = baseline(await populate(cell))[bound.script]
    for size in (bound.low - 1, bound.high + 1):
        if size >= 0 or bound.unit == "":
            with pytest.raises(InvalidInput):
                await cell.store.run(with_argument(call, bound.argument, bound.value(size)))
    least = 8 if bound.unit == "bytes" else bound.low
    for size in (max(bound.low, least), bound.high):
        assert await cell.store.run(with_argument(call, bound.argument, bound.value(size)))


async def test_a_call_of_touch_nodes_takes_1_to_500_nodes(cell: Cell) -> None:
    token = await populate(cell)
    for count in (1, 500):
        reply = await cell.store.run(calls.touch_nodes(lease_ms=1, nodes=["n1", token, ""] * count))
        assert reply[2] == "A" * count
    for count in (0, 501):
        with pytest.raises(InvalidInput):
            await cell.store.run(calls.touch_nodes(lease_ms=1, nodes=["n1", token, ""] * count))


async def test_a_document_declares_as_many_pools_as_are_allowed(redis_url: str, namespace: str) -> None:
    pools = [pool(f"p{number}", semantic={"contains": ["en"]}) for number in range(3)]
    async with limited_cell(redis_url, namespace, MAX_POOLS=2) as cell:
        assert len((await cell.allocator.sync(document_of(*pools[:2]))).changes) == 2
        with pytest.raises(InvalidInput, match="pools"):
            await cell.allocator.sync(document_of(*pools))


async def test_the_parts_of_a_heartbeat_are_bounded(cell: Cell) -> None:
    token = await populate(cell)
    longest = "n" * 128
    usage = '{"x":"%s"}' % ("y" * (4096 - 8))
    reply = await cell.store.run(calls.touch_nodes(lease_ms=1, nodes=[longest, token, f"1.0000 {usage}"]))
    assert reply[2] == "U"
    for nodes in (
        [longest + "n", token, ""],
        ["n1", token, f'1.0000 {usage[:-2]}y"}}'],
        ["n1", token, "1.0001"],
    ):
        with pytest.raises(InvalidInput):
            await cell.store.run(calls.touch_nodes(lease_ms=1, nodes=nodes))


async def test_a_search_takes_64_services_and_codes_of_some_length(cell: Cell) -> None:
    await populate(cell)
    services = [f"s{number}" for number in range(64)]
    assert await cell.store.run(calls.find_pools(src="en", tgt="zh", services=services)) == ["OK", "3", "0"]
    longest = "e" * (80 - len("asr:"))
    assert await cell.store.run(calls.find_pools(src=longest, tgt="zh", services=[])) == ["OK", "3", "0"]
    for src, wanted in (("en", [*services, "s64"]), (longest + "e", [])):
        with pytest.raises(InvalidInput):
            await cell.store.run(calls.find_pools(src=src, tgt="zh", services=wanted))


async def test_a_reading_takes_5000_names(cell: Cell) -> None:
    await populate(cell)
    for count in (5000, 5001):
        call = calls.list_nodes(mode="ids", pool="", offset=0, limit=1, ids=[f"x{number}" for number in range(count)])
        if count == 5000:
            assert (await cell.store.run(call))[4] == "0"
        else:
            with pytest.raises(InvalidInput):
                await cell.store.run(call)


async def test_a_reading_takes_1000_names_of_jobs(cell: Cell) -> None:
    call = baseline(await populate(cell))["list_jobs"]
    for count in (1000, 1001):
        named = calls.Call("list_jobs", (*call.argv, *(f"x{number}" for number in range(count))))
        if count == 1000:
            assert (await cell.store.run(named))[4:] == ["0", "", "0"]
        else:
            with pytest.raises(InvalidInput):
                await cell.store.run(named)


async def test_a_number_has_digits_and_nothing_else_and_16_of_them_at_most(cell: Cell) -> None:
    call = baseline(await populate(cell))["release_node"]
    for epoch in ("1", "9007199254740991", "1000000000000000"):
        assert await cell.store.run(with_argument(call, "epoch", epoch)) == ["STALE"]
    for epoch in ("9007199254740992", "00000000000000001", "+1", " 1", "1 "):
        with pytest.raises(InvalidInput):
            await cell.store.run(with_argument(call, "epoch", epoch))
