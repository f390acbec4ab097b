"""Every change of a document, as it is folded, to whoever listens: plain NATS, contiguous versions.

`refold up`, then `python examples/follow_changes.py [nats://127.0.0.1:4222]`; it makes three changes itself.
"""

import asyncio
import json
import sys

import nats


async def main(url: str) -> None:
    """Listen, publish, and print what comes."""
    client = await nats.connect(url)
    changes = await client.subscribe("change.acme.counter")
    for number in range(3):
        event = {"merge": {"count": number}, "actor": "example"}
        await client.request("state.acme.counter", json.dumps(event).encode(), timeout=10)
    for _ in range(3):
        change = json.loads((await changes.next_msg(timeout=10)).data)
        print("version", change["version"], "by", change["actor"], change["patch"])
    await client.close()


asyncio.run(main(*sys.argv[1:] or ["nats://127.0.0.1:4222"]))
