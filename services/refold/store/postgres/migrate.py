"""Brings a schema up to this program's tables, one process at a time; refuses what it does not know.

Called when a store is opened.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from refold.core.errors import StoreDamaged, StoreDiffers
from refold.store.postgres.pool import Connection
from refold.store.postgres.sql import MIGRATIONS, SQL

MADE_BY: Final = {
    "checkpoints": 1,
    "documents": 1,
    "journal": 1,
    "log": 1,
    "namespaces": 1,
    "pages": 1,
    "rejections": 1,
    "shards": 5,
}
"""The migration that makes each table."""


async def migrate(connection: Connection, schema: str) -> None:
    """Apply what is missing, in one transaction. Raises `StoreDiffers`, and `StoreDamaged` where a table is missing."""
    newest = MIGRATIONS[-1].number
    if await _applied(connection) != newest:
        async with connection.transaction():
            await connection.execute(SQL["lock_migrations"], lock_key("migrations", schema))
            await _apply_missing(connection, schema)
    applied = await _applied(connection)
    if applied > newest:
        message = "the database was made by a newer program"
        raise StoreDiffers(message, schema=schema, migration=applied, known=newest)
    await _check_tables(connection, schema, applied)
    await _refuse_state_indexes(connection)


def lock_key(purpose: str, schema: str) -> int:
    """Return the advisory lock's key for a purpose: locks are the database's, so the schema is in it."""
    return int.from_bytes(sha256(f"refold {purpose} {schema}".encode()).digest()[:8], "big", signed=True)


async def _applied(connection: Connection) -> int:
    if not await connection.fetchval(SQL["find_migrations"]):
        return 0
    return int(await connection.fetchval(SQL["newest_migration"]))


async def _apply_missing(connection: Connection, schema: str) -> None:
    await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    await connection.execute(SQL["make_migrations"])
    applied = await _applied(connection)
    await _check_tables(connection, schema, applied)
    for migration in MIGRATIONS:
        if migration.number > applied:
            await connection.execute(migration.text)
            await connection.execute(SQL["add_migration"], migration.number, migration.name)


async def _check_tables(connection: Connection, schema: str, applied: int) -> None:
    """Hold the tables that are there against the migrations that the schema says were applied."""
    found = {row[0] for row in await connection.fetch(SQL["find_tables"], schema, list(MADE_BY))}
    expected = {table for table, number in MADE_BY.items() if number <= applied}
    missing = sorted(expected - found)
    if missing:
        raise StoreDamaged("a table of the projection is missing", schema=schema, table=", ".join(missing))
    if found - expected:
        message = "the table that says which migrations were applied is missing or has lost rows"
        raise StoreDamaged(message, schema=schema, table="migrations")


async def _refuse_state_indexes(connection: Connection) -> None:
    """An index straight on `state` makes writes fail once a document holds U+0000."""
    found = [row[0] for row in await connection.fetch(SQL["find_state_indexes"])]
    if found:
        message = "an index reads documents.state without refold_jsonb: drop it, or write refold_jsonb(state)"
        raise StoreDiffers(message, indexes=found)
