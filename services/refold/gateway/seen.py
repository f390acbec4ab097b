"""Where documents stood when this gateway last read or wrote them, so that the next strict write need not ask.

A fact may be old, never wrong: the log itself refuses what names a sequence that is no longer the document's last.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from refold.core.limits import DOCUMENTS_SEEN_MAX
from refold.core.page import NEVER
from refold.store import Head


class Place(NamedTuple):
    """A document behind its last event: its version, that event's sequence, and whether it is absent."""

    version: int
    last_sequence: int
    is_absent: bool


BEFORE_ALL: Final = Place(NEVER.version, 0, is_absent=True)
"""Where a document stands that never had an event."""


class Seen:
    """The places of the documents that were last seen; a bounded number."""

    def __init__(self) -> None:
        """Begin with none."""
        self._places: dict[tuple[str, str], Place] = {}

    def note(self, namespace: str, document: str, place: Place) -> None:
        """Remember where a document stands, unless something newer is known."""
        key = (namespace, document)
        # Taken out and put back, so that those seen last stand last.
        known = self._places.pop(key, place)
        self._places[key] = known if known.last_sequence > place.last_sequence else place
        if len(self._places) > DOCUMENTS_SEEN_MAX:
            del self._places[next(iter(self._places))]

    def note_head(self, namespace: str, document: str, head: Head | None) -> Place:
        """Remember a document's row, and return it as a place."""
        if head is None:
            return BEFORE_ALL
        place = Place(head.snapshot.version, head.last_sequence, head.snapshot.state is None)
        self.note(namespace, document, place)
        return place

    def place(self, namespace: str, document: str) -> Place | None:
        """Return where a document stood; None where nobody looked lately."""
        return self._places.get((namespace, document))

    def forget(self, namespace: str, document: str) -> None:
        """Forget what has turned out to be old."""
        self._places.pop((namespace, document), None)
