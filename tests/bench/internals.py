"""What the measurements take from inside Refold: the replay loop, the fold, the store's progress and its reads.

The others use the servers, HTTP, SQL, the log's port and the client. So two versions are measured by the same code but
for this module, `bench.system` and `bench.ground.static`, which each version has of its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson

from bench.signals import Signals
from refold.audit.rebuild import shards_of
from refold.bench.workload import COUNTER, NAMESPACE
from refold.core.document import Document, Status
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import Clock, Point
from refold.core.stream import Record
from refold.live.backlog import Backlog
from refold.projector.replay import begin_replay
from refold.store.postgres import PostgresStore
from refold.wiring.audit import PROCESSES_MAX, processors
from refold.wiring.projector import limits_of
from refold.wiring.servers import open_log
from refold.wiring.service import collect_seldom
from refold.wiring.settings import Settings, load

__all__ = [
    "Progress",
    "Projection",
    "collect_seldom",
    "commit_events_max",
    "fold_records",
    "open_projection",
    "read_changes",
    "read_store",
    "rebuild_processes",
    "rebuild_shards",
    "replay",
]


class Progress(NamedTuple):
    """How far a projection is: the sequence up to which all is committed, its newest event's time, rejections."""

    sequence: int
    recorded_at: int
    rejected: int


class Projection:
    """The projector's store, to look at how far it is."""

    def __init__(self, store: PostgresStore) -> None:
        """Use `open_projection`."""
        self._store = store

    async def progress(self) -> Progress:
        """Read the checkpoints."""
        found = await self._store.checkpoints()
        return Progress(
            sequence=min(each.read_sequence for each in found),
            recorded_at=max(each.recorded_at for each in found),
            rejected=sum(each.counts[Status.rejected] for each in found),
        )


@asynccontextmanager
async def open_projection(settings: Settings) -> AsyncIterator[Projection]:
    """Connect to a system's projection."""
    store = await PostgresStore.open(settings.required("postgres_url"), schema=settings.postgres_schema)
    try:
        yield Projection(store)
    finally:
        await store.close()


def rebuild_processes() -> int:
    """Return in how many processes `refold rebuild` replays on this machine."""
    return min(PROCESSES_MAX, processors())


def rebuild_shards(processes: int) -> list[list[int]]:
    """Return the partitions of each process of a rebuild."""
    return [list(shard.partitions) for shard in shards_of(first_checkpoints(""), processes)]


def commit_events_max() -> int:
    """Return the setting of that name."""
    return load().commit_events_max


async def replay(
    signals: Signals, *, url: str, dsn: str, schema: str, until_sequence: int, partitions: list[int]
) -> dict[str, Any]:
    """Fold these partitions of a log into an unused schema, as `refold rebuild` does. A task for `bench.worker`."""
    collect_seldom()
    log = await open_log(url, "refold-bench-replay")
    store = await PostgresStore.open(dsn, schema=schema, shard=str(partitions[0]), readers_max=2)
    try:
        loop = await begin_replay(log, store, limits_of(load()), partitions)
        await signals.until_go()
        started_at = time.perf_counter()
        await loop.run(until_sequence)
        seconds = time.perf_counter() - started_at
        own = [found.counts for found in await store.checkpoints() if found.partition in partitions]
        applied = sum(counts[Status.applied] + counts[Status.merged] for counts in own)
        return {"seconds": seconds, "applied": applied}
    finally:
        await store.close()
        await log.close()


async def read_store(
    signals: Signals, *, dsn: str, schema: str, picks: list[tuple[str, int]]
) -> dict[str, Any]:
    """Read versions straight from the store, one after another. A task for `bench.worker`."""
    store = await PostgresStore.open(dsn, schema=schema, readers_max=1)
    taken, states = [], []
    try:
        await signals.until_go()
        started = time.perf_counter()
        for document, version in picks:
            started_at = time.perf_counter()
            states.append(await store.snapshot_at(NAMESPACE, document, Point(Clock.version, version)))
            taken.append((time.perf_counter() - started_at) * 1_000)
        seconds = time.perf_counter() - started
    finally:
        await store.close()
    counters = [orjson.loads(found.state or b"{}").get(COUNTER) if found else None for found in states]
    return {"milliseconds": taken, "seconds": seconds, "counters": counters}


async def read_changes(
    signals: Signals, *, url: str, dsn: str, schema: str, after: int, until: int
) -> dict[str, Any]:
    """Read a namespace's changes between two sequences, in the order of the log. A task for `bench.worker`."""
    store, log = await PostgresStore.open(dsn, schema=schema), await open_log(url, "refold-bench-changes")
    backlog, changes, sequence = Backlog(log, store), 0, after
    try:
        await signals.until_go()
        started = time.perf_counter()
        while sequence < until:
            part = await backlog.read(NAMESPACE, lambda _: True, sequence, until)
            changes, sequence = changes + len(part.changes), part.sequence
        seconds = time.perf_counter() - started
    finally:
        await log.close()
        await store.close()
    return {"seconds": seconds, "changes": changes}


def fold_records(log_id: str, records: Sequence[Record]) -> tuple[float, int]:
    """Fold records into documents in memory; return the seconds and the number of effective events."""
    shard = FoldState(first_checkpoints(log_id))
    documents: dict[tuple[str, str], Document] = {}
    effective = 0
    started_at = time.perf_counter()
    for record in records:
        where = shard.route(record.subject)
        key = where[1:3]
        document = documents.get(key)
        if document is None:
            document = documents[key] = Document(
                namespace=where.namespace, document=where.document, partition=where.partition
            )
        effective += shard.fold(record, where, document).entry.status.is_effective
    return time.perf_counter() - started_at, effective
