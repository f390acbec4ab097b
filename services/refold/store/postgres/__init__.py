"""The store in PostgreSQL: one schema a projection, pages and journal beside the documents' heads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Self
from uuid import UUID

from refold.core.document import Document
from refold.core.history import Entry, Point, Segment
from refold.core.stream import Checkpoint
from refold.store import (
    SHARD_LEASE_SECONDS,
    Capabilities,
    Commit,
    Depth,
    Head,
    Key,
    Names,
    NamespaceCount,
    Page,
    Rejection,
)
from refold.store.bounds import Bounds
from refold.store.ports import ReadSnapshot
from refold.store.postgres import list as lists
from refold.store.postgres import read
from refold.store.postgres.commit import write_commit
from refold.store.postgres.flush import StateFlusher, StateLag
from refold.store.postgres.lease import ShardLease
from refold.store.postgres.pool import SQL, Pool
from refold.store.postgres.read_snapshot import hold_read_snapshot
from refold.store.postgres.schema import bind, lock_key, migrate, read_checkpoints

STORE_READERS_MAX: Final = 8
"""Connections that one process reads through."""

STORE_SEARCHES_MAX: Final = 2
"""Concurrent searches by `where` of one process: each takes a core, and memory as long as it runs."""

STORE_WHERE_SECONDS: Final = 5.0
"""The longest run of a search by `where`."""

STORE_SYNC_SECONDS: Final = 1.0
"""The longest time between commits that wait for the disk: what a power cut can take from Postgres."""


class PostgresStore:
    """A SnapshotStore in one schema of a PostgreSQL database."""

    capabilities = Capabilities(depth=Depth.full, has_where=True)

    def __init__(
        self,
        pool: Pool,
        lease: ShardLease,
        flusher: StateFlusher,
        *,
        where_seconds: float,
        timer: Callable[[], float],
    ) -> None:
        """Use `open`."""
        self._pool = pool
        self._lease = lease
        self.flusher = flusher
        self._heads = read.HeadReader(pool)
        self._searching = lists.Searching(where_seconds, asyncio.Semaphore(STORE_SEARCHES_MAX))
        self._timer = timer
        self._epoch: UUID | None = None
        self._synchronous_at = timer() - STORE_SYNC_SECONDS

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        schema: str = "refold",
        shard: str = "",
        readers_max: int = STORE_READERS_MAX,
        where_seconds: float = STORE_WHERE_SECONDS,
        lease_seconds: float = SHARD_LEASE_SECONDS,
        state_lag: StateLag | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Connect, and apply missing migrations. Each `shard` has a lease of its own.

        Raises `StoreUnavailable`, `StoreDiffers`.
        """
        pool = Pool(dsn, schema, readers_max)
        await pool.open()
        try:
            async with pool.lend() as connection:
                await migrate(connection, schema)
        except BaseException:
            await pool.close()
            raise
        lease = ShardLease(pool, lock_key(f"shard {shard}".rstrip(), schema), lease_seconds=lease_seconds)
        flusher = StateFlusher(pool, lease, state_lag or StateLag(), timer)
        return cls(pool, lease, flusher, where_seconds=where_seconds, timer=timer)

    def refuse_stale(
        self,
        sent_sequences: Callable[[], Sequence[int]],
        end_sequence: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Refuse to read (`StoreUnavailable`) from a database that has lost commits in a crash, until they are redone.

        Each partition must have folded `sent_sequences`, by partition. Commits may also have been read and not sent:
        once every connection is lost, all must have folded `end_sequence`, the log's end.
        """
        self._pool.sent_sequences = sent_sequences
        if end_sequence is not None:
            self._pool.end_sequence = end_sequence

    async def bind(self, log_id: str) -> list[Checkpoint]:
        async with self._pool.lend() as connection:
            checkpoints, self._epoch = await bind(connection, log_id)
        self.flusher.forget()
        return checkpoints

    async def acquire_lease(self) -> bool:
        return await self._lease.acquire()

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        async with self._pool.lend() as connection:
            return await read.load_documents(connection, keys)

    async def commit(self, commit: Commit) -> None:
        """Write all of it in one transaction; once a second it also waits for the disk."""
        try:
            async with self._lease.connection() as connection:
                started_at = self._timer()
                is_synchronous = started_at - self._synchronous_at >= STORE_SYNC_SECONDS
                await write_commit(connection, commit, self._epoch, is_synchronous=is_synchronous)
                if is_synchronous:
                    self._synchronous_at = started_at
        except BaseException:
            self.flusher.forget()
            raise

    def wants_state(self, document: Document, *, is_changed: bool) -> bool:
        return self.flusher.wants(document, is_changed=is_changed)

    @property
    def flush_seconds(self) -> float:
        return self.flusher.seconds

    async def flush_states(self, *, is_final: bool = False) -> None:
        await self.flusher.flush(is_final=is_final)

    async def checkpoints(self) -> list[Checkpoint]:
        async with self._pool.lend() as connection:
            return await read_checkpoints(connection)

    async def head(self, namespace: str, document: str) -> Head | None:
        return await self._heads.read(namespace, document)

    async def segment_at(self, namespace: str, document: str, point: Point) -> Segment | None:
        return await read.read_segment(self._pool, namespace, document, Bounds.of(point))

    def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        return read.read_segments(
            self._pool, namespace, document, after_version=after_version, is_descending=is_descending
        )

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        return await read.read_entry(self._pool, namespace, document, sequence)

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        return await read.find_id(self._pool, namespace, document, event_id)

    async def list_documents(
        self, namespace: str, *, prefix: str, where: str | None, limit: int, cursor: str | None
    ) -> Page:
        return await lists.list_documents(
            self._pool,
            namespace,
            prefix=prefix,
            where=where,
            limit=limit,
            cursor=cursor,
            searching=self._searching,
        )

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        return await lists.list_names(self._pool, namespace, prefix=prefix, limit=limit, cursor=cursor)

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        return await lists.list_at(self._pool, namespace, point, prefix=prefix, limit=limit, cursor=cursor)

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        return await lists.read_rejections(
            self._pool, namespace, document, limit=limit, before_sequence=before_sequence
        )

    async def namespaces(self) -> list[NamespaceCount]:
        return await lists.count_namespaces(self._pool)

    def read_snapshot(self) -> AbstractAsyncContextManager[ReadSnapshot]:
        return hold_read_snapshot(self._pool)

    async def ping(self) -> None:
        async with self._pool.lend() as connection:
            await connection.execute(SQL["ping"])

    async def server_version(self) -> str:
        async with self._pool.lend() as connection:
            return str(await connection.fetchval(SQL["server_version"]))

    async def close(self) -> None:
        """Release the lease first, then the readers."""
        try:
            await self._lease.close()
        finally:
            await self._heads.close()
            await self._pool.close()
