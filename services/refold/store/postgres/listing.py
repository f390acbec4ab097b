"""Lists: documents of a namespace, what the fold refused, the namespaces.

For this adapter alone.
"""

from __future__ import annotations

from typing import Final

from refold.core.errors import Refused, StoreError, StoreUnavailable
from refold.core.limits import ANSWER_BYTES_MAX, TIME_MAX_NANOSECONDS
from refold.store import NamespaceCount, Page, Rejection
from refold.store.cursor import read_cursor, write_cursor
from refold.store.postgres.pool import Pool, Row
from refold.store.postgres.rows import to_head, to_rejection
from refold.store.postgres.sql import SQL

_LAST: Final = "\x7f"
"""Behind every character of a name, so that `prefix + _LAST` ends the names that begin with the prefix."""

_BAD_PATH: Final = ("22", "42", "54", "0A")
"""SQLSTATEs that begin so: the path does not parse, asks for what Postgres has not, or nests too deep."""


async def list_documents(
    pool: Pool,
    namespace: str,
    *,
    prefix: str,
    where: str | None,
    limit: int,
    cursor: str | None,
    where_seconds: float,
) -> Page:
    """List present documents by id."""
    after = read_cursor(cursor)
    if not (prefix.isascii() and prefix.isprintable()):
        return Page([], None)
    arguments = (namespace, after, prefix, prefix + _LAST, limit + 1, ANSWER_BYTES_MAX, where)
    if where is None:
        async with pool.lend() as connection:
            rows = await connection.fetch(SQL["list_documents"], *arguments)
    else:
        rows = await _search(pool, where, arguments, where_seconds)
    heads = [to_head(row) for row in rows[:limit] if row["fits"]]
    return Page(heads, write_cursor(heads[-1].document) if len(rows) > len(heads) else None)


async def read_rejections(
    pool: Pool, namespace: str, document: str, *, limit: int, before_sequence: int | None
) -> list[Rejection]:
    """Read what the fold refused of a document, newest first."""
    before = TIME_MAX_NANOSECONDS if before_sequence is None else before_sequence
    async with pool.lend() as connection:
        rows = await connection.fetch(SQL["rejections"], namespace, document, before, limit)
    return [to_rejection(row) for row in rows]


async def count_namespaces(pool: Pool) -> list[NamespaceCount]:
    """Count documents and events by namespace, from the counts that commits keep."""
    async with pool.lend() as connection:
        return [NamespaceCount(*row) for row in await connection.fetch(SQL["namespaces"])]


async def _search(pool: Pool, where: str, arguments: tuple[object, ...], where_seconds: float) -> list[Row]:
    """List those that a SQL/JSON path holds of, under a timeout of the server's."""
    milliseconds = str(round(where_seconds * 1_000))
    try:
        async with pool.lend() as connection, connection.transaction(readonly=True):
            await connection.execute(SQL["limit_statement"], milliseconds)
            return await connection.fetch(SQL["list_documents"], *arguments)
    except StoreUnavailable:
        raise
    except StoreError as error:
        if not str(error.facts.get("sqlstate", "22")).startswith(_BAD_PATH):
            raise
        message = f"not a SQL/JSON path predicate: {error.facts['cause']}"
        raise Refused("bad_where", message, field="where", shape=repr(where[:80])) from error
