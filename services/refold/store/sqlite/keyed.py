"""The check values of keys: the `KeyedStore` of SQLite.

Part of the SQLite adapter.
"""

from __future__ import annotations

from functools import partial

from refold.store.sqlite.pool import SQL, Connection, Pool


class SqliteKeyed:
    """A KeyedStore in one database file."""

    _pool: Pool

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        with self._pool.reading() as connection:
            return dict(connection.execute(SQL["key_checks"], (log_id,)).fetchall())

    async def add_key_check(self, number: int, check: bytes) -> None:
        await self._pool.write(partial(self._change, "add_key_check", (number, check)))

    async def remove_key_check(self, number: int) -> None:
        await self._pool.write(partial(self._change, "remove_key_check", (number,)))

    def _change(self, statement: str, given: tuple[object, ...], connection: Connection) -> None:
        with self._pool.transaction(connection, is_synchronous=True):
            connection.execute(SQL[statement], given)
