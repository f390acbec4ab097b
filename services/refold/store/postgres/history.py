"""The HistoryReader of PostgreSQL: segments of a history, single events, lists as of a point, rejections.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from refold.core.history import Entry, Point, Segment, Snapshot
from refold.core.page import PackedEntries
from refold.core.replay import ListedColumns, state_at
from refold.core.stream import is_printable
from refold.core.timestamp import TIME_MAX_NANOSECONDS
from refold.store import (
    ANSWER_BYTES_MAX,
    LAST,
    ROW_MISSING,
    Head,
    Key,
    Page,
    Rejection,
    SegmentBounds,
    beyond,
    damaged,
    edge_of,
    first_bounds,
    read_cursor,
    reading_stored,
    write_cursor,
)
from refold.store.postgres.batch import BatchReader
from refold.store.postgres.pool import SQL, Pool, Row
from refold.store.postgres.rows import Rows
from refold.store.postgres.states import find_first

LIST_BATCH_DOCUMENTS_MAX: Final = 256
LIST_BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Documents, and bytes of states and pages, that one statement of a list as of a point reads."""

LIST_BATCHES_MAX: Final = 64
"""Batches that one answer of such a list looks through."""

BETWEEN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Stored bytes of pages and journal that one statement reads in search of the events of many documents."""

_JOURNAL: Final = ("sequence", "recorded_at", "occurred_at", "version", "kind", "headers", "body", "effect")
"""Columns of the journal that the statement `points` returns, each as an array."""

_OPEN_CONFLICTS: Final = {
    (False, False): "open_conflicts_after",
    (False, True): "open_conflicts_before",
    (True, False): "open_conflicts_after_of_document",
    (True, True): "open_conflicts_before_of_document",
}
"""Statements, by whether they are of one document and in descending order."""


class PostgresHistory:
    """Part of `PostgresStore`."""

    _pool: Pool
    _points: BatchReader
    _rows: Rows

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        bounds = SegmentBounds.of(point)
        with self._points.alone() as is_alone:
            if is_alone:
                # PostgreSQL starts this statement in half the time of the one for many.
                row = await self._segment_row(namespace, document, bounds)
                return self._snapshot_in((namespace, document), row, point, is_whole=True) if row else None
        row = await self._points.read(namespace, document, *bounds[1:])
        return self._snapshot_at((namespace, document), row, point) if row else None

    async def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        """Yield segments in the requested order, one statement each.

        A page never changes and the next begins where it ends, so that a page written in between neither loses nor
        repeats an entry. Only a rebuild's pages begin and end elsewhere: entries that were given are left out.
        """
        bounds = first_bounds(after_version, is_descending=is_descending)
        edge: int | None = None
        while row := await self._segment_row(namespace, document, bounds):
            segment = beyond(self._segment(namespace, document, row), edge, is_descending=is_descending)
            yield segment
            is_last = segment.base_sequence == 0 if is_descending else row["payload"] is None
            if is_last:
                return
            edge = segment.base_sequence if is_descending else segment.entries[-1].sequence
            bounds = SegmentBounds(base_sequence=edge - is_descending)

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        async with self._pool.lend() as connection:
            row = await connection.fetchrow(SQL["entry"], namespace, document, sequence)
        assert row is not None
        with reading_stored(namespace, document):
            entries = self._rows.to_entries((namespace, document), row)
            return next((entry for entry in entries if entry.sequence == sequence), None)

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        between = range(after_sequence + 1, until_sequence + 1)
        while documents:
            asked = (documents, after_sequence, until_sequence, BETWEEN_BYTES_MAX)
            async with self._pool.lend() as connection:
                rows = await connection.fetch(SQL["entries_between"], namespace, *asked)
            for row in rows:
                if row["fits"]:
                    document = documents[row["number"] - 1]
                    with reading_stored(namespace, document):
                        entries = self._entries_between((namespace, document), row, between)
                        found += [(document, entry) for entry in entries]
            documents = documents[
                next((row["number"] - 1 for row in rows if not row["fits"]), len(documents)) :
            ]
        found.sort(key=lambda it: it[1].sequence)
        return found

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        async with self._pool.lend() as connection:
            sequence = await find_first(connection, (namespace, document), event_id, self._rows)
        return await self.entry(namespace, document, sequence) if sequence else None

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        before = TIME_MAX_NANOSECONDS if before_sequence is None else before_sequence
        if namespace is None:
            statement, names = "rejections_of_all", []
        elif document is None:
            statement, names = "rejections_of_namespace", [namespace]
        else:
            statement, names = "rejections", [namespace, document]
        async with self._pool.lend() as connection:
            rows = await connection.fetch(SQL[statement], *names, before, limit)
        with reading_stored(namespace or "", document or ""):
            return [self._rows.to_rejection(row) for row in rows]

    async def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        """Yield entries with conflicts, one statement for each page. Where it goes on is a sequence, never a row."""
        edge = edge_of(after_sequence, is_descending=is_descending)
        statement = SQL["conflicts_before" if is_descending else "conflicts_after"]
        while True:
            async with self._pool.lend() as connection:
                row = await connection.fetchrow(statement, namespace, document, edge)
            assert row is not None
            with reading_stored(namespace, document):
                found = self._conflicts_in((namespace, document), row, edge, is_descending=is_descending)
            if found:
                yield found
            if row["payload"] is None or (is_descending and row["base_sequence"] is None):
                return
            edge = row["base_sequence"] + 1 if is_descending else row["last_sequence"]

    async def open_conflicts(
        self,
        namespace: str | None,
        document: str | None,
        *,
        after_sequence: int | None,
        is_descending: bool,
        limit: int,
    ) -> list[Rejection]:
        edge = edge_of(after_sequence, is_descending=is_descending)
        statement = _OPEN_CONFLICTS[document is not None, is_descending]
        names = [namespace] if document is None else [namespace, document]
        async with self._pool.lend() as connection:
            rows = await connection.fetch(SQL[statement], *names, edge, limit)
        with reading_stored(namespace or "", document or ""):
            return [self._rows.to_rejection(row) for row in rows]

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        """List in batches. The point is in the folded past, so batches read one after another agree about it."""
        heads: list[Head] = []
        answer_bytes = 0
        looked = read_cursor(cursor)
        if not is_printable(prefix):
            return Page([], None)
        for _ in range(LIST_BATCHES_MAX):
            rows, is_last = await self._batch_at(namespace, point, prefix, looked)
            for row in rows:
                is_head, key = row["is_head"], (namespace, row["document"])
                # Of the journal, only entries up to the point are read.
                found = (
                    self._rows.to_newest(key, row)
                    if is_head
                    else self._snapshot_in(key, row, point, is_whole=False)
                )
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

    async def _batch_at(
        self, namespace: str, point: Point, prefix: str, after: str
    ) -> tuple[list[Row], bool]:
        """Read the documents after one, as many as fit, and tell whether they are the last."""
        bounds = SegmentBounds.of(point)
        names = (namespace, after, prefix, prefix + LAST)
        batch = (LIST_BATCH_DOCUMENTS_MAX, LIST_BATCH_BYTES_MAX)
        within = (bounds.version_sequence, bounds.recorded_at, bounds.occurred_max)
        async with self._pool.lend() as connection:
            rows = await connection.fetch(SQL["list_at"], *names, *batch, *within)
        fitting = [row for row in rows if row["fits"]]
        return fitting, len(rows) < LIST_BATCH_DOCUMENTS_MAX and len(fitting) == len(rows)

    async def _segment_row(self, namespace: str, document: str, bounds: SegmentBounds) -> Row | None:
        """Read the last segment within the bounds; None where the document never had an event."""
        async with self._pool.lend() as connection:
            row = await connection.fetchrow(SQL["segment"], namespace, document, *bounds)
            if row is None and await connection.fetchval(SQL["find_rows_of"], namespace, document):
                # Its first events may have been committed between the two statements.
                row = await connection.fetchrow(SQL["segment"], namespace, document, *bounds)
                if row is None:
                    raise damaged(namespace, document, ROW_MISSING)
        return row

    def _segment(self, namespace: str, document: str, row: Row) -> Segment:
        """Decode a segment, and compare it with the document's counts."""
        key = (namespace, document)
        with reading_stored(*key):
            segment = Segment(
                self._rows.to_base(key, row), row["base_sequence"] or 0, self._rows.to_entries(key, row)
            )
        _check_counts(key, row, len(segment.entries))
        return segment

    def _snapshot_in(self, key: Key, row: Row, point: Point, *, is_whole: bool) -> Snapshot:
        """Return the snapshot at a point within a segment, of whose journal only a part may have been read."""
        with reading_stored(*key):
            entries: PackedEntries | list[Entry] = self._rows.to_packed(key, row)
            _check_counts(key, row, len(entries), is_whole=is_whole)
            return state_at(self._rows.to_base(key, row), entries, point)

    def _snapshot_at(self, key: Key, row: Row, point: Point) -> Snapshot:
        """Return the snapshot at a point from a row of the statement `points`, which has the journal by column."""
        if row["version"] is None:
            raise damaged(*key, ROW_MISSING)
        if row["is_head"]:
            return self._rows.to_newest(key, row)
        with reading_stored(*key):
            base = self._rows.to_base(key, row)
            if row["payload"] is not None:
                entries = self._rows.to_page(key, row)
                _check_counts(key, row, len(entries))
                return state_at(base, entries, point)
            _check_counts(key, row, row["journal_events"])
            if base.version + row["journal_effective"] != row["version"]:
                raise damaged(*key, "the statuses in its journal do not lead to its version")
            if row["journal_sequence"] is None:
                return base
            columns = self._journal_columns(key, row)
            return state_at(
                base, ListedColumns(columns | {"status": bytes(len(row["journal_sequence"]))}), point
            )

    def _entries_between(self, key: Key, row: Row, between: range) -> list[Entry]:
        """Return the effective entries of a page, or of a row of the journal, whose sequence is in a range."""
        if row["payload"] is None:
            return [self._rows.to_entry(row["entry"])]
        return self._rows.to_page(key, row).effective(between)

    def _conflicts_in(self, key: Key, row: Row, edge: int, *, is_descending: bool) -> list[Entry]:
        """Return the entries with a conflict beyond the edge, in the requested order."""
        journal = [self._rows.to_entry(entry) for entry in row["journal"] or ()]
        packed = [] if row["payload"] is None else self._rows.to_page(key, row).unpack()
        entries = [entry for entry in packed if entry.conflict is not None] + journal
        if is_descending:
            return [entry for entry in reversed(entries) if entry.sequence < edge]
        return [entry for entry in entries if entry.sequence > edge]

    def _journal_columns(self, key: Key, row: Row) -> dict[str, Any]:
        """Return the journal of a row of the statement `points` by column, decoded where it is encoded."""
        columns = {name: row[f"journal_{name}"] for name in _JOURNAL}
        contents = zip(columns["sequence"], row["journal_content"], strict=True)
        for at, (sequence, content) in enumerate(contents):
            if content is not None:
                opened = self._rows.to_content(key, sequence, content)
                for name in ("headers", "body", "effect"):
                    columns[name][at] = getattr(opened, name)
        return columns


def _check_counts(key: Key, row: Row, found: int, *, is_whole: bool = True) -> None:
    """Raise `StoreDamaged` where the counts show that rows are missing.

    `found` is the number of entries in the page after the base, or in the journal where there is no such page; without
    `is_whole` only a part of the journal was read.
    """
    is_journal = row["payload"] is None
    end = row["paged_events"] if is_journal else row["events"]
    if row["base_events"] + (0 if is_journal else found) != end:
        raise damaged(*key, "a page of its history is missing")
    expected = row["events"] - row["paged_events"]
    if is_journal and is_whole and found != expected:
        raise damaged(key[0], key[1], "the journal lacks events of it", expected=expected, found=found)
