"""Read lists: documents of a namespace, now or as of a point, rejections, namespaces.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

from refold.core import history
from refold.core.errors import Refused, StoreDamaged, StoreError, StoreUnavailable, TimedOut
from refold.core.history import Point, Snapshot
from refold.core.timestamp import TIME_MAX_NANOSECONDS
from refold.store import (
    ANSWER_BYTES_MAX,
    Head,
    Key,
    Name,
    Names,
    NamespaceCount,
    Page,
    Rejection,
    damaged,
    reading_stored,
)
from refold.store.bounds import Bounds, read_cursor, write_cursor
from refold.store.postgres.flush import read_exact
from refold.store.postgres.pool import SQL, STORE_COMMAND_SECONDS, Connection, Pool, Row
from refold.store.postgres.rows import to_head, to_rejection, to_run

LIST_BATCH_DOCUMENTS_MAX: Final = 256
LIST_BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Documents, and bytes of states and pages, that one statement of a list as of a point reads."""

LIST_BATCHES_MAX: Final = 64
"""Batches that one answer of such a list looks through."""

_LAST: Final = "\x7f"
"""Sorts after every character of a name, so that `prefix + _LAST` ends the names that begin with the prefix."""

_OUT_OF_MEMORY: Final = "53200"
_BAD_PATH: Final = ("22", "42", "54", "0A")
"""SQLSTATEs that begin so: the path does not parse, asks for what Postgres has not, or nests too deep."""


class Searching(NamedTuple):
    """How searches by `where` are bounded: each in time, and how many run at once."""

    seconds: float
    semaphore: asyncio.Semaphore


async def list_documents(
    pool: Pool,
    namespace: str,
    *,
    prefix: str,
    where: str | None,
    limit: int,
    cursor: str | None,
    searching: Searching,
) -> Page:
    """List present documents by id."""
    after = read_cursor(cursor)
    if not _is_name_like(prefix):
        return Page([], None)
    within, bounds = (namespace, after, prefix, prefix + _LAST), (limit + 1, ANSWER_BYTES_MAX)
    if where is None:
        async with pool.lend() as connection, _consistent(connection):
            rows, exact = await _list(connection, limit, (*within, *bounds, None, []))
            if not (rows or after or prefix) and await connection.fetchval(SQL["count_documents"], namespace):
                raise StoreDamaged("the namespace's documents have lost their rows", namespace=namespace)
    else:
        rows, exact = await _search(pool, where, within, bounds, searching)
    heads = [exact.get(_key(row)) or to_head(row) for row in rows[:limit] if row["fits"]]
    return Page(heads, write_cursor(heads[-1].document) if len(rows) > len(heads) else None)


async def list_names(pool: Pool, namespace: str, *, prefix: str, limit: int, cursor: str | None) -> Names:
    """List every document that ever had a version."""
    after = read_cursor(cursor)
    if not _is_name_like(prefix):
        return Names([], None)
    async with pool.lend() as connection:
        rows = await connection.fetch(SQL["list_names"], namespace, after, prefix, prefix + _LAST, limit + 1)
    names = [Name(*row) for row in rows[:limit]]
    return Names(names, write_cursor(names[-1].document) if len(rows) > limit else None)


async def list_at(
    pool: Pool, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
) -> Page:
    """List what was present at a point, in batches.

    The point is in the folded past, so batches that are read one after another agree about it.
    """
    heads: list[Head] = []
    answer_bytes = 0
    looked = read_cursor(cursor)
    for _ in range(LIST_BATCHES_MAX):
        rows, is_last = await _batch_at(pool, namespace, point, prefix, looked)
        for row in rows:
            found = _snapshot_at(row, point)
            answer_bytes += len(found.state or b"")
            if found.state is not None:
                if len(heads) == limit or (heads and answer_bytes > ANSWER_BYTES_MAX):
                    return Page(heads, write_cursor(heads[-1].document))
                heads.append(Head(namespace, row["document"], found, found.sequence))
            looked = row["document"]
            # Folding many pages takes time: other tasks run between two.
            await asyncio.sleep(0)
        if is_last:
            return Page(heads, None)
    return Page(heads, write_cursor(looked))


async def read_rejections(
    pool: Pool, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
) -> list[Rejection]:
    """Read rejections, newest first: of a document, of a namespace, or all."""
    before = TIME_MAX_NANOSECONDS if before_sequence is None else before_sequence
    if namespace is None:
        statement, names = "rejections_of_all", []
    elif document is None:
        statement, names = "rejections_of_namespace", [namespace]
    else:
        statement, names = "rejections", [namespace, document]
    async with pool.lend() as connection:
        rows = await connection.fetch(SQL[statement], *names, before, limit)
    with reading_stored(namespace or "", document or ""):
        return [to_rejection(row) for row in rows]


async def count_namespaces(pool: Pool) -> list[NamespaceCount]:
    """Count documents and events by namespace, from the counts that commits keep."""
    async with pool.lend() as connection:
        return [NamespaceCount(*row) for row in await connection.fetch(SQL["namespaces"])]


async def _batch_at(
    pool: Pool, namespace: str, point: Point, prefix: str, after: str
) -> tuple[list[Row], bool]:
    """Read the documents after one, as many as fit, and tell whether they are the last."""
    if not _is_name_like(prefix):
        return [], True
    bounds = Bounds.of(point)
    names = (namespace, after, prefix, prefix + _LAST)
    batch = (LIST_BATCH_DOCUMENTS_MAX, LIST_BATCH_BYTES_MAX)
    within = (bounds.version_sequence, bounds.recorded_at, bounds.occurred_max)
    async with pool.lend() as connection:
        rows = await connection.fetch(SQL["list_at"], *names, *batch, *within)
    fitting = [row for row in rows if row["fits"]]
    return fitting, len(rows) < LIST_BATCH_DOCUMENTS_MAX and len(fitting) == len(rows)


def _snapshot_at(row: Row, point: Point) -> Snapshot:
    if row["is_head"]:
        return to_head(row).snapshot
    if row["base_sequence"] is None and row["events"] != row["unpaged_events"]:
        raise damaged(*_key(row), "a page of its history is missing")
    with reading_stored(*_key(row)):
        return history.state_at(to_run(row), point)


def _is_name_like(prefix: str) -> bool:
    return prefix.isascii() and prefix.isprintable()


def _consistent(connection: Connection) -> AbstractAsyncContextManager[object]:
    return connection.transaction(isolation="repeatable_read", readonly=True)


async def _list(
    connection: Connection, limit: int, arguments: tuple[object, ...], seconds: float | None = None
) -> tuple[list[Row], dict[Key, Head]]:
    """Read rows, and the exact heads of those whose state is older than the row."""
    rows = await connection.fetch(SQL["list_documents"], *arguments, timeout=seconds)
    lagging = [_key(row) for row in rows[:limit] if row["fits"] and row["state_version"] is not None]
    return rows, await read_exact(connection, lagging)


def _key(row: Row) -> Key:
    return row["namespace"], row["document"]


async def _search(
    pool: Pool, where: str, within: tuple[str, str, str, str], bounds: tuple[int, int], searching: Searching
) -> tuple[list[Row], dict[Key, Head]]:
    """List documents that match a SQL/JSON path, under a statement timeout."""
    try:
        async with _acquired(searching), pool.lend() as connection, _consistent(connection):
            await _limit_statement(connection, searching.seconds)
            if not await connection.fetchval(SQL["is_predicate"], where):
                raise _bad_where(
                    "not a predicate, which is true or false: $.total > 10, exists($.total)", where
                )
            named = await _match_lagging(connection, where, within, searching.seconds)
            return await _list_matching(connection, where, within, bounds, named, searching.seconds)
    except TimedOut as error:
        message = "the search by `where` took too long: narrow it by `prefix`, or make the path simpler"
        raise TimedOut(message, seconds=searching.seconds) from error
    except StoreError as error:
        sqlstate = str(error.facts.get("sqlstate", "22"))
        if sqlstate == _OUT_OF_MEMORY:
            raise _bad_where("needs more memory than the database has for it", where) from error
        if isinstance(error, StoreDamaged | StoreUnavailable) or not sqlstate.startswith(_BAD_PATH):
            raise
        raise _bad_where(f"not a SQL/JSON path predicate: {error.facts['cause']}", where) from error


async def _list_matching(
    connection: Connection,
    where: str,
    within: tuple[str, str, str, str],
    bounds: tuple[int, int],
    named: list[str],
    seconds: float,
) -> tuple[list[Row], dict[Key, Head]]:
    """List documents that match a path: by their jsonb, those in `named`, and those with U+0000."""
    # The server's own timeout comes first.
    command_seconds = seconds + STORE_COMMAND_SECONDS
    limit = bounds[0] - 1
    ends_at = asyncio.get_running_loop().time() + seconds
    found = await _list(connection, limit, (*within, *bounds, where, named), command_seconds)
    # In a full page, only documents before its end can belong to it.
    end = found[0][-1]["document"] if len(found[0]) > limit else within[3]
    await _limit_statement(connection, ends_at - asyncio.get_running_loop().time())
    rows = await connection.fetch(
        SQL["list_matching_nul"], *within[:3], end, where, bounds[0], timeout=command_seconds
    )
    if not rows:
        return found
    named = [*named, *(row["document"] for row in rows)]
    await _limit_statement(connection, ends_at - asyncio.get_running_loop().time())
    return await _list(connection, limit, (*within, *bounds, where, named), command_seconds)


async def _limit_statement(connection: Connection, seconds: float) -> None:
    """Set the transaction's statement timeout; 0 would mean no limit."""
    await connection.execute(SQL["limit_statement"], str(max(1, round(seconds * 1_000))))


async def _match_lagging(
    connection: Connection, where: str, within: tuple[str, str, str, str], seconds: float
) -> list[str]:
    """List the documents whose state is older than their row and whose exact state matches: folded one by one."""
    named = []
    try:
        async with asyncio.timeout(seconds):
            for row in await connection.fetch(SQL["list_lagging"], *within):
                key = (within[0], row["document"])
                state = (await read_exact(connection, [key]))[key].snapshot.state
                if await connection.fetchval(SQL["match_state"], state, where):
                    named.append(row["document"])
    except TimeoutError as error:
        raise TimedOut from error
    return named


@asynccontextmanager
async def _acquired(searching: Searching) -> AsyncIterator[None]:
    """Wait for the semaphore, no longer than the search itself may run."""
    try:
        async with asyncio.timeout(searching.seconds):
            await searching.semaphore.acquire()
    except TimeoutError as error:
        raise TimedOut from error
    try:
        yield
    finally:
        searching.semaphore.release()


def _bad_where(rule: str, where: str) -> Refused:
    return Refused("bad_where", rule, field="where", shape=repr(where[:80]))
