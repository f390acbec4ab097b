"""A log folded into an unused schema, by the loop that `refold rebuild` uses. A task for `refold.bench.worker`."""

from __future__ import annotations

import time
from typing import Any

from refold.bench.signals import Signals
from refold.core.shard import Shard
from refold.projector.partition import ShardLoop
from refold.projector.rebuild import silent_ports
from refold.store.postgres import PostgresStore
from refold.wiring.folding import collect_seldom
from refold.wiring.log import open_log
from refold.wiring.projector import bounds_of
from refold.wiring.settings import load


async def replay(signals: Signals, *, url: str, dsn: str, schema: str, until_sequence: int) -> dict[str, Any]:
    """Fold a log into a schema that nobody has used."""
    collect_seldom()
    log = await open_log(url, "refold-bench-replay")
    store = await PostgresStore.open(dsn, schema=schema, readers_max=2)
    try:
        assert await store.own()
        checkpoints = await store.bind((await log.info()).log_id)
        loop = ShardLoop(silent_ports(log, store), bounds_of(load()), Shard(checkpoints))
        await signals.until_go()
        begun = time.perf_counter()
        await loop.run(until_sequence)
        seconds = time.perf_counter() - begun
        counts = [checkpoint.counts for checkpoint in await store.checkpoints()]
        applied = sum(count.applied + count.merged for count in counts)
        return {"seconds": seconds, "applied": applied}
    finally:
        await store.close()
        await log.close()
