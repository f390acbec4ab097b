"""A feed over the memory adapters, with a real projector and notices that are lost, doubled or late as a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from refold.core.fold_state import FoldState
from refold.core.history import Segment
from refold.gateway.consistency import Consistency
from refold.history import History
from refold.live.feed import Feed
from refold.live.reader import ConsistentReader
from refold.log import PROGRESS_SUBJECT
from refold.log.memory import MemoryLog, MemoryNotices
from refold.projector.loop import ShardLoop
from refold.store import Head, Key, VersionAt
from refold.store.memory import MemoryStore, Tables
from refold.telemetry.metrics.gateway import LiveMetrics
from support.projection import ROOMY, append, ports

HEARTBEAT_SECONDS = 0.01
DEADLINE_SECONDS = 20
HOUR = 3_600 * 10**9


class Wire(MemoryNotices):
    """Notices of which each is delivered `copies(subject)` times, and held back while `is_late`."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: Callable[[str], int] = lambda _: 1
        self.is_late = False
        self._late: list[tuple[str, bytes]] = []

    async def send_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send messages in their order."""
        self._late += [message for message in messages for _ in range(self.copies(message[0]))]
        if not self.is_late:
            due, self._late = self._late, []
            await super().send_all(due)


class LateStore(MemoryStore):
    """A store whose answers come late: they are of the moment of the question."""

    delay: Callable[[], float] = staticmethod(lambda: 0.0)

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        """Read a head."""
        found = await super().head(namespace, document, known_version=known_version)
        await asyncio.sleep(self.delay())
        return found

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        """Compare versions."""
        found = await super().other_versions(known)
        await asyncio.sleep(self.delay())
        return found

    async def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        """Read a document's past."""
        asked = {"after_version": after_version, "is_descending": is_descending}
        found = [each async for each in super().segments(namespace, document, **asked)]
        await asyncio.sleep(self.delay())
        for segment in found:
            yield segment


class World:
    """A log, its projector, and a feed of what it announces."""

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log = log or MemoryLog("log-1")
        self.tables = Tables()
        self.wire = Wire()
        self.store = LateStore(self.tables)
        self.consistency = Consistency(self.log, self.store, self.wire)
        self.registry = CollectorRegistry()
        reader = ConsistentReader(self.store, History(self.store), self.consistency)
        self.feed = Feed(self.wire, self.store, reader, self.consistency, LiveMetrics(self.registry))
        self.age = 0
        """Nanoseconds by which events seem older to the projector."""

    async def write(self, document: str, event: Any = None) -> int:
        """Append an event; return its sequence."""
        return await append(self.log, document, {"merge": {"n": time.time_ns()}} if event is None else event)

    @asynccontextmanager
    async def projecting(self, store: MemoryStore | None = None) -> AsyncIterator[ShardLoop]:
        """Run a projector, from what is committed, with its heartbeat; killed at the end."""
        self.tables.leases.clear()
        store = store or MemoryStore(self.tables)
        assert await store.acquire_lease()
        state = FoldState(await store.bind("log-1"))
        # Its start is by the true time.
        age, self.age = self.age, 0
        given = ports(self.log, store, self.wire, broker_now=lambda: time.time_ns() + self.age)
        loop = ShardLoop(given, ROOMY, state)
        self.age = age
        async with running(loop.run(), _beat(loop)):
            yield loop

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.registry.get_sample_value(f"refold_live_{name}", labels) or 0.0


async def _beat(loop: ShardLoop) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        await loop.send_progress()


@asynccontextmanager
async def running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run tasks; they are cancelled at the end, and what one of them raised before is raised again."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in (await asyncio.wait(tasks))[0]:
            if not task.cancelled():
                task.result()


@asynccontextmanager
async def feeding(log: MemoryLog | None = None) -> AsyncIterator[World]:
    """Run a feed."""
    world = World(log)
    await world.wire.listen(PROGRESS_SUBJECT, world.consistency.hear)
    async with running(world.feed.run(), world.consistency.watch()):
        yield world


async def until(is_met: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            met = is_met()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.002)
