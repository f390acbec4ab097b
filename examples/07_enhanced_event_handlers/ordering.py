"""Events that arrive in another order than they were made, and notices that are lost: how a client deals with both."""

import json
from random import Random
from typing import Any, Self

import nats
from nats.aio.client import Client

from refold import System
from refold.client import Refold

NAMESPACE = "orders"
STEPS, WINDOW = 20, 3
"""Events of one author, and how far the network moves one of them at most."""
NOTICES, MISSED = 12, (4, 5, 6)
REPLY_SECONDS = 30.0


async def shuffle(system: System) -> int:
    """Send the steps of an order over a network that shuffles them: without and with the versions they build on."""
    chance = Random(3)  # noqa: S311 - not a secret.
    network = sorted(range(1, STEPS + 1), key=lambda step: step + chance.uniform(0, WINDOW))
    print(f"\n▸ Ordering: an author makes {STEPS} events; the network delivers them as")
    print(" ", " ".join(map(str, network)))
    async with Refold(system.http) as refold, Author(system.nats) as author:
        for document in ("as-they-come", "in-order"):
            await refold.put(NAMESPACE, document, {"steps": []}, type="order.placed")
        outcomes = await author.send("as-they-come", [_step(step) for step in network])
        sequences = [outcome["sequence"] for outcome in outcomes]
        steps = await _read(refold, "as-they-come", outcomes)
        print(
            f"  without base: all {len(outcomes)} applied, in the order of the log's sequences, which is the network's"
        )
        assert steps == network
        assert sequences == sorted(sequences)

        outcomes = await _send_in_order(author, network)
        steps = await _read(refold, "in-order", outcomes)
        print("                the document has them in the order in which they were made")
        assert steps == list(range(1, STEPS + 1))
        late = await _send_late(refold, author)
    return 2 * (1 + STEPS) + late


async def _send_in_order(author: "Author", network: list[int]) -> list[dict[str, Any]]:
    """Send each step with the version it builds on; what comes before its predecessor is rejected, and sent again."""
    left, attempt = network, 0
    while left:
        attempt += 1
        outcomes = await author.send("in-order", [_step(step, base=step) for step in left])
        early = [step for step, it in zip(left, outcomes, strict=True) if it["status"] == "rejected"]
        assert {it["reason"] for it in outcomes if it["status"] == "rejected"} <= {"base_in_future"}
        if attempt == 1:
            print(
                f"  with base:    {len(left) - len(early)} applied; step {early[0]} came before step {early[0] - 1}: "
                f"base_in_future, as are all after it"
            )
        # A session never builds on what was rejected: the rest is sent again, under new ids.
        left = early
    print(f"                sent again what was rejected, {attempt - 1} times, until each was applied")
    return outcomes


async def _send_late(refold: Refold, author: "Author") -> int:
    """Send a change that was made before another one arrived: it is applied to what its author saw."""
    await refold.put(NAMESPACE, "late", {"lines": ["tea", "mug"]}, type="order.placed")
    insert = [{"op": "add", "path": "/lines/0", "value": "kettle"}]
    await refold.patch(NAMESPACE, "late", insert, type="line.added")
    edit = [{"op": "replace", "path": "/lines/1", "value": "two mugs"}]
    (outcome,) = await author.send("late", [{"patch": edit, "base": 1, "type": "line.changed"}])
    found = await refold.get(NAMESPACE, "late", min_sequence=outcome["sequence"])
    lines = found.state["lines"]
    print(
        f"  a late event, made at version 1, about /lines/1, where another line is now: {outcome['status']}, {lines}"
    )
    assert lines == ["kettle", "tea", "two mugs"]
    return outcome["version"]


async def _read(refold: Refold, document: str, outcomes: list[dict[str, Any]]) -> list[int]:
    """Read the steps, not older than outcomes that another client was sent."""
    found = await refold.get(NAMESPACE, document, min_sequence=outcomes[-1]["sequence"])
    steps: list[int] = found.state["steps"]
    return steps


async def miss_notices(system: System) -> int:
    """Lose some change notices of a document; the next one shows the gap, and the history fills it."""
    print("\n▸ Ordering: a subscriber on NATS misses notices")
    client, seen = await nats.connect(system.nats), list[int]()
    subscription = await client.subscribe(f"change.{NAMESPACE}.parcel")
    await client.flush()
    async with Refold(system.http) as refold:
        for step in range(1, NOTICES + 1):
            await refold.put(NAMESPACE, "parcel", {"step": step}, type="parcel.moved")
            notice = json.loads((await subscription.next_msg(REPLY_SECONDS)).data)
            version = notice["version"]
            if version in MISSED:
                continue
            last = seen[-1] if seen else 0
            if version > last + 1:
                missed = [change.version async for change in refold.history(NAMESPACE, "parcel", after=last)]
                seen += missed
                print(f"  version {version} after {last}: a gap; the history has {missed[0]} to {missed[-1]}")
            elif version > last:
                seen.append(version)
    await client.close()
    print(f"  it has seen all {len(seen)} versions, each once and in order")
    assert seen == list(range(1, NOTICES + 1))
    return NOTICES


class Author:
    """A client of NATS that publishes events, and receives their outcomes on a subject of its own."""

    def __init__(self, url: str) -> None:
        """Connect to a server when entered."""
        self._url = url

    async def __aenter__(self) -> Self:
        self._client: Client = await nats.connect(self._url)
        self._inbox = self._client.new_inbox()
        self._outcomes = await self._client.subscribe(self._inbox)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, document: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Publish events at once; return their outcomes in the order of the log."""
        for event in events:
            body, headers = json.dumps(event).encode(), {"Refold-Reply": self._inbox}
            await self._client.publish(f"state.{NAMESPACE}.{document}", body, headers=headers)
        outcomes = [json.loads((await self._outcomes.next_msg(REPLY_SECONDS)).data) for _ in events]
        return sorted(outcomes, key=lambda outcome: outcome["sequence"])


def _step(step: int, *, base: int | None = None) -> dict[str, Any]:
    """Return the event of a step, which the first one makes room for."""
    append = {"op": "push", "path": "/steps", "value": step, "max": STEPS}
    event: dict[str, Any] = {"patch": [append], "type": "order.moved", "actor": "author"}
    return event if base is None else {**event, "base": base}
