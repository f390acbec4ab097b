"""Read a whole projection row by row, in one consistent view: a repeatable-read transaction and four sorted cursors.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from refold.core.document import Document
from refold.core.stream import Checkpoint
from refold.store import DAMAGES, NamespaceCount
from refold.store.ports import (
    Item,
    ReadSnapshot,
    StoredClosed,
    StoredEntry,
    StoredHead,
    StoredPage,
    Unreadable,
    position_of,
)
from refold.store.postgres.pool import SQL, Connection, Pool, Row, translated
from refold.store.postgres.rows import DOCUMENT_COLUMNS, to_base, to_closed, to_entry, to_rejection
from refold.store.postgres.schema import read_checkpoints

_HEADS_AHEAD: Final = 10
_PAGES_AHEAD: Final = 4
_ROWS_AHEAD: Final = 100
"""Rows prefetched: large ones few at a time."""

_FIRST, _LAST = "", "\x7f"
"""Sort before and after every name."""


@asynccontextmanager
async def hold_read_snapshot(pool: Pool) -> AsyncIterator[ReadSnapshot]:
    """Hold a snapshot of the database on its own connection."""
    connection = await pool.connect(reads_all=True)
    try:
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield PostgresReadSnapshot(connection)
    finally:
        await connection.close()


class PostgresReadSnapshot:
    """A ReadSnapshot in one transaction."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection, within its transaction."""
        self._connection = connection

    async def checkpoints(self) -> list[Checkpoint]:
        """Read every partition's checkpoint."""
        return await read_checkpoints(self._connection)

    async def namespaces(self) -> list[NamespaceCount]:
        """Read the counts by namespace."""
        return [NamespaceCount(*row) for row in await self._connection.fetch(SQL["namespaces"])]

    async def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Yield rows, pages, journal and rejections in the order of `position_of`."""
        bounds = (*_bounds(namespace), *_bounds(document))
        sources = [
            self._rows("snapshot_documents", bounds, _head, _HEADS_AHEAD),
            self._rows("snapshot_pages", bounds, _page, _PAGES_AHEAD),
            self._rows("snapshot_journal", bounds, _entry, _ROWS_AHEAD),
            self._rows("snapshot_rejections", bounds, to_rejection, _ROWS_AHEAD),
        ]
        waiting = [(item, source) for source in sources if (item := await anext(source, None)) is not None]
        while waiting:
            first = min(range(len(waiting)), key=lambda index: position_of(waiting[index][0]))
            item, source = waiting.pop(first)
            yield item
            following = await anext(source, None)
            if following is not None:
                waiting.append((following, source))

    async def _rows(
        self, statement: str, bounds: tuple[str, ...], read: Callable[[Row], Item], ahead: int
    ) -> AsyncGenerator[Item]:
        async for row in self._connection.cursor(SQL[statement], *bounds, prefetch=ahead):
            yield read(row)


def _bounds(name: str | None) -> tuple[str, str]:
    return (_FIRST, _LAST) if name is None else (name, name)


def _head(row: Row) -> Item:
    numbers: dict[str, Any] = {name: row[name] for name in DOCUMENT_COLUMNS if name != "state"}
    return StoredHead(Document(**numbers), row["state"], row["state_version"])


def _page(row: Row) -> Item:
    name = (row["namespace"], row["document"])
    said = (row["last_sequence"], row["events"], row["ids"], row["identities"])
    try:
        base = to_base(row)
        closed = None if row["payload"] is None else StoredClosed(to_closed(row["payload"]), *said)
    except DAMAGES as error:
        return Unreadable(*name, row["base_sequence"], "page", f"{type(error).__name__}: {error}")
    return StoredPage(*name, base, row["base_sequence"], row["base_events"], closed)


def _entry(row: Row) -> Item:
    name = (row["namespace"], row["document"])
    try:
        return StoredEntry(*name, to_entry(row))
    except DAMAGES as error:
        return Unreadable(*name, row["sequence"], "journal", f"{type(error).__name__}: {error}")
