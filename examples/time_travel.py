"""A document at any version and any time, on the log's clock and on the author's, and the patch between two.

`refold up`, then `python examples/time_travel.py [http://127.0.0.1:8080]`
"""

import asyncio
import sys

from refold.client import Refold

HISTORY = [
    ("1991-08-25", {"name": "Linux", "version": "0.01"}),
    ("1994-03-14", {"name": "Linux", "version": "1.0"}),
    ("2003-12-17", {"name": "Linux", "version": "2.6"}),
    ("2011-07-21", {"name": "Linux", "version": "3.0"}),
]


async def main(url: str) -> None:
    """Record past events, then read the state at earlier times."""
    async with Refold(url) as refold:
        for day, state in HISTORY:
            await refold.put("kernel", "linux", state, occurred_at=f"{day}T00:00:00Z")
        last = (await refold.get("kernel", "linux")).version

        then = await refold.get("kernel", "linux", at="2000-01-01", clock="occurred")
        print("in 2000 it was", then.state["version"])
        before = await refold.get("kernel", "linux", version=last - 1)
        print("recorded until", before.recorded_at, "as", before.state["version"])
        print("since then:", await refold.diff("kernel", "linux", last - 1, last))
        print("and back:  ", await refold.diff("kernel", "linux", last, last - 1))


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
