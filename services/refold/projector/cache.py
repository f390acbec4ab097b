"""Documents in memory, bounded in bytes; the least recently used are dropped first, but only committed ones.

Their open segments are held beside them while there is room: they spare a read of the journal when a page closes, but a
document that must be loaded costs more.

Used by the projector's loop alone.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator
from typing import Final

from refold.core.document import Document
from refold.core.errors import FenceLost, StoreDamaged
from refold.core.history import Entry
from refold.store import Key
from refold.store.ports import Store

STATE_FACTOR: Final = 6
"""A parsed state takes about this many times its canonical bytes (measured on the real history: 4 to 7)."""

DOCUMENT_BYTES: Final = 1_000
IDENTITY_BYTES: Final = 200
ENTRY_BYTES: Final = 300
"""What an entry costs in memory in addition to its bytes."""


class DocumentCache:
    """Documents by key, oldest use first.

    `segments` has the entries of open segments that are held whole, committed or not; a commit buffer adds to it.
    """

    def __init__(self, bytes_max: int) -> None:
        self.segments: dict[Key, list[Entry]] = {}
        self._bytes_max = bytes_max
        self._documents: dict[Key, Document] = {}
        self._costs: dict[Key, int] = {}
        self._bytes = 0

    def get(self, key: Key) -> Document | None:
        """Return a document; None where it is not held."""
        return self._documents.get(key)

    def hold(self, document: Document) -> None:
        """Add a document."""
        key = (document.namespace, document.document)
        self._documents[key] = document
        self._weigh(key)

    @property
    def is_over(self) -> bool:
        """Tell whether the documents that were measured take more than the bound."""
        return self._bytes > self._bytes_max

    def shrink(self, used: Collection[Key], pinned: Collection[Key]) -> bool:
        """Measure what was used, then drop the least recently used until the rest fits; `pinned` documents stay.

        Open segments go first, then documents. Returns whether a document may have been dropped.
        """
        for key in used:
            document = self._documents.pop(key, None)
            if document is not None:
                self._documents[key] = document
            self._weigh(key)
        for key in self._until_fits(self.segments):
            del self.segments[key]
            self._weigh(key)
        if not self.is_over:
            return False
        for key in self._until_fits(self._documents):
            if key not in pinned:
                del self._documents[key]
                self._weigh(key)
        return True

    def _until_fits(self, held: Container[Key]) -> Iterator[Key]:
        """Yield what is held, the least recently used document first, while the cache is over its bound."""
        if self.is_over:
            for key in [key for key in self._documents if key in held]:
                yield key
                if not self.is_over:
                    return

    def _weigh(self, key: Key) -> None:
        document = self._documents.get(key)
        self._bytes -= self._costs.pop(key, 0)
        if document is not None:
            self._costs[key] = self._cost(key, document)
            self._bytes += self._costs[key]

    def _cost(self, key: Key, document: Document) -> int:
        cost = DOCUMENT_BYTES + STATE_FACTOR * document.size + IDENTITY_BYTES * len(document.identities)
        if document.recent is not None:
            # Its model has a state of its own.
            cost += STATE_FACTOR * document.size + document.recent.size_bytes
        if key in self.segments:
            cost += ENTRY_BYTES * document.unpaged_events + document.unpaged_bytes
        return cost


async def refuse_ahead(store: Store, document: Document) -> None:
    """Raise: the document has events after the loop's position, which would be folded twice."""
    checkpoints = {it.partition: it for it in await store.checkpoints()}
    name = f"{document.namespace}/{document.document}"
    if checkpoints[document.partition].read_sequence >= document.last_sequence:
        raise FenceLost("a document was written by another while it was loaded", document=name)
    message = f"{name} has been folded further than the checkpoints say"
    raise StoreDamaged(message, namespace=document.namespace, document=document.document)
