"""Read single documents: heads in batches, documents for the projector, segments of a history, one entry.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.dedup import admit, id_digest, recall, unpack_identities
from refold.core.document import ABSENT, Document
from refold.core.errors import FenceLost, RefoldError, StoreUnavailable
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS
from refold.core.history import Entry, Segment
from refold.store import Head, Key, damaged, reading_stored
from refold.store.bounds import Bounds, first_bounds, next_bounds
from refold.store.postgres.flush import read_exact
from refold.store.postgres.pool import SQL, Connection, Pool, Row
from refold.store.postgres.rows import ROW_MISSING, to_document, to_entries, to_head, to_run

READS_TOGETHER_MAX: Final = 64
"""Heads that one statement reads."""

READ_TOGETHER_BYTES_MAX: Final = 64 * 1024
"""Stored bytes of a head that is read with others; a larger one is read alone."""

READ_STATEMENTS_MAX: Final = 2
"""Such statements in flight; later reads go with the next one."""

_ANY_BYTES: Final = 2**31 - 1


class _Waiter(NamedTuple):
    key: Key
    row: asyncio.Future[Row | None]


class HeadReader:
    """Coalesce concurrent reads of heads into one statement; the round trip dominates.

    A state that is too large for a batch is read again alone, so that other reads do not wait for it.
    """

    def __init__(self, pool: Pool) -> None:
        """Read through this pool."""
        self._pool = pool
        self._sql = SQL["heads"]
        self._waiting: list[_Waiter] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._is_scheduled = False

    async def read(self, namespace: str, document: str) -> Head | None:
        """Return a document's head as of now or later; None where it never had an event."""
        key = (namespace, document)
        waiter = _Waiter(key, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._schedule()
        row = await waiter.row
        if row is not None and not row["fits"]:
            row = (await self._fetch([key], _ANY_BYTES)).get(1)
        if row is None or row["state_version"] is None:
            return to_head(row) if row else None
        async with self._pool.lend() as connection:
            return (await read_exact(connection, [key])).get(key)

    async def close(self) -> None:
        """Wait for the statements in flight; the pool bounds their time."""
        await asyncio.gather(*self._in_flight)

    def _schedule(self) -> None:
        """Send at the next turn of the event loop, with all that is asked in this one."""
        if not self._is_scheduled and len(self._in_flight) < READ_STATEMENTS_MAX:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_scheduled = False
        while self._waiting and len(self._in_flight) < READ_STATEMENTS_MAX:
            group, self._waiting = self._waiting[:READS_TOGETHER_MAX], self._waiting[READS_TOGETHER_MAX:]
            batch = asyncio.create_task(self._read_batch(group), name="read-heads")
            self._in_flight.add(batch)
            batch.add_done_callback(self._end)

    def _end(self, batch: asyncio.Task[None]) -> None:
        self._in_flight.discard(batch)
        if self._waiting:
            self._schedule()

    async def _read_batch(self, group: list[_Waiter]) -> None:
        """Resolve every waiter that is still there, with its row or with an error of its own."""
        try:
            rows = await self._fetch([waiter.key for waiter in group], READ_TOGETHER_BYTES_MAX)
        except BaseException as error:
            for waiter in group:
                if not waiter.row.done():
                    waiter.row.set_exception(_error_for_one(error))
            if not isinstance(error, Exception):
                raise
        else:
            for number, waiter in enumerate(group, start=1):
                if not waiter.row.done():
                    waiter.row.set_result(rows.get(number))

    async def _fetch(self, keys: list[Key], bytes_max: int) -> dict[int, Row]:
        arrays = map(list, zip(*keys, strict=True))
        async with self._pool.lend() as connection:
            rows = await connection.fetch(self._sql, *arrays, bytes_max)
        return {row["number"]: row for row in rows}


def _error_for_one(error: BaseException) -> Exception:
    """Make one waiter's error: an instance raised twice would collect the tracebacks of both."""
    if isinstance(error, RefoldError):
        made: Exception = type(error)(error.message, **error.facts)
    elif isinstance(error, Exception):
        made = RuntimeError(f"a read failed: {error!r}")
    else:
        made = StoreUnavailable("the store was closed while a read waited")
    made.__cause__ = error
    return made


async def load_documents(
    connection: Connection, keys: Sequence[Key], *, has_states: bool = True
) -> list[Document]:
    """Load those documents that exist; without states, for their dedup windows alone."""
    if not keys:
        return []
    names = map(list, zip(*set(keys), strict=True))
    rows = await connection.fetch(SQL["load_documents"], *names, ID_WINDOW_IDS, ID_WINDOW_EVENTS, has_states)
    documents = {(row["namespace"], row["document"]): _with_window(row) for row in rows}
    if has_states:
        await _load_lagging(connection, documents, rows)
    return list(documents.values())


async def _load_lagging(connection: Connection, documents: dict[Key, Document], rows: list[Row]) -> None:
    """Add the states that rows lack. Only the lease's holder writes them, so a newer row means a lost lease."""
    keys = [(row["namespace"], row["document"]) for row in rows if row["state_version"] is not None]
    for key, head in (await read_exact(connection, keys)).items():
        document, state = documents[key], head.snapshot.state
        if head.last_sequence != document.last_sequence:
            raise FenceLost("a document was written by another while it was loaded", document="/".join(key))
        with reading_stored(*key):
            document.state = ABSENT if state is None else json_text.loads(state)


def _with_window(row: Row) -> Document:
    document = to_document(row)
    with reading_stored(document.namespace, document.document):
        paged = unpack_identities(row["paged_identities"] or b"")
        for identity in chain(paged, row["journal_identities"]):
            admit(document.identities, identity, ID_WINDOW_IDS)
    return document


async def read_segment(pool: Pool, namespace: str, document: str, bounds: Bounds) -> Segment | None:
    """Read the last page within the bounds; None where the document never had an event."""
    row = await _read(pool, namespace, document, bounds)
    return _segment(namespace, document, row) if row else None


async def read_segments(
    pool: Pool, namespace: str, document: str, *, after_version: int | None, is_descending: bool
) -> AsyncGenerator[Segment, None]:
    """Yield segments in the order asked, one statement each.

    A closed page never changes and the next begins where it ends, so that a page closed in between neither loses
    nor repeats an entry. Only a rebuild's pages begin and end elsewhere: entries that were given are left out.
    """
    bounds = first_bounds(after_version, is_descending=is_descending)
    edge: int | None = None
    while row := await _read(pool, namespace, document, bounds):
        segment = _beyond(_segment(namespace, document, row), edge, is_descending=is_descending)
        yield segment
        if is_descending and segment.base_sequence == 0:
            return
        if not is_descending and row["payload"] is None:
            return
        bounds = next_bounds(segment, is_descending=is_descending)
        edge = segment.base_sequence if is_descending else segment.entries[-1].sequence


def _beyond(segment: Segment, edge: int | None, *, is_descending: bool) -> Segment:
    """Leave out what is before the edge, in the order asked."""
    if edge is None or not segment.entries:
        return segment
    if is_descending:
        if segment.entries[-1].sequence <= edge:
            return segment
        return segment._replace(entries=[entry for entry in segment.entries if entry.sequence <= edge])
    if segment.base_sequence >= edge:
        return segment
    return segment._replace(entries=[entry for entry in segment.entries if entry.sequence > edge])


async def read_entry(pool: Pool, namespace: str, document: str, sequence: int) -> Entry | None:
    """Read one of a document's events, from its page or the journal."""
    async with pool.lend() as connection:
        row = await connection.fetchrow(SQL["entry"], namespace, document, sequence)
    assert row is not None
    with reading_stored(namespace, document):
        return next((entry for entry in to_entries(row) if entry.sequence == sequence), None)


async def find_id(pool: Pool, namespace: str, document: str, event_id: str) -> Entry | None:
    """Find the first event that carried this id in the document's dedup window."""
    async with pool.lend() as connection:
        found = await load_documents(connection, [(namespace, document)], has_states=False)
    if not found:
        return None
    oldest = found[0].events + 1 - ID_WINDOW_EVENTS
    known = recall(found[0].identities, id_digest(event_id), oldest)
    return await read_entry(pool, namespace, document, known[1].sequence) if known else None


async def _read(pool: Pool, namespace: str, document: str, bounds: Bounds) -> Row | None:
    async with pool.lend() as connection:
        row = await connection.fetchrow(SQL["run"], namespace, document, *bounds)
        if row is None and await connection.fetchval(SQL["find_rows_of"], namespace, document):
            raise damaged(namespace, document, ROW_MISSING)
    return row


def _segment(namespace: str, document: str, row: Row) -> Segment:
    """Decode a segment, and compare its entries with the document's counts."""
    with reading_stored(namespace, document):
        segment = to_run(row)
    is_first, is_open = row["base_sequence"] is None, row["payload"] is None
    if not row["is_continued"] or (is_first and row["events"] != row["unpaged_events"]):
        raise damaged(namespace, document, "a page of its history is missing")
    if is_open and len(segment.entries) != row["unpaged_events"]:
        counts = {"expected": row["unpaged_events"], "found": len(segment.entries)}
        raise damaged(namespace, document, "the journal lacks events of it", **counts)
    return segment
