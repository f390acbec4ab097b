"""Versions read straight from the store, one after another. A task for `bench.worker`."""

from __future__ import annotations

import time
from typing import Any

import orjson

from bench.signals import Signals
from refold.bench.workload import COUNTER, NAMESPACE
from refold.core.history import Clock, Point
from refold.history import state_at
from refold.store.postgres import PostgresStore


async def read_store(
    signals: Signals, *, dsn: str, schema: str, picks: list[tuple[str, int]]
) -> dict[str, Any]:
    """Read versions straight from the store, one after another."""
    store = await PostgresStore.open(dsn, schema=schema, readers_max=1)
    taken, states = [], []
    try:
        await signals.until_go()
        started = time.perf_counter()
        for document, version in picks:
            started_at = time.perf_counter()
            states.append(await state_at(store, NAMESPACE, document, Point(Clock.version, version)))
            taken.append((time.perf_counter() - started_at) * 1_000)
        seconds = time.perf_counter() - started
    finally:
        await store.close()
    counters = [orjson.loads(found.state or b"{}").get(COUNTER) if found else None for found in states]
    return {"milliseconds": taken, "seconds": seconds, "counters": counters}
