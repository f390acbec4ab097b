"""States that lag behind their rows' versions, made exact: the row's own or a newer snapshot, and the events since.

For this adapter alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from refold.core import page
from refold.core.page import NEVER, Clock, Point, Run
from refold.store import Head, Key
from refold.store.damage import damaged, reading_stored
from refold.store.postgres.pool import Connection, Row, translated
from refold.store.postgres.rows import decompress, to_entry, to_head
from refold.store.postgres.sql import SQL


async def read_exact(connection: Connection, keys: Sequence[Key]) -> dict[Key, Head]:
    """Read documents with their exact states, all of one moment; those that exist."""
    if not keys:
        return {}
    rows = await connection.fetch(SQL["exact_documents"], *map(list, zip(*keys, strict=True)))
    heads = {}
    for row in rows:
        heads[row["namespace"], row["document"]] = _head(row)
        # Folding large documents is work: others get their turn between two.
        await asyncio.sleep(0)
    return heads


async def write_exact(connection: Connection, head: Head) -> None:
    """Write a state into its row where that still lags behind it; versions may have come since it was read."""
    snapshot = head.snapshot
    with translated():
        await connection.execute(
            SQL["settle_document"], head.namespace, head.document, snapshot.state, snapshot.version
        )


async def read_lagging(connection: Connection, after: Key, limit: int) -> list[Key]:
    """Name documents whose rows lag, in order."""
    return [(row[0], row[1]) for row in await connection.fetch(SQL["lagging_documents"], *after, limit)]


def _head(row: Row) -> Head:
    head = to_head(row)
    if row["state_version"] is None:
        return head
    with reading_stored(head.namespace, head.document):
        base = row["state"] if row["snapshot"] is None else decompress(row["snapshot"])
        run = Run(
            NEVER._replace(state=base, version=row["base_version"]),
            0,
            [to_entry(entry) for entry in row["journal"]],
        )
        exact = page.state_at(run, Point(Clock.version, head.snapshot.version))
    if exact.version != head.snapshot.version:
        raise damaged(head.namespace, head.document, "the journal lacks events of it")
    return head._replace(snapshot=head.snapshot._replace(state=exact.state))
