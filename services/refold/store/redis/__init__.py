"""The store in Redis or Valkey, of recent depth: the newest of each document, in memory.

`RedisStore` is the ProjectionWriter; its bases read what is now (`latest`) and what was lately (`history`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Self

from refold.core.document import Document
from refold.core.errors import FenceLost, StoreUnavailable
from refold.core.stream import Checkpoint
from refold.store import (
    ROW_MISSING,
    SHARD_LEASE_SECONDS,
    ClosedPage,
    Commit,
    Connections,
    Key,
    damaged,
)
from refold.store.keyed import CommitKey
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.layers.dictionaries import next_number
from refold.store.ports import OpenCommit
from refold.store.redis.commit import FENCE_ATTEMPTS_MAX, Commits
from refold.store.redis.history import RedisHistory
from refold.store.redis.keyed import RedisKeyed
from refold.store.redis.keys import Keys
from refold.store.redis.lease import ShardLease
from refold.store.redis.pool import STORE_COMMAND_SECONDS, STORE_CONNECT_SECONDS, Command, Connection, Pool
from refold.store.redis.rows import Rows
from refold.store.redis.schema import FORMAT, bind, check_server, checkpoints_by, stored_format

STORE_READERS_MAX: Final = 8
"""Connections that one process reads through."""

LOAD_DOCUMENTS_MAX: Final = 256
"""Documents that one transaction loads."""


class _OpenCommit:
    """An OpenCommit that keeps everything until the end of its block: a commit is one transaction."""

    def __init__(self, lease: ShardLease) -> None:
        self._lease = lease
        self._pages: list[ClosedPage] = []
        self.commit: Commit | None = None

    async def write_pages(self, pages: Sequence[ClosedPage]) -> None:
        self._pages += pages
        if not pages and not await self._lease.acquire():
            raise FenceLost("another holds the shard's lease")

    async def write(self, commit: Commit) -> None:
        self.commit = replace(commit, pages=[*self._pages, *commit.pages])


class RedisStore(RedisHistory, RedisKeyed):
    """A ProjectionWriter and Reader over the keys of one schema."""

    flush_seconds = 0.0

    def __init__(
        self, pool: Pool, writer: Pool, keys: Keys, rows: Rows, lease: ShardLease, commits: Commits
    ) -> None:
        """Use `open`."""
        super().__init__(pool, keys, rows)
        self._writer = writer
        self._lease = lease
        self._key = CommitKey(rows.codec)
        self._commits = commits
        pool.bound_key, pool.read_folded = keys.log, self._folded
        self.is_volatile = False
        """The server keeps no log of its commands (`appendonly`): what it holds is lost when it ends."""

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        schema: str = "refold",
        shard: str = "",
        codec: RowCodec | None = None,
        readers_max: int = STORE_READERS_MAX,
        connect_seconds: float = STORE_CONNECT_SECONDS,
        command_seconds: float = STORE_COMMAND_SECONDS,
        lease_seconds: float = SHARD_LEASE_SECONDS,
    ) -> Self:
        """Connect, and refuse a server that cannot hold a projection. Each `shard` has a lease of its own.

        Raises `StoreUnavailable`, `StoreDiffers`.
        """
        keys, rows = Keys(schema), Rows(codec or Compression())
        seconds = {"connect_seconds": connect_seconds, "command_seconds": command_seconds}
        pool, writer = Pool(url, readers_max, **seconds), Pool(url, 1, **seconds)
        lease = ShardLease(writer, keys, shard, lease_seconds=lease_seconds)
        store = cls(pool, writer, keys, rows, lease, Commits(keys, rows, keys.owner(shard)))
        try:
            store.is_volatile = await check_server(pool)
        except BaseException:
            await store.close()
            raise
        return store

    async def bind(self, log_id: str) -> list[Checkpoint]:
        self._key.forget()
        self._commits.forget_dictionaries()
        checkpoints = await bind(self._pool, self._keys, log_id)
        self._lease.bound = self._pool.bound
        return checkpoints

    async def acquire_lease(self) -> bool:
        return await self._lease.acquire()

    async def load(self, keys: Sequence[Key]) -> list[Document]:
        found: list[Document] = []
        asked = list(set(keys))
        for at in range(0, len(asked), LOAD_DOCUMENTS_MAX):
            found += await self._load(asked[at : at + LOAD_DOCUMENTS_MAX])
        return found

    async def commit(self, commit: Commit) -> str:
        """Write all of it in one transaction, which also renews the lease."""
        async with self._lease.connection() as connection:
            key = await self._key.prepare(self)
            await self._commits.write(connection, commit, key, self._lease.token, self._lease.renewal)
        return "single"

    @asynccontextmanager
    async def open_commit(self) -> AsyncIterator[OpenCommit]:
        """Collect a commit, and write it at the end of the block."""
        opened = _OpenCommit(self._lease)
        yield opened
        assert opened.commit is not None, "the block wrote no commit"
        await self.commit(opened.commit)

    async def add_dictionary(self, namespace: str, content: bytes) -> int:
        keys = self._keys
        for _ in range(FENCE_ATTEMPTS_MAX):
            key = await self._key.prepare(self)
            async with self._pool.lend() as connection:
                asked: list[Command] = [("HKEYS", keys.dictionaries), ("HEXISTS", keys.checks, key or 0)]
                used, has_key = await connection.watch([keys.dictionaries, keys.checks], asked)
                if key is not None and not has_key:
                    raise FenceLost("the key of a dictionary is being retired", key=key)
                number = next_number([int(each) for each in used])
                row = self._rows.dictionary(number, namespace, content)
                if await connection.execute([("HSET", keys.dictionaries, number, row)]):
                    return number
        raise StoreUnavailable("other dictionaries were added all the time")

    def refuse_stale(
        self,
        sent_sequences: Callable[[], Sequence[int]],
        end_sequence: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._pool.stale.require(sent_sequences, end_sequence)

    @property
    def connections(self) -> Connections:
        return self._pool.connections

    async def server_version(self) -> str:
        (info,) = await self._pool.run(("INFO", "server"))
        versions = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        name = versions.get("server_name", "redis")
        version = versions.get(f"{name}_version", versions["redis_version"])
        return f"{version}" if name == "redis" else f"{name} {version}"

    async def migrations(self) -> tuple[int, int]:
        (found,) = await self._pool.run(("GET", self._keys.log))
        return stored_format(found), FORMAT

    async def _folded(self, connection: Connection) -> dict[int, int]:
        return {each.partition: each.read_sequence for each in await checkpoints_by(connection, self._keys)}

    def wants_state(self, document: Document, *, is_changed: bool) -> bool:  # noqa: ARG002
        """Want every state: a value is replaced as a whole."""
        return True

    async def flush_states(self, *, is_final: bool = False) -> int:  # noqa: ARG002
        """Do nothing: no state is left out."""
        return 0

    async def close(self) -> None:
        """Release the lease first, then the readers."""
        try:
            await self._lease.close()
        finally:
            await self._heads.close()
            await self._writer.close()
            await self._pool.close()

    async def _load(self, keys: Sequence[Key]) -> list[Document]:
        asked = [
            command
            for key in keys
            for command in (
                ("GET", self._keys.head(key)),
                ("LRANGE", self._keys.ids(key), 0, -1),
                ("EXISTS", self._keys.open(key)),
            )
        ]
        read = await self._pool.read_at_once(*asked)
        found: list[Document] = []
        for key, row, identities, has_events in zip(keys, read[::3], read[1::3], read[2::3], strict=True):
            if row is not None:
                decode = partial(self._rows.to_document, key, row, identities)
                found.append(await self._decoded(key, decode))
            elif has_events:
                raise damaged(*key, ROW_MISSING)
        return found
