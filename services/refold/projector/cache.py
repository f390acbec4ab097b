"""Documents in memory, bounded in bytes; the least recently used are dropped first, but only committed ones.

Used by the projector's loop alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from refold.core.document import Document
from refold.store import Key

STATE_FACTOR: Final = 6
"""A parsed state takes about this many times its canonical bytes (measured on the real history: 4 to 7)."""

DOCUMENT_BYTES: Final = 1_000
IDENTITY_BYTES: Final = 200


class DocumentCache:
    """Documents by key, oldest use first."""

    def __init__(self, bytes_max: int) -> None:
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
        """Measure what was used, then drop the least recently used until the rest fits; `pinned` ones stay.

        Returns whether the cache was over its bound.
        """
        for key in used:
            document = self._documents.pop(key, None)
            if document is not None:
                self._documents[key] = document
            self._weigh(key)
        if not self.is_over:
            return False
        for key in list(self._documents):
            if key not in pinned:
                del self._documents[key]
                self._weigh(key)
                if not self.is_over:
                    break
        return True

    def _weigh(self, key: Key) -> None:
        document = self._documents.get(key)
        self._bytes -= self._costs.pop(key, 0)
        if document is not None:
            self._costs[key] = _cost(document)
            self._bytes += self._costs[key]


def _cost(document: Document) -> int:
    return DOCUMENT_BYTES + STATE_FACTOR * document.size + IDENTITY_BYTES * len(document.identities)
