"""The projection as it stood at one commit, row by row in document order: what is verified, and how it is given out.

The port's part for `refold.projector.verify`; `refold.store` says how a moment is had.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from refold.core.checkpoint import Checkpoint
from refold.core.document import Document
from refold.core.outcome import Entry
from refold.core.page import Snapshot
from refold.store import NamespaceCount, Rejection


class StoredHead(NamedTuple):
    """A document's row: its columns (without state and id window), and its state's bytes.

    `state_version` is the version that the state is of where it lags, else None.
    """

    document: Document
    state: bytes | None
    state_version: int | None


class Closed(NamedTuple):
    """What a closed page holds, and what its row says of that."""

    entries: list[Entry]
    last_sequence: int
    events: int
    ids: int
    identities: bytes


class StoredPage(NamedTuple):
    """A page's row; `closed` is None while its events stand in the journal."""

    namespace: str
    document: str
    base: Snapshot
    base_sequence: int
    base_events: int
    closed: Closed | None


class StoredEntry(NamedTuple):
    """A journal's row."""

    namespace: str
    document: str
    entry: Entry


class Unreadable(NamedTuple):
    """A row whose content cannot be taken apart; `part` is `page` or `journal`, `why` is for people."""

    namespace: str
    document: str
    sequence: int
    part: str
    why: str


Item = StoredHead | StoredPage | StoredEntry | Unreadable | Rejection


def place_of(item: Item) -> tuple[str, str, int]:
    """Return where an item stands: by document, its row first, then all by sequence.

    At one sequence, an event comes before its rejection, and that before the page that begins behind it.
    """
    if isinstance(item, StoredHead):
        return item.document.namespace, item.document.document, -1
    if isinstance(item, StoredPage):
        return item.namespace, item.document, 4 * item.base_sequence + 2
    if isinstance(item, StoredEntry):
        return item.namespace, item.document, 4 * item.entry.sequence
    return item.namespace, item.document, 4 * item.sequence + (2 if isinstance(item, Unreadable) else 1)


class Moment(Protocol):
    """One moment of a projection, whatever is written meanwhile."""

    async def checkpoints(self) -> list[Checkpoint]:
        """Read every partition's checkpoint."""

    async def namespaces(self) -> list[NamespaceCount]:
        """Read the counts by namespace."""

    def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Yield rows, pages, journal and rejections in the order of `place_of`; of all, a namespace or a document.

        Events whose names make no document stand first, as rejections with empty names, and only where all is
        asked for.
        """
