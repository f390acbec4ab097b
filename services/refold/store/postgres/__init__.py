"""The store in PostgreSQL: one schema a projection, pages and journal beside the documents' heads.

`PostgresStore` is the ProjectionWriter; its bases read what is now (`latest`) and what was (`history`), and the
Auditor's parts are in `audit`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, Self
from uuid import UUID

from refold.core.document import Document
from refold.core.stream import Checkpoint
from refold.store import SHARD_LEASE_SECONDS, Commit, Connections, Key
from refold.store.keyed import CommitKey
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.ports import OpenCommit, ReadSnapshot
from refold.store.postgres.audit import hold_read_snapshot
from refold.store.postgres.commit import Fence, PostgresOpenCommit, write_commit
from refold.store.postgres.history import PostgresHistory
from refold.store.postgres.keyed import PostgresKeyed
from refold.store.postgres.latest import STORE_WHERE_SECONDS, PostgresLatest
from refold.store.postgres.lease import ShardLease
from refold.store.postgres.pool import (
    SQL,
    STORE_COMMAND_SECONDS,
    STORE_CONNECT_SECONDS,
    Pool,
    transaction,
)
from refold.store.postgres.rows import Rows
from refold.store.postgres.schema import MIGRATIONS, applied_migration, bind, lock_key, migrate
from refold.store.postgres.states import StateFlusher, StateLag, load_documents

STORE_READERS_MAX: Final = 8
"""Connections that one process reads through."""

STORE_SYNC_SECONDS: Final = 1.0
"""The longest time between commits that wait for the disk: what a power cut can take from Postgres."""


class PostgresStore(PostgresLatest, PostgresHistory, PostgresKeyed):
    """A SnapshotStore in one schema of a PostgreSQL database."""

    def __init__(
        self,
        pool: Pool,
        rows: Rows,
        lease: ShardLease,
        flusher: StateFlusher,
        *,
        where_seconds: float,
        timer: Callable[[], float],
    ) -> None:
        """Use `open`."""
        super().__init__(pool, rows, where_seconds=where_seconds)
        self._lease = lease
        self._key = CommitKey(rows.codec)
        self.flusher = flusher
        flusher.prepare_key = partial(self._key.prepare, self)
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
        connect_seconds: float = STORE_CONNECT_SECONDS,
        command_seconds: float = STORE_COMMAND_SECONDS,
        lease_seconds: float = SHARD_LEASE_SECONDS,
        state_lag: StateLag | None = None,
        codec: RowCodec | None = None,
        is_history_encrypted: bool = False,
        are_states_encrypted: bool = False,
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Connect, and apply missing migrations. Each `shard` has a lease of its own.

        `codec` encodes pages; with `is_history_encrypted` also what authors wrote in the journal and in rejections, and
        with `are_states_encrypted` heads' states, which SQL cannot search then.

        Raises `StoreUnavailable`, `StoreDiffers`.
        """
        pool = Pool(
            dsn, schema, readers_max, connect_seconds=connect_seconds, command_seconds=command_seconds
        )
        await pool.open()
        try:
            async with pool.lend() as connection:
                await migrate(connection, schema, has_encoded_states=are_states_encrypted)
        except BaseException:
            await pool.close()
            raise
        lease = ShardLease(pool, lock_key(f"shard {shard}".rstrip(), schema), lease_seconds=lease_seconds)
        rows = Rows(
            codec or Compression(),
            has_content=is_history_encrypted,
            has_encoded_states=are_states_encrypted,
        )
        flusher = StateFlusher(pool, lease, rows, state_lag or StateLag(), timer)
        return cls(pool, rows, lease, flusher, where_seconds=where_seconds, timer=timer)

    def refuse_stale(
        self,
        sent_sequences: Callable[[], Sequence[int]],
        end_sequence: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._pool.stale.require(sent_sequences, end_sequence)

    async def bind(self, log_id: str) -> list[Checkpoint]:
        async with self._pool.lend() as connection:
            checkpoints, self._epoch = await bind(connection, log_id)
        self.flusher.forget()
        self._key.forget()
        return checkpoints

    async def acquire_lease(self) -> bool:
        return await self._lease.acquire()

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        async with self._pool.lend() as connection:
            return await load_documents(connection, keys, self._rows)

    async def commit(self, commit: Commit) -> str:
        """Write all of it in one transaction; once a second it also waits for the disk."""
        try:
            async with self._lease.connection() as connection:
                started_at = self._timer()
                is_synchronous = started_at - self._synchronous_at >= STORE_SYNC_SECONDS
                fence = Fence(self._epoch, await self._key.prepare(self))
                kind = await write_commit(
                    connection, commit, fence, self._rows, is_synchronous=is_synchronous
                )
                if is_synchronous:
                    self._synchronous_at = started_at
                return kind
        except BaseException:
            self.flusher.forget()
            raise

    @asynccontextmanager
    async def open_commit(self) -> AsyncIterator[OpenCommit]:
        """Hold one transaction on the lease's connection; its commit waits for the disk."""
        try:
            async with self._lease.connection() as connection, transaction(connection):
                fence = Fence(self._epoch, await self._key.prepare(self))
                opened = PostgresOpenCommit(connection, fence, self._rows)
                yield opened
                assert opened.is_written, "the block wrote no commit"
        except BaseException:
            self.flusher.forget()
            raise

    def wants_state(self, document: Document, *, is_changed: bool) -> bool:
        return self.flusher.wants(document, is_changed=is_changed)

    @property
    def flush_seconds(self) -> float:
        return self.flusher.seconds

    async def flush_states(self, *, is_final: bool = False) -> int:
        return await self.flusher.flush(is_final=is_final)

    def read_snapshot(self) -> AbstractAsyncContextManager[ReadSnapshot]:
        return hold_read_snapshot(self._pool, self._rows)

    @property
    def connections(self) -> Connections:
        return self._pool.connections

    async def server_version(self) -> str:
        async with self._pool.lend() as connection:
            return str(await connection.fetchval(SQL["server_version"]))

    async def migrations(self) -> tuple[int, int]:
        async with self._pool.lend() as connection:
            return await applied_migration(connection), MIGRATIONS[-1].number

    async def close(self) -> None:
        """Release the lease first, then the readers."""
        try:
            await self._lease.close()
        finally:
            await self._heads.close()
            await self._points.close()
            await self._pool.close()
