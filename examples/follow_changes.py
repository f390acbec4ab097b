"""Follow every change of a document by plain NATS; versions are contiguous.

`refold up`, then `python examples/follow_changes.py [nats://127.0.0.1:4222]`; it makes three changes itself.
"""

import asyncio
import json
import sys

import nats


async def main(url: str) -> None:
    """Subscribe, publish, and print the changes."""
    client = await nats.connect(url)
    changes = await client.subscribe("change.acme.counter")
    for number in range(3):
        event = {"merge": {"count": number}, "actor": "example"}
        await client.request("state.acme.counter", json.dumps(event).encode(), timeout=10)
    shown = 0
    while shown < 3:
        change = change_in((await changes.next_msg(timeout=10)).data)
        if change is not None:
            print("version", change["version"], "by", change["actor"], change["patch"])
            shown += 1
    await client.close()


def change_in(body: bytes) -> dict | None:
    """Return the change; None for anything else."""
    # The publisher of an event may name any subject for the broker's acknowledgement, also this one:
    # `{"stream": "STATE", "seq": 7}` can arrive here, or an error without a body.
    try:
        change = json.loads(body)
    except ValueError:
        return None
    is_change = isinstance(change, dict) and change.keys() >= {"version", "sequence", "actor", "patch"}
    return change if is_change else None


asyncio.run(main(*sys.argv[1:] or ["nats://127.0.0.1:4222"]))
