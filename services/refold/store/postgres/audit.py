"""Read a whole projection in one consistent view, and swap two: the `Auditor` and `SchemaSwap` of PostgreSQL.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from hashlib import sha256
from typing import Any, Final, Self

from refold.core.document import Document
from refold.core.errors import StoreDamaged, StoreDiffers
from refold.core.stream import Checkpoint
from refold.store import DAMAGES, LAST, REBUILD_LOCK_SECONDS, BoundLog, NamespaceCount
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.ports import (
    Item,
    ReadSnapshot,
    Row,
    StoredEntry,
    StoredHead,
    StoredPage,
    Unequal,
    Unreadable,
    position_of,
)
from refold.store.postgres.pool import SQL, Connection, Pool, transaction, translated
from refold.store.postgres.pool import Row as SqlRow
from refold.store.postgres.rows import (
    DOCUMENT_COLUMNS,
    Rows,
    key_of,
)
from refold.store.postgres.schema import TABLES, read_checkpoints

_HEADS_AHEAD: Final = 10
_PAGES_AHEAD: Final = 4
_ROWS_AHEAD: Final = 100
"""Rows prefetched: large ones few at a time."""

# --- Read all ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def hold_read_snapshot(pool: Pool, rows: Rows) -> AsyncIterator[ReadSnapshot]:
    """Hold a snapshot of the database on its own connection."""
    async with pool.connected() as connection:
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield _ReadSnapshot(connection, rows)


class _ReadSnapshot:
    def __init__(self, connection: Connection, rows: Rows) -> None:
        self._connection = connection
        self._decode = rows

    async def checkpoints(self) -> list[Checkpoint]:
        return await read_checkpoints(self._connection)

    async def namespaces(self) -> list[NamespaceCount]:
        return [NamespaceCount(*row) for row in await self._connection.fetch(SQL["namespaces"])]

    async def damages(self) -> list[Unreadable]:
        """Find none: the server has checksums of its pages."""
        return []

    async def items(self, namespace: str | None, document: str | None) -> AsyncGenerator[Item]:
        """Merge four sorted cursors."""
        bounds = (*_bounds(namespace), *_bounds(document))
        sources = [
            self._rows("snapshot_documents", bounds, partial(_head, self._decode), _HEADS_AHEAD),
            self._rows("snapshot_pages", bounds, partial(_page, self._decode), _PAGES_AHEAD),
            self._rows("snapshot_journal", bounds, partial(_entry, self._decode), _ROWS_AHEAD),
            self._rows("snapshot_rejections", bounds, partial(_rejection, self._decode), _ROWS_AHEAD),
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
        self, statement: str, bounds: tuple[str, ...], read: Callable[[SqlRow], Item], ahead: int
    ) -> AsyncGenerator[Item]:
        async for row in self._connection.cursor(SQL[statement], *bounds, prefetch=ahead):
            yield read(row)


def _bounds(name: str | None) -> tuple[str, str]:
    return ("", LAST) if name is None else (name, name)


def _head(rows: Rows, row: SqlRow) -> Item:
    name = key_of(row)
    numbers: dict[str, Any] = {name: row[name] for name in DOCUMENT_COLUMNS if name != "state"}
    try:
        return StoredHead(Document(**numbers), rows.to_state(name, row["state"]), row["state_version"])
    except DAMAGES as error:
        return Unreadable(*name, row["last_sequence"], "document", f"{type(error).__name__}: {error}")


def _page(rows: Rows, row: SqlRow) -> Item:
    name = key_of(row)
    stated = (row["last_sequence"], row["events"], row["ids"], row["identities"], row["conflicts"])
    try:
        entries = rows.to_entries(name, row)
        if not entries:
            raise ValueError("a page without events")
        return StoredPage(*name, entries, rows.to_snapshot(name, row, row["last_sequence"]), *stated)
    except DAMAGES as error:
        return Unreadable(*name, row["last_sequence"], "page", f"{type(error).__name__}: {error}")


def _entry(rows: Rows, row: SqlRow) -> Item:
    name = key_of(row)
    try:
        return StoredEntry(*name, rows.to_entry(row))
    except DAMAGES as error:
        return Unreadable(*name, row["sequence"], "journal", f"{type(error).__name__}: {error}")


def _rejection(rows: Rows, row: SqlRow) -> Item:
    try:
        return rows.to_rejection(row)
    except DAMAGES as error:
        return Unreadable(*key_of(row), row["sequence"], "rejection", f"{type(error).__name__}: {error}")


# --- Swap two ----------------------------------------------------------------------------------------------

_SCHEMAS: Final = re.compile(r"\b(live|fresh|former)\b")


class PostgresSchemaSwap:
    """A SchemaSwap of two schemas in one database, on its own connection.

    The replaced schema is dropped, or a damaged one kept: nothing of its rows is read then, and it may be missing.
    `kept` is its new name after the swap; empty where nothing was left of it.
    """

    def __init__(
        self, connection: Connection, names: dict[str, str], rows: Rows, *, keeps_former: bool
    ) -> None:
        """Use `open`."""
        self._connection = connection
        self._decode = rows
        self._names = names
        self._keeps_former = keeps_former
        self.kept = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, dsn: str, *, live: str, fresh: str, keep_as: str = "", codec: RowCodec | None = None
    ) -> AsyncIterator[Self]:
        """Connect. `keep_as` is the name that a damaged schema is kept under. Raises `StoreUnavailable`."""
        rows = Rows(codec or Compression(), has_content=False)
        names = {"live": live, "fresh": fresh, "former": keep_as or f"{live}_former"}
        async with Pool(dsn, live, 1).connected() as connection:
            yield cls(connection, names, rows, keeps_former=bool(keep_as))

    async def bound(self) -> BoundLog | None:
        """Read the log's row and the shards'."""
        try:
            log = await self._fetch("log_of_live")
        except StoreDamaged:
            return None
        if not log:
            return None
        try:
            shards = await self._fetch("sequence_of_live")
        except StoreDamaged:
            return BoundLog(log[0]["log_id"], 0)
        return BoundLog(log[0]["log_id"], shards[0]["read_sequence"])

    async def prepare(self) -> None:
        """Refuse foreign tables, and readers that would not follow; drop what an earlier swap left."""
        if self._keeps_former:
            await self._refuse_foreign("live")
        found = [row[0] for row in await self._fetch("readers_elsewhere")]
        if found:
            message = "these read the projection's tables, and would not follow a rebuild: use create_view"
            raise StoreDiffers(message, found=found)
        await self.drop_former()

    async def clear(self) -> None:
        """Drop what an earlier rebuild left in the fresh schema. Raises `StoreDiffers` for foreign tables."""
        await self._refuse_foreign("fresh")
        await self._drop("drop_fresh_tables", "drop_fresh")

    async def copy_indexes(self) -> None:
        """Copy the indexes of tables that still exist."""
        with translated():
            for row in await self._fetch("added_indexes"):
                await self._connection.execute(row["definition"])

    async def unequal(self, after_sequence: int, until_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare by a join, in one consistent view: that of the hold, where the live schema is held.

        Encrypted states are compared here, because equal ones are stored as different bytes.
        """
        sql, bounds = self._sql("unequal_documents"), (after_sequence, until_sequence)
        is_held = self._connection.is_in_transaction()
        view = self._connection.transaction(isolation="repeatable_read", readonly=True)
        with translated():
            async with nullcontext() if is_held else view:
                async for row in self._connection.cursor(sql, *bounds, prefetch=_HEADS_AHEAD):
                    live, fresh = self._side(row, "live"), self._side(row, "fresh")
                    if live != fresh or not row["may_be_equal"]:
                        yield Unequal(*key_of(row), live, fresh, row["state_version"])

    async def unequal_counts(self) -> AsyncGenerator[Unequal]:
        """Compare checkpoints and counts by their text."""
        for row in await self._fetch("unequal_checkpoints"):
            yield Unequal(row["namespace"], "", row["live_row"], row["fresh_row"])

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Lock the live log's table, which every commit reads first.

        A commit that waits for the lock looks the tables up again, and fails at the fresh projection's epoch.
        """
        async with transaction(self._connection):
            await self._connection.execute(SQL["limit_locks"], f"{REBUILD_LOCK_SECONDS}s")
            # Without the table, no commit is possible.
            if await self._fetch("has_live_log"):
                await self._fetch("lock_live_log")
            yield

    async def swap(self) -> None:
        """Rename both schemas, and recreate the views on the new tables."""
        self.kept = ""
        if await self._fetch("has_live"):
            await self._fetch("rename_live")
            self.kept = self._names["former"]
        await self._fetch("rename_fresh")
        await self._fetch("recreate_views")

    async def drop_former(self) -> None:
        """Drop the replaced schema, unless it is kept."""
        if not self._keeps_former:
            await self._drop("drop_former_tables", "drop_former")

    def _side(self, row: SqlRow, side: str) -> Row | None:
        """Return what is compared of a row; the hash of a state that is in the row is computed here."""
        if row[f"{side}_version"] is None:
            return None
        state_hash, stored = row[f"{side}_state_hash"], row[f"{side}_state"]
        if stored is not None:
            try:
                state_hash = sha256(self._decode.to_state(key_of(row), stored) or b"").hexdigest()
            except DAMAGES:
                state_hash = f"unreadable ({side})"
        return Row(row[f"{side}_version"], row[f"{side}_last_sequence"], state_hash)

    async def _refuse_foreign(self, side: str) -> None:
        given = (self._names[side], [*TABLES, "migrations"])
        with translated():
            found = [row[0] for row in await self._connection.fetch(SQL["foreign_tables"], *given)]
        if found:
            message = "the schema holds tables that are not the projection's: move them elsewhere"
            raise StoreDiffers(message, schema=self._names[side], found=found)

    async def _drop(self, tables: str, schema: str) -> None:
        """Drop the tables first, so that nothing outside goes with them."""
        with translated():
            async with self._connection.transaction():
                await self._fetch(tables)
                await self._fetch(schema)

    async def _fetch(self, name: str) -> list[SqlRow]:
        with translated():
            return await self._connection.fetch(self._sql(name))

    def _sql(self, name: str) -> str:
        """Replace the schemas' placeholders in a statement by their names, which are validated."""
        return _SCHEMAS.sub(lambda found: f'"{self._names[found[1]]}"', SQL[name])
