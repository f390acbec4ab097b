"""The one connection that holds a shard's advisory lock and commits: losing it is losing the shard.

For this adapter alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from refold.core.errors import FenceLost, StoreError, StoreUnavailable
from refold.core.limits import STORE_CLOSE_SECONDS
from refold.store.postgres.pool import Connection, Pool, translated
from refold.store.postgres.sql import SQL


class Owner:
    """Tries for the shard, and lends its connection to one commit at a time while it is owned."""

    def __init__(self, pool: Pool, key: int) -> None:
        """Own nothing yet; `key` names the lock."""
        self._pool = pool
        self._key = key
        self._connection: Connection | None = None
        self._is_owner = False
        self._turn = asyncio.Lock()

    async def own(self) -> bool:
        """Try for the lock; where it is held already, ask the server whether the connection still lives."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._is_owner = False
                self._connection = await self._pool.connect()
            with translated():
                if self._is_owner:
                    await self._connection.execute(SQL["ping"])
                elif await self._connection.fetchval(SQL["own_shard"], self._key):
                    await self._connection.execute(SQL["make_dirty_documents"])
                    await self._connection.execute(SQL["make_closed_pages"])
                    self._is_owner = True
            return self._is_owner

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Connection]:
        """Lend the owning connection. Raises `FenceLost` where the shard was never owned or is lost."""
        async with self._turn:
            if self._connection is None or not self._is_owner:
                raise FenceLost("this store does not own the shard")
            if self._connection.is_closed():
                self._is_owner = False
                raise StoreUnavailable("the connection that owned the shard is gone")
            yield self._connection

    async def close(self) -> None:
        """End the connection, and with it the lock."""
        async with self._turn:
            connection, self._connection, self._is_owner = self._connection, None, False
            if connection is not None and not connection.is_closed():
                try:
                    with translated():
                        await connection.close(timeout=STORE_CLOSE_SECONDS)
                except StoreError:
                    connection.terminate()
