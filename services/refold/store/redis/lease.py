"""A shard's lease: a key with an expiry that its holder renews. The fence of each commit compares it.

Part of the Redis adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Final

from refold.core.errors import FenceLost, StoreError, StoreUnavailable
from refold.store import SHARD_LEASE_SECONDS
from refold.store.redis.keys import Keys
from refold.store.redis.pool import EMPTIED, Command, Connection, Pool
from refold.store.redis.schema import rewrite_after_restart

_MILLISECONDS: Final = 1_000


class ShardLease:
    """Acquire and renew the lease, and lend its connection to one commit at a time while it is held.

    An expired lease that no other writer took still belongs to its holder: the next commit renews it.
    """

    def __init__(self, pool: Pool, keys: Keys, shard: str, *, lease_seconds: float) -> None:
        """Hold nothing yet. A holder that is silent for `lease_seconds` loses it to the next."""
        self._pool = pool
        self._keys = keys
        self._key = keys.owner(shard)
        self._checked_connects = 0
        self._silence_max = round(lease_seconds * _MILLISECONDS)
        self._kept = max(round(SHARD_LEASE_SECONDS * _MILLISECONDS), self._silence_max)
        # It says how long it is kept, so that the next can tell for how long its holder has been silent.
        self.token = f"{self._kept}:{token_hex(16)}".encode()
        self._is_held = False
        self._log = keys.log
        self.bound: bytes | None = None
        """The projection that the holder writes, once it is bound."""
        self._lock = asyncio.Lock()

    @property
    def renewal(self) -> Command:
        """Return the command that renews it."""
        return ("SET", self._key, self.token, "PX", self._kept)

    async def acquire(self) -> bool:
        """Take it where it is free or its holder silent; renew it where it is held.

        Raises `StoreUnavailable` where the projection that the holder writes is gone.
        """
        async with self._lock, self._checked() as connection:
            asked = [("GET", self._key), ("PTTL", self._key), ("GET", self._log)]
            held, left, bound = await connection.watch([self._key], asked)
            if self.bound not in {None, bound}:
                self.bound = None
                raise StoreUnavailable(EMPTIED)
            if held not in {None, self.token} and not self._is_silent(held, left):
                self._is_held = False
            else:
                self._is_held = await connection.execute([self.renewal])
            return self._is_held

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend the connection. Raises `FenceLost` where the lease is not held."""
        async with self._lock:
            if not self._is_held:
                raise FenceLost("this store does not hold the shard's lease")
            async with self._checked() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """Lend the connection to a writer that needs no lease, because it compares what it replaces."""
        async with self._lock, self._checked() as connection:
            yield connection

    @asynccontextmanager
    async def _checked(self) -> AsyncIterator[Connection]:
        """Lend the connection; a new one may be to a server that was started again."""
        async with self._pool.lend() as connection:
            if self._checked_connects != self._pool.connects:
                await rewrite_after_restart(connection, self._keys)
                self._checked_connects = self._pool.connects
            yield connection

    async def close(self) -> None:
        """Release it, unless another has taken it."""
        async with self._lock:
            is_held, self._is_held = self._is_held, False
            if not is_held:
                return
            try:
                async with self._pool.lend() as connection:
                    (held,) = await connection.watch([self._key], [("GET", self._key)])
                    if held == self.token:
                        await connection.execute([("DEL", self._key)])
            except StoreError:
                return  # It expires.

    def _is_silent(self, held: bytes, left: int) -> bool:
        kept = int(held.partition(b":")[0])
        return kept - left >= self._silence_max
