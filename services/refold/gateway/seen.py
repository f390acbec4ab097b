"""Where documents stood when this gateway last read or wrote them, so that the next strict write need not ask.

A fact may be old, never wrong: the log itself refuses what names a sequence that is no longer the document's last.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from refold.core.limits import DOCUMENTS_SEEN_MAX
from refold.core.page import NEVER
from refold.store import Head


class BareHead(NamedTuple):
    """A document's head without its state: its version, its last event's sequence, and whether it is absent."""

    version: int
    last_sequence: int
    is_absent: bool


BEFORE_ALL: Final = BareHead(NEVER.version, 0, is_absent=True)
"""The head of a document that never had an event."""


class Seen:
    """The heads of the documents that were last seen; a bounded number."""

    def __init__(self) -> None:
        """Begin with none."""
        self._heads: dict[tuple[str, str], BareHead] = {}

    def note(self, namespace: str, document: str, head: BareHead) -> None:
        """Remember a head, unless a newer one is known."""
        key = (namespace, document)
        # Taken out and put back, so that those seen last stand last.
        known = self._heads.pop(key, head)
        self._heads[key] = known if known.last_sequence > head.last_sequence else head
        if len(self._heads) > DOCUMENTS_SEEN_MAX:
            del self._heads[next(iter(self._heads))]

    def note_row(self, namespace: str, document: str, row: Head | None) -> BareHead:
        """Remember a document's row, and return what is remembered of one."""
        if row is None:
            return BEFORE_ALL
        head = BareHead(row.snapshot.version, row.last_sequence, row.snapshot.state is None)
        self.note(namespace, document, head)
        return head

    def head(self, namespace: str, document: str) -> BareHead | None:
        """Return a document's head as it was last seen; None where nobody looked lately."""
        return self._heads.get((namespace, document))

    def forget(self, namespace: str, document: str) -> None:
        """Forget what has turned out to be old."""
        self._heads.pop((namespace, document), None)
