"""Atomic batches published at a rate, or as fast as possible. A task for `bench.worker`."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from bench.signals import Signals
from bench.wire import BatchPublisher
from refold.bench.workload import Kind, Workload, batches

BATCH_EVENTS_MAX: Final = 1_000
BATCH_EVENTS_MIN: Final = 50
BATCHES_A_SECOND: Final = 40
"""A rate is divided into this many batches a second, if their size allows it."""

FLAT_OUT_RATE: Final = 60_000
"""Events prepared a second when they are published as fast as possible."""

LATE_SHARE: Final = 1.5
"""A rate that cannot be kept ends after this many times the planned time."""


async def publish_batches(
    signals: Signals,
    *,
    url: str,
    prefix: str,
    rate: float,
    seconds: float,
    documents: int,
    document_bytes: int,
    kind: Kind,
    stale_share: float,
    traced_share: float,
) -> dict[str, Any]:
    """Publish small events in atomic batches, made before; at a rate, or as fast as possible if it is 0."""
    publisher = await BatchPublisher.connect(url, f"live-{prefix}")
    workload = Workload(
        documents=documents,
        document_bytes=document_bytes,
        prefix=prefix,
        kind=kind,
        stale_share=stale_share,
    )
    workload.skip(documents)
    size = batch_events(rate)
    events = workload.events(int((rate or FLAT_OUT_RATE) * seconds) or size)
    parcels = [
        publisher.parcel(number, batch, traced_share) for number, batch in enumerate(batches(events, size))
    ]
    try:
        await signals.until_go()
        started_at = time.perf_counter()
        for number, parcel in enumerate(parcels):
            due = started_at + number * size / rate if rate else 0.0
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if signals.is_stopped or time.perf_counter() - started_at >= seconds * LATE_SHARE:
                break
            if not rate and time.perf_counter() - started_at >= seconds:
                break
            await publisher.send(number, parcel)
        await publisher.drain()
        return {"events": publisher.acknowledged, "seconds": time.perf_counter() - started_at}
    finally:
        publisher.close()


def batch_events(rate: float) -> int:
    """Choose the size of a batch: as large as possible without a rate, otherwise small enough for an even rate."""
    if not rate:
        return BATCH_EVENTS_MAX
    return min(BATCH_EVENTS_MAX, max(BATCH_EVENTS_MIN, int(rate / BATCHES_A_SECOND)))
