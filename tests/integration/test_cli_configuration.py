"""The commands that change and show the configuration, and reconcile."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from pyscheduler.core.jobs import JobAsk, JobRequest, Reservation
from tests.commands import UNREACHABLE, Cli, error_of, file_of, named
from tests.harness import Cell
from tests.support import wait_until_async


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
    # Four passes' worth, and yet a small enough share of the fleet to keep the brake off.
    await asyncio.gather(*(cell.register(f"m{number}", "en", "zh") for number in range(300)))
    await asyncio.gather(*(cell.register(f"n{number}", "en", "zh", lease_ms=1) for number in range(100)))
    await lapsed(cell, 100)
    assert (await cli.json("pool", "sync"))["reconcile"]["expired"] == 100


async def test_reconciling_ends_every_reservation_that_has_lapsed(cli: Cli, cell: Cell) -> None:
    for number in range(60):
        await cell.register(f"n{number}", "en", "zh")
    # Three passes' worth.
    asks = [JobAsk(f"j{number}", JobRequest("en", "zh")) for number in range(240)]
    found = await cell.allocator.reserve_many(asks, owner="me", lease_ms=1)
    assert all(isinstance(one, Reservation) for one in found)

    async def all_lapsed() -> bool:
        return all(job.lease_ms < 0 for job in (await cell.allocator.jobs()).jobs)

    await wait_until_async(lambda: all_lapsed(), "every reservation has lapsed")
    await cell.trust_leases()
    assert (await cli.json("pool", "sync"))["reconcile"]["ended_jobs"] == 240
    assert (await cell.allocator.jobs(state="live")).jobs == ()


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
