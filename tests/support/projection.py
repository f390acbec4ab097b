"""Run a projector over the memory adapters until it has committed a sequence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from refold.core import json_text
from refold.core.fold_state import FoldState
from refold.log import Appended, EventLog, Notices, Publication
from refold.log.memory import MemoryLog, MemoryNotices
from refold.projector.loop import LoopLimits, Ports, ShardLoop
from refold.store.memory import MemoryStore
from refold.store.ports import SnapshotStore
from refold.telemetry.metrics.projector import ProjectorMetrics

ROOMY = LoopLimits(cache_bytes_max=2**28, pending_events_max=5_000, pending_bytes_max=2**25)
NARROW = LoopLimits(cache_bytes_max=1, pending_events_max=3, pending_bytes_max=2**25)
DEADLINE_SECONDS = 20
LOOK_SECONDS = 0.002


def ports(
    log: EventLog,
    store: SnapshotStore,
    notices: Notices | None = None,
    *,
    broker_now: Callable[[], int] = time.time_ns,
    timer: Callable[[], float] = time.perf_counter,
) -> Ports:
    """Wire a loop's ports; outcomes and changes go to the same notices."""
    notices = notices or MemoryNotices()
    return Ports(
        log=log,
        store=store,
        notices=notices,
        replies=notices,
        metrics=ProjectorMetrics(CollectorRegistry()),
        broker_now=broker_now,
        timer=timer,
    )


async def append(
    log: MemoryLog, document: str, event: Any, *headers: tuple[str, str], namespace: str = "n"
) -> int:
    """Append one event, a JSON value or bytes; return its sequence."""
    body = event if isinstance(event, bytes) else json_text.dumps(event)
    acknowledged = await log.append(
        Publication(namespace=namespace, document=document, body=body, headers=headers)
    )
    assert isinstance(acknowledged, Appended)
    return acknowledged.sequence


class Projecting:
    """A loop that runs."""

    def __init__(self, loop: ShardLoop) -> None:
        self._loop = loop
        self.task = asyncio.create_task(loop.run())

    async def committed(self, sequence: int, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until a sequence is committed; re-raise the loop's error."""
        async with asyncio.timeout(deadline_seconds):
            while self._loop.committed_sequence < sequence:
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def projecting(given: Ports, limits: LoopLimits = ROOMY) -> AsyncIterator[Projecting]:
    """Run a loop from the store's checkpoints; it is cancelled at the end."""
    assert await given.store.acquire_lease()
    checkpoints = await given.store.bind((await given.log.info()).log_id)
    running = Projecting(ShardLoop(given, limits, FoldState(checkpoints)))
    try:
        yield running
    finally:
        running.task.cancel()
        await asyncio.wait({running.task})


async def project(log: MemoryLog, limits: LoopLimits = ROOMY) -> MemoryStore:
    """Fold a log to its end into a new store."""
    store = MemoryStore()
    async with projecting(ports(log, store), limits) as running:
        await running.committed((await log.info()).last_sequence)
    return store
