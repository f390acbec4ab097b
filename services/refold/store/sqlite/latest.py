"""The LatestReader of SQLite: heads, documents of a namespace, names, counts.

Part of the SQLite adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from refold.core.errors import StoreDamaged
from refold.core.stream import Checkpoint, is_printable
from refold.store import (
    ANSWER_BYTES_MAX,
    LAST,
    Capabilities,
    Depth,
    Head,
    Key,
    Name,
    Names,
    NamespaceCount,
    Page,
    VersionAt,
    read_cursor,
    reading_stored,
    refuse_where,
    write_cursor,
)
from refold.store.sqlite.pool import SQL, Connection, Pool
from refold.store.sqlite.rows import Rows
from refold.store.sqlite.schema import read_checkpoints
from refold.store.sqlite.states import refuse_lost_row


class SqliteLatest:
    """Part of `SqliteStore`."""

    capabilities = Capabilities(depth=Depth.full, has_where=False)

    def __init__(self, pool: Pool, rows: Rows) -> None:
        self._pool = pool
        self._rows = rows

    async def checkpoints(self) -> list[Checkpoint]:
        async with self._pool.reading() as connection:
            return read_checkpoints(connection)

    async def epoch(self) -> str:
        async with self._pool.reading() as connection:
            row = connection.execute(SQL["bound_log"]).fetchone()
        return "" if row is None else str(row[1])

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        key = (namespace, document)
        row = await self._pool.fetch_one("head", (*key, known_version))
        if row is None:
            # Its first event may be committed between two statements: again, as of one moment.
            async with self._pool.reading() as connection:
                row = connection.execute(SQL["head"], (*key, known_version)).fetchone()
                if row is None:
                    refuse_lost_row(connection, key)
                    return None
        with reading_stored(*key):
            head = Head(*key, self._rows.to_newest(key, row), row[5])
        return head.without_state() if row[6] else head

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        return await self._pool.scan(partial(_other_versions, known))

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
        after = read_cursor(cursor)
        if not is_printable(prefix):
            return Page([], None)
        within = (namespace, after, prefix, prefix + LAST)
        return await self._pool.scan(partial(self._list, within, limit, is_bare))

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        after = read_cursor(cursor)
        if not is_printable(prefix):
            return Names([], None)
        given = (namespace, after, prefix, prefix + LAST, limit + 1)
        rows = await self._pool.scan(
            lambda connection: connection.execute(SQL["list_names"], given).fetchall()
        )
        names = [
            Name(document, version, recorded_at, bool(is_present))
            for document, version, recorded_at, is_present in rows[:limit]
        ]
        return Names(names, write_cursor(names[-1].document) if len(rows) > limit else None)

    async def namespaces(self) -> list[NamespaceCount]:
        async with self._pool.reading() as connection:
            return read_namespaces(connection)

    async def ping(self) -> None:
        async with self._pool.reading() as connection:
            connection.execute(SQL["bound_log"]).fetchone()

    def _list(
        self, within: tuple[str, str, str, str], limit: int, is_bare: bool, connection: Connection
    ) -> Page:
        namespace, after, prefix, _ = within
        heads: list[Head] = []
        answer_bytes = 0
        for document, size, *row in connection.execute(SQL["list_documents"], (*within, is_bare)):
            answer_bytes += size
            if len(heads) == limit or (heads and answer_bytes > ANSWER_BYTES_MAX):
                return Page(heads, write_cursor(heads[-1].document))
            key = (namespace, document)
            with reading_stored(*key):
                head = Head(*key, self._rows.to_newest(key, row), row[5])
            heads.append(head.without_state() if is_bare else head)
        if not (heads or after or prefix):
            count = connection.execute(SQL["count_documents"], (namespace,)).fetchone()
            if count is not None and count[0]:
                raise StoreDamaged("the namespace's documents have lost their rows", namespace=namespace)
        return Page(heads, None)


def read_namespaces(connection: Connection) -> list[NamespaceCount]:
    """Count documents and events by namespace."""
    return [NamespaceCount(*row) for row in connection.execute(SQL["namespaces"])]


def _other_versions(known: Mapping[Key, VersionAt], connection: Connection) -> dict[Key, VersionAt]:
    found = {}
    for key, at in known.items():
        row = connection.execute(SQL["version_of"], key).fetchone()
        now = VersionAt(*row) if row else VersionAt(0, 0)
        if now != at:
            found[key] = now
    return found
