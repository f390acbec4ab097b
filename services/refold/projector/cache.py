"""Documents in memory, bounded in bytes: the least lately used leave first, never one that is not yet committed.

Used by the projector's loop alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from refold.core.document import Document
from refold.store import Key

STATE_FACTOR: Final = 6
"""A parsed state takes about so many times its canonical bytes (measured on the real history: 4 to 7)."""

DOCUMENT_BYTES: Final = 1_000
IDENTITY_BYTES: Final = 300


class DocumentCache:
    """Documents by key, oldest use first."""

    def __init__(self, bytes_max: int) -> None:
        """Hold about so many bytes of memory."""
        self._bytes_max = bytes_max
        self._documents: dict[Key, Document] = {}

    def __len__(self) -> int:
        """Count the documents held."""
        return len(self._documents)

    def use(self, key: Key) -> Document | None:
        """Return a document, now the most lately used; None where it is not held."""
        document = self._documents.pop(key, None)
        if document is not None:
            self._documents[key] = document
        return document

    def hold(self, document: Document) -> None:
        """Take a document in."""
        self._documents[document.namespace, document.document] = document

    def shrink(self, pinned: Collection[Key]) -> None:
        """Let go of the least lately used until the rest fits; `pinned` ones stay."""
        held_bytes = sum(map(_cost, self._documents.values()))
        for key in list(self._documents):
            if held_bytes <= self._bytes_max:
                return
            if key not in pinned:
                held_bytes -= _cost(self._documents.pop(key))


def _cost(document: Document) -> int:
    return DOCUMENT_BYTES + STATE_FACTOR * document.size + IDENTITY_BYTES * len(document.identities)
