"""The SDK in ten lines: write, change, read, look back.

`refold up`, then `python examples/quickstart.py [http://127.0.0.1:8080]`
"""

import asyncio
import sys

from refold.client import Refold


async def main(url: str) -> None:
    """Write, change and read one order."""
    async with Refold(url) as refold:
        await refold.put("acme", "order-1", {"items": ["pen"], "total": 10}, type="order.made", actor="ada")
        await refold.patch("acme", "order-1", [{"op": "add", "path": "/items/-", "value": "ink"}])
        outcome = await refold.merge("acme", "order-1", {"total": 17, "paid": True}, type="order.paid")
        print(outcome.status, "is version", outcome.version)

        now = await refold.get("acme", "order-1")
        first = await refold.get("acme", "order-1", version=1)
        print("now:  ", now.state)
        print("first:", first.state)
        async for change in refold.history("acme", "order-1"):
            print(change.version, change.recorded_at, change.type, change.patch)


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
