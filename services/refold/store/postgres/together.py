"""Coalesce concurrent reads into one statement; the round trip dominates.

For this adapter alone.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from refold.core.errors import RefoldError, StoreUnavailable
from refold.core.limits import READ_STATEMENTS_MAX, READ_TOGETHER_BYTES_MAX, READS_TOGETHER_MAX
from refold.store.postgres.pool import Pool, Row
from refold.store.postgres.sql import SQL

Key = tuple[str | int, ...]
"""What one read gives for each of the statement's arrays."""


class _Asked(NamedTuple):
    key: Key
    answer: asyncio.Future[Row | None]


class Together:
    """Readers of one statement, which takes an array a parameter, and last the bytes that a row may bring.

    It answers with at most one row a key, each with the key's `number`, from 1, and whether the row `fits`; what
    does not is read again alone, so that nobody waits for another's large one.
    """

    def __init__(self, pool: Pool, statement: str) -> None:
        """Read through this pool, the statement of this name."""
        self._pool = pool
        self._sql = SQL[statement]
        self._waiting: list[_Asked] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._is_scheduled = False

    async def read(self, *key: str | int) -> Row | None:
        """Return the key's row as of now or later; None where there is none."""
        asked = _Asked(key, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._schedule()
        row = await asked.answer
        if row is None or row["fits"]:
            return row
        return (await self._fetch([key], _ANY_BYTES)).get(1)

    async def close(self) -> None:
        """Wait for the statements on their way; the pool bounds them."""
        await asyncio.gather(*self._flights)

    def _schedule(self) -> None:
        """Send once everyone who asks in this turn of the loop has done so."""
        if not self._is_scheduled and len(self._flights) < READ_STATEMENTS_MAX:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_scheduled = False
        while self._waiting and len(self._flights) < READ_STATEMENTS_MAX:
            group, self._waiting = self._waiting[:READS_TOGETHER_MAX], self._waiting[READS_TOGETHER_MAX:]
            flight = asyncio.create_task(self._answer(group), name="read-together")
            self._flights.add(flight)
            flight.add_done_callback(self._land)

    def _land(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._waiting:
            self._schedule()

    async def _answer(self, group: list[_Asked]) -> None:
        """Resolve every waiter of a group that is still there, with its row or with an error of its own."""
        try:
            rows = await self._fetch([asked.key for asked in group], READ_TOGETHER_BYTES_MAX)
        except BaseException as error:
            for asked in group:
                if not asked.answer.done():
                    asked.answer.set_exception(_error_for_one(error))
            if not isinstance(error, Exception):
                raise
        else:
            for number, asked in enumerate(group, start=1):
                if not asked.answer.done():
                    asked.answer.set_result(rows.get(number))

    async def _fetch(self, keys: list[Key], bytes_max: int) -> dict[int, Row]:
        arrays = map(list, zip(*keys, strict=True))
        async with self._pool.lend() as connection:
            rows = await connection.fetch(self._sql, *arrays, bytes_max)
        return {row["number"]: row for row in rows}


def _error_for_one(error: BaseException) -> Exception:
    """Make one waiter's error: an instance raised twice would collect the tracebacks of both."""
    if isinstance(error, RefoldError):
        made: Exception = type(error)(error.message, **error.facts)
    elif isinstance(error, Exception):
        made = RuntimeError(f"a read failed: {error!r}")
    else:
        made = StoreUnavailable("the store was closed while a read waited")
    made.__cause__ = error
    return made


_ANY_BYTES: Final = 2**31 - 1
