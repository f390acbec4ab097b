"""Append many events with one request, in their order; each has its own outcome.

`refold up`, then `python examples/bulk.py [http://127.0.0.1:8080]`
"""

import asyncio
import sys

from refold.client import Refold

SENSORS = 100
READINGS = 10


async def main(url: str) -> None:
    """Send a thousand readings of a hundred sensors."""
    events = [
        {"doc": f"sensor-{sensor}", "merge": {"reading": reading, "celsius": 20 + sensor % 7}}
        for reading in range(READINGS)
        for sensor in range(SENSORS)
    ]
    async with Refold(url) as refold:
        outcomes = await refold.append("plant", events)
        print(sum(outcome.is_effective for outcome in outcomes), "of", len(events), "took a version")
        warm = [found.id async for found in refold.list("plant", where="$.celsius > 25")]
        print("warm:", ", ".join(warm))


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
