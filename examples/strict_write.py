"""Two authors, one document: the second one saw an old version, gets `Conflict`, and nothing is published.

`refold up`, then `python examples/strict_write.py [http://127.0.0.1:8080]`
"""

import asyncio
import sys

from refold.client import Conflict, Refold


async def main(url: str) -> None:
    """Book the last seat twice."""
    async with Refold(url) as refold:
        await refold.put("acme", "flight-7", {"seats": 1})
        seen = await refold.get("acme", "flight-7")

        async def book(who: str) -> None:
            booked = {"seats": 0, "last": who}
            try:
                outcome = await refold.put("acme", "flight-7", booked, if_version=seen.version, actor=who)
            except Conflict as conflict:
                print(f"{who}: conflict: {conflict}")
            else:
                print(f"{who}: {outcome.status}")

        await asyncio.gather(book("ada"), book("bob"))


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
