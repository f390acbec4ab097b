"""Publish a CloudEvent 1.0 by nats-py, structured and binary, each to a document of its own.

The event's id is `source|id`; its `time`, left out here, is when it occurred. HTTP has headers of its own for that.
`refold up`, then `python examples/any_language/cloudevents.py [nats://127.0.0.1:4222]`
"""

import asyncio
import json
import sys

import nats

PATCH = [{"op": "add", "path": "/paid", "value": 17.5}, {"op": "add", "path": "/by", "value": "Zoë"}]
ATTRIBUTES = {"specversion": "1.0", "id": "payment-77", "source": "/till-3", "type": "order.paid"}
JSON_PATCH = "application/json-patch+json"


async def main(url: str) -> None:
    """Publish both, and print both outcomes."""
    client = await nats.connect(url)
    inbox = client.new_inbox()
    outcomes = await client.subscribe(inbox)
    ours = {"Refold-Reply": inbox, "Refold-Actor": "till-3"}

    event = {**ATTRIBUTES, "datacontenttype": JSON_PATCH, "data": PATCH}
    structured = {**ours, "Content-Type": "application/cloudevents+json"}
    await client.publish("state.acme.order-structured", json.dumps(event).encode(), headers=structured)

    attributes = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}
    binary = {**ours, **attributes, "Content-Type": JSON_PATCH}
    await client.publish("state.acme.order-binary", json.dumps(PATCH).encode(), headers=binary)

    for _ in range(2):
        print((await outcomes.next_msg(timeout=10)).data.decode())
    await client.close()


asyncio.run(main(*sys.argv[1:] or ["nats://127.0.0.1:4222"]))
