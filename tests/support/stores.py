"""Open stores of any adapter: any number of them over the same tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refold.core.errors import HistoryElsewhere
from refold.core.history import Clock, Entry, Point
from refold.core.stream import Checkpoint, Route, parse_shard
from refold.store import Commit, Depth, SegmentBounds
from refold.store.memory import MemoryStore, Tables
from refold.store.ports import SnapshotStore
from refold.store.postgres import PostgresStore
from refold.store.redis import RedisStore
from refold.store.sqlite import SqliteStore
from support.scribe import NAMESPACE, Scribe

LOG_ID = "log-1"

HOSTILE = {
    '"': "'; DROP TABLE documents; --",
    "\u0000": "a\u0000b",
    "𝄞\\u0000": ["\u2028", "\ud7ff", "\U0010ffff"],
}
"""A state of texts that break careless SQL, text types and JSON escapes."""

OpenStore = Callable[..., Awaitable[SnapshotStore]]


@asynccontextmanager
async def memory_stores(
    depth: Depth = Depth.full, *, tables: Tables | None = None
) -> AsyncIterator[OpenStore]:
    """Yield a function that opens a memory store; all use the same tables."""
    tables = Tables() if tables is None else tables

    async def open_store(**options: Any) -> SnapshotStore:
        return MemoryStore(tables, depth=depth, **options)

    yield open_store


@asynccontextmanager
async def postgres_stores(dsn: str, **options: Any) -> AsyncIterator[OpenStore]:
    """Yield a function that opens a store on this database; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def open_store(**more: Any) -> SnapshotStore:
            store = await PostgresStore.open(dsn, readers_max=2, **options, **more)
            opened.push_async_callback(store.close)
            return store

        yield open_store


@asynccontextmanager
async def sqlite_stores(folder: Path, **options: Any) -> AsyncIterator[OpenStore]:
    """Yield a function that opens a store in this folder; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def open_store(**more: Any) -> SnapshotStore:
            store = await SqliteStore.open(folder, **options, **more)
            opened.push_async_callback(store.close)
            return store

        yield open_store


@asynccontextmanager
async def redis_stores(url: str, **options: Any) -> AsyncIterator[OpenStore]:
    """Yield a function that opens a store on this server; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def open_store(**more: Any) -> Any:
            store = await RedisStore.open(url, readers_max=2, **options, **more)
            opened.push_async_callback(store.close)
            return store

        yield open_store


HALVES = ("0-31", "32-63")


class TwoShards:
    """A store whose commits are made by two writers, each of 32 partitions."""

    def __init__(self, *writers: SnapshotStore) -> None:
        self.writers = writers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writers[0], name)

    async def bind(self, log_id: str) -> list[Checkpoint]:
        bound = [await writer.bind(log_id) for writer in self.writers]
        return bound[0]

    async def acquire_lease(self) -> bool:
        return all([await writer.acquire_lease() for writer in self.writers])

    async def commit(self, commit: Commit) -> None:
        for shard, writer in zip(HALVES, self.writers, strict=True):
            part = part_of(commit, parse_shard(shard))
            if part.checkpoint.partitions:
                await writer.commit(part)

    async def flush_states(self, *, is_final: bool = False) -> None:
        for writer in self.writers:
            await writer.flush_states(is_final=is_final)

    async def close(self) -> None:
        for writer in self.writers:
            await writer.close()


def part_of(commit: Commit, shard: range) -> Commit:
    """Return what a shard commits of a commit of all partitions."""
    now = commit.checkpoint
    checkpoint = replace(
        now,
        partitions=[partition for partition in now.partitions if partition in shard],
        touched=[checkpoint for checkpoint in now.touched if checkpoint.partition in shard],
    )
    return Commit(
        expected_sequence=commit.expected_sequence,
        checkpoint=checkpoint,
        documents=[write for write in commit.documents if write.document.partition in shard],
        pages=[page for page in commit.pages if Route.of(page.namespace, page.document).partition in shard],
        rejections=[rejection for rejection in commit.rejections if rejection.partition in shard],
        resolutions=[resolution for resolution in commit.resolutions if resolution.partition in shard],
    )


async def begin(store: SnapshotStore) -> Scribe:
    """Bind and lease a store; return a log that continues from its checkpoints."""
    checkpoints = await store.bind(LOG_ID)
    assert await store.acquire_lease()
    return Scribe(checkpoints)


async def all_entries(store: SnapshotStore, document: str, **asked: Any) -> list[list[Entry]]:
    """Return a document's entries by segment, in either order: of a store of recent depth, those that it keeps."""
    asked = {"after_version": None, "is_descending": False} | asked
    runs = []
    try:
        async for run in store.segments(NAMESPACE, document, **asked):
            runs.append(run.entries)  # noqa: PERF401 - Those before an error are returned, too.
    except HistoryElsewhere:
        assert store.capabilities.depth is Depth.recent
        if not asked["is_descending"]:
            assert not runs
            return (await all_entries(store, document, is_descending=True))[::-1]
    return runs


class Depths:
    """Compare what a store reads at a point with a scribe's plain search, as far as the store keeps it."""

    def __init__(self, store: SnapshotStore, scribe: Scribe) -> None:
        self.store = store
        self.scribe = scribe

    async def check(self, document: str, point: Point, *, namespace: str = NAMESPACE) -> None:
        """Read one point: it is exact, or elsewhere where it is older than the oldest base that is kept."""
        depth = self.store.capabilities.depth
        base, sequence = self.scribe.oldest(document, depth, namespace=namespace)
        is_zero = point.clock in {Clock.version, Clock.sequence} and point.value < 1
        is_kept = is_zero or SegmentBounds.of(point).include(base, sequence)
        if is_kept:
            found = await self.store.snapshot_at(namespace, document, point)
            assert found == self.scribe.at(document, point, namespace=namespace), point
        else:
            with pytest.raises(HistoryElsewhere) as raised:
                await self.store.snapshot_at(namespace, document, point)
            assert raised.value.facts["from_version"] == base.version


async def sequence_of_id(store: SnapshotStore, document: str, event_id: str) -> int | None:
    """Return the sequence of the first event with an id, which a store of recent depth knows without its event."""
    try:
        found = await store.find_id(NAMESPACE, document, event_id)
    except HistoryElsewhere as error:
        assert store.capabilities.depth is Depth.recent
        return error.facts["sequence"]
    return found and found.sequence


async def write_life(
    store: SnapshotStore,
    scribe: Scribe,
    cut_after: Container[int] = (),
    commit_after: Container[int] = (),
) -> None:
    """Write to the document `life` one of everything: states, null, absence, rejections, equal and earlier times."""
    life: list[Any] = [
        {"put": {"n": 0}, "occurred_at": "2020-01-01T00:00:00Z"},
        {"patch": [{"op": "add", "path": "/m", "value": "\u0000𝄞"}], "occurred_at": "2020-01-01T00:00:00Z"},
        b"garbage",
        {"merge": {"m": None, "k": {"a": 1}}, "occurred_at": "2019-01-01T00:00:00Z"},
        {"patch": [{"op": "test", "path": "/n", "value": 9}]},
        {"delete": True, "occurred_at": "2021-01-01T00:00:00Z"},
        {"delete": True},
        {"patch": [{"op": "add", "path": "/again", "value": 1}], "occurred_at": "2020-06-01T00:00:00Z"},
        {"put": None, "occurred_at": "2022-01-01T00:00:00Z"},
        b"",
        {"put": [1], "occurred_at": "2022-01-01T00:00:00Z", "base": 6},
        {"patch": [{"op": "add", "path": "/-", "value": 2.0}]},
        {"delete": True},
    ]
    for step, event in enumerate(life):
        scribe.put("other", step)
        scribe.publish("life", event, at=step // 3 * 10)
        if step in cut_after:
            scribe.cut("life")
        if step in commit_after:
            await store.commit(scribe.commit())
    await store.commit(scribe.commit())
