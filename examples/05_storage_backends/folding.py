"""Fold the whole log into a fresh store, as a projector does, and read from it: how long does it take?"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import cast

from orders import NAMESPACE
from prometheus_client import CollectorRegistry

from refold.core.fold_state import FoldState
from refold.log import end_of
from refold.log.memory import MemoryNotices
from refold.projector.loop import LoopLimits, Ports, ShardLoop
from refold.store.layers.dictionaries import DictionaryKeeper
from refold.store.ports import Reader
from refold.telemetry.metrics.projector import ProjectorMetrics
from refold.wiring.servers import opened
from refold.wiring.settings import Settings
from refold.wiring.store_url import StoreUrl

LIMITS = LoopLimits(
    cache_bytes_max=2**26,
    pending_events_max=500,
    pending_bytes_max=2**24,
    commit_interval_seconds=0,
)


SINGLES = 20
"""Events at the end of the log that are committed one by one."""


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A store that has the whole log; the events per second, and the seconds of a commit of one event."""

    store: Reader
    rate: float
    commit_seconds: float


@asynccontextmanager
async def folded(store: StoreUrl, settings: Settings, *, dictionary: bytes = b"") -> AsyncIterator[Folded]:
    """Fold the log into a store that is empty, but for a dictionary."""
    registry, unsent = CollectorRegistry(), MemoryNotices()
    async with opened(settings, "example", store) as (log, fresh):
        ports = Ports(
            log=log,
            store=fresh,
            notices=unsent,
            replies=unsent,
            metrics=ProjectorMetrics(registry),
            broker_now=time.time_ns,
            timer=time.perf_counter,
        )
        assert await fresh.acquire_lease()
        checkpoints = await fresh.bind((await log.info()).log_id)
        if dictionary:
            await cast("DictionaryKeeper", fresh).add_dictionary(NAMESPACE, dictionary)
        end, begun = await end_of(log), time.perf_counter()
        loop = ShardLoop(ports, LIMITS, FoldState(checkpoints))
        await loop.run(end - SINGLES)
        seconds, before = time.perf_counter() - begun, _commits(registry)
        for sequence in range(end - SINGLES + 1, end + 1):
            await loop.run(sequence)
        count, commit_seconds = (now - then for now, then in zip(_commits(registry), before, strict=True))
        assert count == SINGLES
        yield Folded(store=fresh, rate=(end - SINGLES) / seconds, commit_seconds=commit_seconds / count)


def _commits(registry: CollectorRegistry) -> list[float]:
    """Return how many commits there were, and their seconds."""
    return [registry.get_sample_value(f"refold_commit_seconds_{what}") or 0 for what in ("count", "sum")]


async def read_one_by_one(store: Reader, documents: list[str]) -> float:
    """Read documents one after the other; return the seconds of a read (median)."""
    seconds = []
    for document in documents:
        begun = time.perf_counter()
        assert await store.head(NAMESPACE, document) is not None
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


async def read_together(store: Reader, documents: list[str], at_once: int = 64) -> float:
    """Read documents, so many at a time; return the reads per second."""
    remaining, begun = iter(documents), time.perf_counter()

    async def read() -> None:
        for document in remaining:
            assert await store.head(NAMESPACE, document) is not None

    await asyncio.gather(*(read() for _ in range(at_once)))
    return len(documents) / (time.perf_counter() - begun)
