"""Documents for the projector: heads with their id windows, thousands in one statement.

For this adapter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from refold.core.document import Document
from refold.core.identity import admit, unpack_identities
from refold.core.limits import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.store import Key
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
    return [_with_window(row) for row in rows]


def _with_window(row: Row) -> Document:
    document = to_document(row)
    paged = unpack_identities(row["paged_identities"] or b"")
    for identity in chain(paged, row["journal_identities"]):
        admit(document.identities, identity)
    return document
