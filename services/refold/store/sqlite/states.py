"""Whole documents with their dedup windows.

Part of the SQLite adapter: the projector loads them, and a look-up by event id needs the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refold.core.dedup import admit, id_digest, recall, unpack_identities
from refold.core.document import Document
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.store import ROW_MISSING, Key, damaged, reading_stored
from refold.store.sqlite.pool import SQL, Connection
from refold.store.sqlite.rows import Rows


def load_documents(connection: Connection, keys: Sequence[Key], rows: Rows) -> list[Document]:
    """Load those documents that exist."""
    found = (load_document(connection, key, rows) for key in set(keys))
    return [document for document in found if document is not None]


def find_first(connection: Connection, key: Key, event_id: str) -> int:
    """Return the sequence of the first event that carried an id in a document's dedup window; 0 where none did."""
    row = connection.execute(SQL["events_of"], key).fetchone()
    if row is None:
        refuse_lost_row(connection, key)
        return 0
    window: dict[bytes, bytes] = {}
    _fill_window(connection, key, row[0], window)
    with reading_stored(*key):
        known = recall(window, id_digest(event_id), row[0] + 1 - ID_WINDOW_EVENTS)
    return known[1].sequence if known else 0


def load_document(connection: Connection, key: Key, rows: Rows) -> Document | None:
    """Load a document; None where it never had an event."""
    row = connection.execute(SQL["load_document"], key).fetchone()
    if row is None:
        refuse_lost_row(connection, key)
        return None
    with reading_stored(*key):
        document = rows.to_document(key, row)
    _fill_window(connection, key, document.events, document.identities)
    return document


def refuse_lost_row(connection: Connection, key: Key) -> None:
    """Raise `StoreDamaged` where a document without a row has events."""
    if connection.execute(SQL["find_rows_of"], key).fetchone()[0]:
        raise damaged(*key, ROW_MISSING)


def _fill_window(connection: Connection, key: Key, events: int, window: dict[bytes, bytes]) -> None:
    with reading_stored(*key):
        for column in reversed(list(_paged_identities(connection, key, events))):
            for identity in unpack_identities(column):
                admit(window, identity, ID_WINDOW_IDS)
        for (identity,) in connection.execute(SQL["journal_identities"], key):
            admit(window, identity, ID_WINDOW_IDS)


def _paged_identities(connection: Connection, key: Key, events: int) -> Iterator[bytes]:
    """Yield the identities of the last pages, newest first, that the window reaches back to."""
    newer_ids = 0
    for page_events, ids, identities in connection.execute(SQL["page_identities"], key):
        if page_events <= events - ID_WINDOW_EVENTS or newer_ids >= ID_WINDOW_IDS:
            return
        if ids:
            newer_ids += ids
            yield identities
