"""Compare a rebuilt schema with the live one by joins, and swap both by renaming them in one transaction.

Commits to the replaced schema are fenced twice: by its checkpoints, which are invalidated under the row locks that
every commit takes first, and by the epoch that a projector reads when it binds.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final, Self

from refold.core.errors import StoreDamaged, StoreDiffers
from refold.store import REBUILD_LOCK_SECONDS, Key
from refold.store.ports import BoundLog, HeldProjection, Row, Unequal
from refold.store.postgres.flush import read_exact
from refold.store.postgres.pool import SQL, STORE_CLOSE_SECONDS, Connection, Pool, transaction, translated
from refold.store.postgres.pool import Row as SqlRow
from refold.store.postgres.schema import MADE_BY

_SCHEMAS: Final = re.compile(r"\b(live|fresh|former)\b")
_ROWS_AHEAD: Final = 100
_BEGINNING: Final = -1
_FOREIGN: Final = {"live": "foreign_in_live", "fresh": "foreign_in_fresh"}


class PostgresSchemaSwap:
    """A SchemaSwap of two schemas in one database, on its own connection."""

    def __init__(self, pair: _Pair) -> None:
        """Use `open`."""
        self._pair = pair

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, live: str, fresh: str) -> AsyncIterator[Self]:
        """Connect; both schemas are there. Raises `StoreUnavailable`."""
        connection = await Pool(dsn, live, 1).connect(reads_all=True)
        try:
            yield cls(_Pair(connection, live, fresh, f"{live}_former"))
        finally:
            with translated():
                await connection.close(timeout=STORE_CLOSE_SECONDS)

    async def prepare(self) -> None:
        """Refuse readers that would not follow a swap, and drop what an earlier one left."""
        await _refuse_readers(self._pair)
        await self.drop_former()

    async def copy_indexes(self) -> None:
        """Give the fresh schema the indexes that were added to the live one."""
        await _copy_indexes(self._pair)

    async def unequal(self, until_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare documents that have not changed since a sequence."""
        with translated():
            async with self._pair.connection.transaction(isolation="repeatable_read", readonly=True):
                async for found in self._pair.unequal(_BEGINNING, until_sequence):
                    yield found

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[HeldProjection]:
        """Lock the live log's row, which every commit takes first, and its shards' rows."""
        async with transaction(self._pair.connection):
            await self._pair.connection.execute(SQL["limit_locks"], f"{REBUILD_LOCK_SECONDS}s")
            await self._pair.fetch("hold_log")
            rows = await self._pair.fetch("hold_live")
            yield PostgresHeldProjection(self._pair, min(row["read_sequence"] for row in rows))

    async def drop_former(self) -> None:
        """Drop the replaced schema; its tables first, so that nothing outside goes with them."""
        with translated():
            async with self._pair.connection.transaction():
                await self._pair.fetch("drop_former_tables")
                await self._pair.fetch("drop_former")


class PostgresHeldProjection:
    """The live schema, locked by the transaction that this is used in."""

    def __init__(self, pair: _Pair, sequence: int) -> None:
        """Take the pair within the transaction."""
        self._pair = pair
        self.sequence = sequence

    async def unequal(self, after_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare what changed after a sequence, and the checkpoints and counts."""
        async for found in self._pair.unequal(after_sequence, self.sequence):
            yield found
        for row in await self._pair.fetch("unequal_checkpoints"):
            yield Unequal(row["namespace"], "", row["live_row"], row["fresh_row"])

    async def swap(self) -> None:
        """Rename both schemas, and recreate the views on the new tables."""
        for name in ("end_live", "rename_live", "rename_fresh", "recreate_views"):
            await self._pair.fetch(name)


class PostgresReplacement:
    """A Replacement of two schemas in one database, on its own connection."""

    def __init__(self, pair: _Pair, kept: str) -> None:
        """Use `open`."""
        self._pair = pair
        self._kept = kept
        self.kept = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, live: str, fresh: str, kept: str) -> AsyncIterator[Self]:
        """Connect; the live schema need not exist. Raises `StoreUnavailable`."""
        connection = await Pool(dsn, live, 1).connect(reads_all=True)
        try:
            yield cls(_Pair(connection, live, fresh, kept), kept)
        finally:
            with translated():
                await connection.close(timeout=STORE_CLOSE_SECONDS)

    async def clear(self) -> None:
        """Drop what an earlier rebuild left in the fresh schema. Raises `StoreDiffers` for foreign tables."""
        await self._refuse_foreign("fresh")
        with translated():
            async with self._pair.connection.transaction():
                await self._pair.fetch("drop_fresh_tables")
                await self._pair.fetch("drop_fresh")

    async def prepare(self) -> None:
        """Refuse readers that would not follow."""
        await self._refuse_foreign("live")
        await _refuse_readers(self._pair)

    async def bound(self) -> BoundLog | None:
        """Read the log's row and the shards'."""
        try:
            log = await self._pair.fetch("log_of_live")
        except StoreDamaged:
            return None
        if not log:
            return None
        try:
            shards = await self._pair.fetch("sequence_of_live")
        except StoreDamaged:
            return BoundLog(log[0]["log_id"], 0)
        return BoundLog(log[0]["log_id"], shards[0]["read_sequence"])

    async def copy_indexes(self) -> None:
        """Copy the indexes of tables that still exist."""
        await _copy_indexes(self._pair)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Lock the live log's table, which every commit reads first; then rename both schemas and recreate the views.

        A later commit looks the tables up again, and fails at the fresh projection's epoch.
        """
        async with transaction(self._pair.connection):
            await self._pair.connection.execute(SQL["limit_locks"], f"{REBUILD_LOCK_SECONDS}s")
            # A table lock reads no rows, which may be damaged. Without the table, no commit is possible.
            if await self._pair.fetch("has_live_log"):
                await self._pair.fetch("lock_live_log")
            yield
            self.kept = ""
            if await self._pair.fetch("has_live"):
                await self._pair.fetch("rename_live")
                self.kept = self._kept
            await self._pair.fetch("rename_fresh")
            await self._pair.fetch("recreate_views")

    async def _refuse_foreign(self, side: str) -> None:
        given = (self._pair.names[side], [*MADE_BY, "migrations"])
        with translated():
            found = [row[0] for row in await self._pair.connection.fetch(SQL["foreign_tables"], *given)]
        if found:
            message = "the schema holds tables that are not the projection's: move them elsewhere"
            raise StoreDiffers(message, schema=self._pair.names[side], found=found)


async def _refuse_readers(pair: _Pair) -> None:
    found = [row[0] for row in await pair.fetch("readers_elsewhere")]
    if found:
        message = "these read the projection's tables, and would not follow a rebuild: use create_view"
        raise StoreDiffers(message, found=found)


async def _copy_indexes(pair: _Pair) -> None:
    with translated():
        for row in await pair.fetch("added_indexes"):
            await pair.connection.execute(row["definition"])


class _Pair:
    """The two schemas on one connection."""

    def __init__(self, connection: Connection, live: str, fresh: str, former: str) -> None:
        self.connection = connection
        self.names = {"live": live, "fresh": fresh, "former": former}

    def sql(self, name: str) -> str:
        """Replace the schemas' placeholders in a statement by their names, which are validated."""
        return _SCHEMAS.sub(lambda found: f'"{self.names[found[1]]}"', SQL[name])

    async def fetch(self, name: str) -> list[SqlRow]:
        with translated():
            return await self.connection.fetch(self.sql(name))

    async def unequal(self, after_sequence: int, until_sequence: int) -> AsyncGenerator[Unequal]:
        bounds = (after_sequence, until_sequence)
        async for row in self.connection.cursor(self.sql("unequal_documents"), *bounds, prefetch=_ROWS_AHEAD):
            key, live, fresh = (row["namespace"], row["document"]), _row(row, "live"), _row(row, "fresh")
            if live and row["live_lags"]:
                live = live._replace(state_hash=await self._exact_hash(key))
                if live == fresh and not row["differs"]:
                    continue
            yield Unequal(*key, live, fresh)

    async def _exact_hash(self, key: Key) -> str | None:
        """Hash a live document's exact state as the statement does; None where it is too damaged for that."""
        try:
            state = (await read_exact(self.connection, [key]))[key].snapshot.state
        except StoreDamaged:
            return None
        return None if state is None else sha256(state).hexdigest()


def _row(row: SqlRow, side: str) -> Row | None:
    if row[f"{side}_version"] is None:
        return None
    return Row(row[f"{side}_version"], row[f"{side}_last_sequence"], row[f"{side}_state_hash"])
