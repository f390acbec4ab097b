"""Dashboards: programs that follow the machine's document, each in its own way."""

import json
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from refold.client import NamespaceUpdate, Refold, WatchOptions


@dataclass(kw_only=True)
class Dashboard:
    """What a dashboard shows, and what it has received for it. `seen`: when it got each event."""

    name: str
    version: int
    options: WatchOptions
    state: Any = None
    updates: int = 0
    changes: int = 0
    received_bytes: int = 0
    state_bytes: int = 0
    seen: dict[str, float] = field(default_factory=dict)

    async def follow(self, refold: Refold, namespace: str, document: str) -> None:
        """Receive updates until the document is deleted."""
        async with aclosing(refold.watch(namespace, document, **self.options)) as updates:
            async for update in updates:
                self.updates += 1
                self.changes += update.version - self.version
                if update.id:
                    self.seen[update.id] = time.monotonic()
                if update.is_absent or (update.gone and not update.state):
                    return
                state_bytes = size(update.state)
                # Where a patch is larger than the state, the state is sent.
                self.received_bytes += min(size(update.values or update.patch), state_bytes)
                self.state_bytes += state_bytes
                self.state, self.version = update.state, update.version

    async def check(self, refold: Refold, namespace: str, document: str) -> None:
        """Compare what was shown last with the document at that version."""
        found = (await refold.get(namespace, document, version=self.version)).state
        if self.options.get("path"):
            now = found["now"].items()
            found = {f"/now/{name}/percent": it["percent"] for name, it in now if "percent" in it}
        assert self.state == found


async def read_feed(
    refold: Refold, namespace: str, kind: str, *, after: int, count: int
) -> list[NamespaceUpdate]:
    """Return the next changes of a type in a whole namespace, after a sequence."""
    found = []
    async with aclosing(refold.watch(namespace, mode="changes", type=kind, after=after)) as updates:
        async for update in updates:
            found.append(update)
            if len(found) == count:
                break
    return found


def size(value: Any) -> int:
    """Return the bytes of a value as JSON."""
    return len(json.dumps(value, separators=(",", ":")))
