"""The projector writes large states that commits omitted: in time, at shutdown, and those of another projector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest

from refold.core.fold_state import FoldState
from refold.log.memory import MemoryLog
from refold.projector.loop import ShardLoop
from refold.projector.supervisor import Supervisor
from refold.store.postgres import PostgresStore
from refold.store.postgres.states import StateLag
from support.projection import ROOMY, Projecting, append, ports, projecting
from support.services import until
from support.stores import OpenStore, postgres_stores

KEY = ("n", "d")
LARGE = {"text": "x" * 2_000}
LONG = StateLag(bytes_min=1_000, seconds=3_600)
SHORT = StateLag(bytes_min=1_000, seconds=0.05)
NEVER = StateLag(bytes_min=1_000, seconds=0)


@pytest.fixture
async def open_store(postgres_dsn: str) -> AsyncIterator[OpenStore]:
    async with postgres_stores(postgres_dsn) as opener:
        yield opener


@pytest.fixture
async def sql(postgres_dsn: str) -> AsyncIterator[Any]:
    """Open a connection that reads the rows."""
    connection = await asyncpg.connect(postgres_dsn, server_settings={"search_path": "refold"})
    yield connection
    await connection.close()


async def fill(log: MemoryLog) -> AsyncIterator[int]:
    """Write one large document, and small patches of it; yield each one's sequence."""
    yield await append(log, "d", {"put": LARGE})
    for number in range(5):
        yield await append(log, "d", {"patch": [{"op": "add", "path": "/n", "value": number}]})


async def shows(sql: Any, store: PostgresStore) -> tuple[int | None, bool]:
    """Return the row's `state_version`, and whether its state is the one that is read."""
    row = await sql.fetchrow("SELECT state_version, state::text FROM documents WHERE document = 'd'")
    head = await store.head(*KEY)
    assert head is not None
    return row["state_version"], head.snapshot.state == row["state"].encode()


async def is_flushed(sql: Any) -> bool:
    return not await sql.fetchval("SELECT count(*) FROM documents WHERE state_version IS NOT NULL")


@asynccontextmanager
async def one_by_one(log: MemoryLog, store: PostgresStore) -> AsyncIterator[Projecting]:
    """Project each event in its own commit: the second one omits the state."""
    async with projecting(ports(log, store)) as running:
        async for sequence in fill(log):
            await running.committed(sequence)
        yield running


async def test_an_idle_document_is_flushed_in_time(open_store: OpenStore, sql: Any) -> None:
    log = MemoryLog("log-1")
    async with one_by_one(log, await open_store(state_lag=SHORT)):
        await until(partial(is_flushed, sql))


async def test_a_finished_loop_writes_every_state_and_a_cancelled_one_leaves_them_to_the_final_flush(
    open_store: OpenStore, sql: Any
) -> None:
    log, store = MemoryLog("log-1"), await open_store(state_lag=LONG)
    assert await store.acquire_lease()
    loop = ShardLoop(ports(log, store), ROOMY, FoldState(await store.bind("log-1")))
    async for sequence in fill(log):
        await loop.run(sequence)
        assert await shows(sql, store) == (None, True)
    running = Projecting(loop)
    for number in range(2):
        await running.committed(await append(log, "d", {"merge": {"more": number}}))
    running.task.cancel()
    await asyncio.wait({running.task})
    assert await shows(sql, store) == (6, False)
    await store.flush_states(is_final=True)
    assert await shows(sql, store) == (None, True)


@pytest.mark.parametrize("lag", [LONG, NEVER], ids=["as before", "never"])
async def test_the_next_projector_flushes_outdated_states(
    open_store: OpenStore, sql: Any, lag: StateLag
) -> None:
    log, store = MemoryLog("log-1"), await open_store(state_lag=LONG)
    async with one_by_one(log, store):
        pass
    assert await shows(sql, store) == (1, False)
    await store.close()
    async with projecting(ports(log, await open_store(state_lag=lag))):
        await until(partial(is_flushed, sql))


async def test_a_supervisor_flushes_at_shutdown_and_leaves_the_rest_to_the_next(
    open_store: OpenStore, sql: Any
) -> None:
    log, store = MemoryLog("log-1"), await open_store(state_lag=LONG)
    supervisor = Supervisor(ports(log, store), ROOMY)
    await supervisor.finish()
    task = asyncio.create_task(supervisor.run())
    async for sequence in fill(log):
        await until(partial(reached, supervisor, sequence))
    task.cancel()
    await asyncio.wait({task})
    store._lease._is_held = False
    await supervisor.finish()
    assert await shows(sql, store) == (1, False)
    store._lease._is_held = True
    await supervisor.finish()
    assert await shows(sql, store) == (None, True)


async def reached(supervisor: Supervisor, sequence: int) -> bool:
    return supervisor.committed_sequence >= sequence
