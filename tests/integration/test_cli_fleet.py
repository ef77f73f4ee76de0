"""The commands that look at pools and nodes: what they answer, in both forms."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.commands import Cli, file_of, named
from tests.harness import LEASE_MS, Cell, facts_of


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
