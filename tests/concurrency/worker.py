"""A process of clients that get in each other's way: ``python -m tests.concurrency.worker PLAN``, PLAN in JSON.

It connects, prints ``ready``, waits for a line on its input, does what its seed says, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pyscheduler import Allocator, Facts, JobRequest, PoolDocument, StoreOptions
from pyscheduler.core.results import NodeStatus
from pyscheduler.errors import StoreUnavailable
from pyscheduler.store import Store
from tests.concurrency.client import Client, Tenure, cancel, kill_connection
from tests.concurrency.history import Recorder
from tests.concurrency.node_model import BRIEF_NS
from tests.concurrency.planted import open_allocator
from tests.harness import document_of, facts_of, pool

NODES = ("n1", "n2", "n3")
OWNERS = ("ops", "autoscaler")
FACTS = (facts_of("de", "en"), facts_of("en", "zh"), facts_of("ja"), facts_of("de", "en", gpu_memory_gb=(8,)))
TIMEOUT_S = 0.25
"""Short, so that a pause of the server leaves calls with an unknown outcome."""


def _document(*pools: dict[str, object], auto: bool = True, **selection: object) -> PoolDocument:
    # The guard would refuse by shares of the fleet: with it, what a sync does would not follow from the configuration.
    return document_of(
        *pools,
        auto={"enabled": auto},
        guard={"max_unassigned_share": 1},
        selection={"slots_per_node": 2, "tenant_slots": 1, **selection},
    )


DOCUMENTS = (
    _document(),
    _document(pool("german", semantic={"contains": ["de"]}), tenant_slots=0),
    _document(pool("big", gpu={"min_memory_gb": 16}), on_new_epoch="lose"),
    _document(
        pool("german", semantic={"contains": ["de"]}),
        pool("big", priority=1, gpu={"min_memory_gb": 16}),
        on_drain="lose",
    ),
    # It has the name that an automatic pool would need, and does not match.
    _document(pool("ja", semantic={"contains": ["ko"]}), auto=False),
    _document(pool("german", semantic={"exact": ["de"]}), pool("english", semantic={"contains": ["en"]})),
)
WEIGHTS = {
    "register": 18,
    "register_late": 4,
    "succeed": 3,
    "update": 16,
    "heartbeat": 14,
    "release": 9,
    "sync": 12,
    "hold": 8,
    "reconcile": 4,
    "read_node": 6,
    "read_nodes": 4,
    "read_pools": 4,
    "read_version": 2,
    "read_document": 3,
    "reserve": 24,
    "update_job": 14,
    "read_jobs": 3,
}
REQUESTS = (JobRequest("de", "en", tenant="acme"), JobRequest("en", "en"), JobRequest("zh", "en", slots=2))
JOBS_AT_A_TIME = 4


@dataclass(frozen=True)
class Plan:
    """What a worker is to do.

    Args:
        name: of the worker; its clients are called after it.
        file: where it records.
        clients: at the same time, over one connection.
        operations: of each client.
        cuts: share of the calls that are cut off while they are under way.
        planted: name of a fault to plant, or empty.
    """

    url: str
    namespace: str
    name: str
    file: str
    seed: int
    clients: int = 2
    operations: int = 100
    cuts: float = 0.0
    planted: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Contender(Client):
    """A client that does at random what others do to the same few nodes and the one configuration."""

    def __init__(self, name: str, allocator: Allocator, recorder: Recorder, other: Store, plan: Plan) -> None:
        super().__init__(name, allocator, recorder)
        self._other = other
        self._plan = plan
        self._random = random.Random(f"{plan.seed} {name}")
        self._tenures: dict[str, Tenure] = {}
        self._registered: list[tuple[str, str]] = []
        self._seen_version = 0
        self._attempts: dict[str, int] = {}
        self._jobs = [f"j{number}" for number in range(JOBS_AT_A_TIME)]

    async def run(self) -> None:
        for _ in range(self._plan.operations):
            (kind,) = self._random.choices(list(WEIGHTS), WEIGHTS.values())
            if self._random.random() < self._plan.cuts:
                await self._arm()
            await self._do(kind)

    async def _arm(self) -> None:
        if self._random.random() < 0.5:
            self.cut = cancel(self._random.randrange(6))
            return
        # The connection that it would kill may just have been killed.
        with contextlib.suppress(StoreUnavailable):
            self.cut = await kill_connection(self.allocator, self._other)

    async def _do(self, kind: str) -> None:
        node = self._random.choice(NODES)
        tenure = self._tenures.get(node)
        if kind == "sync":
            expected = self._random.choice([None, self._seen_version, await self.read_document()])
            await self.sync(self._random.choice(DOCUMENTS), expected)
        elif kind == "read_document":
            self._seen_version = await self.read_document()
        elif kind in ("read_version", "read_pools", "read_nodes", "read_jobs", "reconcile"):
            await getattr(self, kind)()
        elif kind == "read_node":
            await self.read_node(node)
        elif kind == "reserve":
            await self._reserve()
        elif kind == "update_job":
            await self._update_job()
        elif kind == "hold":
            await self.hold(node, self._random.choice(OWNERS), lift=self._random.random() < 0.6)
        elif kind == "register_late" and self._registered:
            await self._register_late()
        elif kind == "succeed":
            await self._succeed(node)
        elif kind in ("register", "register_late") or tenure is None:
            await self._register(node)
        elif kind == "update":
            done = await self.update(tenure, self._facts(), self._status())
            self._tenures[node] = done or tenure
        elif kind == "heartbeat":
            if await self.heartbeat(tenure) is None and self._random.random() < 0.5:
                await self._put_back(node, tenure)
        elif kind == "release":
            await self.release(tenure, self._random.choice([0, 0, 60_000]))
            # Now and then it goes on with a session that is over.
            if self._random.random() < 0.8:
                del self._tenures[node]

    async def _reserve(self) -> None:
        """Mostly the next attempt, as far as this client knows; now and then the last one again, or one too far on."""
        job = self._random.choice(self._jobs)
        known = self._attempts.get(job, 0)
        attempt = max(known + self._random.choice([0, 1, 1, 1, 2]), 1)
        owner = self.name if self._random.random() < 0.8 else "anybody"
        brief = self._random.random() < 0.3
        done = await self.reserve(job, self._random.choice(REQUESTS), attempt, owner=owner, brief=brief)
        if done is None and self._random.random() < 0.3:
            done = await self.reserve(job, self._random.choice(REQUESTS), attempt, owner=owner, brief=brief)
        # Who is refused tries the one after: sooner or later it is the next.
        self._attempts[job] = done.attempt if done else max(known, attempt - 1 + self._random.randrange(2))

    async def _update_job(self) -> None:
        job = self._random.choice(self._jobs)
        attempt = max(self._attempts.get(job, 1) - (self._random.random() < 0.15), 1)
        owner = self.name if self._random.random() < 0.8 else "anybody"
        (what,) = self._random.choices(("renew", "start", "finish", "fail", "release"), (3, 3, 1, 3, 3))
        await self.update_job(what, job, attempt, owner=owner, brief=self._random.random() < 0.3)
        if what == "finish":
            # It has no further attempt.
            self._jobs[self._jobs.index(job)] = f"{job}x"

    async def _register_late(self) -> None:
        """A call of before arrives once more, when its session may long be over."""
        node, session = self._random.choice(self._registered[-4:])
        await self.register(node, self._facts(), self._status(), session=session)

    async def _succeed(self, node: str) -> None:
        """Registers for a moment only, and once that is over asks for the node without taking it from anybody.

        Before that a job comes, which must not get it.
        """
        await self.register(node, facts_of("de", "en"), NodeStatus.READY, brief=True)
        over_ns = time.monotonic_ns() + BRIEF_NS
        while time.monotonic_ns() < over_ns:
            await self.read_version()
        job = f"{self.name}-{self.count}"
        done_job = await self.reserve(job, REQUESTS[1], 1, owner=self.name)
        if done_job:
            await self.update_job("finish", job, 1, owner=self.name)
        done = await self.register(node, self._facts(), self._status(), takeover=False)
        if done:
            self._tenures[node] = done

    async def _register(self, node: str) -> None:
        facts, status = self._facts(), self._status()
        takeover, brief = self._random.random() < 0.6, self._random.random() < 0.15
        session = f"{self.name}-{self.count + 1}"
        self._registered.append((node, session))
        done = await self.register(node, facts, status, takeover=takeover, brief=brief)
        if done is None and self._random.random() < 0.5:
            done = await self.register(node, facts, status, takeover=takeover, session=session)
        if done:
            self._tenures[node] = done

    async def _put_back(self, node: str, tenure: Tenure) -> None:
        done = await self.register(node, self._facts(), self._status(), session=tenure.name, epoch=tenure.session.epoch)
        if done:
            self._tenures[node] = done

    def _facts(self) -> Facts:
        return self._random.choice(FACTS)

    def _status(self) -> NodeStatus:
        return self._random.choice([NodeStatus.READY, NodeStatus.READY, NodeStatus.DEGRADED, NodeStatus.REGISTERING])


@asynccontextmanager
async def contenders(plan: Plan) -> AsyncIterator[list[Contender]]:
    """The clients of a plan, connected."""
    recorder = Recorder(Path(plan.file))
    options = StoreOptions(timeout_s=TIMEOUT_S if plan.cuts else StoreOptions().timeout_s)
    try:
        async with await open_allocator(plan.url, plan.namespace, plan.planted, options) as allocator:
            other = await Store.open(plan.url, plan.namespace, StoreOptions())
            names = (f"{plan.name}{chr(ord('a') + number)}" for number in range(plan.clients))
            try:
                yield [Contender(name, allocator, recorder, other, plan) for name in names]
            finally:
                await other.aclose()
    finally:
        recorder.close()


async def work(plan: Plan) -> None:
    async with contenders(plan) as clients, asyncio.TaskGroup() as running:
        print("ready", flush=True)
        sys.stdin.readline()
        for client in clients:
            running.create_task(client.run())


if __name__ == "__main__":
    asyncio.run(work(Plan(**json.loads(sys.argv[1]))))
