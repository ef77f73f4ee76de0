"""Scripts called directly with input that breaks their contract: refused with what is wrong, and nothing is written."""

from __future__ import annotations

import json

import pytest

from pyscheduler.errors import InvalidInput
from pyscheduler.scripts import load_scripts
from pyscheduler.scripts.calls import Call
from tests.harness import Cell
from tests.lua.baseline import baseline, dump, populate, with_argument

LONG = "x" * 10_000
AUTO = {"enabled": True, "min_nodes": 1, "max_pools": 1, "idle_ttl_ms": 1, "require_services": []}
SELECTION = {
    "slots_per_node": 1,
    "strategy": "random",
    "scope": "exact",
    "on_new_epoch": "keep",
    "on_drain": "lose",
    "tenant_slots": 0,
}


def document(*pools: object, **sections: object) -> str:
    """A document as the script takes it, with whatever is wrong with it."""
    return json.dumps(
        {
            "schema": 1,
            "auto": AUTO,
            "guard": {"max_unassigned_permille": 1},
            "selection": SELECTION,
            "tenants": [],
            "pools": pools,
            **sections,
        }
    )


def rule(match: object, **members: object) -> str:
    """A document with one pool of that rule."""
    return document({"name": "a", "priority": 0, "match": match, **members})


SHORTEST = {"find_pools": 2}
"""How many arguments a script takes at least, where those of its baseline are more."""

BAD_DOCUMENTS = [
    "",
    "[]",
    "{}",
    "1" * 100,
    "[" * 5000,
    document(schema=2),
    document(auto={}),
    document(auto=7),
    document(auto={**AUTO, "enabled": 1}),
    document(auto={**AUTO, "min_nodes": "1"}),
    document(auto={**AUTO, "max_pools": None}),
    document(auto={**AUTO, "idle_ttl_ms": "1h"}),
    document(auto={**AUTO, "require_services": [1]}),
    document(auto={**AUTO, "require_services": "asr"}),
    document(selection=None),
    document(selection={}),
    document(selection={**SELECTION, "slots_per_node": 0}),
    document(selection={**SELECTION, "slots_per_node": 501}),
    document(selection={**SELECTION, "slots_per_node": 1.5}),
    document(selection={**SELECTION, "strategy": "best"}),
    document(selection={**SELECTION, "scope": ""}),
    document(selection={**SELECTION, "on_new_epoch": "forget"}),
    document(selection={**SELECTION, "on_drain": None}),
    document(selection={**SELECTION, "tenant_slots": -1}),
    document(tenants=None),
    document(tenants=[{"name": "a b", "strict": False}]),
    document(tenants=[{"name": "a", "strict": 1}]),
    document(tenants=[{"name": "a", "strict": True, "slots": "1"}]),
    document(tenants=[{"name": "a", "strict": True, "pool": 1}]),
    document(tenants=[{"name": "a", "strict": False}] * 2),
    document(tenants=[{"name": f"t{number}", "strict": False} for number in range(2001)]),
    document({"name": "a", "priority": 0, "match": {"services": ["asr"]}, "selection": {"strategy": "best"}}),
    document({"name": "a", "priority": 0, "match": {"services": ["asr"]}, "selection": {"slots_per_node": 0}}),
    document(guard={}),
    document(guard=7),
    document(pools=7),
    document(*[{"name": f"p{number}", "priority": 0, "match": {}} for number in range(2001)]),
    document(7),
    document(None),
    document({"name": "a", "priority": 0, "match": {}}, {"name": "a", "priority": 0, "match": {}}),
    document({"name": "a", "priority": 0}),
    rule({}, name="A"),
    rule({}, name=""),
    rule({}, name="a" * 129),
    rule({}, name=7),
    rule({}, priority="high"),
    rule({}, priority=None),
    rule(7),
    rule({"semantic": "en"}),
    rule({"semantic": {"exact": "en"}}),
    rule({"asr": {"contains": [7]}}),
    rule({"tts": None}),
    rule({"services": "asr"}),
    rule({"services": [["asr"]]}),
    rule({"gpu": 1}),
    rule({"gpu": {"min_count": "1"}}),
    rule({"labels": ["zone", 1]}),
    rule({"labels": {"zone": 7}}),
    rule({"labels": {"zone": None}}),
    rule({}, selection=7),
    document(tenants=[7]),
    document(tenants=[{"name": 7}]),
]

BAD_FACTS = [
    "",
    "null",
    "1",
    "[",
    '"x"',
    '{"asr":1}',
    '{"asr":[1]}',
    '{"asr":null}',
    '{"asr":["en","en"]}',
    '{"asr":["en:1"]}',
    '{"semantic":["EN"]}',
    '{"services":["a b"]}',
    '{"services":[""]}',
    '{"labels":1}',
    '{"gpu_memory_gb":["a"]}',
    '{"gpu_memory_gb":1}',
    json.dumps({"labels": {"x": "y" * 131_072}}),
]

BAD_REQUEST = {
    "slots": ["", "0", "-1", "65", "1.5"],
    "tenant": ["a b", "a" * 65],
    "session": ["a b", "a" * 129],
    "src": ["", "EN", "a b", "e" * 80],
    "tgt": ["", "zh:1"],
    "services": ["A", "X", "a b", ",".join(f"s{number}" for number in range(65))],
    "labels": ["1", "[", '{"zone":1}', json.dumps({"x": "y" * 8192})],
    "scope": ["best"],
    "exclude": ["é", " ".join(f"n{number}" for number in range(65))],
    "exclude_pools": ["A", "X", "a,b", " ".join(f"p{number}" for number in range(65))],
}

BAD = {
    "upsert_node_to_pool": {
        "node_id": ["", "a b", "é", "{tag}", "a" * 129, "n\n", LONG],
        "session_id": ["", "a b", "a" * 129],
        "instance": ["", "a/b", "a" * 65],
        "mode": ["", "newer", "update"],
        "epoch": ["", "-1", "x", "1.5", "0x10", "1e3", "5", "99999999999999999999"],
        "facts": BAD_FACTS,
        "record": ["", "1", "[]", '{\n"a":1}', json.dumps({"x": "y" * 65_536})],
        "digest": ["", "xyz", "ab:cd", "a" * 41],
        "status": ["", "x", "o", "ready"],
        "load": [
            "",
            "-0.100",
            "1.0001",
            "1.1",
            "nan",
            "inf",
            "0.5e-1",
            "1e-001",
            ".50000",
            "0.5",
            "0.12345",
            "0x1000",
            "2.0000",
        ],
        "usage": ["", "1", "[]", json.dumps({"x": "y" * 4096})],
        "lease_ms": ["", "0", "-1", "86400001", "1.5"],
        "takeover": ["", "2", "true"],
        "reason": ["x" * 129, "two\nlines", "\n"],
    },
    "touch_nodes": {"lease_ms": ["", "0", "x", "86400001"]},
    "release_node": {
        "node_id": ["", "a b", LONG],
        "epoch": ["", "0", "-1", "x"],
        "grace_ms": ["", "-1", "86400001"],
        "reason": ["x" * 129],
    },
    "hold_node": {
        "node_id": ["", "a b", LONG],
        "operation": ["", "hold"],
        "owner": ["", "x" * 65],
        "reason": ["", "x" * 257],
        "allow_unknown": ["", "yes"],
    },
    "bump_config_version": {
        "mode": ["", "dry"],
        "document": BAD_DOCUMENTS,
        "digest": ["", "xyz"],
        "admission": ["", "1", "["],
        "expect_version": ["", "-2", "x"],
        "allow_empty": ["", "no"],
        "force": ["", "no"],
        "author": ["x" * 129],
        "reason": ["x" * 257],
        "kind": ["", "auto_pool_created"],
    },
    "reconcile": {
        "lease_ms": ["", "0"],
        "force": ["", "x"],
        "expire": ["0", "1001"],
        "scan": ["0", "1001"],
        "brake_permille": ["-1", "1001"],
        "brake_floor": ["-1", "x"],
        "brake_expire": ["0"],
        "min_interval_ms": ["-1"],
        "grace_ms": ["", "-1"],
    },
    "reserve_slots": {
        "mode": ["", "dry"],
        "job_id": ["", "a b", "é", LONG],
        "attempt": ["", "0", "-1", "1.5", "1000001"],
        "owner": ["", "a b", "a" * 65],
        "lease_ms": ["", "0", "86400001"],
        "digest": ["", "xyz", "a" * 41],
        **BAD_REQUEST,
    },
    "explain_job": {"job_id": ["", "a b", LONG], **BAD_REQUEST},
    "update_jobs": {
        "operation": ["", "end"],
        "job_id": ["", "a b", LONG],
        "attempt": ["", "0", "1000001"],
        "owner": ["", "a b", "a" * 65],
        "lease_ms": ["", "0", "86400001"],
        "reason": ["x" * 129],
    },
    "renew_instance": {"instance": ["", "a b"], "lease_ms": ["-1", ""], "info": ["", "[]", "{" + LONG]},
    "open_namespace": {"auto": ["", "1"], "admission": ["", "["], "selection": ["", "7"]},
    "list_nodes": {"mode": ["", "some"], "offset": ["-1"], "limit": ["0", "5001"]},
    "list_jobs": {
        "after_ms": ["", "-1", "1.5", "9007199254740992"],
        "after": ["a b", "é", "@@a", "a!", "a" * 130],
        "limit": ["", "0", "1001"],
        "node": ["a b", "a" * 129],
        "pool": ["A", "a b", "a" * 129],
        "tenant": ["a b", "a" * 65],
        "owner": ["a b", "a" * 65],
        "state": ["v", "Live", "ended"],
    },
    "explain_node": {"node_id": ["", "a b"], "decisions": ["", "2"]},
    "find_pools": {"src": ["", "EN", "a b", "e" * 80], "tgt": ["", "zh:1"]},
}

WORDS_OF_REQUEST = {
    "slots": {"slots must be 1..64"},
    "src": {"a language or service"},
    "tgt": {"a language or service"},
    "services": {"a language or service"},
    "labels": {"labels must be a JSON object of texts, of up to 8192 bytes"},
    "scope": {"scope must be eligible or exact"},
}

WORDS = {
    "upsert_node_to_pool": {
        "mode": {
            "mode must be new, resume or update",
            "an update is fenced by its epoch: session_id and instance must be empty",
        },
        "epoch": {"epoch must be 0 for a new session, and only for it"},
        "facts": {"facts", "facts are longer than 131072 bytes"},
        "record": {"record must be a JSON object on one line, of up to 65536 bytes"},
        "status": {"status must be g, r or d"},
        "load": {"load must be 0.0000..1.0000"},
        "usage": {"usage must be a JSON object of up to 4096 bytes"},
        "lease_ms": {"lease_ms must be 1..86400000"},
        "takeover": {"takeover must be 0 or 1"},
        "reason": {"reason must be one line of up to 128 characters"},
    },
    "touch_nodes": {
        "lease_ms": {"lease_ms must be 1..86400000"},
    },
    "release_node": {
        "grace_ms": {"grace_ms must be 0..86400000"},
        "reason": {"reason is longer than 128 characters"},
    },
    "hold_node": {
        "operation": {"operation must be set or lift"},
        "owner": {"owner must have 1..64 characters"},
        "reason": {"reason must have 1..256 characters"},
        "allow_unknown": {"allow_unknown must be 0 or 1"},
    },
    "bump_config_version": {
        "mode": {"mode must be plan or apply"},
        "document": {
            "document is no JSON object of schema 1",
            "document.auto",
            "document.guard",
            "document.selection",
            "document.tenants",
            "document.tenants[1]",
            "document.tenants[2]",
            "document.pools",
            "document.pools[1].name",
            "document.pools[2].name is there twice",
            "document.pools[1]",
        },
        "admission": {"admission is no JSON object"},
        "allow_empty": {"allow_empty and force must be 0 or 1"},
        "force": {"allow_empty and force must be 0 or 1"},
        "author": {"author is longer than 128 or reason longer than 256 characters"},
        "reason": {"author is longer than 128 or reason longer than 256 characters"},
        "kind": {"kind must be document or rollback"},
    },
    "reconcile": {
        "lease_ms": {"a number is missing or out of its bounds"},
        "force": {"force must be 0 or 1"},
        "expire": {"a number is missing or out of its bounds"},
        "scan": {"a number is missing or out of its bounds"},
        "brake_permille": {"a number is missing or out of its bounds"},
        "brake_floor": {"a number is missing or out of its bounds"},
        "brake_expire": {"a number is missing or out of its bounds"},
        "min_interval_ms": {"a number is missing or out of its bounds"},
        "grace_ms": {"a number is missing or out of its bounds"},
    },
    "reserve_slots": {
        "mode": {"mode must be reserve or plan"},
        "attempt": {"attempt must be 1..1000000"},
        "lease_ms": {"lease_ms must be 1..86400000"},
        **WORDS_OF_REQUEST,
    },
    "explain_job": WORDS_OF_REQUEST,
    "update_jobs": {
        "operation": {"operation must be renew, start, finish, fail or release"},
        "attempt": {"attempt must be 1..1000000"},
        "lease_ms": {"lease_ms must be 1..86400000"},
        "reason": {"reason is longer than 128 characters"},
    },
    "renew_instance": {
        "lease_ms": {"lease_ms must be 0..86400000"},
        "info": {"info must be a JSON object of up to 4096 bytes"},
    },
    "open_namespace": {
        "auto": {"auto is no JSON object"},
        "admission": {"admission is no JSON object"},
        "selection": {"selection is no JSON object"},
    },
    "list_nodes": {
        "mode": {"mode must be all, pool or ids"},
        "offset": {"offset or limit"},
        "limit": {"offset or limit"},
    },
    "list_jobs": {
        "after_ms": {"after_ms or limit"},
        "limit": {"after_ms or limit"},
        "state": {"state must be live or a state"},
    },
    "explain_node": {
        "decisions": {"decisions must be 0 or 1"},
    },
    "find_pools": {
        "src": {"a language or service"},
        "tgt": {"a language or service"},
    },
}
"""What is said of them, where it is more than the name of the argument."""


@pytest.mark.parametrize("name", BAD)
async def test_bad_arguments_are_refused_and_change_nothing(cell: Cell, name: str) -> None:
    call = baseline(await populate(cell))[name]
    before = await dump(cell)
    for argument, values in BAD[name].items():
        said = set()
        for value in values:
            with pytest.raises(InvalidInput) as refused:
                await cell.store.run(with_argument(call, argument, value))
            said.add(str(refused.value))
            assert await dump(cell) == before, f"wrote something before it refused {argument}={value[:40]!r}"
        assert said == WORDS.get(name, {}).get(argument, {argument})


@pytest.mark.parametrize("name", sorted(load_scripts()))
async def test_a_wrong_number_of_keys_or_arguments_is_refused(cell: Cell, name: str) -> None:
    calls = baseline(await populate(cell))
    before = await dump(cell)
    script = load_scripts()[name]
    keys = [cell.store.key(key) for key in script.header.keys]
    call = calls[name]
    one_more = f"{cell.store.key('config')}:x"  # in the same slot: a Cluster sends away what is in several
    for wrong_keys, wrong_argv in ((keys[:-1], call.argv), ([*keys, one_more], call.argv), (keys, ("x",) * 6000)):
        with pytest.raises(InvalidInput, match=f"{name} takes"):
            await cell.store.command("EVAL", script.plain_source, len(wrong_keys), *wrong_keys, *wrong_argv)
    for count in range(SHORTEST.get(name, len(call.argv))):
        with pytest.raises(InvalidInput, match=f"{name} takes"):
            await cell.store.command("EVAL", script.plain_source, len(keys), *keys, *call.argv[:count])
    assert await dump(cell) == before


@pytest.mark.parametrize(("session_id", "instance"), [("s1", ""), ("", "i1")])
async def test_an_update_names_no_socket_and_no_instance(cell: Cell, session_id: str, instance: str) -> None:
    token = await populate(cell)
    call = baseline(token)["upsert_node_to_pool"]
    changed = {"node_id": "n1", "mode": "update", "epoch": token.split(":")[0], "session_id": "", "instance": ""}
    for argument, value in changed.items():
        call = with_argument(call, argument, value)
    assert (await cell.store.run(call))[0] == "OK"
    before = await dump(cell)
    with pytest.raises(InvalidInput, match="must be empty"):
        await cell.store.run(with_argument(with_argument(call, "session_id", session_id), "instance", instance))
    assert await dump(cell) == before


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        ["n1"],
        ["n1", "token"],
        ["n1", "token", "0.5"],
        ["a b", "token", ""],
        ["", "token", ""],
        ["", "", ""],
        ["", "3", ""],  # what stands under the empty name
        ["n" * 129, "token", ""],
        ["n1", "token", "2"],
        ["n1", "token", "1.0001"],
        ["n1", "token", "0.50000"],
        ["n1", "token", "00.5000"],
        ["n1", "token", "0.500"],
        ["n1", "token", "nan"],
        ["n1", "token", "{}"],
        ["n1", "token", " {}"],
        ["n1", "token", "0.5000 "],
        ["n1", "token", "0.5000{}"],
        ["n1", "token", "0.5000  {}"],
        ["n1", "token", "0.5000 []"],
        ["n1", "token", "0.5000 " + json.dumps({"x": "y" * 4096})],
        ["n1", "token", ""] * 501,
    ],
)
async def test_a_malformed_batch_of_heartbeats_is_refused_as_a_whole(cell: Cell, nodes: list[str]) -> None:
    good = (await populate(cell), "0.5000 {}")
    before = await dump(cell)
    with pytest.raises(InvalidInput):
        await cell.store.run(Call("touch_nodes", ("1000", "n1", *good, *nodes) if len(nodes) % 3 else ("1000", *nodes)))
    assert await dump(cell) == before
