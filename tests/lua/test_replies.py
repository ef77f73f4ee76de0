"""What each script answers, to the letter: positions, status words and flags, of what was done and of what was not."""

from __future__ import annotations

import json

from pyscheduler.core.document import PoolDocument
from pyscheduler.scripts import calls
from pyscheduler.scripts.calls import Call
from tests.cells import lose_everything
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.lua.baseline import baseline, populate, with_argument
from tests.oracle import read_state


def bump(document: PoolDocument, **changed: object) -> Call:
    arguments = {
        "mode": "apply",
        "document": document.canonical(),
        "digest": document.digest,
        "admission": document.admission.to_json(),
        "expect_version": -1,
        "allow_empty": False,
        "force": False,
        "author": "me",
        "reason": "test",
        "kind": "document",
    }
    return calls.bump_config_version(**{**arguments, **changed})


async def test_upsert_node_to_pool(cell: Cell) -> None:
    await populate(cell)
    first = baseline("1:1:r:ab")["upsert_node_to_pool"]
    status, epoch, *rest, token, seen, reason, cloned = await cell.store.run(first)
    assert (status, rest) == ("OK", ["3", "ja-ko", "3", "4"])
    assert (token, seen, reason, cloned) == (f"{epoch}:3:r:ab", "ready", "matched", "0")
    # The same call again is the same session; another socket of the same id is the next.
    assert (await cell.store.run(first))[1] == epoch
    other = with_argument(first, "session_id", "s4")
    assert (await cell.store.run(with_argument(other, "takeover", "0"))) == ["CONFLICT", "i1"]
    assert (await cell.store.run(with_argument(other, "admission_digest", "ff")))[0] == "ADMISSION"
    newer = await cell.store.run(other)
    assert int(newer[1]) > int(epoch)
    assert await cell.store.run(first) == ["STALE"], "a late repetition"
    update = with_argument(with_argument(with_argument(first, "mode", "update"), "session_id", ""), "instance", "")
    assert await cell.store.run(with_argument(update, "epoch", epoch)) == ["STALE"]
    assert await cell.store.run(with_argument(update, "epoch", str(int(newer[1]) + 1))) == ["UNKNOWN"]
    degraded = with_argument(with_argument(update, "epoch", newer[1]), "status", "d")
    assert await cell.store.run(degraded) == [
        "OK", newer[1], "3", "ja-ko", "3", "4", f"{newer[1]}:3:d:ab", "degraded", "matched", "0",
    ]  # fmt: skip


async def test_upsert_node_to_pool_of_a_node_that_waits(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"min_nodes": 2}))
    call = baseline("1:1:r:ab")["upsert_node_to_pool"]
    status, epoch, *rest = await cell.store.run(call)
    assert (status, rest) == ("OK", ["1", "", "0", "2", f"{epoch}:1:r:ab", "ready", "below_min_nodes", "0"])
    # The same node once more is still one node.
    assert await cell.store.run(call) == [status, epoch, *rest]
    assert (await cell.store.run(with_argument(call, "session_id", "s4")))[3] == ""


async def test_a_session_whose_epoch_the_store_has_lost_is_put_back(cell: Cell) -> None:
    await populate(cell)
    first = baseline("1:1:r:ab")["upsert_node_to_pool"]
    epoch = int((await cell.store.run(first))[1])
    resumed = with_argument(with_argument(first, "mode", "resume"), "epoch", str(epoch + 5))
    assert (await cell.store.run(resumed))[1] == str(epoch + 5)
    registered = [event for event in (await read_state(cell.store)).events if event["type"] == "node.registered"]
    assert [(event["reason"], event["epoch"]) for event in registered[-2:]] == [
        ("new", str(epoch)),
        ("resume", str(epoch + 5)),
    ]
    # An older epoch of the same session is a late repetition, and registers nothing.
    assert (await cell.store.run(with_argument(resumed, "epoch", str(epoch))))[1] == str(epoch + 5)
    told = [event["type"] for event in (await read_state(cell.store)).events if event.get("node_id") == "n3"]
    assert told == ["node.registered", "node.assigned", "node.registered"]


async def test_touch_nodes(cell: Cell) -> None:
    token = await populate(cell)
    epoch, rest = token.split(":", 1)
    older, newer = f"{int(epoch) - 1}:{rest}", f"{int(epoch) + 1}:{rest}"
    nodes = [
        ["n1", token, ""],
        ["n1", older, "0.5000 {}"],
        ["n1", newer, ""],
        ["n1", f"{epoch}:2:d:ab", ""],
        ["nx", token, "0.5000 {}"],
        ["x" * 128, token, ""],
    ]
    call = calls.touch_nodes(lease_ms=1, nodes=[part for node in nodes for part in node])
    assert await cell.store.run(call) == ["OK", "3", "ASUUUU"]
    assert (await cell.store.command("HGET", cell.store.key("usage"), "n1")) == "0.0000 {}"
    await cell.store.run(baseline(token)["release_node"])
    assert await cell.store.run(call) == ["OK", "3", "SSUSUU"]


async def test_release_node(cell: Cell) -> None:
    call = baseline(await populate(cell))["release_node"]
    assert await cell.store.run(with_argument(call, "node_id", "nx")) == ["UNKNOWN"]
    assert await cell.store.run(with_argument(call, "epoch", "5")) == ["STALE"]
    assert await cell.store.run(call) == ["OK", "1"]
    assert await cell.store.run(call) == ["OK", "0"]


async def test_hold_node(cell: Cell) -> None:
    call = baseline(await populate(cell))["hold_node"]
    lift = with_argument(call, "operation", "lift")
    unknown = with_argument(call, "node_id", "nx")
    assert await cell.store.run(lift) == ["OK", "0", "1", ""]
    status, changed, live, holds = await cell.store.run(call)
    assert (status, changed, live) == ("OK", "1", "1")
    assert json.loads(holds) == {"ops": {"reason": "test", "at": json.loads(holds)["ops"]["at"]}}
    assert await cell.store.run(call) == ["OK", "0", "1", holds]
    assert await cell.store.run(with_argument(lift, "owner", "another")) == ["OK", "0", "1", holds]
    both = await cell.store.run(with_argument(call, "owner", "another"))
    assert json.loads(both[3]).keys() == {"ops", "another"}
    left = await cell.store.run(with_argument(lift, "owner", "another"))
    assert left == ["OK", "1", "1", holds]
    assert await cell.store.run(lift) == ["OK", "1", "1", ""]
    assert await cell.store.run(unknown) == ["UNKNOWN"]
    assert await cell.store.run(with_argument(unknown, "operation", "lift")) == ["OK", "0", "0", ""]
    allowed = with_argument(unknown, "allow_unknown", "1")
    assert (await cell.store.run(allowed))[:3] == ["OK", "1", "0"]
    assert (await cell.store.run(unknown))[:3] == ["OK", "0", "0"], "it is known by its hold"


async def test_bump_config_version(cell: Cell) -> None:
    await populate(cell)
    await cell.register("n3", "en", "fr")
    german = document_of(pool("german", semantic={"contains": ["de"]}), auto={"enabled": False})
    # Both ready nodes, of two, would lose their pool: n2 is held and does not count.
    assert await cell.store.run(bump(german)) == ["GUARD", "2", "2", "500"]
    moves = ["3", "1", "de-fr", "german", "1", "2", "english", "", "1", "3", "english", "", "1"]
    changes = ["german", "added", "english", "removed"]
    planned = await cell.store.run(bump(german, force=True, mode="plan"))
    assert planned == ["OK", "3", "4", "4", "2", "2", *changes, *moves]
    for version in (0, 1, 3):
        assert await cell.store.run(bump(german, force=True, expect_version=version)) == ["CONFLICT", "2"]
    assert await cell.store.run(bump(german, force=True, expect_version=2)) == planned
    assert await cell.store.run(bump(german, force=True, expect_version=2)) == [
        "UNCHANGED",
        "4",
        "4",
        "4",
        "2",
        "0",
        "0",
    ]
    assert await cell.store.run(bump(document_of(), force=True)) == ["EMPTY", "1"]


async def test_a_guard_counts_the_ready_nodes_that_a_change_would_leave_without_a_pool(cell: Cell) -> None:
    """The share is of all ready nodes, and what lies on it is allowed."""
    await cell.allocator.sync(document_of(pool("english", asr={"contains": ["en"]})))
    for number in range(4):
        await cell.register(f"n{number}", "en" if number else "de")
    await cell.register("idle", facts=facts_of("en", gpu_memory_gb=(80,)), status="degraded")
    for permitted, status in ((0.74, "GUARD"), (0.75, "OK")):
        changed = document_of(
            pool("german", asr={"contains": ["de"]}), guard={"max_unassigned_share": permitted}, auto={"enabled": False}
        )
        reply = await cell.store.run(bump(changed, mode="plan"))
        assert reply[0] == status
        if status == "GUARD":
            assert reply == ["GUARD", "3", "4", "740"]


async def test_a_guard_of_nearly_everything_is_no_guard_of_all(cell: Cell) -> None:
    await cell.allocator.sync(document_of(pool("english", asr={"contains": ["en"]})))
    await cell.register("a", "en")
    off = {"enabled": False}
    for permitted, reply in ((0.999, ["GUARD", "1", "1", "999"]), (1.0, ["OK", "2", "3", "3"])):
        changed = document_of(auto=off, guard={"max_unassigned_share": permitted})
        assert (await cell.store.run(bump(changed, allow_empty=True, mode="plan")))[:4] == reply


async def test_bump_config_version_grants_auto_pools_by_name_up_to_their_number(cell: Cell) -> None:
    """Five language sets wait that have as many nodes; one auto pool is there."""
    await cell.allocator.sync(document_of(auto={"max_pools": 1}))
    for code in ("xx", "aa", "bb", "dd", "cc", "ee"):
        await cell.register(code, code)
    for allowed, names in ((2, ["aa"]), (5, ["aa", "bb", "cc", "dd"]), (6, ["aa", "bb", "cc", "dd", "ee"])):
        document = document_of(auto={"max_pools": allowed})
        reply = await cell.store.run(bump(document, mode="plan"))
        added = [part for name in names for part in (name, "added")]
        assert reply[5 : 6 + len(added)] == [str(len(names)), *added]
    assert (await cell.store.run(bump(document_of(auto={"max_pools": 6}))))[0] == "OK"
    state = await read_state(cell.store)
    ids = {name: stored["id"] for name, stored in state.pools.items()}
    assert ids == {"xx": 1, "aa": 2, "bb": 3, "cc": 4, "dd": 5, "ee": 6}
    assert state.config["next_pool"] == "7"


async def test_a_rule_is_the_same_in_whatever_order_its_parts_are_kept(cell: Cell) -> None:
    labels = {f"label{number}": "x" for number in range(32)}
    await cell.allocator.sync(document_of(pool("english", labels=labels), pool("other", labels={"a": "b"})))
    change = await cell.allocator.sync(document_of(pool("english", labels=labels), pool("other", labels={"a": "c"})))
    assert [(item.pool, item.change) for item in change.changes] == [("other", "changed")]


async def test_reconcile(cell: Cell) -> None:
    call = with_argument(baseline(await populate(cell))["reconcile"], "lease_ms", str(LEASE_MS))
    first = await cell.store.run(call)
    assert (first[:8], first[9:]) == (["OK", "3", "0", "0", "0", "0", "0", "0"], ["0", "0", "0", "0", "0"])
    assert 0 < int(first[8]) <= LEASE_MS, "it has only begun, and expires nothing yet"
    soon = with_argument(with_argument(call, "force", "0"), "min_interval_ms", "60000")
    assert await cell.store.run(soon) == ["SKIPPED", "3"]
    await cell.pass_time(LEASE_MS + 1)
    assert await cell.store.run(call) == ["OK", "3", "2", "0", "0", "2", "2", "0", "0", "0", "1", "0", "0", "0"]
    await cell.pass_time(86_400_000)
    assert await cell.store.run(call) == [
        "OK",
        "4",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "1",
        "de-fr",
    ]


async def test_renew_instance(cell: Cell) -> None:
    call = baseline("1:1:r:ab")["renew_instance"]
    assert await cell.store.run(call) == ["OK", "1"]
    assert await cell.store.run(with_argument(call, "lease_ms", "0")) == ["OK", "1"]
    assert await cell.store.run(with_argument(call, "lease_ms", "0")) == ["OK", "0"]


async def test_list_pools(cell: Cell) -> None:
    await populate(cell)
    await cell.register("n3", "en", "zh", status="degraded")
    stored = dict(zip(*[iter(await cell.store.command("HGETALL", cell.store.key("pools")))] * 2, strict=True))
    status, version, document_version, nodes, pools, *rest = await cell.store.run(calls.list_pools(name=""))
    assert (status, version, document_version, nodes, pools) == ("OK", "3", "2", "3", "2")
    assert {rest[0]: rest[1], rest[2]: rest[3]} == {name: stored[name] for name in ("english", "de-fr")}
    rows = rest[5:]
    assert rest[4] == "2"
    assert sorted([rows[:5], rows[5:]]) == [["1", "de-fr", "1", "0", ""], ["2", "english", "2", "1", ""]]
    facts = facts_of("en", "zh").json
    assert await cell.store.run(calls.list_pools(name="english")) == [
        "OK", "3", "2", "3", "1", "english", stored["english"], "1", "2", "english", "2", "1", facts,
    ]  # fmt: skip
    assert await cell.store.run(calls.list_pools(name="nowhere")) == ["NO_POOL"]


async def test_list_nodes(cell: Cell) -> None:
    await populate(cell)
    every = baseline("1:1:r:ab")["list_nodes"]
    status, version, _, total, count, *rows = await cell.store.run(every)
    assert (status, version, total, count) == ("OK", str(await cell.allocator.version()), "2", "2")
    assert rows[0] == "n2"


async def test_explain_node(cell: Cell) -> None:
    token = await populate(cell)
    reply = await cell.store.run(calls.explain_node(node_id="n1", decisions=True))
    lease = await cell.store.command("ZSCORE", cell.store.key("leases"), "n1")
    now, at, record = reply.pop(2), reply.pop(15), reply.pop(16)
    assert 0 < int(lease) - int(now) <= LEASE_MS
    assert int(at) == int(token.split(":")[0])
    assert json.loads(record) == {}
    node = ["n1", token, lease, "0.0000", "test", "", "2", "english", "1", facts_of("en", "zh").json]
    node += ["", "english", "3", "new", "{}", "matched"]
    decisions = ["2", "english", "declared", "1", "1", "", "de-fr", "auto", "0", "0", "languages.exact"]
    assert reply == ["OK", "3", *node, *decisions]


async def test_explain_node_says_who_holds_a_node_and_how_busy_it_is(cell: Cell) -> None:
    token = await populate(cell)
    await cell.store.run(calls.touch_nodes(lease_ms=LEASE_MS, nodes=["n1", token, '0.5000 {"cpu":1}']))
    await cell.allocator.hold("n1", owner="ops", reason="test")
    reply = await cell.store.run(calls.explain_node(node_id="n1", decisions=False))
    holds = await cell.store.command("HGET", cell.store.key("holds"), "n1")
    assert (reply[6], reply[8], *reply[19:]) == ("0.5000", holds, '{"cpu":1}', "matched", "0")


async def test_explain_node_names_pools_in_their_order(cell: Cell) -> None:
    """Declared ones as they are tried, then auto pools by name."""
    declared = [f"p{number * 7 % 16:02}" for number in range(16)]
    await cell.allocator.sync(document_of(*(pool(name, semantic={"contains": ["en"]}) for name in declared)))
    automatic = [f"x{letter}" for letter in "qwertzuiopasdfgh"]
    for code in automatic:
        await cell.register(code, code)
    reply = await cell.store.run(calls.explain_node(node_id="xq", decisions=True))
    assert reply[21] == "32"
    assert reply[22::5] == [*declared, *sorted(automatic)]


async def test_open_namespace(cell: Cell) -> None:
    call = baseline("1:1:r:ab")["open_namespace"]
    await lose_everything(cell)
    assert await cell.store.run(call) == ["CREATED", "1"]
    assert await cell.store.run(call) == ["EXISTS", "1"]
    await lose_everything(cell)
    await cell.allocator._open_namespace()
    await populate(cell)
    assert await cell.store.run(call) == ["EXISTS", "3"]


async def test_check(cell: Cell) -> None:
    await populate(cell)
    assert await cell.store.run(calls.check()) == ["OK", "3", "2", "2", "0"]
