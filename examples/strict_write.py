"""Two authors, one document: whoever saw an old version is told so, as a value, and nothing is published.

`refold up`, then `python examples/strict_write.py [http://127.0.0.1:8080]`
"""

import asyncio
import sys

from refold.client import Refold


async def main(url: str) -> None:
    """Book the last seat twice."""
    async with Refold(url) as refold:
        await refold.put("acme", "flight-7", {"seats": 1})
        seen = await refold.get("acme", "flight-7")

        async def book(who: str) -> None:
            booked = {"seats": 0, "last": who}
            outcome = await refold.put("acme", "flight-7", booked, if_version=seen.version, actor=who)
            print(f"{who}: {outcome.status} {outcome.detail}")

        await asyncio.gather(book("ada"), book("bob"))


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
