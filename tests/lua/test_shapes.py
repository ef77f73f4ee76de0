"""What is written, to the letter: other programs read these fields, and so does a scheduler of another version."""

from __future__ import annotations

import hashlib
import json

from pyscheduler import NodeReport
from pyscheduler.core.results import NodeStatus
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_raw, read_state

EN = pool("english", semantic={"contains": ["en"]})


async def test_a_new_namespace_has_every_key_and_in_each_a_sentinel(cell: Cell) -> None:
    found = await read_raw(cell.store)
    config = dict(zip(found["config"][::2], found["config"][1::2], strict=True))
    now = await cell.now_ms()
    assert now - 60_000 < int(config.pop("created_at")) == int(config.pop("updated_at")) <= now
    assert json.loads(config.pop("auto"))["enabled"] is True
    assert json.loads(config.pop("selection"))["strategy"] == "least_loaded"
    admission = config.pop("admission")
    assert json.loads(admission)["gpu"]["min_count"] == 1
    assert config == {
        "schema": "3",
        "version": "1",
        "document_version": "0",
        "admission_digest": hashlib.sha1(admission.encode()).hexdigest()[:16],
        "next_class": "1",
        "next_pool": "1",
        "epoch_floor": "0",
        "declared_pools": "0",
        "updated_by": "",
    }
    for name in (
        "pools",
        "classes",
        "class_facts",
        "nodes",
        "holds",
        "usage",
        "instances",
        "jobs",
        "reserved",
        "tenants",
        "routes",
        "affinities",
    ):
        assert found[name] == ["", ""], name
    assert found["sessions"] == ["", "3"]
    # Longer than what Redis keeps as a list that is searched from its beginning.
    assert found["class_index"] == ["", "-" * 65]
    assert await cell.store.command("OBJECT", "ENCODING", cell.store.key("class_index")) == "hashtable"
    assert (found["capabilities"], found["members"], found["ready"]) == (["", "0"], ["", "-1"], ["", "-1"])
    assert found["leases"] == found["due"] == ["", "inf"]
    assert found["tenant_rules"] == ["", "0 0 "]
    ((entry, fields),) = found["history"]
    assert (entry, fields[0::2]) == ("1-0", ["at", "kind", "author", "reason", "changes", "document"])
    assert fields[3::2] == ["created", "", "namespace created", "[]", ""]
    assert (await cell.store.command("XLEN", cell.store.key("events"))) == 1


DAY_MS = 86_400_000
VARYING = {"at", "epoch", "digest"}


async def told(cell: Cell) -> list[str]:
    """Every event since this was last asked, its fields in their order, without what differs from run to run."""
    entries = (await read_raw(cell.store))["events"]
    await cell.store.command("XTRIM", cell.store.key("events"), "MAXLEN", "0")
    lines = []
    for _, fields in entries:
        (first, kind), *pairs = zip(fields[0::2], fields[1::2], strict=True)
        assert first == "type"
        assert all(value.isalnum() for name, value in pairs if name in VARYING), pairs
        lines.append(" ".join([kind, *(name if name in VARYING else f"{name}={value}" for name, value in pairs)]))
    return lines


async def test_each_event_has_the_fields_that_are_documented(cell: Cell) -> None:
    # Namespace.
    assert await told(cell) == [
        "config.bumped at version=1 reason=namespace created",
    ]
    await cell.allocator.sync(document_of(EN, auto={"min_nodes": 2}), author="ann", reason="first")
    # A document.
    assert await told(cell) == [
        "pool.created at version=2 pool=english pool_id=1 origin=declared reason=document",
        "config.bumped at version=2 author=ann kind=document digest reason=first",
    ]
    await cell.register("a", "en", "zh")
    await cell.register("b", "de")
    await cell.register("c", facts=facts_of("de", gpu_memory_gb=(80,)), status=NodeStatus.DEGRADED)
    # A node in its pool, one that waits, one whose coming makes the pool.
    assert await told(cell) == [
        "node.registered at version=2 node_id=a class=1 epoch instance=test status=ready reason=new",
        "node.assigned at version=2 node_id=a class=1 pool=english from= to=english reason=new",
        "node.registered at version=2 node_id=b class=2 epoch instance=test status=ready reason=new",
        "node.assigned at version=2 node_id=b class=2 pool= from= to= reason=below_min_nodes",
        "pool.created at version=3 pool=de pool_id=2 origin=auto reason=auto",
        "class.remapped at version=3 class=2 from= to=de nodes=1 reason=auto_pool_created",
        "config.bumped at version=3 reason=auto_pool_created",
        "node.registered at version=3 node_id=c class=3 epoch instance=test status=degraded reason=new",
        "node.assigned at version=3 node_id=c class=3 pool=de from= to=de reason=new",
    ]
    await cell.register("a", "en", "zh", session_id="2")
    session = (await cell.register("a", "en", "zh", session_id="3")).session
    # Takeovers.
    assert await told(cell) == [
        "node.registered at version=3 node_id=a class=1 epoch instance=test status=ready reason=takeover",
        "node.registered at version=3 node_id=a class=1 epoch instance=test status=ready reason=takeover",
    ]
    await cell.allocator.hold("a", owner="ops", reason="repair")
    await cell.allocator.lift("a", owner="ops", reason="mended")
    await cell.allocator.update(
        session, NodeReport.of(facts_of("fr"), status=NodeStatus.REGISTERING), lease_ms=LEASE_MS
    )
    # Holds, status and facts.
    assert await told(cell) == [
        "node.status at version=3 node_id=a pool=english from=ready to=draining hold=set owner=ops reason=repair",
        "node.status at version=3 node_id=a pool=english from=draining to=ready hold=lift owner=ops reason=mended",
        "node.status at version=3 node_id=a from=ready to=registering reported=registering reason=facts_changed",
        "node.assigned at version=3 node_id=a class=4 pool= from=english to= reason=below_min_nodes",
    ]
    await cell.allocator.release(session, grace_ms=1, reason="closed")
    await cell.pass_time(LEASE_MS + 1)
    await cell.reconcile(expire=2, brake_expire=2)
    # Released, expired.
    assert await told(cell) == [
        "node.released at version=3 node_id=a pool= epoch reason=closed",
        "node.expired at version=3 node_id=a pool= from= class=4 reason=grace_ended",
        "node.expired at version=3 node_id=b pool=de from=de class=2 reason=lease_lapsed",
        "reconcile.ran at version=3 expired=2 released=0 dropped_classes=0 placed_classes=0 violations=0",
    ]
    await cell.register("d", "pl")
    await cell.pass_time(DAY_MS)
    await cell.reconcile(brake_share=0.0, brake_floor=0)
    await cell.pass_time(DAY_MS)
    await cell.reconcile()
    # The brake, an idle pool.
    assert await told(cell) == [
        "node.registered at version=3 node_id=d class=5 epoch instance=test status=ready reason=new",
        "node.assigned at version=3 node_id=d class=5 pool= from= to= reason=below_min_nodes",
        "node.expired at version=3 node_id=c pool=de from=de class=3 reason=lease_lapsed",
        "node.expired at version=3 node_id=d pool= from= class=5 reason=lease_lapsed",
        "reconcile.braked at version=3 lapsed=2 nodes=2 reason=too many leases lapsed at once",
        "reconcile.ran at version=3 expired=2 released=0 dropped_classes=5 placed_classes=0 violations=0",
        "pool.removed at version=4 pool=de pool_id=2 origin=auto reason=idle",
        "config.bumped at version=4 reason=auto_pool_removed",
        "reconcile.ran at version=4 expired=0 released=0 dropped_classes=0 placed_classes=0 violations=0",
    ]
    await cell.register("e", "de")
    await cell.allocator.sync(document_of(pool("german", tts={"any": ["de"]})), reason="second")
    await cell.allocator.rollback(2, author="bob", reason="back", force=True)
    # A node that waits, a document, a rollback.
    assert await told(cell) == [
        "node.registered at version=4 node_id=e class=6 epoch instance=test status=ready reason=new",
        "node.assigned at version=4 node_id=e class=6 pool= from= to= reason=below_min_nodes",
        "pool.removed at version=5 pool=english pool_id=1 origin=declared reason=document",
        "pool.created at version=5 pool=german pool_id=3 origin=declared reason=document",
        "class.remapped at version=5 class=6 from= to=german nodes=1 reason=document",
        "config.bumped at version=5 author= kind=document digest reason=second",
        "pool.removed at version=6 pool=german pool_id=3 origin=declared reason=rollback",
        "pool.created at version=6 pool=english pool_id=4 origin=declared reason=rollback",
        "class.remapped at version=6 class=6 from=german to= nodes=1 reason=rollback",
        "config.bumped at version=6 author=bob kind=rollback digest reason=back",
    ]


async def test_the_event_of_a_hold_says_what_the_node_is_seen_as(cell: Cell) -> None:
    session = (await cell.register("closed", "en")).session
    await cell.allocator.release(session, grace_ms=DAY_MS, reason="closed")
    await cell.allocator.renew_instance("test", lease_ms=1, info={})
    await cell.register("lost", "en", lease_ms=1)
    await cell.pass_time(1_000)
    assert (await cell.reconcile()).released == 1
    await told(cell)
    for node_id in ("closed", "lost", "nobody"):
        await cell.allocator.hold(node_id, owner="ops", reason="x", allow_unknown=True)
        await cell.allocator.lift(node_id, owner="ops", reason="y")
    about = "node.status at version=2 node_id"
    assert await told(cell) == [
        f"{about}=closed pool=en from=offline to=offline hold=set owner=ops reason=x",
        f"{about}=closed pool=en from=offline to=offline hold=lift owner=ops reason=y",
        f"{about}=lost pool=en from=offline to=offline hold=set owner=ops reason=x",
        f"{about}=lost pool=en from=offline to=offline hold=lift owner=ops reason=y",
        f"{about}=nobody pool= from= to= hold=set owner=ops reason=x",
        f"{about}=nobody pool= from= to= hold=lift owner=ops reason=y",
    ]


async def test_a_step_tells_of_each_thing_that_it_did_alone(cell: Cell) -> None:
    async def ran() -> list[str]:
        await cell.reconcile()
        return [line for line in await told(cell) if line.startswith("reconcile.ran")]

    await cell.trust_leases()
    assert await ran() == []
    await cell.register("a", "en", lease_ms=DAY_MS)
    await cell.register("b", "en", lease_ms=1)
    await cell.pass_time(1_000)
    counts = "reconcile.ran at version=2 expired={} released={} dropped_classes={} placed_classes=0 violations={}"
    assert await ran() == [counts.format(1, 0, 0, 0)]
    await cell.allocator.renew_instance("i", lease_ms=1, info={})
    await cell.register("b", "en", instance="i", lease_ms=1)
    await cell.pass_time(1_000)
    assert await ran() == [counts.format(0, 1, 0, 0)]
    await cell.allocator.hold("a", owner="ops", reason="x")
    await cell.register("b", facts=facts_of("en", gpu_memory_gb=(80,)), session_id="2", lease_ms=DAY_MS)
    await cell.register("a", facts=facts_of("en", gpu_memory_gb=(80,)), session_id="2", lease_ms=DAY_MS)
    assert await ran() == [counts.format(0, 0, 1, 0)]
    await cell.store.command("ZREM", cell.store.key("leases"), "a")
    assert await ran() == [counts.format(0, 0, 0, 1)]
    await cell.store.command("ZADD", cell.store.key("leases"), await cell.now_ms() + DAY_MS, "a")
    assert await ran() == []


async def test_a_waiting_class_is_placed_when_an_idle_pool_makes_room(cell: Cell) -> None:
    await cell.allocator.sync(document_of(auto={"max_pools": 1, "idle_ttl": "10m"}))
    await cell.register("a", "en", lease_ms=1)
    for number in range(2):
        await cell.register(f"b{number}", "de", lease_ms=DAY_MS)
    await cell.register("c", facts=facts_of("de", gpu_memory_gb=(80,)), lease_ms=DAY_MS)
    await cell.pass_time(1_000)
    await cell.reconcile()
    await cell.pass_time(DAY_MS // 2)
    await told(cell)
    await cell.reconcile()
    assert await told(cell) == [
        "pool.removed at version=4 pool=en pool_id=1 origin=auto reason=idle",
        "pool.created at version=4 pool=de pool_id=2 origin=auto reason=auto",
        "class.remapped at version=4 class=2 from= to=de nodes=2 reason=auto_pool_created",
        "class.remapped at version=4 class=3 from= to=de nodes=1 reason=auto_pool_created",
        "config.bumped at version=4 reason=auto_pool_created",
        "reconcile.ran at version=4 expired=0 released=0 dropped_classes=0 placed_classes=2 violations=0",
    ]
    config = (await read_state(cell.store)).config
    assert (config["version"], config["next_pool"], config["updated_by"]) == ("4", "3", "reconcile")
    now = await cell.now_ms()
    assert now - 60_000 < int(config["updated_at"]) <= now
    _, fields = (await read_raw(cell.store))["history"][-1]
    assert fields[3:8:2] == ["auto_pool_created", "reconcile", "idle auto pools removed, waiting classes placed"]
    assert json.loads(fields[9]) == [{"pool": "en", "change": "removed"}, {"pool": "de", "change": "added"}]
    assert fields[11] == ""


async def test_the_configuration_says_what_is_in_force_and_who_made_it_so(cell: Cell) -> None:
    document = document_of(EN, auto={"min_nodes": 7}, admission={"gpu": {"min_count": 2}})
    await cell.allocator.sync(document, author="ann")
    config = (await read_state(cell.store)).config
    now = await cell.now_ms()
    assert now - 60_000 < int(config.pop("updated_at")) <= now
    assert int(config.pop("created_at")) <= now
    admission = document.admission.to_json()
    assert json.loads(config.pop("auto"))["min_nodes"] == 7
    assert json.loads(config.pop("selection")) == json.loads(document.canonical())["selection"]
    assert int(config.pop("test_offset_ms", 0)) == 0
    assert config == {
        "schema": "3",
        "version": "2",
        "document_version": "2",
        "document": document.canonical(),
        "document_digest": document.digest,
        "admission": admission,
        "admission_digest": hashlib.sha1(admission.encode()).hexdigest()[:16],
        "next_class": "1",
        "next_pool": "2",
        "epoch_floor": "0",
        "declared_pools": "1",
        "updated_by": "ann",
    }
    await cell.allocator.sync(document_of(EN))
    await cell.store.command("HSET", cell.store.key("config"), "updated_at", "1")
    await cell.register("a", facts=facts_of("de", gpu_memory_gb=(24, 24)), instance="i7")
    after = (await read_state(cell.store)).config
    assert (after["updated_by"], after["next_pool"], after["next_class"]) == ("i7", "3", "2")
    assert int(after["updated_at"]) >= now


async def test_the_history_says_what_each_version_changed(cell: Cell) -> None:
    await cell.register("a", "en")
    await cell.allocator.sync(document_of(EN), author="ann", reason="first")
    await cell.allocator.sync(document_of(), author="bob", reason="second", allow_empty=True)
    (_, created), (_, auto), (_, first), (_, second) = (await read_raw(cell.store))["history"]
    for entry in (created, auto, first, second):
        assert entry[0::2] == ["at", "kind", "author", "reason", "changes", "document"]
    assert auto[3:8:2] == ["auto_pool_created", "test", "first nodes of en"]
    assert json.loads(auto[9]) == [{"pool": "en", "change": "added"}]
    assert auto[11] == ""
    assert first[3:8:2] == ["document", "ann", "first"]
    assert json.loads(first[9]) == [{"pool": "english", "change": "added"}]
    assert first[11] == document_of(EN).canonical()
    assert second[3:8:2] == ["document", "bob", "second"]
    assert json.loads(second[9]) == [{"pool": "english", "change": "removed"}]


async def test_every_entry_of_the_capability_index_has_one_score_so_that_they_lie_by_name(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.register("b", "de")
    assert {*(await read_raw(cell.store))["capabilities"][1::2]} == {"0"}
