"""The PostgreSQL adapter of the SnapshotStore port: one schema a projection, pages and journal beside heads.

Opened by wiring; its modules are nobody else's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self
from uuid import UUID

from refold.core import page
from refold.core.checkpoint import Checkpoint
from refold.core.document import Document
from refold.core.limits import (
    SHARD_LEASE_SECONDS,
    STORE_READERS_MAX,
    STORE_SEARCHES_MAX,
    STORE_SYNC_SECONDS,
    STORE_WHERE_SECONDS,
)
from refold.core.outcome import Entry
from refold.core.page import Point, Run, Snapshot
from refold.store import Commit, Head, Key, Names, NamespaceCount, Page, Rejection
from refold.store.bounds import Bounds
from refold.store.damage import reading_stored
from refold.store.moment import Moment
from refold.store.postgres import listing, runs
from refold.store.postgres.binding import bind, read_checkpoints
from refold.store.postgres.commit import write_commit
from refold.store.postgres.exact import read_exact, read_lagging, write_exact
from refold.store.postgres.listing import Searching
from refold.store.postgres.load import load_documents
from refold.store.postgres.migrate import lock_key, migrate
from refold.store.postgres.moment import hold_moment
from refold.store.postgres.owner import Owner
from refold.store.postgres.pool import Pool
from refold.store.postgres.rows import to_head
from refold.store.postgres.sql import SQL
from refold.store.postgres.together import Together


class PostgresStore:
    """A SnapshotStore in one schema of a PostgreSQL database."""

    def __init__(self, pool: Pool, owner: Owner, *, where_seconds: float, timer: Callable[[], float]) -> None:
        """Use `open`."""
        self._pool = pool
        self._owner = owner
        self._heads = Together(pool, "heads")
        self._searching = Searching(where_seconds, asyncio.Semaphore(STORE_SEARCHES_MAX))
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
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Connect, and bring the schema up to this program; a `shard` of its partitions is owned by itself.

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
        owner = Owner(pool, lock_key(f"shard {shard}".rstrip(), schema), lease_seconds=lease_seconds)
        return cls(pool, owner, where_seconds=where_seconds, timer=timer)

    def never_before(
        self, told_sequence: Callable[[], int], end_sequence: Callable[[], Awaitable[int]] | None = None
    ) -> None:
        """Read no longer from a database that has not folded what was told: its reads raise `StoreUnavailable`.

        A crashed one comes back without the last commits, which were not synced, until they are made again. What was
        read need not have been told: once every connection is lost, it must reach `end_sequence`, the log's end.
        """
        self._pool.told_sequence = told_sequence
        if end_sequence is not None:
            self._pool.end_sequence = end_sequence

    async def bind(self, log_id: str) -> list[Checkpoint]:
        """Return the checkpoints; makes them at the log's start, refuses another log's."""
        async with self._pool.lend() as connection:
            checkpoints, self._epoch = await bind(connection, log_id)
        return checkpoints

    async def own(self) -> bool:
        """Try to own the shard by an advisory lock of the committing connection; from its owner, a sign of life."""
        return await self._owner.own()

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        """Load those documents that exist, with their id windows."""
        async with self._pool.lend() as connection:
            return await load_documents(connection, keys)

    async def commit(self, commit: Commit) -> None:
        """Write all of it in one transaction; once a second it also waits for the disk."""
        async with self._owner.turn() as connection:
            started_at = self._timer()
            is_synchronous = started_at - self._synchronous_at >= STORE_SYNC_SECONDS
            await write_commit(connection, commit, self._epoch, is_synchronous=is_synchronous)
            if is_synchronous:
                self._synchronous_at = started_at

    async def lagging(self, *, after: Key, limit: int) -> list[Key]:
        """Name documents whose row's state lags, in order."""
        async with self._pool.lend() as connection:
            return await read_lagging(connection, after, limit)

    async def settle(self, namespace: str, document: str) -> None:
        """Write a document's state as it is now into its row; made beforehand, for commits wait meanwhile."""
        head = await self.head(namespace, document)
        async with self._owner.turn() as connection:
            if head is not None:
                await write_exact(connection, head)

    async def checkpoints(self) -> list[Checkpoint]:
        """Read the checkpoints as committed."""
        async with self._pool.lend() as connection:
            return await read_checkpoints(connection)

    async def head(self, namespace: str, document: str) -> Head | None:
        """Read a document's row."""
        row = await self._heads.read(namespace, document)
        if row is None or row["state_version"] is None:
            return to_head(row) if row else None
        async with self._pool.lend() as connection:
            return (await read_exact(connection, [(namespace, document)])).get((namespace, document))

    async def run_at(self, namespace: str, document: str, point: Point) -> Run | None:
        """Read the page that holds a point, or the journal's run."""
        return await runs.read_run(self._pool, namespace, document, Bounds.of(point))

    async def state_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        """Fold the run that holds a point up to it."""
        run = await self.run_at(namespace, document, point)
        if run is None:
            return None
        with reading_stored(namespace, document):
            return page.state_at(run, point)

    def runs(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Run, None]:
        """Yield the runs of a document's history in the order asked."""
        return runs.read_runs(
            self._pool, namespace, document, after_version=after_version, is_descending=is_descending
        )

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        """Read one of a document's events with its outcome."""
        return await runs.read_entry(self._pool, namespace, document, sequence)

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        """Find the first event that carried this id in the document's id window."""
        return await runs.find_id(self._pool, namespace, document, event_id)

    async def list_documents(
        self, namespace: str, *, prefix: str, where: str | None, limit: int, cursor: str | None
    ) -> Page:
        """List present documents by id."""
        return await listing.list_documents(
            self._pool,
            namespace,
            prefix=prefix,
            where=where,
            limit=limit,
            cursor=cursor,
            searching=self._searching,
        )

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        """List every document that ever had a version."""
        return await listing.list_names(self._pool, namespace, prefix=prefix, limit=limit, cursor=cursor)

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        """List what was present at a point."""
        return await listing.list_at(self._pool, namespace, point, prefix=prefix, limit=limit, cursor=cursor)

    async def rejections(
        self, namespace: str, document: str, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        """Read what the fold refused of a document, newest first."""
        return await listing.read_rejections(
            self._pool, namespace, document, limit=limit, before_sequence=before_sequence
        )

    async def namespaces(self) -> list[NamespaceCount]:
        """Count documents and events by namespace."""
        return await listing.count_namespaces(self._pool)

    def moment(self) -> AbstractAsyncContextManager[Moment]:
        """Hold one moment of the whole projection."""
        return hold_moment(self._pool)

    async def ping(self) -> None:
        """Raise where the database cannot be reached."""
        async with self._pool.lend() as connection:
            await connection.execute(SQL["ping"])

    async def server_version(self) -> str:
        """Return the database's version."""
        async with self._pool.lend() as connection:
            return str(await connection.fetchval(SQL["server_version"]))

    async def close(self) -> None:
        """Let go of the shard first, then of the readers."""
        try:
            await self._owner.close()
        finally:
            await self._heads.close()
            await self._pool.close()
