"""The loops of the clients that write strictly and read, each by chance. For tests that kill processes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from itertools import count
from typing import Any

from support.sent import NOTHING, Seen
from support.strict_clients import JSON_PATCH, MERGE_PATCH, Change, HttpClient, SdkClient

BULK_EVENTS = 10


async def write_forever(
    client: HttpClient | SdkClient, documents: Mapping[str, bool], chance: random.Random, pause_seconds: float
) -> None:
    """Increment counters, each on the version that was read; `documents` says which are large."""
    names = sorted(documents)
    for number in count():
        document = chance.choice(names)
        read = await client.read(document)
        if read is not None:
            change = increment(read.state, client.name, chance, is_large=documents[document])
            is_written = await client.write(document, change, f"{client.name}-{number}", read.version)
            if is_written and chance.random() < 1 / 2:
                # At any gateway, before the write is committed.
                await client.read(document)
        await asyncio.sleep(chance.uniform(0, pause_seconds))


def increment(state: dict[str, Any], name: str, chance: random.Random, *, is_large: bool) -> Change:
    """Return one of three ways to count on; a large state is never sent whole."""
    counted = state["count"] + 1
    if chance.random() < 1 / 3 and not is_large:
        return Change("PUT", "application/json", {**state, "count": counted, "by": name})
    if chance.random() < 1 / 2:
        return Change("PATCH", MERGE_PATCH, {"count": counted, "by": name})
    operations = [
        {"op": "test", "path": "/count", "value": state["count"]},
        {"op": "replace", "path": "/count", "value": counted},
        {"op": "add", "path": "/by", "value": name},
    ]
    return Change("PATCH", JSON_PATCH, operations)


async def read_forever(
    client: HttpClient,
    documents: Mapping[str, bool],
    chance: random.Random,
    newest: Mapping[str, Seen],
    pause_seconds: float,
) -> None:
    """Read heads, the next and sent versions, lists and histories; `newest` are the changes that were received."""
    names = sorted(documents)
    while True:
        document = chance.choice(names)
        kind = chance.choice(("head", "head", "next", "version", "version", "history", "list"))
        if chance.random() < 1 / 2 and newest:
            # The last change that was received, of any document.
            document = max(newest, key=lambda name: newest[name].sequence)
            client.learn(document, newest[document])
        known = client.context.sent.everywhere.get(document, NOTHING).version
        if kind == "head":
            await client.read(document)
        elif kind == "next":
            await client.read(document, min_version=known + 1)
        elif kind == "version":
            await client.read(document, version=max(1, known - int(chance.expovariate(1 / 3))))
        elif kind == "history":
            await client.history(document)
        else:
            await client.list()
        await asyncio.sleep(chance.uniform(0, pause_seconds))


async def append_forever(
    client: SdkClient, documents: Mapping[str, bool], chance: random.Random, pause_seconds: float
) -> None:
    """Append events in bulk, to several documents and to the same one several times."""
    names = sorted(documents)
    for number in count(step=BULK_EVENTS):
        events = [
            {
                "doc": chance.choice(names),
                "id": f"{client.name}-{number + place}",
                "merge": {client.name: number},
            }
            for place in range(BULK_EVENTS)
        ]
        await client.append(events)
        await asyncio.sleep(chance.uniform(0, pause_seconds))
