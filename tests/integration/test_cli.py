"""The command line on a real store: what it answers, in both forms, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml

from pyscheduler import Allocator
from pyscheduler.cli import main
from pyscheduler.embedded import EmbeddedServer
from pyscheduler.store import Store, StoreOptions
from tests.harness import LEASE_MS, Cell, facts_of
from tests.servers import PlainServer
from tests.support import wait_until_async

UNREACHABLE = "redis://127.0.0.1:1/0"


class Cli:
    """Runs commands on a namespace, in a thread of their own: each has its own event loop."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.environment = {"PYSCHEDULER_REDIS_URL": redis_url, "PYSCHEDULER_NAMESPACE": namespace}

    async def __call__(
        self, *arguments: str, stdin: str | bytes | None = None, exit_code: int = 0, env: dict[str, str] | None = None
    ) -> click.testing.Result:
        runner = click.testing.CliRunner(env=self.environment | (env or {}))
        result = await asyncio.to_thread(runner.invoke, main, arguments, input=stdin)
        assert result.exit_code == exit_code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    async def json(self, *arguments: str, stdin: str | None = None, exit_code: int = 0) -> Any:
        """The one document of a command under ``--json``."""
        result = await self(*arguments, "--json", stdin=stdin, exit_code=exit_code)
        assert result.stdout.isascii()
        return json.loads(result.stdout)

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The command as a process of its own, killed if the test leaves it behind."""
        with subprocess.Popen(
            [sys.executable, "-m", "pyscheduler", *arguments],
            env=os.environ | self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def cli(cell: Cell, redis_url: str, namespace: str) -> Cli:
    return Cli(redis_url, namespace)


def file_of(folder: Path, *pools: dict[str, Any], **sections: Any) -> str:
    path = folder / "pools.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "pools": list(pools), **sections}))
    return str(path)


def named(name: str, *languages: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "match": {"semantic": {"contains": list(languages)}}, **more}


def error_of(document: Any) -> Any:
    assert set(document) == {"error"}
    return document["error"]


# --- pools and nodes -------------------------------------------------------------------------------------------------


async def test_an_empty_namespace_has_answers_too(cli: Cli) -> None:
    assert await cli.json("pool", "list") == []
    assert await cli.json("node", "list") == []
    assert await cli.json("pool", "find", "--src", "zh", "--tgt", "en") == []
    assert "0 pools, 0 nodes, version 1" in (await cli("pool", "list")).stdout
    assert "0 nodes, version 1" in (await cli("node", "list")).stdout
    assert "no pool can serve this now" in (await cli("pool", "find", "--src", "zh", "--tgt", "en")).stdout


async def test_pools_and_nodes_are_listed(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "zh", "en", load=0.25)
    await cell.register("n2", "en", "zh", status="degraded")
    await cell.register("n3", "de")
    assert await cli.json("pool", "list") == [
        {"id": 2, "name": "de", "origin": "auto", "priority": 0, "nodes": 1, "ready": 1, "languages": ["de"]},
        {"id": 1, "name": "en-zh", "origin": "auto", "priority": 0, "nodes": 2, "ready": 1, "languages": ["en", "zh"]},
    ]
    nodes = await cli.json("node", "list")
    assert [node["node_id"] for node in nodes] == ["n1", "n2", "n3"]
    first = nodes[0]
    assert 0 < first.pop("lease_ms") <= LEASE_MS
    assert first.pop("epoch") > 0
    assert first == {
        "node_id": "n1",
        "status": "ready",
        "pool": "en-zh",
        "pool_id": 1,
        "class": 1,
        "instance": "test",
        "load": 0.25,
        "languages": ["en", "zh"],
        "services": ["asr", "nmt", "tts"],
        "holds": [],
    }
    table = (await cli("node", "list")).stdout
    assert re.search(r"n2 +degraded +en-zh +en zh", table)
    assert "3 nodes, version 3" in table
    assert re.search(r"1 +en-zh +auto +2 +1 +en zh", (await cli("pool", "list")).stdout)


async def test_nodes_can_be_chosen(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh", status="registering")
    await cell.register("n3")

    async def ids(*options: str) -> list[str]:
        return [node["node_id"] for node in await cli.json("node", "list", *options)]

    assert await ids("--pool", "en-zh") == ["n1", "n2"]
    assert await ids("--unmatched") == ["n3"]
    assert await ids("--status", "ready", "--status", "registering", "--pool", "en-zh") == ["n1", "n2"]
    assert await ids("--status", "registering") == ["n2"]
    assert len(await ids("--limit", "2")) == 2
    assert "1 node without a pool" in (await cli("pool", "list")).stdout
    await cli("node", "list", "--pool", "en-zh", "--unmatched", exit_code=2)
    await cli("node", "list", "--limit", "0", exit_code=2)
    await cli("node", "list", "--pool", "nothing", exit_code=1)


async def test_a_fleet_of_several_pages_is_listed_whole(cli: Cli, cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"n{number:04}", "en", "zh") for number in range(2050)))
    nodes = await cli.json("node", "list")
    assert len({node["node_id"] for node in nodes}) == 2050


async def test_one_pool_in_full(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "zh", "en")
    await cell.register("n2", facts=facts_of("en", "zh", gpu_memory_gb=(48, 24, 24), labels={"zone": "eu"}))
    await cell.register("n3", facts=facts_of("en", "zh", services=("asr", "ocr")), status="degraded")
    shown = await cli.json("pool", "show", "en-zh")
    assert shown.pop("created_at") > 1_700_000_000_000
    assert [one["nodes"] for one in shown["classes"]] == [1, 1, 1]
    assert shown["classes"][1]["facts"]["labels"] == {"zone": "eu"}
    assert shown["rule"] == {"languages": ["en", "zh"]}
    # What only a node that is not ready has is not ready.
    assert shown["ready_services"] == ["asr", "nmt", "tts"]
    assert shown["ready_pairs"] == [{"src": "en", "tgt": "zh"}, {"src": "zh", "tgt": "en"}]
    assert {"id", "name", "origin", "nodes", "ready", "languages", "version"} <= set(shown)
    page = (await cli("pool", "show", "en-zh")).stdout
    for words in ("exactly en zh", "1 x 48 GB, 2 x 24 GB", "zone=eu", "services  asr nmt tts", "3 (2 ready)"):
        assert words in page, words


async def test_a_pair_is_found_whatever_the_pool_is_called(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "de", "en", "zh")
    await cell.register("n2", "en", "zh")
    await cell.register("n3", facts=facts_of("en", "zh", services=("asr",)))
    found = await cli.json("pool", "find", "--src", "zh", "--tgt", "en", "--service", "tts")
    assert {(one["pool"], one["nodes"], one["ready"]) for one in found} == {("de-en-zh", 1, 1), ("en-zh", 1, 1)}
    assert set(found[0]) == {"pool", "pool_id", "class", "nodes", "ready", "languages"}
    assert "de-en-zh" in (await cli("pool", "find", "--src", "ZH", "--tgt", "en")).stdout
    await cli("pool", "find", "--src", "zh", exit_code=2)
    await cli("pool", "find", "--src", "z!", "--tgt", "en", exit_code=2)


async def test_one_node_in_full(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh", record={"platform": "linux", "version": "2.0.0"})
    shown = await cli.json("node", "show", "n1")
    assert shown["record"] == {"platform": "linux", "version": "2.0.0"}
    assert shown["facts"]["semantic"] == ["en", "zh"]
    assert shown["usage"] == {}
    transition = shown["transition"]
    assert (transition["from"], transition["to"], transition["version"]) == (None, "en-zh", 2)
    page = (await cli("node", "show", "n1")).stdout
    for words in ("en-zh (id 1, class 1)", "none → en-zh", 'platform  "linux"'):
        assert words in page, words


async def test_explaining_a_node_names_what_each_pool_wants_and_what_the_node_has(
    cli: Cli, cell: Cell, tmp_path: Path
) -> None:
    await cell.register("n1", facts=facts_of("de", "en", labels={"zone": "eu"}, gpu_memory_gb=(8,)))
    await cell.register("n2", "en", "zh")
    big = {
        "semantic": {"exact": ["en", "zh"]},
        "tts": {"any": ["ja"]},
        "asr": {"contains": ["de", "fr"]},
        "services": ["ocr"],
        "gpu": {"min_count": 2, "min_memory_gb": 40},
        "labels": {"zone": "us", "rack": "7"},
    }
    pools = file_of(tmp_path, {"name": "big", "match": big}, named("german", "de", priority=5), named("second", "en"))
    await cli("pool", "sync", "-f", pools)
    document = await cli.json("node", "explain", "n1")
    assert (document["node_id"], document["pool"], document["reason"]) == ("n1", "german", "matched")
    assert document["node"]["node_id"] == "n1"
    decisions = {one["pool"]: one for one in document["decisions"]}
    assert [name for name, one in decisions.items() if one["chosen"]] == ["german"]
    assert decisions["second"]["matches"]
    assert sorted(decisions["big"]["failed"]) == [
        "asr.contains", "gpu.min_count", "labels.rack", "labels.zone", "semantic.exact", "services.ocr", "tts.any",
    ]  # fmt: skip
    assert {one["constraint"]: (one["wants"], one["has"]) for one in decisions["big"]["missing"]} == {
        "semantic.exact": ("exactly en zh", "de en"),
        "tts.any": ("any of ja", "de en"),
        "asr.contains": ("all of de fr", "de en"),
        "services.ocr": ("ocr ready", "asr nmt tts"),
        "gpu.min_count": ("at least 2 GPUs with 40 GB or more", "1 x 8 GB"),
        "labels.zone": ("zone = us", "zone = eu"),
        "labels.rack": ("rack = 7", "no such label"),
    }
    assert decisions["en-zh"]["failed"] == ["languages.exact"]
    assert decisions["en-zh"]["missing"] == [
        {"constraint": "languages.exact", "wants": "exactly en zh", "has": "de en"}
    ]
    page = (await cli("node", "explain", "n1")).stdout
    assert "in german: its facts meet the pool's rule" in page
    assert re.search(r"second +met, but another pool comes first", page)
    assert re.search(r"labels\.rack +rack = 7 +no such label", page)


async def test_a_node_without_a_pool_is_told_why(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cli("pool", "sync", "-f", file_of(tmp_path, named("german", "de"), auto={"enabled": False}))
    await cell.register("n1", "en", "zh")
    document = await cli.json("node", "explain", "n1")
    assert (document["pool"], document["reason"]) == (None, "auto_disabled")
    assert (
        "without a pool: no declared pool takes it, and auto pools are switched off"
        in (await cli("node", "explain", "n1")).stdout
    )


# --- the configuration -----------------------------------------------------------------------------------------------


async def test_a_sync_says_what_it_did(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh")
    await cell.register("n3", "de")
    changed = await cli.json(
        "pool", "sync", "-f", file_of(tmp_path, named("chinese", "zh")), "--author", "ada", "--reason", "first"
    )
    reconcile = changed.pop("reconcile")
    assert changed == {
        "version_before": 3,
        "version_after": 4,
        "document_version": 4,
        "dry_run": False,
        "changes": [{"pool": "chinese", "change": "added"}],
        "moves": [{"class": 1, "from": "en-zh", "to": "chinese", "nodes": 2}],
        "unassigned_nodes": 0,
    }
    assert reconcile["expired"] == 0
    assert reconcile["version"] >= 4
    newest = (await cli.json("pool", "history"))[0]
    assert newest.pop("at") > 1_700_000_000_000
    assert newest == {
        "version": 4,
        "kind": "document",
        "author": "ada",
        "reason": "first",
        "changes": [{"pool": "chinese", "change": "added"}],
        "has_document": True,
    }
    again = (await cli("pool", "sync", "-f", file_of(tmp_path, named("chinese", "zh")))).stdout
    assert "nothing changed: version 4 stays" in again
    moved = (await cli("pool", "sync", "-f", file_of(tmp_path, named("german", "de")))).stdout
    for words in ("version 4 → 5", "+ german (added)", "- chinese (removed)", "3 nodes in 2 classes changed pool"):
        assert words in moved, words


async def test_a_dry_run_says_the_same_and_writes_nothing(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cell.register("n1", "en", "zh")
    pools = file_of(tmp_path, named("chinese", "zh"))
    before = await cell.allocator.events()
    planned = await cli.json("pool", "sync", "-f", pools, "--dry-run")
    assert planned["dry_run"] is True
    assert planned["reconcile"] is None
    assert "dry run: nothing was written" in (await cli("pool", "sync", "-f", pools, "--dry-run")).stdout
    assert await cell.allocator.events() == before
    assert await cell.allocator.version() == 2
    done = await cli.json("pool", "sync", "-f", pools)
    for key in ("version_before", "version_after", "changes", "moves", "unassigned_nodes"):
        assert done[key] == planned[key], key


async def test_the_author_is_the_user_unless_named(
    cli: Cli, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    await cli("pool", "sync", "-f", file_of(tmp_path, named("chinese", "zh")))
    assert (await cli.json("pool", "history", "--limit", "1"))[0]["author"] == "grace"


async def lapsed(cell: Cell, nodes: int) -> None:
    """Wait until that many leases have lapsed. The commands go by the store's own clock, so a test can't set it."""

    async def all_lapsed() -> bool:
        now_ms = await cell.now_ms()
        return bool(await cell.store.command("ZCOUNT", cell.store.key("leases"), "1", now_ms) >= nodes)

    await wait_until_async(lambda: all_lapsed(), f"{nodes} leases have lapsed")
    await cell.trust_leases()


async def test_without_a_file_sync_reconciles(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh", lease_ms=1)
    await cell.register("n2", lease_ms=1)
    await lapsed(cell, 2)
    done = await cli.json("pool", "sync")
    assert (done["version_before"], done["changes"], done["moves"], done["dry_run"]) == (2, [], [], False)
    assert done["reconcile"]["expired"] == 2
    # One pass expires the nodes, a later one drops the class that they leave behind.
    assert done["reconcile"]["dropped_classes"] == 2
    assert done["unassigned_nodes"] == 0
    assert "reconciled: nothing to do" in (await cli("pool", "sync")).stdout


async def test_reconciling_goes_on_until_nothing_is_left(cli: Cli, cell: Cell) -> None:
    # Three passes' worth, and yet a small enough share of the fleet to keep the brake off.
    await asyncio.gather(*(cell.register(f"m{number}", "en", "zh") for number in range(1100)))
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh", lease_ms=1) for number in range(450)))
    await lapsed(cell, 450)
    assert (await cli.json("pool", "sync"))["reconcile"]["expired"] == 450


@pytest.mark.parametrize("option", [["--dry-run"], ["--expect-version", "1"], ["--allow-empty"], ["--force"]])
async def test_options_about_a_file_need_one(cli: Cli, option: list[str]) -> None:
    error = error_of(await cli.json("pool", "sync", *option, exit_code=2))
    assert error["code"] == "usage"
    assert "-f FILE" in error["message"]


async def test_an_unexpected_version_is_a_conflict(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cli("pool", "sync", "-f", file_of(tmp_path, named("a", "de")), "--expect-version", "0")
    error = error_of(
        await cli.json("pool", "sync", "-f", file_of(tmp_path, named("b", "de")), "--expect-version", "9", exit_code=3)
    )
    assert (error["code"], error["exit_code"]) == ("version_conflict", 3)
    assert "expected document version 9, but 2 is in force" in error["message"]
    # An auto pool that is born in between is no conflict.
    await cell.register("n1", "en", "zh")
    await cli("pool", "sync", "-f", file_of(tmp_path, named("b", "de")), "--expect-version", "2")


async def test_a_guard_refuses_until_it_is_told_otherwise(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cli("pool", "sync", "-f", file_of(tmp_path, named("chinese", "zh")))
    empty = file_of(tmp_path)
    error = error_of(await cli.json("pool", "sync", "-f", empty, exit_code=4))
    assert error["code"] == "guard_refused"
    assert "--allow-empty" in error["message"]
    await cell.register("n1", "en", "zh")
    off = file_of(tmp_path, auto={"enabled": False})
    result = await cli("pool", "sync", "-f", off, "--allow-empty", exit_code=4)
    assert result.stderr.startswith("error: 1 of 1 ready nodes would be left without a pool")
    assert result.stdout == ""
    assert await cell.pool_of("n1") == "chinese"
    done = await cli.json("pool", "sync", "-f", off, "--allow-empty", "--force")
    assert done["unassigned_nodes"] == 1


async def test_a_bad_document_is_told_whole_with_its_lines(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("schema: 1\npools:\n  - name: a\n    mtch: {asr: {any: [en]}}\n  - name: b\n    priority: high\n")
    for command in (["pool", "sync", "-f", str(path)], ["config", "check-file", str(path)]):
        error = error_of(await cli.json(*command, exit_code=2))
        assert error["code"] == "document_invalid"
        assert {problem["line"] for problem in error["problems"]} >= {4, 6}
        assert any("match" in problem["message"] for problem in error["problems"])
        result = await cli(*command, exit_code=2)
        assert "line 4" in result.stderr
        assert "next: correct the document" in result.stderr
    assert await cell.allocator.version() == 1


async def test_documents_come_from_standard_input_too(cli: Cli, tmp_path: Path) -> None:
    text = Path(file_of(tmp_path, named("chinese", "zh"))).read_text()
    assert (await cli.json("pool", "sync", "-f", "-", stdin=text))["changes"] == [
        {"pool": "chinese", "change": "added"}
    ]
    checked = await cli.json("config", "check-file", "-", stdin=text)
    assert (checked["ok"], checked["document"]["pools"][0]["name"]) == (True, "chinese")
    assert re.search(r"chinese +0 +1", (await cli("config", "check-file", "-", stdin=text)).stdout)


@pytest.mark.parametrize(
    ("stdin", "said"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"a" * (1 << 20) + b"a", "longer than 1 MiB"), (b"", "empty"), (b"[1, 2", "")],
    ids=["not text", "too long", "empty", "not YAML"],
)
async def test_what_is_no_document_is_bad_input(cli: Cli, stdin: bytes, said: str) -> None:
    for command in (["pool", "sync", "-f", "-"], ["config", "check-file", "-"]):
        assert said in (await cli(*command, stdin=stdin, exit_code=2)).stderr


async def test_a_file_that_cannot_be_read_is_bad_input(cli: Cli, tmp_path: Path) -> None:
    assert "No such file" in (await cli("pool", "sync", "-f", str(tmp_path / "none"), exit_code=2)).stderr
    assert "directory" in (await cli("config", "check-file", str(tmp_path), exit_code=2)).stderr


async def test_what_config_show_prints_can_be_synchronised(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    nothing = await cli.json("config", "show")
    assert nothing["version"] == 0
    assert "no document has been synchronised" in (await cli("config", "show")).stdout
    rich = {"name": "rich", "match": {"services": ["asr"], "labels": {"zone": "no"}, "gpu": {"min_memory_gb": 8}}}
    await cli("pool", "sync", "-f", file_of(tmp_path, named("a", "zh", priority=7), rich, auto={"idle_ttl": "90s"}))
    printed = (await cli("config", "show")).stdout
    assert "idle_ttl: 90s" in printed
    assert (await cli.json("pool", "sync", "-f", "-", stdin=printed))["version_after"] == 2
    shown = await cli.json("config", "show")
    assert (await cli.json("pool", "sync", "-f", "-", stdin=json.dumps(shown["document"])))["version_after"] == 2
    await cli("pool", "sync", "-f", file_of(tmp_path, named("b", "zh")))
    assert (await cli.json("config", "show", "--version", "2"))["digest"] == shown["digest"]
    assert error_of(await cli.json("config", "show", "--version", "99", exit_code=1))["code"] == "not_found"


async def test_rollback_applies_an_earlier_document_as_a_new_version(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cell.register("n1", "en", "zh")
    await cli("pool", "sync", "-f", file_of(tmp_path, named("a", "zh")))
    await cli("pool", "sync", "-f", file_of(tmp_path, named("b", "zh")))
    planned = await cli.json("pool", "rollback", "3", "--dry-run")
    assert (planned["dry_run"], planned["reconcile"]) == (True, None)
    assert await cell.pool_of("n1") == "b"
    error_of(await cli.json("pool", "rollback", "3", "--expect-version", "1", exit_code=3))
    done = await cli.json("pool", "rollback", "3", "--reason", "b was wrong", "--author", "ada")
    assert (done["version_before"], done["version_after"]) == (4, 5)
    assert done["moves"] == [{"class": 1, "from": "b", "to": "a", "nodes": 1}]
    assert await cell.pool_of("n1") == "a"
    newest = (await cli.json("pool", "history"))[0]
    assert (newest["kind"], newest["author"], newest["reason"]) == ("rollback", "ada", "b was wrong")
    assert error_of(await cli.json("pool", "rollback", "77", exit_code=1))["code"] == "not_found"
    await cli("pool", "rollback", "0", exit_code=2)
    page = (await cli("pool", "history")).stdout
    assert re.search(r"5 .* rollback +ada +b was wrong +\+a -b", page)


async def test_the_schema_of_the_document_needs_no_store(tmp_path: Path) -> None:
    result = await Cli(UNREACHABLE, "x")("config", "schema")
    schema = json.loads(result.stdout)
    assert {"pools", "auto", "guard", "admission"} <= set(schema["properties"])


# --- holds -----------------------------------------------------------------------------------------------------------


async def test_a_node_takes_work_when_no_hold_is_left(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    held = await cli.json("node", "drain", "n1", "--reason", "upgrade", "--owner", "ops")
    assert held["holds"][0].pop("at") > 1_700_000_000_000
    assert held == {"node_id": "n1", "changed": True, "live": True, "holds": [{"owner": "ops", "reason": "upgrade"}]}
    assert (await cli.json("node", "drain", "n1", "--reason", "upgrade", "--owner", "ops"))["changed"] is False
    await cli("node", "drain", "n1", "--reason", "noise", "--owner", "ada")
    node = (await cli.json("node", "list"))[0]
    assert (node["status"], node["pool"]) == ("draining", "en-zh")
    assert {hold["owner"] for hold in node["holds"]} == {"ada", "ops"}
    assert (await cli.json("pool", "list"))[0]["ready"] == 0
    conflict = await cli("node", "resume", "n1", "--reason", "mine", "--owner", "eve", exit_code=3)
    assert "held by ada, ops" in conflict.stderr
    await cli("node", "resume", "n1", "--reason", "done", "--owner", "ops")
    assert (await cli.json("node", "list"))[0]["status"] == "draining"
    assert "no hold is left" in (await cli("node", "resume", "n1", "--reason", "done", "--owner", "ada")).stdout
    assert (await cli.json("node", "list"))[0]["status"] == "ready"
    assert (await cli.json("node", "resume", "n1", "--reason", "done", "--owner", "ada"))["changed"] is False
    assert "no node n2" in (await cli("node", "resume", "n2", "--reason", "done", exit_code=1)).stderr


async def test_the_owner_is_the_user_unless_named(cli: Cli, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    await cell.register("n1", "en", "zh")
    assert (await cli.json("node", "drain", "n1", "--reason", "r"))["holds"][0]["owner"] == "grace"


async def test_a_hold_can_wait_for_its_node(cli: Cli, cell: Cell) -> None:
    assert error_of(await cli.json("node", "drain", "n9", "--reason", "r", exit_code=1))["code"] == "not_found"
    held = await cli.json("node", "drain", "n9", "--reason", "r", "--allow-unknown")
    assert held["live"] is False
    await cell.register("n9", "en", "zh")
    assert (await cli.json("node", "show", "n9"))["status"] == "draining"


@pytest.mark.parametrize(
    "arguments",
    [["drain", "n1"], ["resume", "n1"], ["drain", "n 1", "--reason", "r"], ["drain", "n1", "--reason", "r" * 300]],
    ids=["no reason", "no reason to resume", "no node id", "a reason too long"],
)
async def test_holds_want_good_input(cli: Cli, cell: Cell, arguments: list[str]) -> None:
    await cell.register("n1", "en", "zh")
    await cli("node", *arguments, exit_code=2)


# --- events ----------------------------------------------------------------------------------------------------------


def lines_of(result: click.testing.Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_events_are_objects_one_a_line(cli: Cli, cell: Cell, tmp_path: Path) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "de")
    await cli("pool", "sync", "-f", file_of(tmp_path, named("chinese", "zh")))
    events = lines_of(await cli("events", "--json"))
    assert [event["id"] for event in events] == [event.id for event in await cell.allocator.events()]
    assert all({"id", "at", "type", "version"} <= set(event) for event in events)
    assigned = next(event for event in events if event["type"] == "node.assigned")
    assert {"node_id": "n1", "pool": "en-zh", "to": "en-zh"}.items() <= assigned.items()
    assert isinstance(assigned["at"], int)
    assert "from" not in assigned
    moved = next(event for event in events if event["type"] == "class.remapped")
    assert (moved["from"], moved["to"], moved["version"]) == ("en-zh", "chinese", 4)

    async def chosen(*options: str) -> list[str]:
        return [event["id"] for event in lines_of(await cli("events", "--json", *options))]

    assert await chosen("--since", events[4]["id"]) == [event["id"] for event in events[5:]]
    assert await chosen("--limit", "3") == [event["id"] for event in events[:3]]
    assert await chosen("--since", "1h") == [event["id"] for event in events]
    assert await chosen("--node", "n2") == [event["id"] for event in events if event.get("node_id") == "n2"]
    assert (
        await chosen("--type", "node.assigned", "--type", "pool.created", "--limit", "2")
        == [event["id"] for event in events if event["type"] in ("node.assigned", "pool.created")][:2]
    )
    assert await chosen("--pool", "chinese") == [
        event["id"] for event in events if "chinese" in (event.get("pool"), event.get("to"))
    ]
    page = (await cli("events")).stdout
    assert re.search(r"node\.assigned +v2  n1  none → en-zh", page)
    assert len(page.splitlines()) == len(events)


@pytest.mark.parametrize("option", [["--since", "yesterday"], ["--type", "node.moved"], ["--limit", "0"]])
async def test_bad_choices_of_events_are_bad_input(cli: Cli, option: list[str]) -> None:
    result = await cli("events", "--json", *option, exit_code=2)
    assert error_of(json.loads(result.stdout))["code"] == "usage"
    assert len(result.stdout.splitlines()) == 1


def ended(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


async def test_following_shows_events_as_they_happen(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    with cli.start("events", "--follow", "--json", "--since", "1h", "--type", "node.registered") as process:
        assert process.stdout is not None
        assert json.loads(await asyncio.to_thread(process.stdout.readline))["node_id"] == "n1"
        await cell.register("n2", "en", "zh")
        assert json.loads(await asyncio.to_thread(process.stdout.readline))["node_id"] == "n2"
        # Ctrl-C is the way to end it, not a failure.
        assert await asyncio.to_thread(ended, process) == (0, "")


async def test_following_goes_on_after_an_event(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.register("n2", "en", "zh")
    seen = lines_of(await cli("events", "--json", "--node", "n1"))[-1]["id"]
    followed = await cli("events", "--follow", "--json", "--since", seen, "--type", "node.registered", "--limit", "1")
    assert lines_of(followed)[0]["node_id"] == "n2"


async def test_following_from_a_time_at_which_nothing_happened_waits(cli: Cli, cell: Cell) -> None:
    with cli.start(
        "events", "--follow", "--json", "--since", "0s", "--type", "node.released", "--limit", "1"
    ) as process:

        async def released() -> bool:
            # Again and again: when the command begins to look is its own affair.
            session = (await cell.register("n1", "en", "zh", session_id=f"s{next(numbers)}")).session
            await cell.allocator.release(session, grace_ms=30_000, reason="test")
            return process.poll() is not None

        numbers = itertools.count()
        await wait_until_async(lambda: released(), "the command has seen a node leave")
        output, errors = await asyncio.to_thread(process.communicate, timeout=30)
        assert (process.returncode, errors) == (0, "")
        assert json.loads(output)["node_id"] == "n1"


async def test_events_that_are_no_longer_kept_are_not_passed_over_in_silence(cli: Cli, cell: Cell) -> None:
    result = await cli("events", "--follow", "--json", "--since", "1-1", exit_code=1)
    assert error_of(json.loads(result.stdout))["code"] == "events_lost"


async def test_a_reader_that_goes_away_is_no_crash(cli: Cli, cell: Cell) -> None:
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh") for number in range(2000)))
    with cli.start("events", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.to_thread(process.stdout.readline)
        process.stdout.close()
        errors = await asyncio.to_thread(process.stderr.read)
        assert (await asyncio.to_thread(process.wait, 30), errors) == (1, "")


# --- check -----------------------------------------------------------------------------------------------------------


async def test_check_says_that_all_is_well(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    assert await cli.json("check") == {"ok": True, "violations": [], "nodes": 1, "pools": 1, "version": 2}
    assert "ok: every invariant holds (1 node, 1 pool, version 2)" in (await cli("check")).stdout


@pytest.mark.breaks_store
async def test_check_exits_1_when_an_invariant_is_broken(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    await cell.store.command("ZREM", cell.store.key("leases"), "n1")
    report = await cli.json("check", exit_code=1)
    assert report["ok"] is False
    assert report["violations"][0]["invariant"] == 1
    assert "leases" in report["violations"][0]["detail"]
    assert "not ok: " in (await cli("check", exit_code=1)).stdout


# --- the store -------------------------------------------------------------------------------------------------------

READING = [
    ["pool", "list"],
    ["pool", "show", "a"],
    ["pool", "find", "--src", "zh", "--tgt", "en"],
    ["pool", "history"],
    ["pool", "sync"],
    ["pool", "rollback", "1"],
    ["node", "list"],
    ["node", "show", "n1"],
    ["node", "explain", "n1"],
    ["node", "drain", "n1", "--reason", "r"],
    ["node", "resume", "n1", "--reason", "r"],
    ["events"],
    ["events", "--follow"],
    ["config", "show"],
    ["check"],
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
async def test_a_store_that_is_not_there_is_exit_code_5(command: Sequence[str]) -> None:
    error = error_of(await Cli(UNREACHABLE, "x").json(*command, exit_code=5))
    assert error["code"] == "store_unavailable"
    assert "--redis-url" in error["next"]


async def test_a_store_that_hangs_is_exit_code_5(make_server: Callable[..., PlainServer]) -> None:
    server = make_server()
    cli = Cli(server.url, "x")
    async with await Allocator.open(server.url, namespace="x"):
        pass
    assert await cli.json("pool", "list") == []
    server.pause()
    assert error_of(await cli.json("pool", "list", exit_code=5))["code"] in ("store_unavailable", "outcome_unknown")
    server.resume()
    assert await cli.json("pool", "list") == []


async def test_an_interrupted_command_says_so() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    cli = Cli(f"redis://127.0.0.1:{silent.getsockname()[1]}", "x")
    with silent, cli.start("pool", "list", "--json") as process:
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            assert await asyncio.to_thread(connection.recv, 1)
            process.send_signal(signal.SIGINT)
            output, errors = await asyncio.to_thread(process.communicate, timeout=30)
    assert (process.returncode, errors.strip()) == (130, "error: interrupted")
    assert error_of(json.loads(output))["code"] == "interrupted"


async def test_without_a_url_and_a_scheduler_the_command_says_what_to_do(tmp_path: Path) -> None:
    cli = Cli("", "x")
    error = error_of(await cli.json("pool", "list", "--state-dir", str(tmp_path), exit_code=5))
    assert error["code"] == "no_store"
    assert "pyscheduler serve" in error["next"]
    # Looking creates nothing.
    assert list(tmp_path.iterdir()) == []
    result = await cli("pool", "sync", "--state-dir", str(tmp_path), exit_code=5)
    assert result.stdout == ""
    assert result.stderr.startswith("error: no store: ")
    assert "\n next: start one with 'pyscheduler serve'" in result.stderr


async def test_the_embedded_server_is_found_without_being_told(tmp_path: Path) -> None:
    cli = Cli("", "x")
    server = await EmbeddedServer.open(tmp_path)
    try:
        async with await Allocator.open(server.url, namespace="x"):
            pass
        assert await cli.json("pool", "list", "--state-dir", str(tmp_path)) == []
        cli.environment["PYSCHEDULER_STATE_DIR"] = str(tmp_path)
        assert await cli.json("node", "list") == []
    finally:
        await server.close()
    await cli("node", "list", exit_code=5)


async def test_a_reader_that_mistypes_the_namespace_is_told_and_leaves_none_behind(redis_url: str, cell: Cell) -> None:
    mistyped = Cli(redis_url, "mistyped-" + cell.allocator.namespace)
    for command in (("pool", "list"), ("node", "list"), ("check",), ("events",), ("config", "show")):
        assert error_of(await mistyped.json(*command, exit_code=1))["code"] == "not_found"
    store = await Store.open(redis_url, mistyped.environment["PYSCHEDULER_NAMESPACE"], StoreOptions())
    assert await store.command("EXISTS", store.key("config")) == 0
    await store.aclose()


async def test_the_password_of_the_store_is_not_shown() -> None:
    result = await Cli("redis://user:sekrit@127.0.0.1:1/0", "x")("pool", "list", "--json", exit_code=5)
    assert "127.0.0.1:1" in result.output
    assert "sekrit" not in result.output


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [(["--redis-url", "http://127.0.0.1"], 2), (["--namespace", "{a}"], 2), (["--namespace", "x" * 65], 2)],
)
async def test_store_options_out_of_bounds_are_bad_input(cli: Cli, options: list[str], exit_code: int) -> None:
    assert error_of(await cli.json("pool", "list", *options, exit_code=exit_code))["code"] == "invalid_input"


@pytest.mark.breaks_store
async def test_a_store_of_a_newer_version_is_left_alone(cli: Cli, cell: Cell) -> None:
    await cell.store.command("HSET", cell.store.key("config"), "schema", "99")
    error = error_of(await cli.json("pool", "list", exit_code=1))
    assert error["code"] == "store_error"
    assert "upgrade" in error["message"]


# --- what nodes and operators write ----------------------------------------------------------------------------------

EVIL = "\x1b[31mEVIL\x1b]0;title\x07[bold red]markup[/] \u202egnirts \x9b2J\r\n\x00"
SENT = "[bold red]markup[/]"


@pytest.mark.parametrize("terminal", [True, False], ids=["a terminal", "a pipe"])
async def test_text_from_outside_is_shown_and_does_nothing(
    cli: Cli, cell: Cell, tmp_path: Path, terminal: bool
) -> None:
    await cell.register("n1", "en", "zh", record={"platform": EVIL, EVIL: [EVIL]})
    await cell.allocator.hold("n1", owner="ops", reason=EVIL)
    labelled = {"name": "labelled", "match": {"labels": {"zone": "[red]eu[/]"}}}
    await cli("pool", "sync", "-f", file_of(tmp_path, labelled), "--author", EVIL, "--reason", EVIL)
    env = {"FORCE_COLOR": "1", "COLUMNS": "400"} if terminal else {}
    said = 0
    for command in (
        ["node", "show", "n1"],
        ["node", "explain", "n1"],
        ["node", "drain", "n1", "--owner", "ops", "--reason", EVIL],
        ["pool", "show", "labelled"],
        ["pool", "history"],
        ["events"],
    ):
        output = (await cli(*command, env=env)).output
        assert ("\x1b[" in output) is terminal, command
        said += SENT in output or "[red]eu[/]" in output
        for acting in ("\x1b[31mEVIL", "\x1b]", "\x07", "\x9b", "\u202e", "\r", "\x00"):
            assert acting not in output, (command, acting)
    assert said == 6


async def test_errors_that_repeat_the_input_do_nothing_either(cli: Cli) -> None:
    result = await cli("node", "show", EVIL, exit_code=2)
    assert "\x1b" not in result.output
    result = await cli("pool", EVIL, exit_code=2)
    assert "\x1b" not in result.output


async def test_json_is_one_line_of_ascii_where_nobody_looks(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh", record={"platform": EVIL})
    result = await cli("node", "show", "n1", "--json")
    assert result.stdout.isascii()
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["record"]["platform"] == EVIL


async def test_colours_can_be_switched_off(cli: Cli, cell: Cell) -> None:
    await cell.register("n1", "en", "zh")
    assert "\x1b[32m" in (await cli("node", "list", env={"FORCE_COLOR": "1"})).stdout
    assert "\x1b[32m" not in (await cli("node", "list", env={"FORCE_COLOR": "1", "NO_COLOR": "1"})).stdout
    assert "\x1b" not in (await cli("node", "list")).stdout


async def test_a_pipe_gets_whole_lines(cli: Cli, cell: Cell) -> None:
    languages = [f"l{letter}" for letter in "abcdefgh"]
    await cell.register("n" * 128, *languages, session_id="s")
    lines = (await cli("node", "list")).stdout.splitlines()
    assert lines[1].startswith("n" * 128)
    assert lines[1].endswith("test")
    assert all(line == line.rstrip() for line in lines)
