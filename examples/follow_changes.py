"""Follow a document: its state now, then every change, over lost connections and restarts of the service.

`refold up`, then `python examples/follow_changes.py [http://127.0.0.1:8080]`; it makes three changes itself.
"""

import asyncio
import sys
from contextlib import aclosing

from refold.client import Refold

COUNTER = "acme", "counter"


async def main(url: str) -> None:
    """Watch, change, and print what comes."""
    async with Refold(url) as refold, aclosing(refold.watch(*COUNTER, merge=False)) as updates:
        first = await anext(updates)
        print("version", first.version, "is", first.state)
        for number in range(3):
            await refold.merge(*COUNTER, {"count": number}, actor="example")
        async for update in updates:
            print("version", update.version, "by", update.actor, update.patch, "makes", update.state)
            if update.version >= first.version + 3:
                break


asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8080"]))
