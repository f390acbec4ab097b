"""Publish an event with a NATS client, and receive its outcome on a reply subject.

`refold up`, then `python examples/publish_with_nats.py [nats://127.0.0.1:4222]`
"""

import asyncio
import json
import sys
from uuid import uuid4

import nats


async def main(url: str) -> None:
    """Publish one patch. The broker's acknowledgement means that it is durable; the outcome shows its effect."""
    client = await nats.connect(url)
    outcomes = client.new_inbox()
    subscription = await client.subscribe(outcomes, max_msgs=1)

    event = {
        "patch": [{"op": "add", "path": "/shipped", "value": True}],
        "id": uuid4().hex,
        "type": "order.shipped",
        "actor": "warehouse",
    }
    stored = await client.request(
        "state.acme.order-1", json.dumps(event).encode(), headers={"Refold-Reply": outcomes}, timeout=10
    )
    print("stored: ", json.loads(stored.data))
    outcome = await subscription.next_msg(timeout=10)
    print("outcome:", json.loads(outcome.data))
    await client.close()


asyncio.run(main(*sys.argv[1:] or ["nats://127.0.0.1:4222"]))
