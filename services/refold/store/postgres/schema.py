"""One schema, one projection: its tables and migrations, and the log that it is bound to.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

from refold.core.errors import StoreDamaged, StoreDiffers, StoreOutdated
from refold.core.fold_state import first_checkpoints
from refold.core.stream import PARTITIONS, Checkpoint
from refold.store.postgres.pool import SQL, Connection, Pool, translated
from refold.store.postgres.rows import checkpoint_columns, to_checkpoint
from refold.store.sql import migrations_of

MIGRATIONS: Final = migrations_of(__package__)

FORMAT_BEGINS: Final = 9
"""The first migration of this format. A projection of an earlier one is not converted but rebuilt."""

TABLES: Final = (
    "checkpoints",
    "documents",
    "journal",
    "keys",
    "log",
    "namespaces",
    "pages",
    "rejections",
    "shards",
)

_MADE_LATER: Final = {"keys": 17}
"""The migrations of tables that were not there from the beginning of the format."""


async def migrate(connection: Connection, schema: str, *, has_encoded_states: bool = False) -> None:
    """Apply missing migrations in a transaction; with `has_encoded_states`, no index may read states.

    Raises `StoreOutdated` for another format, `StoreDiffers`, and `StoreDamaged` where a table is missing.
    """
    newest = MIGRATIONS[-1].number
    applied = await applied_migration(connection)
    if 0 < applied < FORMAT_BEGINS:
        raise StoreOutdated(schema=schema, migration=applied)
    if applied != newest:
        async with connection.transaction():
            await connection.execute(SQL["lock_migrations"], lock_key("migrations", schema))
            await _apply_missing(connection, schema)
    applied = await applied_migration(connection)
    if applied > newest:
        message = "the database was made by a newer program"
        raise StoreDiffers(message, schema=schema, migration=applied, known=newest)
    await _check_tables(connection, schema, applied)
    await _refuse_state_indexes(connection, has_encoded_states=has_encoded_states)


def lock_key(purpose: str, schema: str) -> int:
    """Return an advisory lock's key: locks belong to the database, so the schema is part of it."""
    return int.from_bytes(sha256(f"refold {purpose} {schema}".encode()).digest()[:8], "big", signed=True)


async def applied_migration(connection: Connection) -> int:
    """Return the number of the newest migration that was applied; 0 where there is no projection."""
    if not await connection.fetchval(SQL["find_migrations"]):
        return 0
    return int(await connection.fetchval(SQL["newest_migration"]))


async def _apply_missing(connection: Connection, schema: str) -> None:
    await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    await connection.execute(SQL["make_migrations"])
    applied = await applied_migration(connection)
    await _check_tables(connection, schema, applied)
    for migration in MIGRATIONS:
        if migration.number > applied:
            await connection.execute(migration.text)
            await connection.execute(SQL["add_migration"], migration.number, migration.name)


async def _check_tables(connection: Connection, schema: str, applied: int) -> None:
    """Compare the tables with the migrations that the schema says were applied."""
    found = {row[0] for row in await connection.fetch(SQL["find_tables"], schema, list(TABLES))}
    expected = {name for name in TABLES if applied >= _MADE_LATER.get(name, FORMAT_BEGINS)}
    missing = sorted(expected - found)
    if missing:
        raise StoreDamaged("a table of the projection is missing", schema=schema, table=", ".join(missing))
    if found - expected:
        message = "the table that says which migrations were applied is missing or has lost rows"
        raise StoreDamaged(message, schema=schema, table="migrations")


async def _refuse_state_indexes(connection: Connection, *, has_encoded_states: bool) -> None:
    """Refuse indexes that make writes fail: directly on `state`, for U+0000, and any on states that are encrypted."""
    found = [row[0] for row in await connection.fetch(SQL["find_state_indexes"], has_encoded_states)]
    if found:
        message = "an index reads documents.state without refold_jsonb: drop it, or write refold_jsonb(state)"
        if has_encoded_states:
            message = (
                "an index reads documents.state, which REFOLD_ENCRYPT=all encrypts: drop it, or set history"
            )
        raise StoreDiffers(message, indexes=found)


async def bind(connection: Connection, log_id: str) -> tuple[list[Checkpoint], UUID]:
    """Create log and checkpoints where there are none, and return the checkpoints and the projection's epoch.

    The second of two processes reads those of the first. A rebuild begins another epoch.
    """
    async with connection.transaction():
        await _refuse_emptied(connection)
        await connection.execute(SQL["bind_log"], log_id)
        row = await connection.fetchrow(SQL["bound_log"])
        assert row is not None
        found, epoch = row
        if found != log_id:
            raise StoreDiffers("the database projects another log", expected=log_id, found=found)
        checkpoints = first_checkpoints(log_id)
        await connection.execute(SQL["make_checkpoints"], *checkpoint_columns(checkpoints))
        first, partitions = checkpoints[0], [checkpoint.partition for checkpoint in checkpoints]
        position = (first.fold, first.read_sequence, first.recorded_at)
        await connection.execute(SQL["make_shard"], partitions, *position)
        return await read_checkpoints(connection), epoch


async def bound_log(dsn: str, schema: str) -> str | None:
    """Return the id of the log that a schema projects, without reading its other tables; None where there is none."""
    async with Pool(dsn, schema, 1).connected() as connection:
        with translated():
            if not await connection.fetchval(SQL["find_log"]):
                return None
            log_id: str | None = await connection.fetchval(SQL["bound_log_id"])
            return log_id


async def put_aside(dsn: str, schema: str) -> str | None:
    """Rename a schema with its content; return the new name, or None where there is no such schema."""
    kept = name_to_keep(schema, "lost")
    async with Pool(dsn, schema, 1).connected() as connection:
        with translated():
            if not await connection.fetchval(SQL["find_schema"], schema):
                return None
            await connection.execute(f'ALTER SCHEMA "{schema}" RENAME TO "{kept}"')
            return kept


def name_to_keep(schema: str, why: str) -> str:
    """Return a name under which a schema is kept, by its fault and the time; PostgreSQL allows 63 bytes."""
    return f"{schema[:39]}_{why}_{datetime.now(UTC):%Y%m%d_%H%M%S}"


async def read_checkpoints(connection: Connection) -> list[Checkpoint]:
    """Read every partition's checkpoint, in their order; none before a log is bound. Raises `StoreDamaged`."""
    rows = await connection.fetch(SQL["checkpoints"])
    if len(rows) != PARTITIONS:
        await _refuse_emptied(connection)
    return [to_checkpoint(row) for row in rows]


async def _refuse_emptied(connection: Connection) -> None:
    """Raise `StoreDamaged` where a table has lost rows that other tables refer to."""
    table = await connection.fetchval(SQL["find_emptied"], PARTITIONS)
    if table is not None:
        raise StoreDamaged("a table of the projection has lost rows", table=table)
