"""What is no HTTP, or too much of it, at either door."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.processes import ServeProcess
from tests.e2e.victim import GROWTH_MB, LOG_LINES, memory_mb, needs_proc
from tests.peers import connected, upgrade

pytestmark = needs_proc


TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2


@pytest.mark.parametrize("door", ["node", "operator"])
async def test_what_is_not_http_is_refused_and_does_not_fill_the_log(
    door: str, victim: ServeProcess, survives: None
) -> None:
    for _ in range(2 * LOG_LINES):
        async with connected(victim.url if door == "node" else victim.operator_url) as peer:
            await peer.send(TLS_HELLO)
            assert (await peer.rest())[:12] in (b"HTTP/1.1 400", b"")


@pytest.mark.parametrize("header", [b"Cookie: " + b"a" * 70_000, b"X: y\r\n" * 150 + b"Z: y"], ids=["long", "many"])
async def test_an_upgrade_with_too_much_in_it_is_answered(header: bytes, victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url) as peer:
        await peer.send(upgrade(header))
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("door", ["node", "operator"])
async def test_headers_without_end_are_cut_off(door: str, victim: ServeProcess, survives: None) -> None:
    async with connected(victim.url if door == "node" else victim.operator_url) as peer:
        before = memory_mb(victim.pid)

        async def send_on() -> None:
            await peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            for _ in range(200):
                await peer.send(b"X: " + b"y" * 1_000_000 + b"\r\n")

        with pytest.raises(ConnectionError):
            await send_on()
    assert memory_mb(victim.pid) - before < GROWTH_MB


async def test_the_operator_door_is_no_websocket_and_takes_nothing(victim: ServeProcess, survives: None) -> None:
    async with connected(victim.operator_url) as peer:
        await peer.send(upgrade().replace(b"/ws/node", b"/health"))
        await peer.until(b"HTTP/1.1 200 ")
    async with httpx.AsyncClient(base_url=victim.operator_url, trust_env=False) as http:
        assert (await http.post("/health", content=b"x" * 50_000_000)).status_code == 405
        answer = await http.get("/api/v1/nodes/..%2f", headers={"Host": "elsewhere"})
        assert (answer.status_code, answer.headers.get("location")) == (404, None)
