"""Load whole documents: exact heads where a row's state is older than its row, and documents with their dedup windows.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

from refold.core.dedup import admit, id_digest, recall, unpack_identities
from refold.core.document import Document, from_canonical
from refold.core.errors import FenceLost
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.history import NEVER, Clock, Point
from refold.core.replay import state_at
from refold.store import Head, Key, damaged, reading_stored
from refold.store.postgres.pool import SQL, Connection, Row
from refold.store.postgres.rows import decompress, key_of, to_document, to_entry, to_head


async def read_exact(connection: Connection, keys: Sequence[Key]) -> dict[Key, Head]:
    """Read the documents that exist with their exact states, in one consistent view."""
    if not keys:
        return {}
    rows = await connection.fetch(SQL["exact_documents"], *map(list, zip(*keys, strict=True)))
    heads = {}
    for row in rows:
        heads[key_of(row)] = _exact_head(row)
        # Folding large documents takes time: other tasks run between two.
        await asyncio.sleep(0)
    return heads


def _exact_head(row: Row) -> Head:
    """Fold the journal after the row's own state, or after the last page's snapshot where that is newer."""
    head = to_head(row)
    if row["state_version"] is None:
        return head
    with reading_stored(head.namespace, head.document):
        base = row["state"] if row["snapshot"] is None else decompress(row["snapshot"])
        entries = [to_entry(entry) for entry in row["journal"]]
        snapshot = NEVER._replace(state=base, version=row["base_version"])
        exact = state_at(snapshot, entries, Point(Clock.version, head.snapshot.version))
    versions = [entry.version for entry in entries if entry.status.is_effective]
    if versions != list(range(row["base_version"] + 1, head.snapshot.version + 1)):
        raise damaged(head.namespace, head.document, "the journal lacks events of it")
    return head._replace(snapshot=head.snapshot._replace(state=exact.state))


async def load_documents(connection: Connection, keys: Sequence[Key]) -> list[Document]:
    """Load those documents that exist."""
    if not keys:
        return []
    rows = await _load(connection, keys, has_states=True)
    documents = {key_of(row): _with_window(row) for row in rows}
    await _load_outdated(connection, documents, rows)
    return list(documents.values())


async def find_first(connection: Connection, key: Key, event_id: str) -> int:
    """Return the sequence of the first event that carried an id in a document's dedup window; 0 where none did."""
    for row in await _load(connection, [key], has_states=False):
        found = _with_window(row)
        oldest = found.events + 1 - ID_WINDOW_EVENTS
        known = recall(found.identities, id_digest(event_id), oldest)
        return known[1].sequence if known else 0
    return 0


async def _load(connection: Connection, keys: Sequence[Key], *, has_states: bool) -> list[Row]:
    names = map(list, zip(*set(keys), strict=True))
    return await connection.fetch(SQL["load_documents"], *names, ID_WINDOW_IDS, ID_WINDOW_EVENTS, has_states)


async def _load_outdated(connection: Connection, documents: dict[Key, Document], rows: list[Row]) -> None:
    """Add the states that rows lack. Only the lease's holder writes them, so a newer row means a lost lease."""
    keys = [key_of(row) for row in rows if row["state_version"] is not None]
    for key, head in (await read_exact(connection, keys)).items():
        document, state = documents[key], head.snapshot.state
        if head.last_sequence != document.last_sequence:
            raise FenceLost("a document was written by another while it was loaded", document="/".join(key))
        with reading_stored(*key):
            document.state = from_canonical(state)


def _with_window(row: Row) -> Document:
    document = to_document(row)
    with reading_stored(document.namespace, document.document):
        paged = unpack_identities(row["paged_identities"] or b"")
        for identity in chain(paged, row["journal_identities"]):
            admit(document.identities, identity, ID_WINDOW_IDS)
    return document
