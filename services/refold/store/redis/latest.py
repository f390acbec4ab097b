"""The LatestReader of Redis: heads in batches, documents of a namespace, names, counts.

Part of the Redis adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from refold.core.history import NEVER
from refold.core.stream import Checkpoint, ClockRange, is_printable
from refold.store import (
    ANSWER_BYTES_MAX,
    ROW_MISSING,
    Capabilities,
    Depth,
    Head,
    Key,
    Name,
    Names,
    NamespaceCount,
    Page,
    VersionAt,
    damaged,
    read_cursor,
    reading_stored,
    refuse_where,
    write_cursor,
)
from refold.store.layers.dictionaries import DictionaryUnknown
from refold.store.redis.batch import BatchReader
from refold.store.redis.keys import Keys
from refold.store.redis.pool import Command, Pool
from refold.store.redis.rows import HEAD_BYTES, Rows, is_known
from refold.store.redis.schema import read_checkpoints

T = TypeVar("T")

READ_KEYS_MAX: Final = 1_000
"""Keys that one pipeline of a list reads."""

LIST_STATES_MAX: Final = 16
"""States that one pipeline of a list reads: it may have read so many for nothing when its bytes are full."""


class RedisLatest:
    """Part of `RedisStore`."""

    capabilities = Capabilities(depth=Depth.recent, has_where=False)

    def __init__(self, pool: Pool, keys: Keys, rows: Rows) -> None:
        self._pool = pool
        self._keys = keys
        self._rows = rows
        self._heads = BatchReader(pool)

    async def checkpoints(self) -> list[Checkpoint]:
        return await read_checkpoints(self._pool, self._keys)

    async def clock(self) -> list[ClockRange]:
        (stored,) = await self._pool.run(("HGETALL", self._keys.clock))
        pairs = zip(stored[::2], stored[1::2], strict=True)
        with reading_stored("", ""):
            ranges = [(*map(int, field.split(b":")), int(last)) for field, last in pairs]
        return [ClockRange(first, last, recorded_at) for first, recorded_at, last in ranges]

    async def epoch(self) -> str:
        """Return the log's id: a projection in Redis is not swapped, but emptied and folded again from its log."""
        (found,) = await self._pool.run(("GET", self._keys.log))
        return "" if found is None else str(found, "utf-8", "replace")

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        key = (namespace, document)
        stored = await self._heads.read(self._keys.head(key), known_version)
        if stored is None:
            await self._check_never(key)
            return None
        is_bare = await self._decoded(key, lambda: is_known(stored, known_version))
        return await self._to_head(key, stored, is_bare=is_bare)

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        found: dict[Key, VersionAt] = {}
        if known:
            rows = await self._pool.read_at_once(*(self._numbers_of(key) for key in known))
            for key, row in zip(known, rows, strict=True):
                at = VersionAt(NEVER.version, NEVER.sequence)
                if row:
                    with reading_stored(*key):
                        document, _ = self._rows.to_row(key, row)
                    at = VersionAt(document.version, document.version_sequence)
                if at != known[key]:
                    found[key] = at
        return found

    async def list_documents(
        self,
        namespace: str,
        *,
        prefix: str,
        where: str | None,
        limit: int,
        cursor: str | None,
        is_bare: bool = False,
    ) -> Page:
        refuse_where(where)
        names = await self._listed(self._keys.present(namespace), prefix, read_cursor(cursor), limit + 1)
        heads: list[Head] = []
        answer_bytes = 0
        for part in _parts(names, READ_KEYS_MAX if is_bare else LIST_STATES_MAX):
            keys = [(namespace, name) for name in part]
            if is_bare:
                rows = await self._pool.run(*map(self._numbers_of, keys))
            else:
                rows = await self._pool.run(*(("GET", self._keys.head(key)) for key in keys))
            for key, row in zip(keys, rows, strict=True):
                head = await self._to_head(key, row, is_bare=is_bare)
                if head.snapshot.state is None:
                    continue  # Deleted after the names were read.
                answer_bytes += len(head.snapshot.state)
                if len(heads) == limit or (heads and answer_bytes > ANSWER_BYTES_MAX):
                    return Page(heads, write_cursor(heads[-1].document))
                heads.append(head)
        # One that is left out for its number may have made the page short: the last name continues it.
        return Page(heads, write_cursor(names[-1]) if len(names) > limit else None)

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        names = await self._listed(self._keys.names(namespace), prefix, read_cursor(cursor), limit + 1)
        found: list[Name] = []
        for part in _parts(names[:limit], READ_KEYS_MAX):
            rows = await self._pool.run(*(self._numbers_of((namespace, name)) for name in part))
            for name, row in zip(part, rows, strict=True):
                if not row:
                    raise damaged(namespace, name, ROW_MISSING)
                with reading_stored(namespace, name):
                    document, is_present = self._rows.to_row((namespace, name), row)
                found.append(Name(name, document.version, document.recorded_at, is_present))
        return Names(found, write_cursor(found[-1].document) if len(names) > limit else None)

    async def namespaces(self) -> list[NamespaceCount]:
        counts = await self._counts()
        names = sorted(field[2:] for field in counts if field.startswith("e:"))
        return [NamespaceCount(name, counts.get(f"d:{name}", 0), counts[f"e:{name}"]) for name in names]

    async def ping(self) -> None:
        await self._pool.run(("PING",))

    async def _counts(self) -> dict[str, int]:
        (counts,) = await self._pool.run(("HGETALL", self._keys.counts))
        with reading_stored("", "counts"):
            fields = [field.decode() for field in counts[::2]]
            return dict(zip(fields, map(int, counts[1::2]), strict=True))

    async def _check_never(self, key: Key) -> None:
        """Raise `StoreDamaged` where a document without a row has events."""
        (found,) = await self._pool.run(("EXISTS", self._keys.open(key), self._keys.ids(key)))
        if found:
            # Its first events may have been committed in between.
            (row,) = await self._pool.run(("EXISTS", self._keys.head(key)))
            if not row:
                raise damaged(*key, ROW_MISSING)

    def _numbers_of(self, key: Key) -> Command:
        return ("GETRANGE", self._keys.head(key), 0, HEAD_BYTES - 1)

    async def _to_head(self, key: Key, row: bytes | None, *, is_bare: bool) -> Head:
        if not row:
            raise damaged(*key, ROW_MISSING)
        read = self._rows.to_bare_head if is_bare else self._rows.to_head
        return await self._decoded(key, partial(read, key, row))

    async def _decoded(self, key: Key, decode: Callable[[], T]) -> T:
        """Decode what was read; of dictionaries that it needs, read those that are not known. Raises `StoreDamaged`."""
        with reading_stored(*key):
            while True:
                try:
                    return decode()
                except DictionaryUnknown as unknown:
                    (found,) = await self._pool.run(("HGET", self._keys.dictionaries, unknown.number))
                    if found is None:
                        raise
                    self._rows.learn(unknown.number, found)

    async def _listed(self, names: bytes, prefix: str, after: str, limit: int) -> list[str]:
        """List names that begin with a prefix, after one, in the order of their code points."""
        if not is_printable(prefix):
            return []
        start = b"(" + after.encode() if after >= prefix else b"[" + prefix.encode()
        # No byte of a name is as large.
        end = b"(" + prefix.encode() + b"\xff"
        (found,) = await self._pool.run(("ZRANGEBYLEX", names, start, end, "LIMIT", 0, limit))
        with reading_stored("", "names"):
            return [name.decode() for name in found]


def _parts(names: Sequence[str], size: int) -> Iterator[list[Any]]:
    remaining = iter(names)
    while part := list(islice(remaining, size)):
        yield part
