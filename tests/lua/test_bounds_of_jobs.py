"""Bounds of what a job asks for and of what a document says of selection: on the bound is taken, beyond is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyscheduler.core.jobs import JobRequest
from pyscheduler.errors import InvalidInput, NoNode
from pyscheduler.scripts import calls
from tests.cells import limited_cell
from tests.harness import Cell, document_of
from tests.lua.baseline import baseline, populate, with_argument

LONG_LABEL = '{"x":"%s"}'
BOUNDS = {
    "src": ("e" * 70, "e" * 71),
    "tgt": ("e" * 70, "e" * 71),
    "services": ("a," * 64, "a," * 65),
    "services, each": ("a,b," + "a" * 70, "a,b," + "a" * 71),
    "services, in characters": (("a" * 64 + ",") * 64, ("a" * 64 + ",") * 64 + ","),
    "labels": (LONG_LABEL % ("y" * 8184), LONG_LABEL % ("y" * 8185)),
    "exclude": ("a " * 64, "a " * 65),
    "exclude, in characters": ("a" * 8320, "a" * 8321),
    "exclude_pools": ("a " * 64, "a " * 65),
    "exclude_pools, in characters": ("a" * 8320, "a" * 8321),
}


@pytest.mark.parametrize("what", BOUNDS)
async def test_what_a_job_asks_for_is_bounded(cell: Cell, what: str) -> None:
    call = baseline(await populate(cell))["explain_job"]
    on, beyond = BOUNDS[what]
    argument = what.partition(",")[0]
    assert (await cell.store.run(with_argument(call, argument, on)))[0] == "OK"
    with pytest.raises(InvalidInput):
        await cell.store.run(with_argument(call, argument, beyond))


@pytest.mark.parametrize(
    ("argument", "longest", "wrong"),
    [
        ("after", "@" + "a" * 128, ["@" + "a" * 129, "@@a", "a b", "a/b"]),
        ("node", "a" * 128, ["a" * 129, "a b"]),
        ("pool", "a" * 128, ["a" * 129, "A"]),
        ("tenant", "a" * 64, ["a" * 65, "a b"]),
        ("owner", "a" * 64, ["a" * 65, "a b"]),
        ("state", "live", ["dead", "Live", "v"]),
    ],
)
async def test_what_a_list_of_jobs_is_narrowed_by_is_bounded(
    cell: Cell, argument: str, longest: str, wrong: list[str]
) -> None:
    await populate(cell)
    call = calls.list_jobs(after_ms=0, after="", limit=10, node="", pool="", tenant="", owner="", state="", ids=())
    for value in ("", longest):
        assert (await cell.store.run(with_argument(call, argument, value)))[0] == "OK"
    for value in wrong:
        with pytest.raises(InvalidInput):
            await cell.store.run(with_argument(call, argument, value))


async def test_what_jobs_must_be_is_not_taken_for_the_name_of_one(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    for name in ("j", "live"):
        await cell.allocator.reserve(name, JobRequest("zh", "en"), owner="me", lease_ms=1000)
    call = calls.list_jobs(
        after_ms=0, after="", limit=10, node="", pool="", tenant="", owner="", state="live", ids=("j",)
    )
    reply = await cell.store.run(call)
    assert (reply[6], reply[7]) == ("1", "j")


async def test_after_jobs_that_are_named_comes_no_page(cell: Cell) -> None:
    await cell.register("a", "en", "zh")
    for name in ("j", "k"):
        await cell.allocator.reserve(name, JobRequest("zh", "en"), owner="me", lease_ms=1000)
    call = calls.list_jobs(
        after_ms=0, after="", limit=1, node="", pool="", tenant="", owner="", state="", ids=("j", "k")
    )
    assert (await cell.store.run(call))[3:8] == ["2", "0", "", "1", "j"]


@pytest.mark.parametrize("script", ["reserve_slots", "update_jobs"])
async def test_a_call_is_about_1_to_128_jobs(cell: Cell, script: str) -> None:
    call = baseline(await populate(cell))[script]
    for count in (1, 128):
        reply = await cell.store.run(calls.Call(script, call.argv * count))
        assert [reply.count(word) for word in ("OK", "PYSCHED_BADARG")] == [count, 0]
    for argv in ((), call.argv * 129, call.argv[:-1], (*call.argv, "x"), call.argv[: len(call.argv) // 2]):
        with pytest.raises(InvalidInput):
            await cell.store.run(calls.Call(script, argv))


async def test_the_same_call_again_is_answered_as_such(cell: Cell) -> None:
    call = baseline(await populate(cell))["reserve_slots"]
    assert [(await cell.store.run(call))[:4] for _ in range(2)] == [
        ["OK", fresh, "1", "reserved"] for fresh in ("1", "0")
    ]


def bump(selection: dict[str, Any], tenants: list[dict[str, Any]]) -> calls.Call:
    whole = document_of()
    document = json.loads(whole.canonical())
    document["selection"] |= selection
    document["tenants"] = tenants
    return calls.bump_config_version(
        mode="apply",
        document=json.dumps(document, sort_keys=True, separators=(",", ":")),
        digest="ab",
        admission=whole.admission.to_json(),
        expect_version=-1,
        allow_empty=True,
        force=True,
        author="me",
        reason="test",
        kind="document",
    )


def tenant(**members: Any) -> list[dict[str, Any]]:
    return [{"name": "t", "strict": False, **members}]


@pytest.mark.parametrize(
    ("selection", "tenants"),
    [
        ({"slots_per_node": 1}, []),
        ({"slots_per_node": 500}, []),
        ({"tenant_slots": 1_000_000}, []),
        ({"strategy": "random"}, []),
        ({"strategy": "power_of_two"}, []),
        ({"strategy": "affinity"}, []),
        ({"scope": "exact"}, []),
        ({"on_new_epoch": "lose", "on_drain": "lose"}, []),
        ({}, tenant(slots=0)),
        ({}, tenant(slots=1_000_000)),
        ({}, tenant(name="t" * 64)),
        ({}, tenant(pool="p")),
    ],
)
async def test_what_a_document_says_of_jobs_up_to_its_bounds(
    cell: Cell, selection: dict[str, Any], tenants: list[dict[str, Any]]
) -> None:
    assert (await cell.store.run(bump(selection, tenants)))[0] == "OK"


@pytest.mark.parametrize(
    ("selection", "tenants"),
    [
        ({"slots_per_node": 501}, []),
        ({"tenant_slots": 1_000_001}, []),
        ({"tenant_slots": 0.5}, []),
        ({"scope": "best"}, []),
        ({}, tenant(slots=1_000_001)),
        ({}, tenant(slots=-1)),
        ({}, tenant(name="t" * 65)),
    ],
)
async def test_and_beyond_them(cell: Cell, selection: dict[str, Any], tenants: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput):
        await cell.store.run(bump(selection, tenants))


async def test_a_document_names_as_many_tenants_as_are_allowed(redis_url: str, namespace: str) -> None:
    async with limited_cell(redis_url, namespace, MAX_TENANTS=2) as cell:
        named = [{"name": f"t{number}", "strict": False} for number in range(3)]
        assert (await cell.store.run(bump({}, named[:2])))[0] == "OK"
        with pytest.raises(InvalidInput, match="tenants"):
            await cell.store.run(bump({}, named))


async def test_a_quota_is_used_up_to_its_last_slot_and_an_explanation_knows_it(cell: Cell) -> None:
    await cell.allocator.sync(document_of(selection={"tenant_slots": 2}))
    await cell.register("a", "en", "zh")
    request = JobRequest("zh", "en", tenant="acme")
    for number in range(2):
        explained = await cell.allocator.explain_job(f"j{number}", request)
        assert (explained.node_id, explained.reasons) == ("a", {"passed_over": 1})
        await cell.allocator.reserve(f"j{number}", request, owner="me", lease_ms=1000)
    assert (await cell.allocator.explain_job("j2", request)).reasons == {"quota": 1}
    assert (await cell.allocator.explain_job("j2", JobRequest("zh", "en"))).node_id == "a"
    with pytest.raises(NoNode, match="quota"):
        await cell.allocator.reserve("j2", request, owner="me", lease_ms=1000)
