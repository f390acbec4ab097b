"""A document's row by SQL, plain and through the packaged view. A task for `bench.worker`.

Used where reads are measured.
"""

from __future__ import annotations

import asyncio
import time
from itertools import cycle
from typing import Any, Final

import asyncpg

from bench.ground.rows import SQL, connect
from bench.signals import Signals
from refold.bench.workload import NAMESPACE
from refold.core.errors import RefoldError

STATEMENTS: Final = {"row": "select_row", "view": "select_view"}


async def select_states(
    signals: Signals, *, dsn: str, kind: str, documents: list[str], connections: int, seconds: float
) -> dict[str, Any]:
    """Read rows one after another on each of some connections."""
    opened = [await connect(dsn) for _ in range(connections)]
    taken: list[float] = []
    try:
        await opened[0].execute(SQL["make_view"])
        names, text = cycle(documents), SQL[STATEMENTS[kind]]

        async def read(connection: asyncpg.Connection) -> None:
            statement = await connection.prepare(text)
            while (started_at := time.perf_counter()) - started < seconds:
                if await statement.fetchrow(NAMESPACE, next(names)) is None:
                    raise RefoldError("a document has no row")
                taken.append((time.perf_counter() - started_at) * 1_000)

        await signals.until_go()
        started = time.perf_counter()
        await asyncio.gather(*map(read, opened))
        return {"milliseconds": taken, "seconds": time.perf_counter() - started}
    finally:
        for connection in opened:
            await connection.close()
