"""Concurrent reads of documents' rows, as one pipeline.

Part of the Redis adapter.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from refold.core.errors import error_for_waiter
from refold.store import ANY_VERSION
from refold.store.redis.pool import Pool
from refold.store.redis.rows import HEAD_BYTES, is_known, whole_bytes

READS_TOGETHER_MAX: Final = 64
"""Rows that one pipeline reads."""

READ_TOGETHER_BYTES_MAX: Final = 64 * 1024
"""Bytes of a row that is read with others; a larger one is read alone, so that others do not wait for it."""

READ_PIPELINES_MAX: Final = 2
"""Pipelines in flight; later reads go with the next one."""


class _Waiter(NamedTuple):
    key: bytes
    bytes_max: int
    row: asyncio.Future[bytes]


class BatchReader:
    """Coalesce concurrent reads into one pipeline; the round trip dominates."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: list[_Waiter] = []
        self._in_flight: set[asyncio.Task[None]] = set()

    async def read(self, key: bytes, known_version: int | None = None) -> bytes | None:
        """Return a row, as of now or later; None where there is none.

        It has its state, unless it is of the known version.
        """
        bytes_max = HEAD_BYTES if known_version == ANY_VERSION else READ_TOGETHER_BYTES_MAX
        waiter = _Waiter(key, bytes_max, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._start()
        row = await waiter.row
        is_cut = len(row) == bytes_max and len(row) < whole_bytes(row)
        if is_cut and not is_known(row, known_version):
            (whole,) = await self._pool.run(("GET", key))
            return bytes(whole)
        return row or None

    async def close(self) -> None:
        """Wait for the pipelines in flight."""
        await asyncio.gather(*self._in_flight)

    def _start(self) -> None:
        if self._waiting and len(self._in_flight) < READ_PIPELINES_MAX:
            batch = asyncio.create_task(self._read_batches(), name="read-heads")
            self._in_flight.add(batch)
            batch.add_done_callback(self._end)

    def _end(self, batch: asyncio.Task[None]) -> None:
        self._in_flight.discard(batch)
        self._start()

    async def _read_batches(self) -> None:
        """Read batch after batch while reads wait. Every waiter that is still there gets its row, or its own error."""
        group = self._next_group()
        try:
            async with self._pool.lend() as connection:
                while group:
                    commands = [("GETRANGE", waiter.key, 0, waiter.bytes_max - 1) for waiter in group]
                    rows = await self._pool.read(connection, commands)
                    for waiter, row in zip(group, rows, strict=True):
                        if not waiter.row.done():
                            waiter.row.set_result(row)
                    group = self._next_group()
        except BaseException as error:
            for waiter in group:
                if not waiter.row.done():
                    waiter.row.set_exception(error_for_waiter(error))
            if not isinstance(error, Exception):
                raise

    def _next_group(self) -> list[_Waiter]:
        group, self._waiting = self._waiting[:READS_TOGETHER_MAX], self._waiting[READS_TOGETHER_MAX:]
        return group
