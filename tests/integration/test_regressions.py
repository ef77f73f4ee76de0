"""What went wrong in the system that this one replaces, each as the rule that it broke.

Every test runs twice: on this package, where it holds, and on the old way of doing it, where it must fail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from pyscheduler.core.results import Session
from pyscheduler.errors import SessionLost, StoreError
from tests.fleet import JOB_LEASE_MS, SLOTS, Fleet, Instance, NewWay, Place, Pools, Socket, given
from tests.harness import GRACE_MS, LEASE_MS, Cell, pool
from tests.old_way import OldWay

DAY_MS = 86_400_000
ENGLISH = pool("english", semantic={"contains": ["en"]})
GERMAN = pool("german", semantic={"contains": ["de"]})

IT_BROKE_THIS = pytest.mark.xfail(strict=True, raises=AssertionError, reason="the old way broke this rule")


@pytest.fixture(params=[NewWay, pytest.param(OldWay, marks=IT_BROKE_THIS)])
async def fleet(request: pytest.FixtureRequest, redis_url: str, namespace: str) -> AsyncIterator[Fleet]:
    async with request.param(redis_url, namespace) as fleet:
        yield fleet


@pytest.fixture(params=[NewWay, OldWay])
async def either_fleet(request: pytest.FixtureRequest, redis_url: str, namespace: str) -> AsyncIterator[Fleet]:
    async with request.param(redis_url, namespace) as fleet:
        yield fleet


async def test_both_ways_do_the_ordinary_thing_right(either_fleet: Fleet) -> None:
    """Or else the old way would prove nothing by failing."""
    fleet = either_fleet
    scheduler = await fleet.start("s1")
    node = await scheduler.node("a", "en", "zh")
    other = await scheduler.node("b", "de", "fr", gpu_gb=48)
    assert await fleet.pools() == {"en-zh": {"a"}, "de-fr": {"b"}}
    assert sorted((await fleet.pool_numbers()).values()) == [1, 2]
    assert await fleet.able_to_serve("zh", "en") == 1

    job = await scheduler.reserve("job", "zh", "en")
    assert job == await fleet.place_of("job") == Place("a", "en-zh")
    assert await scheduler.free_slots("zh", "en") == SLOTS - 1
    for _ in range(2):
        await (await fleet.start("s2")).finish("job")
    assert await fleet.place_of("job") is None
    assert await scheduler.reserve("next", "zh", "en") == job
    assert await scheduler.reserve("last", "zh", "en") is None

    await fleet.sync(ENGLISH)
    await node.heartbeat("en", "zh")
    await other.heartbeat("de", "fr")
    assert (await fleet.configuration())[1] == ("english",)
    assert await fleet.pools() == {"english": {"a"}, "de-fr": {"b"}}

    await node.heartbeat("ja", "zh")
    assert await fleet.pool_of("a") == "ja-zh"
    await node.close()
    assert await fleet.pool_of("a") == ""

    await fleet.pass_time(LEASE_MS)
    await fleet.upkeep()
    assert await fleet.traces("a") == []
    assert await fleet.traces("b") == []


# --- 1 ---------------------------------------------------------------------------------------------------------------


async def test_1_while_the_configuration_changes_no_reader_sees_a_pool_without_its_nodes(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    for node_id in ("a", "b", "c"):
        await scheduler.node(node_id, "en", "zh")
    await fleet.sync(ENGLISH)
    seen: list[frozenset[str]] = []

    async def reader() -> None:
        seen.append((await fleet.pools()).get("english", frozenset()))

    with fleet.meanwhile(reader):
        await fleet.sync(ENGLISH, GERMAN)
        await fleet.sync(GERMAN, pool("english", priority=5, semantic={"any": ["en", "en-gb"]}))
    assert set(seen) == {frozenset("abc")}


async def test_1_while_a_pool_is_renamed_each_node_is_in_the_old_or_the_new_one(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    for node_id in ("a", "b", "c"):
        await scheduler.node(node_id, "en", "zh")
    seen: list[Pools] = []

    async def reader() -> None:
        seen.append(await fleet.pools())

    with fleet.meanwhile(reader):
        await fleet.sync(ENGLISH)
    assert all(pools in ({"en-zh": set("abc")}, {"english": set("abc")}) for pools in seen)


# --- 2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["joins", "changes languages", "leaves"])
async def test_2_a_node_that_joins_while_another_comes_or_goes_is_in_the_pool(fleet: Fleet, what: str) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    node = await here.node("a", "en", "zh") if what == "leaves" else await here.node("a", "de", "fr")
    late = [f"late-{number}" for number in range(99)]
    numbers = count()

    async def somebody_joins() -> None:
        await there.node(late[next(numbers)], "en", "zh")

    with fleet.meanwhile(somebody_joins):
        if what == "joins":
            await here.node("b", "en", "zh")
        elif what == "changes languages":
            await node.heartbeat("en", "zh")
        else:
            await node.close()
    joined = set(late[: next(numbers)]) | {"joins": {"b"}, "changes languages": {"a"}, "leaves": set()}[what]
    assert (await fleet.pools())["en-zh"] == joined


# --- 3 ---------------------------------------------------------------------------------------------------------------


async def test_3_a_version_always_means_the_same_document(fleet: Fleet) -> None:
    await fleet.start("s1")
    await fleet.sync(ENGLISH)
    seen = {await fleet.configuration()}

    async def reader() -> None:
        seen.add(await fleet.configuration())

    with fleet.meanwhile(reader):
        await fleet.sync(ENGLISH, GERMAN)
    assert [pools for _, pools in sorted(seen)] == [("english",), ("english", "german")]
    assert len({version for version, _ in seen}) == 2


async def test_3_a_document_lasts_as_long_as_its_version(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    await fleet.sync(ENGLISH)
    configured = await fleet.configuration()
    await fleet.pass_time(30 * DAY_MS)
    await scheduler.node("a", "en", "zh")
    assert await fleet.configuration() == configured
    assert await fleet.pool_of("a") == "english"


# --- 4 ---------------------------------------------------------------------------------------------------------------


async def test_4_two_pools_never_have_one_number_wherever_they_are_made(fleet: Fleet) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    await here.node("a", "en", "zh")
    await there.node("b", "de", "fr")
    numbers = await fleet.pool_numbers()
    assert set(numbers) == {"en-zh", "de-fr"}
    assert len(set(numbers.values())) == 2


async def test_4_two_pools_never_have_one_number_whenever_they_are_made(fleet: Fleet) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    codes = (f"x{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")

    async def another_pool_is_made() -> None:
        code = next(codes)
        await there.node(f"node-{code}", code)

    with fleet.meanwhile(another_pool_is_made):
        await here.node("a", "en", "zh")
    numbers = await fleet.pool_numbers()
    assert len(set(numbers.values())) == len(numbers)


# --- 5 ---------------------------------------------------------------------------------------------------------------


async def test_5_registration_and_heartbeat_go_by_the_same_configuration(fleet: Fleet) -> None:
    operated, other = await fleet.start("s1"), await fleet.start("s2")
    await fleet.sync(ENGLISH)
    for number, scheduler in enumerate((operated, other)):
        node = scheduler.accept()
        await node.register(f"n{number}", "en", "zh")
        registered = await fleet.pool_of(f"n{number}")
        await node.heartbeat("en", "zh")
        assert (registered, await fleet.pool_of(f"n{number}")) == ("english", "english")


# --- 6 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returns_to", ["the same process", "another process"])
async def test_6_the_close_of_an_old_socket_does_not_touch_the_node_that_is_back(fleet: Fleet, returns_to: str) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    old = await here.node("a", "en", "zh")
    await (here if returns_to == "the same process" else there).node("a", "en", "zh")

    await old.close()

    assert await fleet.pool_of("a") == "en-zh"
    assert await fleet.able_to_serve("en", "zh") == 1
    await fleet.pass_time((GRACE_MS + LEASE_MS) // 2)
    await fleet.upkeep()
    assert await fleet.pool_of("a") == "en-zh"


# --- 7 ---------------------------------------------------------------------------------------------------------------


async def test_7_a_heartbeat_speaks_for_its_socket_whatever_id_it_claims(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    await scheduler.node("a", "en", "zh")
    stranger = await scheduler.node("b", "de", "fr")

    await stranger.heartbeat("ja", "ko", claiming="a")

    assert await fleet.pool_of("a") == "en-zh"
    assert await fleet.pool_of("b") == "ja-ko"


async def test_7_a_heartbeat_keeps_nobody_else_alive(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    await scheduler.node("a", "en", "zh")
    stranger = await scheduler.node("b", "en", "zh")

    await fleet.pass_time(LEASE_MS * 2 // 3)
    await stranger.heartbeat("en", "zh", claiming="a")
    await fleet.pass_time(LEASE_MS * 2 // 3)
    await fleet.upkeep()

    assert await fleet.pools() == {"en-zh": {"b"}}


async def test_7_the_store_too_knows_a_session_by_its_token_and_not_by_the_id(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    await cell.advance(1)
    stranger = (await cell.register("b", "en", "zh")).session
    borrowed = Session("a", stranger.epoch, stranger.token)
    before = (await cell.allocator.node("a")).state
    with pytest.raises(SessionLost):
        await cell.allocator.heartbeat(borrowed, lease_ms=10 * LEASE_MS, load=0.9)
    assert (await cell.allocator.node("a")).state.load == before.load
    assert (await cell.allocator.node("a")).state.lease_ms <= LEASE_MS


# --- 8 ---------------------------------------------------------------------------------------------------------------


async def test_8_a_node_that_changes_languages_is_in_exactly_one_pool_at_every_moment(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    node = await scheduler.node("a", "en", "zh")
    seen: list[str] = []

    async def reader() -> None:
        seen.append(await fleet.pool_of("a"))

    with fleet.meanwhile(reader):
        await node.heartbeat("de", "fr")
    assert set(seen) == {"en-zh", "de-fr"}


# --- 9 ---------------------------------------------------------------------------------------------------------------


async def test_9_a_heartbeat_that_says_nothing_of_languages_changes_none(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    node = await scheduler.node("a", "en", "zh")
    await node.heartbeat()
    assert await fleet.pool_of("a") == "en-zh"
    assert await fleet.able_to_serve("zh", "en") == 1


async def test_9_a_node_that_comes_back_by_a_heartbeat_can_expire_again(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    node = await scheduler.node("a", "en", "zh")
    await fleet.pass_time(LEASE_MS)
    await fleet.upkeep()
    given(await fleet.traces("a") == [], "the node has expired")

    await node.heartbeat("en", "zh")
    assert await fleet.pool_of("a") == "en-zh"
    await fleet.pass_time(LEASE_MS)
    await fleet.upkeep()

    assert await fleet.traces("a") == []


async def test_9_a_heartbeat_alone_makes_no_node(cell: Cell) -> None:
    session = (await cell.register("a", "en", "zh")).session
    await cell.pass_time(LEASE_MS)
    await cell.reconcile()
    with pytest.raises(SessionLost) as lost:
        await cell.allocator.heartbeat(session, lease_ms=LEASE_MS, load=0.1, usage="{}")
    assert lost.value.unknown
    assert (await cell.allocator.nodes()).total == 0


# --- 10 --------------------------------------------------------------------------------------------------------------


Ask = Callable[[Instance, str], Awaitable[None]]


class Dies(Exception):
    """The end of a scheduler process."""


async def dies(fleet: Fleet, call: Callable[[], Awaitable[object]], at: int) -> bool:
    """Makes a call of a process that dies before or after one of its commands. False if it has fewer."""
    moments = count()

    async def end() -> None:
        if next(moments) == at:
            raise Dies

    with fleet.meanwhile(end):
        try:
            await call()
        except (Dies, StoreError):
            return True
    return False


async def test_10_a_scheduler_that_dies_while_it_reserves_takes_no_slot_with_it(fleet: Fleet) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    await there.node("a", "en", "zh")
    number = 0
    while await dies(fleet, partial(here.reserve, f"job-{number}", "zh", "en"), number):
        number += 1
    given(number >= 2, "it died before and after a command")
    await fleet.pass_time(JOB_LEASE_MS + 1)
    await fleet.upkeep()
    assert await there.free_slots("zh", "en") == SLOTS


async def test_10_a_job_whose_end_is_told_again_after_a_death_gives_its_slot_back_once(fleet: Fleet) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    await there.node("a", "en", "zh")
    number, died = -1, True
    while died:
        number += 1
        given(await there.reserve(f"job-{number}", "zh", "en") is not None, "there is a slot")
        died = await dies(fleet, partial(here.finish, f"job-{number}"), number)
        await there.finish(f"job-{number}")
    given(number >= 2, "it died before and after a command")
    assert await there.free_slots("zh", "en") == SLOTS


async def test_10_a_slot_is_not_given_to_two_who_ask_at_the_same_time(fleet: Fleet) -> None:
    here, there = await fleet.start("s1"), await fleet.start("s2")
    await there.node("a", "en", "zh")
    for number in range(SLOTS - 1):
        await there.reserve(f"first-{number}", "zh", "en")
    for at in range(8):
        moments = count()
        got: list[str] = []

        async def ask(scheduler: Instance, job_id: str, got: list[str] = got) -> None:
            if await scheduler.reserve(job_id, "zh", "en"):
                got.append(job_id)

        async def another_asks(at: int = at, moments: Iterator[int] = moments, ask: Ask = ask) -> None:
            if next(moments) == at:
                await ask(there, f"other-{at}")

        with fleet.meanwhile(another_asks):
            await ask(here, f"job-{at}")
        assert len(got) == 1
        await there.finish(got[0])


# --- 11 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["leaves", "changes languages", "is moved"])
async def test_11_a_job_gets_no_node_that_has_gone_or_changed_its_pool_since_it_was_chosen(
    fleet: Fleet, trouble: str
) -> None:
    """Whenever that happens: where a job is first seen, its node is in the pool that it was found in."""
    here, there = await fleet.start("s1"), await fleet.start("s2")
    seen: list[tuple[Place, str]] = []
    happened = 0
    for at in range(8):
        node = await there.node(f"n{at}", "en", "zh")
        given(await fleet.pool_of(f"n{at}") == "en-zh", "it can have the job")
        moments, found = count(), False

        async def look_and_trouble(at: int = at, node: Socket = node, moments: Iterator[int] = moments) -> None:
            nonlocal found, happened
            place = None if found else await fleet.place_of(f"job-{at}")
            if place:
                found = True
                seen.append((place, await fleet.pool_of(place.node_id)))
            if next(moments) == at:
                happened += 1
                if trouble == "leaves":
                    await node.close()
                elif trouble == "changes languages":
                    await node.heartbeat("de", "fr")
                else:
                    await fleet.sync(ENGLISH)
                    await node.heartbeat("en", "zh")

        with fleet.meanwhile(look_and_trouble):
            await here.reserve(f"job-{at}", "zh", "en")
        await node.close()
        await fleet.sync(GERMAN)
    given(happened >= 2, "there was trouble before and after a command")
    given(len(seen) >= 2, "some jobs got a node")
    assert all(place.pool == pool_then for place, pool_then in seen), seen


# --- jobs that find no node, and there is one ------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [(), (GERMAN,)], ids=["auto pool", "declared pool"])
async def test_12_a_node_is_found_for_every_pair_that_it_serves_whatever_its_pool_is_called(
    fleet: Fleet, declared: tuple[dict[str, Any], ...]
) -> None:
    scheduler = await fleet.start("s1")
    await fleet.sync(*declared)
    await scheduler.node("a", "de", "en", "zh")
    found = {(src, tgt): await fleet.able_to_serve(src, tgt) for src in ("zh", "de") for tgt in ("en", "fr")}
    assert found == {("zh", "en"): 1, ("de", "en"): 1, ("zh", "fr"): 0, ("de", "fr"): 0}


async def test_13_nodes_behind_an_empty_part_of_a_pool_are_found(fleet: Fleet) -> None:
    scheduler = await fleet.start("s1")
    first = await scheduler.node("a", "en", "zh", gpu_gb=24)
    await scheduler.node("b", "en", "zh", gpu_gb=48)
    await scheduler.node("c", "en", "zh", gpu_gb=80)
    given(await fleet.able_to_serve("zh", "en") == 3, "they are one pool of three kinds of nodes")
    await first.close()
    assert await fleet.able_to_serve("zh", "en") == 2
