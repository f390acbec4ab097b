"""Events appended through Refold's appender, singly and in batches. Tasks for `bench.worker`."""

from __future__ import annotations

import asyncio
import time
from itertools import count, cycle
from typing import Any, Final

from bench.signals import Signals
from refold.bench.workload import NAMESPACE, Kind, small_events
from refold.core.errors import RefoldError
from refold.log import Appended, Publication
from refold.wiring.servers import open_log

POOL_EVENTS: Final = 20_000
BATCHES_IN_FLIGHT: Final = 4


async def append_singly(
    signals: Signals, *, url: str, writers: int, seconds: float, kind: Kind
) -> dict[str, Any]:
    """Append one by one, each writer waiting for its acknowledgement."""
    log = await open_log(url, "refold-bench-append")
    publications, taken = cycle(_publications(kind)), []

    async def write(until: float) -> None:
        while (started_at := time.perf_counter()) < until:
            answer = await log.append(next(publications))
            if not isinstance(answer, Appended):
                raise RefoldError("an append was not acknowledged", answer=answer)
            taken.append((time.perf_counter() - started_at) * 1_000)

    try:
        await signals.until_go()
        started_at = time.perf_counter()
        await asyncio.gather(*(write(started_at + seconds) for _ in range(writers)))
        return {"events": len(taken), "seconds": time.perf_counter() - started_at, "milliseconds": taken}
    finally:
        await log.close()


async def append_batches(
    signals: Signals, *, url: str, size: int, seconds: float, kind: Kind
) -> dict[str, Any]:
    """Append atomic batches, a few in flight."""
    log = await open_log(url, "refold-bench-batches")
    publications, numbers, done = _publications(kind), count(), 0

    async def write(until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            first = next(numbers) * size % (POOL_EVENTS - size + 1)
            answer = await log.append_atomically(publications[first : first + size])
            if not isinstance(answer, list):
                raise RefoldError("a batch was not acknowledged", answer=answer)
            done += len(answer)

    try:
        await signals.until_go()
        started_at = time.perf_counter()
        await asyncio.gather(*(write(started_at + seconds) for _ in range(BATCHES_IN_FLIGHT)))
        return {"events": done, "seconds": time.perf_counter() - started_at}
    finally:
        await log.close()


def _publications(kind: Kind) -> list[Publication]:
    return [
        Publication(namespace=NAMESPACE, document=event.document, body=event.body)
        for event in small_events(POOL_EVENTS, kind=kind)
    ]
