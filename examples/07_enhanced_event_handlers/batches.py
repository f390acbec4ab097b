"""Batches: the same small events, one in a request, and up to 1,000 in a request."""

import asyncio
import time
from statistics import median

from refold import System
from refold.client import Refold

NAMESPACE = "counters"
SIZES = (1, 10, 100, 1_000)
CLIENTS = 32
"""Requests with one event that are in flight at a time."""
DOCUMENTS = 100
SECONDS = 1.0


async def compare_sizes(system: System) -> int:
    """Write for a second with each size; return how many events were written."""
    print(f"\n▸ Batches: small events to {DOCUMENTS} documents, for {SECONDS:.0f} s each")
    print("  events in a request  requests at a time  events/s  a request takes")
    total = 0
    async with Refold(system.http) as refold:
        documents = [f"counter-{number}" for number in range(DOCUMENTS)]
        await refold.append(NAMESPACE, [{"doc": document, "put": {"count": 0}} for document in documents])
        for size, clients in ((1, CLIENTS), *((size, 1) for size in SIZES)):
            begun = time.monotonic()
            taken = await asyncio.gather(*(_write(refold, size, begun + SECONDS) for _ in range(clients)))
            seconds = [each for some in taken for each in some]
            count = len(seconds) * size
            rate = count / (time.monotonic() - begun)
            print(f"  {size:<19,} {clients:19} {rate:9,.0f} {1_000 * median(seconds):13.1f} ms")
            total += count
        written = sum([document.version async for document in refold.list(NAMESPACE)])
    assert written == DOCUMENTS + total
    return written


async def _write(refold: Refold, size: int, until: float) -> list[float]:
    """Write batches until a time, each after the outcomes of the one before; return the seconds that each took."""
    seconds, first = list[float](), 0
    while time.monotonic() < until:
        begun = time.monotonic()
        documents = [f"counter-{(first + number) % DOCUMENTS}" for number in range(size)]
        if size == 1:
            outcomes = [await refold.patch(NAMESPACE, documents[0], _INC, type="counted")]
        else:
            events = [{"doc": document, "patch": _INC, "type": "counted"} for document in documents]
            outcomes = await refold.append(NAMESPACE, events)
        assert {outcome.status for outcome in outcomes} == {"applied"}
        seconds.append(time.monotonic() - begun)
        first += size
    return seconds


_INC = [{"op": "inc", "path": "/count", "inc": 1}]
