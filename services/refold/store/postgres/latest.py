"""The LatestReader of PostgreSQL: heads in batches, documents of a namespace, names, counts.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from refold.core.errors import (
    Refused,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    TimedOut,
)
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
    write_cursor,
)
from refold.store.postgres.batch import BatchReader
from refold.store.postgres.pool import (
    CANCELED,
    SQL,
    STATE_ENCRYPTED,
    STORE_COMMAND_SECONDS,
    Connection,
    Pool,
    Row,
    read_snapshot,
)
from refold.store.postgres.rows import Rows, key_of
from refold.store.postgres.schema import read_checkpoints
from refold.store.postgres.states import read_exact

STORE_SEARCHES_MAX: Final = 2
"""Concurrent searches by `where` of one process: each takes a core, and memory as long as it runs."""

STORE_WHERE_SECONDS: Final = 5.0
"""The longest run of a search by `where`."""

_OUT_OF_MEMORY: Final = "53200"
_BAD_PATH: Final = ("22", "42", "54", "0A")
"""SQLSTATEs that begin so: the path does not parse, uses what Postgres lacks, or nests too deeply."""


class PostgresLatest:
    """Part of `PostgresStore`."""

    capabilities = Capabilities(depth=Depth.full, has_where=True)

    def __init__(self, pool: Pool, rows: Rows, *, where_seconds: float) -> None:
        self._pool = pool
        self._rows = rows
        self._heads = BatchReader(pool, "heads")
        self._points = BatchReader(pool, "points")
        self._where_seconds = where_seconds
        self._searches = asyncio.Semaphore(STORE_SEARCHES_MAX)

    async def checkpoints(self) -> list[Checkpoint]:
        async with self._pool.lend() as connection:
            return await read_checkpoints(connection)

    async def epoch(self) -> str:
        async with self._pool.lend() as connection:
            return str(await connection.fetchval(SQL["epoch"]))

    async def head(self, namespace: str, document: str, *, known_version: int | None = None) -> Head | None:
        row = await self._heads.read(namespace, document, known_version)
        if row is None or row["is_omitted"]:
            return self._rows.to_head(row).without_state() if row else None
        if row["state_version"] is None:
            return self._rows.to_head(row)
        async with self._pool.lend() as connection:
            key = (namespace, document)
            return (await read_exact(connection, [key], self._rows)).get(key)

    async def other_versions(self, known: Mapping[Key, VersionAt]) -> dict[Key, VersionAt]:
        namespaces, documents = zip(*known, strict=True) if known else ((), ())
        versions, sequences = zip(*known.values(), strict=True) if known else ((), ())
        async with self._pool.lend() as connection:
            rows = await connection.fetch(SQL["other_versions"], namespaces, documents, versions, sequences)
        return {key_of(row): VersionAt(row["version"], row["sequence"]) for row in rows}

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
        after = read_cursor(cursor)
        if not is_printable(prefix):
            return Page([], None)
        if where is not None and self._rows.has_encoded_states:
            raise _encrypted("REFOLD_ENCRYPT is all")
        query = _Query((namespace, after, prefix, prefix + LAST), limit, where, is_bare)
        rows, exact = await (self._list_all(query) if where is None else self._search(query, where))
        fitting = [row for row in rows[:limit] if row["fits"]]
        heads = [
            self._rows.to_head(row).without_state()
            if is_bare
            else exact.get(key_of(row)) or self._rows.to_head(row)
            for row in fitting
        ]
        return Page(heads, write_cursor(heads[-1].document) if len(rows) > len(heads) else None)

    async def list_names(self, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
        after = read_cursor(cursor)
        if not is_printable(prefix):
            return Names([], None)
        within = (namespace, after, prefix, prefix + LAST)
        async with self._pool.lend() as connection:
            rows = await connection.fetch(SQL["list_names"], *within, limit + 1)
        names = [Name(*row) for row in rows[:limit]]
        return Names(names, write_cursor(names[-1].document) if len(rows) > limit else None)

    async def namespaces(self) -> list[NamespaceCount]:
        async with self._pool.lend() as connection:
            return [NamespaceCount(*row) for row in await connection.fetch(SQL["namespaces"])]

    async def ping(self) -> None:
        await self._pool.ping()

    async def _list_all(self, query: _Query) -> _Listed:
        async with self._pool.lend() as connection, read_snapshot(connection):
            found = await _list(connection, query, self._rows)
            namespace, after, prefix, _ = query.within
            is_empty = not (found[0] or after or prefix)
            if is_empty and await connection.fetchval(SQL["count_documents"], namespace):
                raise StoreDamaged("the namespace's documents have lost their rows", namespace=namespace)
            return found

    async def _search(self, query: _Query, where: str) -> _Listed:
        """List documents that match a SQL/JSON path, in bounded time."""
        seconds = self._where_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._searches.acquire()
            try:
                async with self._pool.lend() as connection, read_snapshot(connection):
                    return await _Search(connection, query, self._rows, where, seconds).run()
            finally:
                self._searches.release()
        except (TimedOut, TimeoutError) as error:
            raise _too_long(seconds) from error
        except StoreError as error:
            sqlstate = str(error.facts.get("sqlstate", "22"))
            if sqlstate == CANCELED:
                raise _too_long(seconds) from error
            if sqlstate == STATE_ENCRYPTED:
                raise _encrypted("some were written under REFOLD_ENCRYPT=all") from error
            if sqlstate == _OUT_OF_MEMORY:
                raise _bad_where("needs more memory than the database has for it", where) from error
            if isinstance(error, StoreDamaged | StoreUnavailable) or not sqlstate.startswith(_BAD_PATH):
                raise
            raise _bad_where(f"not a SQL/JSON path predicate: {error.facts['cause']}", where) from error


_Listed = tuple[list[Row], dict[Key, Head]]
"""Rows, and the exact heads of those whose state is older than the row."""


class _Query(NamedTuple):
    """What is listed: `within` are the namespace, the name before the first, the prefix and its end."""

    within: tuple[str, str, str, str]
    limit: int
    where: str | None
    is_bare: bool


async def _list(
    connection: Connection,
    query: _Query,
    decode: Rows,
    named: list[str] | None = None,
    seconds: float | None = None,
) -> _Listed:
    """List what matches by its jsonb, and those in `named`; one row more shows that there is a next page."""
    bounds = (query.limit + 1, ANSWER_BYTES_MAX)
    rows = await connection.fetch(
        SQL["list_documents"],
        *query.within,
        *bounds,
        query.where,
        named or [],
        query.is_bare,
        timeout=seconds,
    )
    outdated = [
        key_of(row) for row in rows[: query.limit] if row["fits"] and row["state_version"] is not None
    ]
    return rows, {} if query.is_bare else await read_exact(connection, outdated, decode)


class _Search:
    """A search by `where` in one transaction, all of whose statements end within its time."""

    def __init__(
        self, connection: Connection, query: _Query, decode: Rows, where: str, seconds: float
    ) -> None:
        self._connection = connection
        self._decode = decode
        self._query = query
        self._where = where
        self._ends_at = asyncio.get_running_loop().time() + seconds
        # The server's own timeout comes first.
        self._command_seconds = seconds + STORE_COMMAND_SECONDS

    async def run(self) -> _Listed:
        await self._limit_statements()
        if not await self._connection.fetchval(SQL["is_predicate"], self._where):
            rule = "not a predicate, which is true or false: $.total > 10, exists($.total)"
            raise _bad_where(rule, self._where)
        named = await self._match_outdated()
        found = await self._list(named)
        # Documents with U+0000 have no jsonb. In a full page, only those before its end can belong to it.
        rows, limit = found[0], self._query.limit
        end = rows[-1]["document"] if len(rows) > limit else self._query.within[3]
        bounds = (*self._query.within[:3], end, self._where, limit + 1)
        await self._limit_statements()
        with_nul = await self._connection.fetch(
            SQL["list_matching_nul"], *bounds, timeout=self._command_seconds
        )
        return await self._list([*named, *(row["document"] for row in with_nul)]) if with_nul else found

    async def _list(self, named: list[str]) -> _Listed:
        await self._limit_statements()
        return await _list(self._connection, self._query, self._decode, named, self._command_seconds)

    async def _match_outdated(self) -> list[str]:
        """List the documents whose state is older than their row and whose exact state matches: folded one by one."""
        connection, named = self._connection, []
        try:
            async with asyncio.timeout_at(self._ends_at):
                for row in await connection.fetch(SQL["list_outdated"], *self._query.within):
                    key = (self._query.within[0], row["document"])
                    state = (await read_exact(connection, [key], self._decode))[key].snapshot.state
                    if await connection.fetchval(SQL["match_state"], state, self._where):
                        named.append(row["document"])
        except TimeoutError as error:
            raise TimedOut from error
        return named

    async def _limit_statements(self) -> None:
        """Set the statement timeout to the time that is left; 0 would mean no limit."""
        seconds = self._ends_at - asyncio.get_running_loop().time()
        await self._connection.execute(SQL["limit_statement"], str(max(1, round(seconds * 1_000))))


def _too_long(seconds: float) -> TimedOut:
    message = "the search by `where` took too long: narrow it by `prefix`, or make the path simpler"
    return TimedOut(message, seconds=seconds)


def _encrypted(why: str) -> Refused:
    mend = "to search, set REFOLD_ENCRYPT=history and run `refold rebuild`"
    return Refused("store_encrypted", f"SQL cannot read encrypted states, and {why}; {mend}", field="where")


def _bad_where(rule: str, where: str) -> Refused:
    return Refused("bad_where", rule, field="where", shape=repr(where[:80]))
