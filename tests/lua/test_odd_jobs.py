"""Odd cases of jobs: bounds that are reached, what is damaged, and those who look elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest, Reservation
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import NoNode
from pyscheduler.scripts import calls
from pyscheduler.scripts.calls import Call
from tests.cells import limited_cell
from tests.harness import LEASE_MS, Cell, document_of, facts_of, pool
from tests.oracle import read_state

ZH_EN = JobRequest("zh", "en")
TALK = JobRequest("zh", "en", session="talk")
AFFINITY = document_of(selection={"strategy": "affinity", "slots_per_node": 2})


async def reserve(cell: Cell, job_id: str, request: JobRequest = ZH_EN) -> Reservation:
    return await cell.allocator.reserve(job_id, request, owner="me", lease_ms=LEASE_MS * 10)


async def why_none(cell: Cell, request: JobRequest = ZH_EN) -> dict[str, int]:
    with pytest.raises(NoNode) as refused:
        await reserve(cell, "refused", request)
    return dict(refused.value.reasons)


async def many_dead(cell: Cell, count: int = 20) -> None:
    """Nodes before all others in order, whose leases are about to end."""
    await asyncio.gather(*(cell.register(f"dead-{number:02}", "en", "zh", lease_ms=1) for number in range(count)))
    await cell.advance(10)


# --- the configuration ------------------------------------------------------------------------------------------------


async def test_a_pool_that_is_given_other_slots_or_none_of_its_own_has_changed(cell: Cell) -> None:
    usual, own = pool("p", semantic={"contains": ["en"]}), {"selection": {"strategy": "random"}}
    for wanted in (usual, usual | own, usual):
        change = await cell.allocator.sync(document_of(wanted))
        assert [one.pool for one in change.changes] == ["p"]
    await cell.register("a", "en", "zh")
    assert (await reserve(cell, "j")).node_id == "a"


async def test_a_pool_selects_in_its_own_way(cell: Cell) -> None:
    own = pool("p", semantic={"contains": ["en"]}) | {"selection": {"strategy": "random"}}
    await cell.allocator.sync(document_of(own))
    await cell.register("a", "en", "zh")
    assert (await reserve(cell, "j")).pool == "p"


async def test_a_tenant_whom_the_document_forgets_has_no_bound(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    acme = JobRequest("zh", "en", tenant="acme", slots=2)
    await cell.allocator.sync(document_of(tenants=[{"name": "acme", "slots": 1}]))
    assert await why_none(cell, acme) == {"quota": 1}
    await cell.allocator.sync(document_of(tenants=[]))
    assert (await reserve(cell, "j", acme)).slots == 2


async def test_a_label_that_the_job_asks_for_and_the_node_has(cell: Cell) -> None:
    await cell.register("a", facts=facts_of("en", "zh", labels={"zone": "eu", "rack": "7"}))
    asked = JobRequest("zh", "en", labels={"zone": "eu", "rack": "7"})
    assert (await reserve(cell, "j", asked)).node_id == "a"


# --- the dead ---------------------------------------------------------------------------------------------------------


async def test_behind_more_dead_than_are_looked_at_a_living_lease_is_found(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await many_dead(cell)
        await cell.register("other", "de", "fr")
        await cell.register("zz-other", "ja", "ko")
        await cell.register("ill", "en", "zh", status=NodeStatus.DEGRADED)
        await cell.register("alive", "en", "zh", load=0.9)
        assert (await reserve(cell, "j")).node_id == "alive"


async def test_jobs_of_one_call_find_living_nodes_behind_the_dead_one_after_the_other(
    redis_url: str, namespace: str
) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await many_dead(cell)
        for name in ("one", "two"):
            await cell.register(name, "en", "zh", load=0.9)
        asks = [JobAsk(f"j{number}", ZH_EN) for number in range(2)]
        found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=LEASE_MS)
        assert [one.node_id for one in found if isinstance(one, Reservation)] == ["one", "two"]


async def test_a_tenant_whose_own_pool_is_full_gets_a_node_of_another(cell: Cell) -> None:
    one_slot = {"selection": {"slots_per_node": 1}}
    pools = [pool(code, semantic={"contains": [code]}) | one_slot for code in ("de", "en")]
    await cell.allocator.sync(document_of(*pools, tenants=[{"name": "acme", "pool": "de"}]))
    await cell.register("a", "de", "en", "zh")
    await cell.register("b", "en", "zh")
    acme = JobRequest("zh", "en", tenant="acme")
    assert [(await reserve(cell, name, acme)).pool for name in ("j1", "j2")] == ["de", "en"]
    assert await why_none(cell, acme) == {"no_slot": 2}


async def test_where_all_are_dead_there_is_none(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_LOOKED_CLASS=2) as cell:
        await many_dead(cell)
        assert await why_none(cell) == {"lapsed": 20}


async def test_chance_takes_no_dead_node(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"strategy": "random"}))
    await many_dead(cell)
    assert await why_none(cell) == {"lapsed": 20}


async def test_a_heartbeat_with_a_load_alone_keeps_the_usage_of_its_own_node(cell: Cell) -> None:
    tokens = []
    for name in ("a", "b"):
        await cell.register(name, "en", "zh")
        tokens.append(await cell.store.command("HGET", cell.store.key("sessions"), name))
    nodes = ["a", tokens[0], '0.5000 {"of":"a"}', "b", tokens[1], "0.6000", "a", tokens[0], "0.7000"]
    assert (await cell.store.run(calls.touch_nodes(lease_ms=LEASE_MS, nodes=nodes)))[2] == "AAA"
    stored = await cell.store.command("HMGET", cell.store.key("usage"), "a", "b")
    assert stored == ['0.7000 {"of":"a"}', "0.6000 {}"]


async def test_a_load_beside_heartbeats_without_one_keeps_the_slots_of_its_own_node(cell: Cell) -> None:
    for name in ("a", "b"):
        await cell.register(name, "en", "zh")
    await reserve(cell, "j", JobRequest("zh", "en", exclude=("a",)))
    tokens = await cell.store.command("HMGET", cell.store.key("sessions"), "a", "b")
    nodes = ["a", tokens[0], "", "b", tokens[1], "0.5000 {}"]
    assert (await cell.store.run(calls.touch_nodes(lease_ms=LEASE_MS, nodes=nodes)))[2] == "AA"
    assert float(await cell.store.command("ZSCORE", cell.store.key("ready"), "b")) % 1024 == 2.5


async def test_many_leases_are_renewed_by_one_call(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    names, due = ("j", "k", "l"), cell.store.key("due")
    for name in names:
        await reserve(cell, name)
    before = await cell.store.command("ZMSCORE", due, *names)
    renewals = [
        calls.update_jobs(operation="renew", job_id=name, attempt=1, owner="me", lease_ms=LEASE_MS * 20, reason="")
        for name in names
    ]
    await cell.store.run(Call.joined(renewals))
    after = await cell.store.command("ZMSCORE", due, *names)
    assert [float(new) - float(old) > LEASE_MS * 9 for old, new in zip(before, after, strict=True)] == [True] * 3


async def test_reasons_are_counted_for_so_many_nodes(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_EXAMINED=2) as cell:
        for number in range(3):
            await cell.register(f"n{number}", facts=facts_of("en", "zh", gpu_memory_gb=(number,)))
            await cell.allocator.hold(f"n{number}", owner="ops", reason="test")
        assert (await cell.allocator.explain_job("j", ZH_EN)).reasons == {"draining": 2, "not_looked_at": 1}
        with pytest.raises(NoNode) as refused:
            await reserve(cell, "j")
        assert refused.value.reasons == {"draining": 2, "not_looked_at": 1}


# --- a session and its node -------------------------------------------------------------------------------------------


async def session_node(cell: Cell) -> str:
    await cell.allocator.sync(AFFINITY)
    for name in ("a", "b"):
        await cell.register(name, "en", "zh", lease_ms=10 * LEASE_MS)
    return (await reserve(cell, "first", TALK)).node_id


async def test_a_session_leaves_a_node_that_takes_no_work(cell: Cell) -> None:
    node_id = await session_node(cell)
    await cell.allocator.hold(node_id, owner="ops", reason="test")
    assert (await reserve(cell, "j", TALK)).node_id != node_id


async def test_a_session_leaves_a_node_that_is_dead(cell: Cell) -> None:
    node_id = await session_node(cell)
    await cell.store.command("ZADD", cell.store.key("leases"), "1", node_id)
    assert (await reserve(cell, "j", TALK)).node_id != node_id


@pytest.mark.breaks_store
async def test_a_session_leaves_a_node_whose_lease_is_lost(cell: Cell) -> None:
    node_id = await session_node(cell)
    await cell.store.command("ZREM", cell.store.key("leases"), node_id)
    assert (await reserve(cell, "j", TALK)).node_id != node_id


@pytest.mark.parametrize("languages", [("aa", "ab"), ("za", "zb")])
async def test_a_session_leaves_a_node_that_serves_others_now(cell: Cell, languages: tuple[str, str]) -> None:
    """Of a class before the one that it had, or after it."""
    await cell.register("before", *("aa", "ab"))
    node_id = await session_node(cell)
    await cell.register(node_id, *languages, session_id="again", lease_ms=10 * LEASE_MS)
    assert (await reserve(cell, "j", TALK)).node_id != node_id


async def test_sessions_that_are_remembered_are_bounded(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_AFFINITIES=1) as cell:
        await session_node(cell)
        await reserve(cell, "other", JobRequest("zh", "en", session="other"))
        assert list((await read_state(cell.store)).affinities) == ["talk"]


# --- upkeep -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "ended"), [(3, [2, 2, 0]), (4, [4, 0, 0])])
async def test_a_drained_node_with_more_reservations_than_a_step_ends_waits_for_the_next(
    redis_url: str, namespace: str, most: int, ended: list[int]
) -> None:
    async with limited_cell(redis_url, namespace, MAX_ENDS=most) as cell:
        await cell.allocator.sync(document_of(selection={"on_drain": "lose"}))
        for name in ("a", "b"):
            await cell.register(name, "en", "zh")
        for number in range(4):
            await reserve(cell, f"j{number}")
        for name in ("a", "b"):
            await cell.allocator.hold(name, owner="ops", reason="test")
        await cell.pass_time(1)
        assert [(await cell.reconcile()).ended_jobs for _ in range(3)] == ended


@pytest.mark.parametrize(
    ("looks", "steps"),
    [(10, [(2, True), (1, False), (0, False)]), (11, [(3, False), (0, False), (0, False)])],
)
async def test_reservations_that_lapse_together_lapse_in_steps_that_follow_each_other(
    redis_url: str, namespace: str, looks: int, steps: list[tuple[int, bool]]
) -> None:
    """Each counts as five looks, and a step with one look left takes one more."""
    async with limited_cell(redis_url, namespace, MAX_DUE=looks) as cell:
        await cell.register("a", "en", "zh", lease_ms=100 * LEASE_MS)
        for number in range(3):
            await cell.allocator.reserve(f"j{number}", ZH_EN, owner="me", lease_ms=1)
        await cell.pass_time(10)
        reports = [await cell.reconcile() for _ in range(3)]
        assert [(report.ended_jobs, report.more_due) for report in reports] == steps


async def test_jobs_are_forgotten_in_steps_that_follow_each_other(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_DUE=4, JOB_KEPT_MS=10) as cell:
        await cell.register("a", "en", "zh", lease_ms=100 * LEASE_MS)
        for number in range(9):
            await reserve(cell, f"j{number}")
            await cell.allocator.release_job(f"j{number}", 1, owner="me")
        await cell.pass_time(20)
        assert [(await cell.reconcile()).more_due for _ in range(3)] == [True, True, False]
        assert (await read_state(cell.store)).jobs == {}


async def test_a_mark_on_a_node_that_has_gone_means_nothing(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"on_drain": "lose"}))
    await cell.register("a", "en", "zh")
    await cell.store.command("ZADD", cell.store.key("due"), "1", "!gone")
    await cell.pass_time(1)
    assert (await cell.reconcile()).ended_jobs == 0
    assert "!gone" not in (await read_state(cell.store)).due


@pytest.mark.breaks_store
async def test_a_reservation_whose_job_is_lost_ends_nothing(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"on_drain": "lose"}))
    await cell.register("a", "en", "zh")
    await reserve(cell, "j")
    await cell.store.command("HDEL", cell.store.key("jobs"), "j")
    await cell.allocator.hold("a", owner="ops", reason="test")
    await cell.pass_time(1)
    assert (await cell.reconcile()).ended_jobs == 0


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.breaks_store
async def test_a_ready_node_without_a_session_gets_no_job(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.store.command("HDEL", cell.store.key("sessions"), "a")
    await why_none(cell)


@pytest.mark.breaks_store
async def test_a_class_that_lost_its_pool_is_explained_all_the_same(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.store.command("HDEL", cell.store.key("classes"), "1")
    assert (await cell.allocator.explain_job("j", ZH_EN)).node_id is None


@pytest.mark.breaks_store
async def test_a_class_whose_facts_are_spoilt_is_as_one_without(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.store.command("HSET", cell.store.key("class_facts"), "1", "spoilt")
    assert (await reserve(cell, "j")).node_id == "a"
    assert await why_none(cell, JobRequest("zh", "en", scope="exact")) == {"scope": 1}
