"""Many nodes in one upsert come to what as many upserts would, one after the other."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pyscheduler.core.facts import Facts
from pyscheduler.errors import InvalidInput, StoreError
from pyscheduler.scripts import calls
from pyscheduler.scripts.calls import Call
from tests.harness import Cell, document_of, facts_of, pool
from tests.lua.baseline import reserve_call
from tests.oracle import read_state

ENGLISH, GERMAN, ODD = facts_of("en", "zh"), facts_of("de", "zh"), facts_of("fr", "zh", services=())


def upsert(node_id: str, facts: Facts = ENGLISH, **changed: Any) -> Call:
    arguments = {
        "node_id": node_id,
        "session_id": f"socket-of-{node_id}",
        "instance": "i1",
        "mode": "new",
        "epoch": 0,
        "facts": facts.json,
        "record": "{}",
        "digest": "ab",
        "status": "r",
        "load": 0.5,
        "usage": "{}",
        "lease_ms": 60_000,
        "admission_digest": "",
        "takeover": True,
        "reason": "",
    }
    return calls.upsert_node_to_pool(**{**arguments, **changed})


def update(node_id: str, epoch: str, facts: Facts = ENGLISH, **changed: Any) -> Call:
    return upsert(node_id, facts, session_id="", instance="", mode="update", epoch=int(epoch), **changed)


async def prepare(cell: Cell) -> dict[str, str]:
    """Three classes, the last without a pool; node -> its epoch."""
    await cell.allocator.sync(
        document_of(
            pool("english", semantic={"contains": ["en"]}),
            pool("german", semantic={"contains": ["de"]}),
            auto={"enabled": True, "require_services": ["asr"]},
        )
    )
    epochs = {}
    for node_id, facts in (("en1", ENGLISH), ("en2", ENGLISH), ("de1", GERMAN), ("odd", ODD)):
        epochs[node_id] = (await cell.store.run(upsert(node_id, facts)))[1]
    await cell.allocator.hold("en2", owner="ops", reason="test")
    return epochs


@pytest.fixture
async def known(cell: Cell) -> dict[str, str]:
    return await prepare(cell)


def batch(epochs: dict[str, str]) -> list[Call]:
    return [
        upsert("new1"),
        upsert("new2", GERMAN, status="d", load=1.0, usage='{"a":1}'),
        upsert("en1", session_id="another", takeover=False),
        update("en2", epochs["en2"], GERMAN, reason="moved"),
        update("de1", str(int(epochs["de1"]) - 1)),
        update("nobody", "7"),
        upsert("new3", admission_digest="ff"),
        upsert("new4", lease_ms=1000, status="g"),
    ]


async def state_of(cell: Cell) -> dict[str, Any]:
    """What is stored, without the times at which it was and the numbers that stem from them."""
    found: dict[str, Any] = {}
    for name in ("members", "ready"):
        found[name] = await cell.store.command("ZRANGE", cell.store.key(name), 0, -1, "WITHSCORES")
    found["leases"] = sorted(await cell.store.command("ZRANGE", cell.store.key("leases"), 0, -1))
    for name in ("classes", "class_facts", "usage"):
        flat = await cell.store.command("HGETALL", cell.store.key(name))
        found[name] = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
    found["events"] = [
        {name: value for name, value in event.fields.items() if name not in ("epoch", "pool_id")} | {"type": event.type}
        for event in await cell.allocator.events()
    ]
    return found


def rows_of(flat: list[str]) -> list[list[str]]:
    """The rows of a reply: a status word, and what belongs to it."""
    lengths = {"OK": 10, "STALE": 1, "UNKNOWN": 1, "CONFLICT": 2, "ADMISSION": 2, "CLASSES_FULL": 2}
    rows = []
    while flat:
        length = lengths[flat[0]]
        rows.append(flat[:length])
        flat = flat[length:]
    return rows


def without_times(row: list[str]) -> list[str]:
    return [*row[:1], *row[2:6], *row[7:]] if row[0] == "OK" else row


async def test_each_node_has_its_own_answer(cell: Cell, known: dict[str, str]) -> None:
    together = rows_of(await cell.store.run(Call.joined(batch(known))))
    assert [row[0] for row in together] == [
        "OK", "OK", "CONFLICT", "OK", "STALE", "UNKNOWN", "ADMISSION", "OK",
    ]  # fmt: skip
    for node_id, expected in (("new1", "english"), ("new2", "german"), ("en2", "german"), ("new4", "english")):
        assert await cell.pool_of(node_id) == expected
    assert (await cell.allocator.node("en2")).state.status.value == "draining"
    assert (await cell.allocator.node("new2")).state.status.value == "degraded"


async def test_the_state_afterwards_is_that_of_single_calls(cell: Cell, known: dict[str, str]) -> None:
    """In a namespace in which the same has happened before."""
    singly = [row for call in batch(known) for row in rows_of(await cell.store.run(call))]
    state, version = await state_of(cell), await cell.allocator.version()
    for name in await cell.store.command("KEYS", cell.store.key("config").removesuffix("config") + "*"):
        await cell.store.command("DEL", name)
    await cell.allocator._open_namespace()
    together = rows_of(await cell.store.run(Call.joined(batch(await prepare(cell)))))
    assert [without_times(row) for row in together] == [without_times(row) for row in singly]
    assert await cell.allocator.version() == version
    for name, part in (await state_of(cell)).items():
        assert part == state[name], name


@pytest.mark.parametrize("first", [ODD, facts_of("ko", "ja")], ids=["a class without a pool", "a new class"])
async def test_a_class_that_may_get_a_pool_is_taken_alone(cell: Cell, known: dict[str, str], first: Facts) -> None:
    """What follows it is left to the next call, and so is it if others come before it."""
    assert len(rows_of(await cell.store.run(Call.joined([upsert("a"), upsert("b"), upsert("c", first)])))) == 2
    assert len(rows_of(await cell.store.run(Call.joined([upsert("d"), upsert("c", first)])))) == 1
    assert len(rows_of(await cell.store.run(Call.joined([upsert("c", first), upsert("e"), upsert("f")])))) == 1
    assert {state.node_id for state in await cell.allocator.describe(list("abcdef"))} == {"a", "b", "c", "d"}


async def test_refusals_take_their_turn_before_a_class_without_a_pool(cell: Cell, known: dict[str, str]) -> None:
    refused = update("nobody", "7", ODD)
    rows = rows_of(await cell.store.run(Call.joined([refused, upsert("a"), update("nobody2", "7", ODD)])))
    assert [row[0] for row in rows] == ["UNKNOWN", "OK", "UNKNOWN"]


async def test_the_reason_of_an_update_has_up_to_128_characters(cell: Cell, known: dict[str, str]) -> None:
    longest = update("en1", known["en1"], GERMAN, reason="r" * 128)
    assert rows_of(await cell.store.run(longest))[0][0] == "OK"
    moved = [event for event in await cell.allocator.events() if event.type == "node.assigned"]
    assert moved[-1].reason == "r" * 128


@pytest.mark.breaks_store
@pytest.mark.parametrize("spoilt", ["members", "ready", "leases", "usage", "events", "due"])
async def test_a_new_class_is_not_made_where_its_node_cannot_be_written(
    cell: Cell, known: dict[str, str], spoilt: str
) -> None:
    await cell.store.command("SET", cell.store.key(spoilt), "spoilt")
    with pytest.raises(StoreError, match=f"{spoilt} is a string"):
        await cell.store.run(upsert("new", facts_of("en", "ja")))
    assert await cell.store.command("HLEN", cell.store.key("class_facts")) == 3 + 1


@pytest.mark.breaks_store
async def test_a_pool_is_not_made_under_a_version_that_the_history_has_already(
    cell: Cell, known: dict[str, str]
) -> None:
    version = await cell.allocator.version()
    await cell.store.command("XADD", cell.store.key("history"), f"{version + 1}-0", "kind", "odd")
    with pytest.raises(StoreError, match="the history is ahead"):
        await cell.store.run(upsert("new", facts_of("ja", "ko")))
    assert await cell.allocator.describe(["new"]) == []


@pytest.mark.breaks_store
async def test_what_is_no_number_in_the_index_of_classes_is_no_class(cell: Cell, known: dict[str, str]) -> None:
    digest = hashlib.sha1(GERMAN.json.encode()).hexdigest()
    await cell.store.command("HSET", cell.store.key("class_index"), digest, "2x")
    rows = rows_of(await cell.store.run(upsert("new", GERMAN)))
    assert rows[0][2:4] == ["4", "german"], "it was placed as a class that nobody had before"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (["a", "b", "a"], "a node stands there twice"),
        ([f"n{number}" for number in range(65)], "1..64 times 15 arguments"),
    ],
)
async def test_a_batch_that_is_none_is_refused_whole(
    cell: Cell, known: dict[str, str], nodes: list[str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        await cell.store.run(Call.joined([upsert(node_id) for node_id in nodes]))
    with pytest.raises(InvalidInput, match="status must be"):
        await cell.store.run(Call.joined([upsert("x"), upsert("y", status="x")]))
    assert await cell.allocator.describe(["a", "n0", "x"]) == []


async def test_sixty_four_are_taken(cell: Cell, known: dict[str, str]) -> None:
    rows = rows_of(await cell.store.run(Call.joined([upsert(f"n{number}") for number in range(64)])))
    assert [row[0] for row in rows] == ["OK"] * 64


async def test_only_a_new_session_of_a_node_with_reservations_is_looked_at_for_them(cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.store.run(reserve_call("job-1"))
    epoch = (await read_state(cell.store)).sessions["n1"].split(":")[0]
    for call, expected in (
        (upsert("idle"), {"job-1"}),
        (update("n1", epoch, digest="cd"), {"job-1"}),
        (upsert("n1", session_id="another"), {"job-1", "!n1"}),
    ):
        assert (await cell.store.run(call))[0] == "OK"
        assert set((await read_state(cell.store)).due) == expected
    await cell.reconcile()


async def test_a_node_that_moves_for_no_reason_given_has_other_facts(cell: Cell, known: dict[str, str]) -> None:
    await cell.store.run(update("en1", known["en1"], GERMAN))
    assert (moved := (await cell.allocator.node("en1")).transition) is not None
    assert (moved.from_pool, moved.to_pool, moved.reason) == ("english", "german", "facts_changed")
