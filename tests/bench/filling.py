"""Fill a log by bare batches, for measurements of something else.

Used by the measurements that need a log, or a projection of one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import orjson

from bench.internals import Projection, open_projection
from bench.system import Whole
from bench.wire import BatchPublisher
from refold.bench.workload import NAMESPACE, Event, batches
from refold.client import Refold
from refold.core.errors import RefoldError, TimedOut
from refold.wiring.servers import open_log

BATCH_EVENTS: Final = 500
LOOK_SECONDS: Final = 0.1
STALLED_SECONDS: Final = 120


async def fill(url: str, events: Iterator[Event]) -> int:
    """Append them all, in order; return how many the broker has acknowledged."""
    publisher = await BatchPublisher.connect(url, f"fill-{time.monotonic_ns()}")
    try:
        for number, batch in enumerate(batches(events, BATCH_EVENTS)):
            await publisher.send(number, publisher.parcel(number, batch))
        await publisher.drain()
        return publisher.acknowledged
    finally:
        publisher.close()


async def fold_all(system: Whole) -> int:
    """Wait until the projector has committed the log up to its current end; return that sequence."""
    settings = system.reached
    log = await open_log(settings.required("nats_url"), "refold-bench-end")
    try:
        last = (await log.info()).last_sequence
    finally:
        await log.close()
    async with open_projection(settings) as projection:
        await until_committed(projection, last)
    return last


async def until_committed(projection: Projection, sequence: int) -> None:
    """Wait for a commit up to a sequence. Raises `TimedOut` if there is no progress."""
    seen, deadline = -1, 0.0
    while True:
        read = (await projection.progress()).sequence
        if read >= sequence:
            return
        if read > seen:
            seen, deadline = read, time.monotonic() + STALLED_SECONDS
        elif time.monotonic() > deadline:
            raise TimedOut("the projector commits nothing more", committed=read, wanted=sequence)
        await asyncio.sleep(LOOK_SECONDS)


async def fill_over_http(url: str, events: Iterator[Event]) -> None:
    """Append them through a running gateway and wait until all are folded. Raises `RefoldError` if one is refused."""
    async with Refold(url) as refold:
        for batch in batches(events, BATCH_EVENTS):
            lines = [{"doc": event.document, **orjson.loads(event.body)} for event in batch]
            outcomes = await refold.append(NAMESPACE, lines)
            refused = [outcome for outcome in outcomes if outcome.status != "applied"]
            if refused:
                raise RefoldError(
                    "an event was not applied", status=refused[0].status, reason=refused[0].reason
                )
