"""One moment of the reference twin. For `refold.store.memory` alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from refold.core.checkpoint import Checkpoint
from refold.core.identity import pack_identities
from refold.core.outcome import Entry
from refold.store import NamespaceCount
from refold.store.moment import Closed, Item, place_of


class MemoryMoment:
    """A Moment of plain lists."""

    def __init__(
        self, checkpoints: list[Checkpoint], namespaces: list[NamespaceCount], items: list[Item]
    ) -> None:
        """Take copies."""
        self._checkpoints = checkpoints
        self._namespaces = namespaces
        self._items = sorted(items, key=place_of)

    async def checkpoints(self) -> list[Checkpoint]:
        """Return every partition's checkpoint."""
        return self._checkpoints

    async def namespaces(self) -> list[NamespaceCount]:
        """Return the counts by namespace."""
        return self._namespaces

    async def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Yield rows, pages, journal and rejections in the order of `place_of`."""
        for item in self._items:
            place = place_of(item)
            if namespace in {None, place[0]} and document in {None, place[1]}:
                yield item


def closed_of(entries: list[Entry]) -> Closed:
    """Say of a page's entries what its row would."""
    identities = [entry.identity for entry in entries if entry.identity is not None]
    return Closed(entries, entries[-1].sequence, len(entries), len(identities), pack_identities(identities))
