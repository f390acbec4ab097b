"""A shard of a log folded into an unused schema, as `refold rebuild` does it. A task for `bench.worker`."""

from __future__ import annotations

import time
from typing import Any

from bench.signals import Signals
from refold.core.document import Status
from refold.projector.loop import begin_replay
from refold.store.postgres import PostgresStore
from refold.wiring.log import open_log
from refold.wiring.projector import bounds_of
from refold.wiring.service import collect_seldom
from refold.wiring.settings import load


async def replay(
    signals: Signals, *, url: str, dsn: str, schema: str, until_sequence: int, partitions: list[int]
) -> dict[str, Any]:
    """Fold these partitions into an unused schema."""
    collect_seldom()
    log = await open_log(url, "refold-bench-replay")
    store = await PostgresStore.open(dsn, schema=schema, shard=str(partitions[0]), readers_max=2)
    try:
        loop = await begin_replay(log, store, bounds_of(load()), partitions)
        await signals.until_go()
        started_at = time.perf_counter()
        await loop.run(until_sequence)
        seconds = time.perf_counter() - started_at
        own = [found.counts for found in await store.checkpoints() if found.partition in partitions]
        applied = sum(counts[Status.applied] + counts[Status.merged] for counts in own)
        return {"seconds": seconds, "applied": applied}
    finally:
        await store.close()
        await log.close()
