"""Events appended without Refold: by nats-py singly and in batches, and by the bare protocol.

Tasks for `bench.worker`; used where events are appended.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count, cycle
from typing import Any, Final

import nats
from nats.aio.client import Client

from bench.signals import Signals
from bench.wire import BatchPublisher
from refold.bench.workload import NAMESPACE, Event, small_events
from refold.core.errors import LogUnavailable
from refold.wiring.servers import inbox_of

POOL_EVENTS: Final = 20_000
ACKNOWLEDGE_SECONDS: Final = 10
BATCHES_IN_FLIGHT: Final = 4
WIRE_RATE: Final = 80_000
"""Events prepared per second."""


async def publish_with_nats_py(signals: Signals, *, url: str, writers: int, seconds: float) -> dict[str, Any]:
    """Publish one by one, each writer waiting for its acknowledgement."""
    client = await nats.connect(url, inbox_prefix=inbox_of(url))
    stream = client.jetstream()
    events = cycle(small_events(POOL_EVENTS))

    async def write(until: float) -> int:
        for done in count():
            if time.perf_counter() >= until:
                return done
            event = next(events)
            await stream.publish(_subject(event), event.body, timeout=ACKNOWLEDGE_SECONDS)
        raise AssertionError

    try:
        return await _shared(signals, write, writers, seconds)
    finally:
        await client.close()


async def batches_with_nats_py(signals: Signals, *, url: str, size: int, seconds: float) -> dict[str, Any]:
    """Publish atomic batches message by message."""
    client = await nats.connect(url, inbox_prefix=inbox_of(url))
    events, numbers = small_events(POOL_EVENTS), count()

    async def write(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            number = next(numbers)
            first = number * size % (POOL_EVENTS - size + 1)
            await _publish_batch(client, f"{inbox_of(url)}-{number}", events[first : first + size])
            done += size
        return done

    try:
        return await _shared(signals, write, BATCHES_IN_FLIGHT, seconds)
    finally:
        await client.close()


async def batches_on_the_wire(signals: Signals, *, url: str, size: int, seconds: float) -> dict[str, Any]:
    """Write prepared frames of atomic batches directly to the socket."""
    publisher = await BatchPublisher.connect(url, f"wire-{time.monotonic_ns()}")
    events = small_events(POOL_EVENTS)
    parcels = []
    for number in range(int(WIRE_RATE * seconds) // size + 1):
        first = number * size % (POOL_EVENTS - size + 1)
        parcels.append(publisher.parcel(number, events[first : first + size]))
    try:
        await signals.until_go()
        started_at = time.perf_counter()
        for number, parcel in enumerate(parcels):
            if time.perf_counter() - started_at >= seconds:
                break
            await publisher.send(number, parcel)
        await publisher.drain()
        return {"events": publisher.acknowledged, "seconds": time.perf_counter() - started_at}
    finally:
        publisher.close()


async def _shared(signals: Signals, write: Any, writers: int, seconds: float) -> dict[str, Any]:
    await signals.until_go()
    started_at = time.perf_counter()
    done = await asyncio.gather(*(write(started_at + seconds) for _ in range(writers)))
    return {"events": sum(done), "seconds": time.perf_counter() - started_at}


async def _publish_batch(client: Client, batch: str, events: list[Event]) -> None:
    last = len(events)
    for place, event in enumerate(events, 1):
        headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}
        if place < last:
            await client.publish(_subject(event), event.body, headers=headers)
            continue
        headers["Nats-Batch-Commit"] = "1"
        answer = await client.request(
            _subject(event), event.body, timeout=ACKNOWLEDGE_SECONDS, headers=headers
        )
        if b'"error"' in answer.data:
            raise LogUnavailable("a batch was refused", reason=answer.data.decode(errors="replace"))


def _subject(event: Event) -> str:
    return f"state.{NAMESPACE}.{event.document}"
