"""When states are written: the policy alone, then in the projector's loop over the memory twins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from refold.core.document import ABSENT, Document
from refold.core.outcome import Entry, Kind, Status
from refold.core.shard import Shard
from refold.log.memory import MemoryLog
from refold.projector.lag import Lag, LagBounds
from refold.projector.partition import Bounds, ShardLoop
from refold.projector.runner import Runner
from refold.store.memory import MemoryStore, Tables
from support.projection import ROOMY, Projecting, append, ports, projecting
from support.services import until

KEY = ("n", "d")
APPLIED = Entry(1, 0, 0, 0, 1, Status.applied, Kind.put, True, None, b"", b"", None, "", "", None, 0)
REJECTED = APPLIED._replace(status=Status.rejected)
LARGE = {"text": "x" * 2_000}
LONG = replace(ROOMY, state_lag=LagBounds(bytes_min=1_000, seconds=3_600))
SHORT = replace(ROOMY, state_lag=LagBounds(bytes_min=1_000, seconds=0.05))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(size: int = 5_000, name: str = "d") -> Document:
    return Document(namespace="n", document=name, partition=1, state=[], size=size)


def test_a_small_document_is_written_with_every_commit(clock: Clock) -> None:
    lag = Lag(LagBounds(bytes_min=5_000, seconds=1), clock)
    assert [lag.writes(made(5_000), [APPLIED]) for _ in range(3)] == [True] * 3
    assert [lag.writes(made(5_001), [APPLIED]) for _ in range(3)] == [True, False, False]


def test_a_large_one_is_written_when_three_quarters_of_the_time_have_passed(clock: Clock) -> None:
    lag, written = Lag(LagBounds(bytes_min=1_000, seconds=4), clock), []
    for _ in range(9):
        written.append(lag.writes(made(), [APPLIED]))
        clock.now += 1
    assert written == [True, False, False] * 3


def test_what_has_fallen_quiet_is_due_before_the_time_is_over(clock: Clock) -> None:
    lag = Lag(LagBounds(bytes_min=1_000, seconds=8), clock)
    assert lag.is_due(KEY)
    lag.writes(made(), [APPLIED])
    assert not lag.is_due(KEY)
    clock.now += 8 - lag.look_seconds
    assert lag.is_due(KEY)
    lag.settled(KEY)
    assert not lag.is_due(KEY)


def test_events_that_change_nothing_write_nothing_of_a_large_document(clock: Clock) -> None:
    lag = Lag(LagBounds(bytes_min=1_000, seconds=1), clock)
    for _ in range(3):
        assert not lag.writes(made(), [REJECTED])
        clock.now += 2
    assert lag.writes(made(), [REJECTED, APPLIED])


def test_a_document_made_again_after_a_delete_is_written(clock: Clock) -> None:
    lag = Lag(LagBounds(bytes_min=1_000, seconds=1), clock)
    lag.writes(made(), [APPLIED])
    assert lag.writes(replace(made(0), state=ABSENT), [APPLIED])
    assert lag.writes(made(), [APPLIED])


def test_what_was_settled_while_its_document_was_deleted_is_written_when_it_is_made_again(
    clock: Clock,
) -> None:
    lag = Lag(LagBounds(bytes_min=1_000, seconds=1), clock)
    lag.writes(made(), [APPLIED])
    lag.writes(replace(made(0), state=ABSENT), [APPLIED])
    lag.settled(KEY)
    assert lag.writes(made(), [APPLIED])


def test_where_none_may_lag_every_commit_writes(clock: Clock) -> None:
    lag = Lag(LagBounds(bytes_min=0, seconds=0), clock)
    assert [lag.writes(made(), [entry]) for entry in (APPLIED, APPLIED, REJECTED)] == [True] * 3


def test_no_more_is_remembered_than_matters(clock: Clock) -> None:
    lag = Lag(LagBounds(bytes_min=1_000, seconds=1), clock)
    for number in range(1_000):
        lag.writes(made(name=f"d{number}"), [APPLIED])
        clock.now += 0.1
    assert len(lag._written_at) <= 12


async def fill(log: MemoryLog) -> AsyncIterator[int]:
    """Write one large document, and small patches of it; yield each one's sequence."""
    yield await append(log, "d", {"put": LARGE})
    for number in range(5):
        yield await append(log, "d", {"patch": [{"op": "add", "path": "/n", "value": number}]})


async def shows(store: MemoryStore) -> tuple[int | None, bool]:
    """Tell what version the row's state is of where it lags, and whether the read one is the newest."""
    kept = store._tables.documents[KEY]
    head = await store.head(*KEY)
    assert head is not None
    return kept.state_version, head.snapshot.state == kept.state


@asynccontextmanager
async def one_by_one(log: MemoryLog, tables: Tables, bounds: Bounds) -> AsyncIterator[Projecting]:
    """Project so that each event is committed for itself: a document lags at the second."""
    async with projecting(ports(log, MemoryStore(tables)), bounds) as running:
        async for sequence in fill(log):
            await running.committed(sequence)
        yield running


async def test_a_document_that_falls_quiet_is_settled_in_time() -> None:
    log, tables = MemoryLog("log-1"), Tables()
    async with one_by_one(log, tables, SHORT):
        await until(lambda: settled(tables))


async def settled(tables: Tables) -> bool:
    return all(kept.state_version is None for kept in tables.documents.values())


async def test_a_loop_that_ends_in_order_leaves_nothing_lagging_and_one_that_is_cancelled_settles_when_told() -> (
    None
):
    log, tables = MemoryLog("log-1"), Tables()
    store = MemoryStore(tables)
    given = ports(log, store)
    assert await store.own()
    loop = ShardLoop(given, LONG, Shard(await store.bind("log-1")))
    async for sequence in fill(log):
        await loop.run(sequence)
        assert await shows(store) == (None, True)
    running = Projecting(loop)
    for _ in range(2):
        await running.committed(await append(log, "d", {"merge": {"more": sequence}}))
        sequence += 1
    running.task.cancel()
    await asyncio.wait({running.task})
    assert await shows(store) == (6, False)
    await loop.settle()
    assert await shows(store) == (None, True)


async def test_a_successor_settles_what_it_finds_lagging() -> None:
    log, tables = MemoryLog("log-1"), Tables()
    async with one_by_one(log, tables, LONG) as running:
        running.task.cancel()
    assert await shows(MemoryStore(tables)) == (1, False)
    tables.owner = None
    for bounds in (LONG, replace(ROOMY, state_lag=LagBounds(bytes_min=1_000, seconds=0))):
        async with projecting(ports(log, MemoryStore(tables)), bounds):
            await until(lambda: settled(tables))
        tables.owner = None
        tables.documents[KEY].show(b"{}", 1)


async def test_a_runner_settles_once_it_has_ended_and_lets_its_successor_do_what_it_cannot() -> None:
    log, tables = MemoryLog("log-1"), Tables()
    runner = Runner(ports(log, MemoryStore(tables)), LONG)
    await runner.finish()
    task = asyncio.create_task(runner.run())
    async for sequence in fill(log):
        await until(lambda sequence=sequence: reached(runner, sequence))
    task.cancel()
    await asyncio.wait({task})
    owner, tables.owner = tables.owner, None
    await runner.finish()
    assert await shows(MemoryStore(tables)) == (1, False)
    tables.owner = owner
    await runner.finish()
    assert await shows(MemoryStore(tables)) == (None, True)


async def reached(runner: Runner, sequence: int) -> bool:
    return runner.committed_sequence >= sequence
