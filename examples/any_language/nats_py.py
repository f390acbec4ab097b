"""Publish one change by nats-py, and receive its outcome on a reply subject.

`refold up`, then `python examples/any_language/nats_py.py [nats://127.0.0.1:4222]`
"""

import asyncio
import json
import sys

import nats


async def main(url: str) -> None:
    """Publish, and print the outcome of the fold; the event is durable by then."""
    client = await nats.connect(url)
    inbox = client.new_inbox()
    outcomes = await client.subscribe(inbox)
    patch = [{"op": "add", "path": "/paid", "value": 17.5}, {"op": "add", "path": "/by", "value": "Zoë"}]
    event = {"patch": patch, "id": "payment-77", "type": "order.paid", "actor": "till-3"}
    body, headers = json.dumps(event).encode(), {"Refold-Reply": inbox}
    await client.publish("state.acme.order-nats-py", body, headers=headers)
    outcome = await outcomes.next_msg(timeout=10)
    print(outcome.data.decode())
    await client.close()


asyncio.run(main(*sys.argv[1:] or ["nats://127.0.0.1:4222"]))
