"""To the millisecond: what holds at the very moment that a time ends, and one before or after it. The clock stands."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pyscheduler import Allocator, NodeReport
from pyscheduler.core.jobs import JobRequest, JobState
from pyscheduler.errors import NoNode
from pyscheduler.scripts import calls
from tests.cells import lower_limits
from tests.harness import Cell, document_of, facts_of, pool
from tests.lua.baseline import baseline, with_argument
from tests.oracle import read_state

BEGIN = 1_700_000_000_000
CLOCK = f"""
local function now_ms()
  return {BEGIN} + tonumber(redis.call('HGET', CONFIG, 'test_offset_ms') or 0)
end
"""
LEASE = 1000


@pytest.fixture
async def still(redis_url: str, namespace: str) -> AsyncIterator[Cell]:
    """A cell in which time passes only when it is told to."""
    overrides = {"lib/clock.lua": CLOCK}
    async with await Allocator.open(redis_url, namespace=namespace, script_overrides=overrides) as allocator:
        yield Cell(allocator, allocator._store)


async def now(cell: Cell) -> int:
    return BEGIN + int((await read_state(cell.store)).config.get("test_offset_ms", 0))


async def configure(cell: Cell, **fields: int) -> None:
    await cell.store.command("HSET", cell.store.key("config"), *(part for pair in fields.items() for part in pair))


async def step(cell: Cell, **changed: int) -> list[str]:
    """One call of reconcile."""
    arguments = {"expire": 10, "scan": 10, "brake_permille": 1000, "brake_floor": 10, "brake_expire": 10}
    return await cell.store.run(
        calls.reconcile(
            **{**arguments, "lease_ms": LEASE, "grace_ms": 1, "force": True, "min_interval_ms": 0, **changed}
        )
    )


EXPIRED, RELEASED, DROPPED, BRAKED, SUSPENDED_MS, VIOLATIONS, ENDED_JOBS = 2, 3, 5, 7, 8, 9, 10
"""Places in the reply of reconcile."""


async def trusted(cell: Cell) -> None:
    """Reconcile has been there until now."""
    await configure(cell, ticked_at=await now(cell), suspended_until=0)


async def test_a_lease_has_lapsed_when_its_end_is_reached(still: Cell) -> None:
    await still.register("a", "en", lease_ms=LEASE)
    await still.advance(LEASE - 1)
    await trusted(still)
    assert (await step(still))[EXPIRED] == "0"
    await still.advance(1)
    assert (await step(still))[EXPIRED] == "1"


async def test_a_pause_of_half_a_lease_is_none_and_one_longer_is_an_outage(still: Cell) -> None:
    await trusted(still)
    await still.advance(LEASE // 2)
    assert (await step(still))[SUSPENDED_MS] == "0"
    await still.advance(LEASE // 2 + 1)
    assert (await step(still))[SUSPENDED_MS] == str(LEASE)


async def test_after_an_outage_leases_lapse_again_when_a_full_one_has_passed(still: Cell) -> None:
    await still.register("a", "en", lease_ms=1)
    assert (await step(still))[SUSPENDED_MS] == str(LEASE)
    await still.advance(LEASE // 2)
    assert (await step(still))[SUSPENDED_MS] == str(LEASE // 2)
    await still.advance(LEASE // 2 - 1)
    assert ((await step(still))[EXPIRED], (await read_state(still.store)).members) == ("0", {"a": 1})
    await still.advance(1)
    assert (await step(still))[EXPIRED] == "1"


async def test_a_second_step_in_the_same_millisecond_is_no_clock_that_went_back(still: Cell) -> None:
    await still.register("a", "en", lease_ms=10 * LEASE)
    await trusted(still)
    await step(still)
    state = await read_state(still.store)
    assert (state.config["went_back"], state.leases["a"]) == ("0", BEGIN + 10 * LEASE)
    await still.advance(-1)
    await step(still)
    state = await read_state(still.store)
    assert (state.config["went_back"], state.leases["a"]) == ("1", BEGIN - 1 + LEASE)


async def test_after_the_clock_went_back_no_lease_is_longer_than_one_given_now(still: Cell) -> None:
    await trusted(still)
    for name, lease_ms in (("shorter", LEASE - 2), ("as-long", LEASE - 1), ("longer", LEASE)):
        await still.register(name, "en", lease_ms=lease_ms)
    await still.advance(-1)
    await step(still)
    ends = {"shorter": BEGIN + LEASE - 2, "as-long": BEGIN + LEASE - 1, "longer": BEGIN + LEASE - 1}
    assert (await read_state(still.store)).leases == ends


@pytest.mark.parametrize(("passed_ms", "looked_for"), [(LEASE - 1, True), (LEASE, False)])
async def test_leases_from_before_the_clock_went_back_are_looked_for_until_a_full_one_has_passed(
    still: Cell, passed_ms: int, looked_for: bool
) -> None:
    await trusted(still)
    await still.advance(-1)
    await step(still)
    await still.register("late", "en", lease_ms=5 * LEASE)
    await still.advance(passed_ms)
    await configure(still, ticked_at=await now(still))
    await step(still)
    end = (LEASE if looked_for else 5 * LEASE - passed_ms) + await now(still)
    assert (await read_state(still.store)).leases == {"late": end}


async def test_a_step_too_soon_after_another_is_skipped(still: Cell) -> None:
    await trusted(still)
    await still.advance(99)
    assert (await step(still, force=False, min_interval_ms=100))[0] == "SKIPPED"
    assert (await step(still, force=True, min_interval_ms=100))[0] == "OK"
    await trusted(still)
    await still.advance(100)
    assert (await step(still, force=False, min_interval_ms=100))[0] == "OK"


async def test_an_auto_pool_goes_when_it_has_been_idle_for_the_whole_time(still: Cell) -> None:
    await still.register("a", "en", lease_ms=1)
    await still.advance(1)
    await trusted(still)
    assert (await step(still))[EXPIRED] == "1"
    idle_ttl_ms = 600_000
    await still.advance(idle_ttl_ms - 1)
    assert (await step(still))[-1] == "0"
    await still.advance(1)
    assert (await step(still))[-2:] == ["1", "en"]


async def test_an_instance_goes_when_its_lease_has_been_over_for_two(still: Cell) -> None:
    await still.allocator.renew_instance("i", lease_ms=1, info={})
    await still.advance(2 * LEASE)
    await trusted(still)
    await step(still)
    assert await still.store.command("HEXISTS", still.store.key("instances"), "i") == 1
    await still.advance(1)
    await step(still)
    assert await still.store.command("HEXISTS", still.store.key("instances"), "i") == 0


async def test_an_instance_goes_in_a_step_that_expires_just_as_many_nodes_as_it_may(still: Cell) -> None:
    await still.allocator.renew_instance("i", lease_ms=1, info={})
    await still.register("a", "en", lease_ms=1)
    await still.advance(2 * LEASE + 1)
    await trusted(still)
    assert (await step(still, expire=1))[EXPIRED] == "1"
    assert await still.store.command("HEXISTS", still.store.key("instances"), "i") == 0


async def test_an_instance_makes_room_for_another_from_the_moment_that_its_lease_ends(
    redis_url: str, namespace: str
) -> None:
    overrides = {"lib/clock.lua": CLOCK, **lower_limits(MAX_INSTANCES=1)}
    async with await Allocator.open(redis_url, namespace=namespace, script_overrides=overrides) as allocator:
        cell = Cell(allocator, allocator._store)

        async def renew(instance: str) -> list[str]:
            return await cell.store.run(calls.renew_instance(instance=instance, lease_ms=10, info="{}"))

        assert await renew("a") == ["OK", "1"]
        await cell.advance(9)
        assert await renew("b") == ["INSTANCES_FULL", "1"]
        await cell.advance(1)
        assert await renew("b") == ["OK", "1"]
        assert set(await cell.store.command("HKEYS", cell.store.key("instances"))) == {"", "b"}


async def test_a_node_is_released_when_its_lease_and_that_of_its_instance_end_together(still: Cell) -> None:
    await still.allocator.renew_instance("test", lease_ms=5, info={})
    await still.register("a", "en", lease_ms=5)
    await still.advance(5)
    await trusted(still)
    assert (await step(still))[EXPIRED : RELEASED + 1] == ["0", "1"]


@pytest.mark.parametrize(("permille", "braked"), [(999, "1"), (1000, "0")])
async def test_the_brake_acts_beyond_its_share_and_not_on_it(still: Cell, permille: int, braked: str) -> None:
    await still.register("a", "en", lease_ms=1)
    await still.advance(1)
    await trusted(still)
    assert (await step(still, brake_permille=permille, brake_floor=0))[BRAKED] == braked


async def test_a_step_looks_at_as_many_classes_as_it_is_told(still: Cell) -> None:
    for number in range(4):
        await still.register("a", facts=facts_of("en", gpu_memory_gb=(number,)), session_id=f"s{number}")
    await trusted(still)
    assert [(await step(still, scan=2))[DROPPED] for _ in range(4)] == ["2", "1", "0", "0"]


@pytest.mark.parametrize(("passed_ms", "reason"), [(LEASE - 1, "takeover"), (LEASE, "reconnect")])
async def test_a_socket_takes_a_node_over_while_the_lease_of_the_other_lives(
    still: Cell, passed_ms: int, reason: str
) -> None:
    await still.register("a", "en", session_id="1", lease_ms=LEASE)
    await still.advance(passed_ms)
    await still.register("a", "en", session_id="2", lease_ms=LEASE)
    last = [event for event in (await read_state(still.store)).events if event["type"] == "node.registered"][-1]
    assert last["reason"] == reason


@pytest.mark.parametrize(("apart_ms", "cloned"), [(60_000, True), (60_001, False)])
async def test_takeovers_that_follow_each_other_within_a_minute_are_counted_together(
    still: Cell, apart_ms: int, cloned: bool
) -> None:
    cloned_ids = []
    for number in range(4):
        registration = await still.register("a", "en", session_id=f"s{number}", lease_ms=86_400_000)
        cloned_ids.append(registration.cloned_id)
        await still.advance(apart_ms)
    assert cloned_ids == [False, False, False, cloned]
    header, _ = (await read_state(still.store)).nodes["a"]
    assert header["takeovers"] == (3 if cloned else 1)


async def test_leases_and_graces_end_when_they_say(still: Cell) -> None:
    session = (await still.register("a", "en", lease_ms=LEASE)).session
    assert (await read_state(still.store)).leases == {"a": BEGIN + LEASE}
    await still.advance(7)
    await still.store.run(calls.touch_nodes(lease_ms=LEASE, nodes=["a", session.token, ""]))
    assert (await read_state(still.store)).leases == {"a": BEGIN + 7 + LEASE}
    # A grace shortens a lease and never makes it longer.
    release = with_argument(with_argument(baseline(session.token)["release_node"], "node_id", "a"), "grace_ms", "5000")
    await still.store.run(release)
    assert (await read_state(still.store)).leases == {"a": BEGIN + 7 + LEASE}


async def test_a_grace_shortens_the_lease(still: Cell) -> None:
    session = (await still.register("a", "en", lease_ms=LEASE)).session
    await still.allocator.release(session, grace_ms=10, reason="closed")
    assert (await read_state(still.store)).leases == {"a": BEGIN + 10}


async def test_an_epoch_is_the_time_or_one_more_than_the_last(still: Cell) -> None:
    assert (await still.register("a", "en", session_id="1")).session.epoch == BEGIN
    assert (await still.register("a", "en", session_id="2")).session.epoch == BEGIN + 1
    await still.advance(10)
    assert (await still.register("a", "en", session_id="3")).session.epoch == BEGIN + 10
    await configure(still, epoch_floor=BEGIN + 99)
    assert (await still.register("b", "en")).session.epoch == BEGIN + 100
    # A session that the store has lost keeps its epoch if no later one can have come and gone.
    assert (await still.register("c", "en", epoch=BEGIN + 100)).session.epoch == BEGIN + 100
    assert (await still.register("d", "en", epoch=BEGIN + 99)).session.epoch == BEGIN + 100


async def test_a_pool_that_changes_its_origin_keeps_its_number_and_its_age(still: Cell) -> None:
    english, german = (pool(name, semantic={"contains": [code]}) for name, code in (("en", "en"), ("german", "de")))
    await still.allocator.sync(document_of(english, german))
    for code in ("en", "de"):
        await still.register(code, code)
    await still.advance(7)
    await still.allocator.sync(document_of(), allow_empty=True)

    async def pools() -> dict[str, tuple[str, int, int]]:
        stored = (await read_state(still.store)).pools.items()
        return {name: (one["origin"], one["id"], one["created_at"]) for name, one in stored}

    assert await pools() == {"en": ("auto", 1, BEGIN), "de": ("auto", 3, BEGIN + 7)}
    await still.advance(7)
    await still.allocator.sync(document_of(pool("de", semantic={"contains": ["de"]})))
    assert await pools() == {"en": ("auto", 1, BEGIN), "de": ("declared", 3, BEGIN + 7)}


async def test_a_node_says_when_its_session_was_registered(still: Cell) -> None:
    async def registered_at() -> int:
        return (await still.allocator.node("a")).registered_at_ms

    session = (await still.register("a", "en", session_id="1")).session
    await still.advance(7)
    await still.allocator.update(session, NodeReport.of(facts_of("de")), lease_ms=LEASE)
    assert await registered_at() == BEGIN
    await still.register("a", "de", session_id="2")
    assert await registered_at() == BEGIN + 7


async def test_a_node_gets_jobs_until_its_lease_ends(still: Cell) -> None:
    await still.register("a", "en", "zh", lease_ms=LEASE)
    await still.advance(LEASE - 1)
    request = JobRequest("zh", "en")
    reserved = await still.allocator.reserve("j1", request, owner="me", lease_ms=LEASE)
    assert (reserved.node_id, reserved.lease_end_ms) == ("a", BEGIN + LEASE - 1 + LEASE)
    await still.advance(1)
    with pytest.raises(NoNode) as refused:
        await still.allocator.reserve("j2", request, owner="me", lease_ms=LEASE)
    assert refused.value.reasons == {"lapsed": 1}


async def test_a_session_is_remembered_for_ten_minutes_from_its_last_job_on(still: Cell) -> None:
    await still.allocator.sync(document_of(selection={"strategy": "affinity"}))
    await still.register("a", "en", "zh", lease_ms=86_400_000)
    talk = JobRequest("zh", "en", session="talk")
    for number in range(2):
        await still.allocator.reserve(f"j{number}", talk, owner="me", lease_ms=LEASE)
        assert (await read_state(still.store)).due["@talk"] == await now(still) + 600_000
        await still.advance(LEASE)


async def test_an_ended_job_is_remembered_for_ten_minutes(still: Cell) -> None:
    await still.register("a", "en", "zh", lease_ms=86_400_000)
    await still.allocator.reserve("j", JobRequest("zh", "en"), owner="me", lease_ms=LEASE)
    await still.advance(7)
    status = await still.allocator.finish_job("j", 1, owner="me")
    assert status.lease_end_ms == (await read_state(still.store)).due["j"] == BEGIN + 7 + 600_000
    for passed_ms, remembered in ((600_000 - 1, True), (1, False)):
        await still.advance(passed_ms)
        await trusted(still)
        await step(still)
        assert ("j" in (await read_state(still.store)).jobs) is remembered


async def test_a_job_whose_lease_ends_with_that_of_its_node_is_lost_with_it_and_remembered(still: Cell) -> None:
    await still.register("a", "en", "zh", lease_ms=LEASE)
    await still.allocator.reserve("j", JobRequest("zh", "en"), owner="me", lease_ms=LEASE)
    await still.advance(LEASE)
    await trusted(still)
    reply = await step(still)
    assert (reply[EXPIRED], reply[ENDED_JOBS]) == ("1", "1")
    job = await still.allocator.job("j")
    assert (job.state, job.reason, job.lease_end_ms) == (JobState.LOST, "node_expired", BEGIN + LEASE + 600_000)
