"""URLs of stores, taken apart: servers, Clusters, Sentinels."""

from __future__ import annotations

import pytest

from pyscheduler.core.limits import MAX_STORE_HOSTS
from pyscheduler.core.urls import StoreUrl, masked_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://", [("localhost", 6379)]),
        ("redis://h1/0", [("h1", 6379)]),
        ("redis://h1:7000,h2:7001/0", [("h1", 7000), ("h2", 7001)]),
        ("rediss://user:a@h1,h2", [("h1", 6379), ("h2", 6379)]),
        ("redis://[::1]:7000,[::2]/0", [("::1", 7000), ("::2", 6379)]),
        ("redis+sentinel://h1,h2:1/cell", [("h1", 26379), ("h2", 1)]),
        ("unix:///run/redis.sock", []),
    ],
)
def test_hosts_are_read_in_their_order(url: str, hosts: list[tuple[str, int]]) -> None:
    assert list(StoreUrl.parse(url).hosts) == hosts


def test_as_many_hosts_are_read_as_may_be_named() -> None:
    names = [f"h{number}" for number in range(MAX_STORE_HOSTS)]
    assert StoreUrl.parse(f"redis://{','.join(names)}/0").hosts == tuple((name, 6379) for name in names)


def test_one_server_gets_the_url_as_it_was_written() -> None:
    for url in ("redis://u:a%2Fb@h1/3?ssl_cert_reqs=none", "unix:///run/redis.sock?db=1"):
        parts = StoreUrl.parse(url)
        assert (parts.service, parts.server, parts.sentinel) == ("", url, "")


@pytest.mark.parametrize(("first", "second"), [("h1:7000", "[::2]:7001"), ("[::2]:7001", "h1:7000")])
def test_every_node_of_a_cluster_gets_the_same_user_and_options(first: str, second: str) -> None:
    parts = StoreUrl.parse(f"rediss://u:a%2Fb@{first},{second}/0?ssl_cert_reqs=none")
    assert parts.server == f"rediss://u:a%2Fb@{first}/0?ssl_cert_reqs=none"
    assert (parts.service, parts.sentinel) == ("", "")


def test_sentinels_have_a_password_of_their_own_or_none() -> None:
    parts = StoreUrl.parse("rediss+sentinel://u:a@h1,h2/my%20cell/2?ssl_cert_reqs=none&sentinel_password=b")
    assert (parts.scheme, parts.service) == ("rediss", "my cell")
    assert parts.server == "rediss://u:a@h1:26379/2?ssl_cert_reqs=none"
    assert parts.sentinel == "rediss://h1:26379?ssl_cert_reqs=none&password=b"
    assert StoreUrl.parse("redis+sentinel://:a@h1/cell").sentinel == "redis://h1:26379"
    parts = StoreUrl.parse("redis+sentinel://:a@h1/cell?sentinel_username=u")
    assert (parts.server, parts.sentinel) == ("redis://:a@h1:26379/", "redis://h1:26379?username=u")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://[h1", "is no URL"),
        ("http://h1", "must begin with"),
        ("h1:6379", "must begin with"),
        ("unix+sentinel://h1/cell", "must begin with"),
        ("unix://", "names no socket"),
        ("redis://h1:port", "host or port"),
        ("redis://h1:1,h2:70000", "host or port"),
        ("redis://h1,", "a comma too many"),
        ("redis://,h1", "a comma too many"),
        ("redis+sentinel://h1:26379", "names no service"),
        ("redis+sentinel://h1:26379//0", "names no service"),
        (f"redis://{','.join(['h'] * (MAX_STORE_HOSTS + 1))}", f"more than {MAX_STORE_HOSTS} hosts"),
    ],
)
def test_what_is_no_url_of_a_store_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        StoreUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://user:{SECRET}@h1:1,h2:2/0", "redis://user:***@h1:1,h2:2/0"),
        (f"redis://h1:1,user:{SECRET}@h2:2/0", "redis://h1:***@h2:2/0"),
        ("redis://user@h1/0?name=a/*", "redis://user@h1/0?name=a/*"),
        (f"redis+sentinel://:{SECRET}@h1,h2/cell/0", "redis+sentinel://:***@h1,h2/cell/0"),
        (
            f"redis+sentinel://h1/cell?sentinel_username=u&sentinel_password={SECRET}",
            "redis+sentinel://h1/cell?sentinel_username=u&sentinel_password=***",
        ),
    ],
)
def test_no_password_of_several_hosts_is_shown(url: str, shown: str) -> None:
    assert masked_url(url) == shown
