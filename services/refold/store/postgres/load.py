"""Documents for the projector: heads with their id windows, thousands in one statement.

For this adapter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from refold.core import canonical
from refold.core.document import ABSENT, Document
from refold.core.errors import FenceLost
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.identity import admit, unpack_identities
from refold.store import Key
from refold.store.damage import reading_stored
from refold.store.postgres.exact import read_exact
from refold.store.postgres.pool import Connection, Row
from refold.store.postgres.rows import to_document
from refold.store.postgres.sql import SQL


async def load_documents(
    connection: Connection, keys: Sequence[Key], *, has_states: bool = True
) -> list[Document]:
    """Load those documents that exist; without states, for their id windows alone."""
    if not keys:
        return []
    names = map(list, zip(*set(keys), strict=True))
    rows = await connection.fetch(SQL["load_documents"], *names, ID_WINDOW_IDS, ID_WINDOW_EVENTS, has_states)
    documents = {(row["namespace"], row["document"]): _with_window(row) for row in rows}
    if has_states:
        await _load_lagging(connection, documents, rows)
    return list(documents.values())


async def _load_lagging(connection: Connection, documents: dict[Key, Document], rows: list[Row]) -> None:
    """Bring in the states of those that lag; nobody but the loader writes them, or he has lost the shard."""
    keys = [(row["namespace"], row["document"]) for row in rows if row["state_version"] is not None]
    for key, head in (await read_exact(connection, keys)).items():
        document, state = documents[key], head.snapshot.state
        if head.last_sequence != document.last_sequence:
            raise FenceLost("a document was written by another while it was loaded", document="/".join(key))
        with reading_stored(*key):
            document.state = ABSENT if state is None else canonical.loads(state)


def _with_window(row: Row) -> Document:
    document = to_document(row)
    with reading_stored(document.namespace, document.document):
        paged = unpack_identities(row["paged_identities"] or b"")
        for identity in chain(paged, row["journal_identities"]):
            admit(document.identities, identity, ID_WINDOW_IDS)
    return document
