"""For each script one call that it accepts, on a namespace with nodes and pools: what tests of bad input start from."""

from __future__ import annotations

from typing import Any

from pyscheduler.core.document import PoolDocument
from pyscheduler.keys import KEY_NAMES
from pyscheduler.scripts import calls, load_scripts
from tests.harness import Cell, document_of, facts_of, pool

DOCUMENT = document_of(pool("english", semantic={"contains": ["en"]}))


WANTED = {
    "slots": 1,
    "tenant": "acme",
    "session": "call-1",
    "src": "en",
    "tgt": "zh",
    "services": "asr,tts",
    "labels": "",
    "scope": "",
    "exclude": "",
    "exclude_pools": "",
}


def reserve_call(job_id: str, **changed: Any) -> calls.Call:
    defaults = {"mode": "reserve", "attempt": 1, "owner": "me", "lease_ms": 60_000, "digest": "ab"}
    return calls.reserve_slots(**{"job_id": job_id, **defaults, **WANTED, **changed})


async def populate(cell: Cell) -> str:
    """A node ``n1`` in a declared pool, with a job; a held node ``n2`` in an auto pool. Returns the token of ``n1``."""
    await cell.allocator.sync(DOCUMENT)
    await cell.register("n2", "de", "fr")
    await cell.allocator.hold("n2", owner="ops", reason="test")
    token = (await cell.register("n1", "en", "zh")).session.token
    await cell.store.run(reserve_call("job-1"))
    return token


def baseline(token: str) -> dict[str, calls.Call]:
    epoch = int(token.split(":")[0])
    other = document_of(pool("german", semantic={"contains": ["de"]}))
    return {
        "open_namespace": calls.open_namespace(auto="{}", admission="{}", selection="{}"),
        "upsert_node_to_pool": calls.upsert_node_to_pool(
            node_id="n3",
            session_id="s3",
            instance="i1",
            mode="new",
            epoch=0,
            facts=facts_of("ja", "ko").json,
            record="{}",
            digest="ab",
            status="r",
            load=0.5,
            usage="{}",
            lease_ms=1000,
            admission_digest="",
            takeover=True,
            reason="",
        ),
        "touch_nodes": calls.touch_nodes(lease_ms=1000, nodes=["n1", token, "0.5000 {}"]),
        "release_node": calls.release_node(node_id="n1", epoch=epoch, grace_ms=1000, reason="test"),
        "hold_node": calls.hold_node(node_id="n1", operation="set", owner="ops", reason="test", allow_unknown=False),
        "bump_config_version": calls.bump_config_version(
            mode="apply",
            document=other.canonical(),
            digest=other.digest,
            admission=PoolDocument().admission.to_json(),
            expect_version=-1,
            allow_empty=False,
            force=True,
            author="me",
            reason="test",
            kind="document",
        ),
        "reconcile": calls.reconcile(
            lease_ms=1000,
            force=True,
            expire=10,
            scan=10,
            brake_permille=300,
            brake_floor=10,
            brake_expire=1,
            min_interval_ms=0,
            grace_ms=1000,
        ),
        "reserve_slots": reserve_call("job-2"),
        "explain_job": calls.explain_job(job_id="job-2", **WANTED),
        "update_jobs": calls.update_jobs(
            operation="finish", job_id="job-1", attempt=1, owner="me", lease_ms=1000, reason="done"
        ),
        "list_jobs": calls.list_jobs(
            after_ms=0, after="", limit=10, node="", pool="", tenant="", owner="", state="", ids=()
        ),
        "renew_instance": calls.renew_instance(instance="i1", lease_ms=1000, info="{}"),
        "list_pools": calls.list_pools(name=""),
        "list_nodes": calls.list_nodes(mode="all", pool="", offset=0, limit=10, ids=()),
        "explain_node": calls.explain_node(node_id="n1", decisions=True),
        "find_pools": calls.find_pools(src="en", tgt="zh", services=["asr"]),
        "check": calls.check(),
    }


async def dump(cell: Cell) -> list[str | None]:
    """Every key as its exact content. DUMP gives the same for a key that has not changed."""
    sha = "return redis.sha1hex(redis.call('DUMP', KEYS[1]) or '')"
    return [await cell.store.command("EVAL", sha, 1, cell.store.key(name)) for name in KEY_NAMES]


def with_argument(call: calls.Call, argument: str, value: str) -> calls.Call:
    """The same call with one argument replaced."""
    position = load_scripts()[call.script].header.args.index(argument)
    return calls.Call(call.script, (*call.argv[:position], value, *call.argv[position + 1 :]))
