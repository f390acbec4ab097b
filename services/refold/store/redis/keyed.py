"""The check values of keys: the `KeyedStore` of Redis.

Part of the Redis adapter.
"""

from __future__ import annotations

from refold.store.redis.keys import Keys
from refold.store.redis.pool import Pool
from refold.store.redis.schema import is_bound_to


class RedisKeyed:
    """A KeyedStore over the keys of one schema."""

    _pool: Pool
    _keys: Keys

    async def key_checks(self, log_id: str) -> dict[int, bytes]:
        log, checks = await self._pool.read_at_once(("GET", self._keys.log), ("HGETALL", self._keys.checks))
        if not is_bound_to(log, log_id):
            return {}
        return {int(number): check for number, check in zip(checks[::2], checks[1::2], strict=True)}

    async def add_key_check(self, number: int, check: bytes) -> None:
        await self._pool.run(("HSETNX", self._keys.checks, number, check))

    async def remove_key_check(self, number: int) -> None:
        await self._pool.run(("HDEL", self._keys.checks, number))
