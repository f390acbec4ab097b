"""Keep a second client in sync: a snapshot, then deltas, also after it was away."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from trip import TRIP

from refold.client import Refold, apply_patch
from refold.core import json_text

WRITERS, CHANGES = 4, 25


@dataclass
class Copy:
    """A copy of the document. The cursor says where to continue."""

    state: Any = None
    version: int = 0
    cursor: str = ""
    snapshots: int = 0
    deltas: int = 0

    async def follow(self, refold: Refold, until_version: int) -> None:
        """Receive every change up to a version."""
        after = {"after": self.cursor} if self.cursor else {}
        async with aclosing(refold.watch(*TRIP, merge=False, **after)) as updates:
            async for update in updates:
                if self.version:
                    assert update.version == self.version + 1, "no change is left out, and none comes twice"
                    self.state = apply_patch(self.state, update.patch)
                    self.deltas += 1
                else:
                    self.state = update.state
                    self.snapshots += 1
                self.version, self.cursor = update.version, update.cursor
                if self.version >= until_version:
                    return


async def keep_in_sync(ann: Refold, ben: Refold) -> None:
    """Let several people write while Ben follows, and while he is away; compare his copy with the server's bytes."""
    changes = WRITERS * CHANGES
    print(f"\n▸ Ben keeps a copy by events, while {WRITERS} people make {changes} changes")
    copy, begin = Copy(), (await ann.get(*TRIP)).version
    await copy.follow(ben, begin)
    print(f"  he begins with {copy.snapshots} snapshot, version {copy.version}")
    await asyncio.gather(copy.follow(ben, begin + changes), write(ann))
    print(f"  version {copy.version} by {copy.deltas} deltas, as they come")

    await write(ann)
    print(f"  his connection is closed; {changes} more changes")
    await copy.follow(ben, begin + 2 * changes)
    print(f"  version {copy.version} by {copy.deltas} deltas: those he missed come after his cursor")

    served = await asyncio.to_thread(read_bytes, f"{ann.url}/v1/{'/'.join(TRIP)}")
    print(f"  his copy and the server's document are the same {len(served):,} bytes")
    assert json_text.dumps(copy.state) == served
    assert (copy.snapshots, copy.deltas) == (1, 2 * changes)


async def write(refold: Refold) -> None:
    """Let each person add stops and pay for them, all at the same time."""
    await asyncio.gather(*(write_as(refold, f"person-{number}") for number in range(WRITERS)))


async def write_as(refold: Refold, actor: str) -> None:
    """Make the changes of one person."""
    for number in range(CHANGES):
        patch = [
            {"op": "add", "path": "/stops/-", "value": f"{actor}'s stop {number:02}"},
            {"op": "inc", "path": "/budget/spent", "inc": 1},
        ]
        (await refold.patch(*TRIP, patch, actor=actor, type="trip.extended")).raise_for_status()


def read_bytes(url: str) -> bytes:
    """Read the bytes of an answer as they are."""
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - the gateway that was just started.
        return bytes(answer.read())
