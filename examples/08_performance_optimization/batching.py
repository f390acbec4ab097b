"""Batches that need no code: events that arrive at the same time are appended, folded and committed together."""

import asyncio
import time

from services import metrics_of

from refold import System
from refold.client import Refold

NAMESPACE = "writers"
WRITERS = (1, 8, 64)
SECONDS = 1.0
DOCUMENTS = 200


async def count_commits(system: System) -> None:
    """Let more and more clients write single events; print how many of them each commit has."""
    print("\n▸ Batches: clients that write one event after the other, each waits for its outcome")
    print("  clients  events/s  an event takes  events in a commit  a commit takes")
    projector = system.services["projector"]
    async with Refold(system.http) as refold:
        lines = [{"doc": f"counter-{number}", "put": {"count": 0}} for number in range(DOCUMENTS)]
        await refold.append(NAMESPACE, lines, committed=True)
        total = 0
        before = await metrics_of(projector)
        for clients in WRITERS:
            until = time.monotonic() + SECONDS
            written = await asyncio.gather(*(_write(refold, number, until) for number in range(clients)))
            await refold.put(NAMESPACE, "end", None, committed=True)
            after = await metrics_of(projector)
            events, commits, seconds = (
                after[name] - before[name]
                for name in (
                    "refold_commit_events_sum",
                    "refold_commit_events_count",
                    "refold_commit_seconds_sum",
                )
            )
            before, count = after, sum(written)
            total += count
            event_ms, commit_ms = 1_000 * SECONDS * clients / count, 1_000 * seconds / commits
            print(
                f"  {clients:<7} {count / SECONDS:9,.0f} {event_ms:12.1f} ms"
                f" {events / commits:19.0f} {commit_ms:12.1f} ms"
            )
        documents = [document async for document in refold.list(NAMESPACE, prefix="counter-")]
    assert sum(document.state["count"] for document in documents) == total


async def _write(refold: Refold, number: int, until: float) -> int:
    count = 0
    while time.monotonic() < until:
        document = f"counter-{(7 * number + count) % DOCUMENTS}"
        outcome = await refold.patch(NAMESPACE, document, [{"op": "inc", "path": "/count", "inc": 1}])
        outcome.raise_for_status()
        count += 1
    return count
