"""The store `files`: a SQLite database in one folder, pages and journal beside the documents' heads.

`SqliteStore` is the ProjectionWriter; its bases read what is now (`latest`) and what was (`history`). The Auditor's
parts are in `audit`, and in `swap` for a rebuild.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Self

from refold.core.document import Document
from refold.core.errors import FenceLost, StoreUnavailable
from refold.core.stream import Checkpoint
from refold.store import SHARD_LEASE_SECONDS, ClosedPage, Commit, Connections, Key
from refold.store.keyed import CommitKey
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.ports import OpenCommit, ReadSnapshot
from refold.store.sqlite.audit import hold_read_snapshot
from refold.store.sqlite.commit import Fence, PreparedCommit, write_commit
from refold.store.sqlite.dictionaries import (
    add_dictionary,
    find_dictionary,
    learn_dictionaries,
    newest_dictionaries,
)
from refold.store.sqlite.history import SqliteHistory
from refold.store.sqlite.keyed import SqliteKeyed
from refold.store.sqlite.latest import SqliteLatest
from refold.store.sqlite.lease import ShardLease
from refold.store.sqlite.pool import VERSION, Connection, FileId, Pool
from refold.store.sqlite.rows import Rows
from refold.store.sqlite.schema import (
    LIVE,
    MIGRATIONS,
    REBUILD,
    bind,
    folded_sequences,
    open_file,
    pragma_number,
    read_checkpoints,
)
from refold.store.sqlite.states import load_documents

STORE_SYNC_SECONDS: Final = 1.0
"""The longest time between commits that wait for the disk: what a power cut can take from the database."""


class SqliteStore(SqliteLatest, SqliteHistory, SqliteKeyed):
    """A SnapshotStore in one folder of a local disk."""

    flush_seconds = 0.0

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        lease: ShardLease,
        rows: Rows,
        *,
        is_rebuild: bool,
        timer: Callable[[], float],
    ) -> None:
        """Use `open`."""
        super().__init__(pool, rows)
        pool.read_folded = folded_sequences
        self._bound_file: FileId | None = None
        self._folder = folder
        self._is_rebuild = is_rebuild
        self._lease = lease
        self._key = CommitKey(rows.codec)
        self._timer = timer
        self._epoch: str | None = None
        self._committing = asyncio.Lock()
        self._synchronous_at = timer() - STORE_SYNC_SECONDS

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        shard: str = "",
        is_rebuild: bool = False,
        codec: RowCodec | None = None,
        lease_seconds: float = SHARD_LEASE_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open the folder's database, or the one that a rebuild fills; make it where there is none.

        Each `shard` has a lease of its own. Raises `StoreUnavailable`, `StoreDiffers`, `StoreDamaged`.
        """
        path = await asyncio.to_thread(open_file, folder, is_rebuild=is_rebuild)
        name = f"{REBUILD if is_rebuild else LIVE}.lock"
        lock = folder / (f"{name}.{shard}" if shard else name)
        lease = ShardLease(lock, lease_seconds=lease_seconds, timer=timer)
        rows = Rows(codec or Compression(), partial(find_dictionary, [path]))
        return cls(folder, Pool(path), lease, rows, is_rebuild=is_rebuild, timer=timer)

    async def bind(self, log_id: str) -> list[Checkpoint]:
        file = await self._make_missing()

        def read(connection: Connection) -> tuple[str, list[Checkpoint]]:
            self._rows.forget()
            return bind(self._pool, connection, log_id), read_checkpoints(connection)

        self._epoch, checkpoints = await self._pool.write(read)
        self._bound_file = file
        self._pool.forget()
        self._key.forget()
        if self._is_rebuild:
            # Those that are trained in the live file from now on are not copied.
            found = await asyncio.to_thread(newest_dictionaries, self._folder / LIVE, self._rows)
            for number, namespace, content in found:
                await self._add_dictionary(namespace, content, number=number)
        return checkpoints

    async def acquire_lease(self) -> bool:
        """Acquire or renew the lease. Raises `StoreUnavailable` where the bound database is gone, or another by now."""
        async with self._committing:
            file = await self._make_missing()
            if self._bound_file not in {None, file}:
                self._bound_file = None
                self._lease.close()
                raise StoreUnavailable("the database was emptied or replaced: it is bound and folded again")
            return self._lease.acquire()

    async def _make_missing(self) -> FileId:
        """Make the database where it is gone: the folder was emptied while this process ran."""
        if not self._pool.path.exists():
            await asyncio.to_thread(open_file, self._folder, is_rebuild=self._is_rebuild)
        return FileId.of(str(self._pool.path))

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        if not keys:
            return []
        return await self._pool.scan(lambda connection: load_documents(connection, keys, self._rows))

    async def commit(self, commit: Commit) -> str:
        """Write all of it in one transaction; once a second it also waits for the disk."""
        async with self._committing:
            self._lease.check()
            started_at = self._timer()
            is_synchronous = started_at - self._synchronous_at >= STORE_SYNC_SECONDS
            key = await self._key.prepare(self)
            await self._pool.write(partial(self._commit, commit, key, is_synchronous=is_synchronous))
            if is_synchronous:
                self._synchronous_at = started_at
            return "sync" if is_synchronous else "single"

    @asynccontextmanager
    async def open_commit(self) -> AsyncIterator[OpenCommit]:
        """Keep the pages until the end of the block: a transaction would keep the writers of other shards out."""
        async with self._committing:
            self._lease.check()
            opened = _OpenCommit(self._lease)
            yield opened
            assert opened.commit is not None, "the block wrote no commit"
            commit = replace(opened.commit, pages=[*opened.pages, *opened.commit.pages])
            key = await self._key.prepare(self)
            await self._pool.write(partial(self._commit, commit, key, is_synchronous=True))

    def wants_state(self, document: Document, *, is_changed: bool) -> bool:  # noqa: ARG002
        """Want every state: a row is overwritten in place."""
        return True

    async def flush_states(self, *, is_final: bool = False) -> int:  # noqa: ARG002
        """Do nothing: no state is left out."""
        return 0

    def refuse_stale(
        self,
        sent_sequences: Callable[[], Sequence[int]],
        end_sequence: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Check another file in the place of the one that was read; a crash of the machine ends its readers too."""
        self._pool.stale.require(sent_sequences, end_sequence)

    @property
    def connections(self) -> Connections:
        return self._pool.scans

    async def server_version(self) -> str:
        return VERSION

    async def migrations(self) -> tuple[int, int]:
        async with self._pool.reading() as connection:
            return pragma_number(connection, "user_version"), MIGRATIONS[-1].number

    async def add_dictionary(self, namespace: str, content: bytes) -> int:
        return await self._add_dictionary(namespace, content)

    def read_snapshot(self) -> AbstractAsyncContextManager[ReadSnapshot]:
        return hold_read_snapshot(self._pool, self._rows)

    async def close(self) -> None:
        """Let a commit that runs end, release the lease, and close the file."""
        async with self._committing:
            await self._pool.close()
            self._lease.close()

    async def _add_dictionary(self, namespace: str, content: bytes, number: int = 0) -> int:
        async with self._committing:
            key = await self._key.prepare(self)

            def add(connection: Connection) -> int:
                with self._pool.transaction(connection, is_synchronous=True):
                    return add_dictionary(connection, self._rows, namespace, content, key=key, number=number)

            return await self._pool.write(add)

    def _commit(
        self, commit: Commit, key: int | None, connection: Connection, *, is_synchronous: bool
    ) -> None:
        learn_dictionaries(connection, self._rows)
        prepared = PreparedCommit.of(commit, self._rows)
        with self._pool.transaction(connection, is_synchronous=is_synchronous):
            # Another may have taken the lease while this transaction waited.
            self._lease.check()
            write_commit(connection, prepared, Fence(self._epoch, key), self._rows)
        self._lease.renew()


class _OpenCommit:
    """An OpenCommit that keeps everything until the end of its block."""

    def __init__(self, lease: ShardLease) -> None:
        self._lease = lease
        self.pages: list[ClosedPage] = []
        self.commit: Commit | None = None

    async def write_pages(self, pages: Sequence[ClosedPage]) -> None:
        self._lease.check()
        self._lease.renew()
        self.pages += pages

    async def write(self, commit: Commit) -> None:
        if self.commit is not None:
            raise FenceLost("a block writes one commit")
        self.commit = commit
