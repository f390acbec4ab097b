"""The one connection that holds a shard's advisory lock and commits: losing it is losing the shard.

For this adapter alone. A process that is only stopped keeps its connection, hence the lock: so the lock has a lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from refold.core.errors import FenceLost, StoreError, StoreUnavailable
from refold.core.limits import SHARD_LEASE_SECONDS_MAX, STORE_CLOSE_SECONDS
from refold.store.postgres.pool import Connection, Pool, translated
from refold.store.postgres.sql import SQL

_log = structlog.get_logger()


class Owner:
    """Tries for the shard, and lends its connection to one commit at a time while it is owned."""

    def __init__(self, pool: Pool, key: int, *, lease_seconds: float) -> None:
        """Own nothing yet; `key` names the lock. An owner that is silent for the lease loses it to whoever asks."""
        self._pool = pool
        self._key = key
        self._lease_seconds = self._patience_seconds = lease_seconds
        self._connection: Connection | None = None
        self._is_owner = False
        self._turn = asyncio.Lock()

    async def own(self) -> bool:
        """Try for the lock; where it is held already, ask the server whether the connection still lives."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._lose()
                self._connection = await self._pool.connect()
            try:
                with translated():
                    return await self._own(self._connection)
            except StoreUnavailable:
                self._lose()
                raise

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Connection]:
        """Lend the owning connection. Raises `FenceLost` where the shard was never owned or is lost."""
        async with self._turn:
            if self._connection is None or not self._is_owner:
                raise FenceLost("this store does not own the shard")
            if self._connection.is_closed():
                self._lose()
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

    async def _own(self, connection: Connection) -> bool:
        if self._is_owner:
            await connection.execute(SQL["ping"])
            return True
        if await connection.fetchval(SQL["own_shard"], self._key):
            # Nobody disputes it: our own silence was not too long after all.
            self._patience_seconds = self._lease_seconds
        elif not await self._take(connection):
            return False
        await connection.execute(SQL["make_dirty_documents"])
        await connection.execute(SQL["make_closed_pages"])
        self._is_owner = True
        return True

    async def _take(self, connection: Connection) -> bool:
        """End an owner's connection whose client has been silent for too long, and try again."""
        ended = await connection.fetch(
            SQL["end_silent_owner"], self._key, self._patience_seconds, STORE_CLOSE_SECONDS * 1_000
        )
        for silent in ended:
            _log.warning("silent_owner_ended", **silent)
        return bool(ended) and bool(await connection.fetchval(SQL["own_shard"], self._key))

    def _lose(self) -> None:
        """Be more patient after a loss: two that are slow must not take the shard from each other for ever."""
        if self._is_owner:
            self._is_owner = False
            self._patience_seconds = min(2 * self._patience_seconds, SHARD_LEASE_SECONDS_MAX)
