"""A shard's lease: an advisory lock on the one connection that commits. Losing the connection loses the lease.

A stopped process keeps its connection and lock, so another may end the connection of a holder that is silent too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from refold.core.errors import FenceLost, StoreError, StoreUnavailable
from refold.store.postgres.pool import SQL, STORE_CLOSE_SECONDS, Connection, Pool, translated

SHARD_LEASE_SECONDS_MAX: Final = 60.0
"""The takeover delay, which doubles after each lost lease, grows no longer than this."""

_log = structlog.get_logger()


class ShardLease:
    """Acquire the lease, and lend its connection to one commit at a time while it is held."""

    def __init__(self, pool: Pool, key: int, *, lease_seconds: float) -> None:
        """Hold nothing yet; `key` names the lock. A holder that is silent for `lease_seconds` loses it to the next."""
        self._pool = pool
        self._key = key
        self._lease_seconds = self._takeover_seconds = lease_seconds
        self._connection: Connection | None = None
        self._is_held = False
        self._lock = asyncio.Lock()

    async def acquire(self) -> bool:
        """Try for the lock; if it is held already, check that the connection is alive."""
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._lose()
                self._connection = await self._pool.connect()
            try:
                with translated():
                    return await self._acquire(self._connection)
            except StoreUnavailable:
                self._lose()
                raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend the connection that holds the lock. Raises `FenceLost` where the lease is not held."""
        async with self._lock:
            if self._connection is None or not self._is_held:
                raise FenceLost("this store does not hold the shard's lease")
            if self._connection.is_closed():
                self._lose()
                raise StoreUnavailable("the connection that held the shard's lease is gone")
            yield self._connection

    async def close(self) -> None:
        """Close the connection, and with it the lock."""
        async with self._lock:
            connection, self._connection, self._is_held = self._connection, None, False
            if connection is not None and not connection.is_closed():
                try:
                    with translated():
                        await connection.close(timeout=STORE_CLOSE_SECONDS)
                except StoreError:
                    connection.terminate()

    async def _acquire(self, connection: Connection) -> bool:
        if self._is_held:
            await connection.execute(SQL["ping"])
            return True
        if await connection.fetchval(SQL["lock_shard"], self._key):
            # No other process took it: the takeover delay is long enough.
            self._takeover_seconds = self._lease_seconds
        elif not await self._take(connection):
            return False
        await connection.execute(SQL["make_changed_documents"])
        self._is_held = True
        return True

    async def _take(self, connection: Connection) -> bool:
        """End the connection of a holder whose client has been silent for too long, and try again."""
        ended = await connection.fetch(
            SQL["end_silent_holder"], self._key, self._takeover_seconds, STORE_CLOSE_SECONDS * 1_000
        )
        for silent in ended:
            _log.warning("silent_holder_ended", **silent)
        return bool(ended) and bool(await connection.fetchval(SQL["lock_shard"], self._key))

    def _lose(self) -> None:
        """Double the takeover delay after each lost lease, so that two slow holders do not take it from each other."""
        if self._is_held:
            self._is_held = False
            self._takeover_seconds = min(2 * self._takeover_seconds, SHARD_LEASE_SECONDS_MAX)
