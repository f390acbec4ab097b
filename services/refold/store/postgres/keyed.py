"""The check values of keys: the `KeyedStore` of PostgreSQL.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

from refold.store.postgres.pool import SQL, Pool


class PostgresKeyed:
    """A KeyedStore over one schema."""

    _pool: Pool

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        async with self._pool.lend() as connection:
            return {row[0]: row[1] for row in await connection.fetch(SQL["key_checks"], log_id)}

    async def add_key_check(self, number: int, check: bytes) -> None:
        async with self._pool.lend() as connection:
            await connection.execute(SQL["add_key_check"], number, check)

    async def remove_key_check(self, number: int) -> None:
        async with self._pool.lend() as connection:
            await connection.execute(SQL["remove_key_check"], number)
