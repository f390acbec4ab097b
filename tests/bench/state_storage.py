"""What a small patch of a large document costs PostgreSQL: WAL bytes and table growth an event, by size, rate and lag.

A command of its own, never a test: `PYTHONPATH=tests python tests/bench/state_storage.py [SECONDS [ROUNDS]]`. The
database is the embedded one as shipped, which syncs; the log is in memory, since it is not measured.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg

from refold.bench.workload import WORDS
from refold.core import json_text
from refold.embedded.folder import open_folder
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.log.memory import MemoryLog
from refold.store.postgres import PostgresStore
from refold.store.postgres.states import StateLag
from support.projection import append, ports, projecting

SIZES: Final = {"1 KB": 1_000, "50 KB": 50_000, "500 KB": 500_000}
RATES: Final = (20, 500)
LAGS: Final = (0.0, 1.0, 10.0)
"""Seconds; 0 = the state is written with every commit."""

_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Bytes per event written to the WAL and added to the tables, and the number of commits."""

    wal: float
    growth: float
    events: int
    commits: int


async def measure(server: PostgresServer, size: int, rate: int, seconds: float, lag: float) -> Cost:
    """Patch one document of a size at a rate, in a schema of its own, and measure the bytes written."""
    schema = f"bench_{next(_numbers)}"
    connection = await asyncpg.connect(server.dsn, ssl=False)
    store = await PostgresStore.open(server.dsn, schema=schema, state_lag=StateLag(seconds=lag))
    log = MemoryLog(schema)
    given = ports(log, store)
    try:
        async with projecting(given) as running:
            await running.committed(await append(log, "large", {"put": state_of(size)}))
            await connection.execute("CHECKPOINT")
            before, commits = await _written(connection, schema), _commits(given.metrics.commit_seconds)
            events = 0
            async for patch in paced(rate, seconds):
                last = await append(log, "large", {"patch": [patch]})
                events += 1
            await running.committed(last)
            after = await _written(connection, schema)
            commits = _commits(given.metrics.commit_seconds) - commits
        wal, growth = ((later - earlier) / events for later, earlier in zip(after, before, strict=True))
        return Cost(wal=wal, growth=growth, events=events, commits=commits)
    finally:
        await store.close()
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()


async def paced(rate: int, seconds: float) -> AsyncIterator[dict[str, object]]:
    """Yield small patches at a rate, each at its time."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, started_at + number / rate - loop.time()))
        yield {"op": "replace", "path": f"/m{number % 8}/amount", "value": number}


def state_of(size: int) -> dict[str, object]:
    """Make a state of about so many bytes that compresses as business records do."""
    rng = random.Random(size)
    state: dict[str, object] = {}
    size_bytes = 0
    while len(state) < 8 or size_bytes < size:
        name = f"m{len(state)}"
        record = {"amount": rng.randrange(10_000), "id": f"{rng.getrandbits(64):x}", "text": _text(rng)}
        state[name] = record
        size_bytes += len(json_text.dumps({name: record}))
    return state


def _text(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(8))


async def _written(connection: asyncpg.Connection, schema: str) -> tuple[int, int]:
    """Return the WAL position and the size of the schema's tables with indexes and TOAST."""
    wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
        " WHERE relnamespace = $1::text::regnamespace AND relkind = 'r'",
        schema,
    )
    return int(wal), int(size)


def _commits(histogram: object) -> int:
    [metric] = histogram.collect()
    return int(next(sample.value for sample in metric.samples if sample.name.endswith("_count")))


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[PostgresServer]:
    """Run the embedded database as it is shipped."""
    with await open_folder(folder) as opened:
        server = await start_postgres(opened)
        try:
            yield server
        finally:
            await server.stop()


async def main(seconds: float, rounds: int) -> None:
    """Print a line for each size, rate and lag: medians with least and most."""
    heading = f"{'document':>9} {'events/s':>8} {'lag':>5} {'WAL bytes an event':>30} {'growth an event':>16}"
    print(f"{heading} events/commit")
    with TemporaryDirectory(prefix="refold-bench-") as folder:
        async with database(Path(folder)) as server:
            for name, size in SIZES.items():
                for rate in RATES:
                    for lag in LAGS:
                        costs = [await measure(server, size, rate, seconds, lag) for _ in range(rounds)]
                        _say(name, rate, lag, costs)


def _say(name: str, rate: int, lag: float, costs: list[Cost]) -> None:
    wals = [cost.wal for cost in costs]
    shown = f"{median(wals):,.0f} ({min(wals):,.0f} to {max(wals):,.0f})"
    growth = median(cost.growth for cost in costs)
    coalesced = median(cost.events / max(cost.commits, 1) for cost in costs)
    print(f"{name:>9} {rate:>8} {lag:>4.0f}s {shown:>30} {growth:>16,.0f} {coalesced:>13.1f}", flush=True)


if __name__ == "__main__":
    given = [float(argument) for argument in sys.argv[1:]]
    asyncio.run(main(given[0] if given else 10.0, int(given[1]) if len(given) > 1 else 1))
