"""The HistoryReader of SQLite: segments of a history, single events, lists as of a point, rejections.

Part of the SQLite adapter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Final, NamedTuple

from refold.core.history import NEVER, Entry, Point, Segment, Snapshot
from refold.core.page import PackedEntries
from refold.core.replay import state_at
from refold.core.stream import is_printable
from refold.store import (
    ANSWER_BYTES_MAX,
    LAST,
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
from refold.store.sqlite.pool import SQL, Connection, Pool
from refold.store.sqlite.rows import Row, Rows
from refold.store.sqlite.states import find_first, refuse_lost_row

LIST_AT_DOCUMENTS_MAX: Final = 4_096
LIST_AT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Documents, and stored bytes of states, pages and journals, that one answer of a list as of a point looks through."""


class _Stored(NamedTuple):
    """A segment, its entries as they are stored, and its stored bytes; `is_last`: no page follows."""

    base: Snapshot
    base_sequence: int
    entries: PackedEntries | list[Entry]
    is_last: bool
    stored_bytes: int


class SqliteHistory:
    """Part of `SqliteStore`."""

    _pool: Pool
    _rows: Rows

    async def snapshot_at(self, namespace: str, document: str, point: Point) -> Snapshot | None:
        key, bounds = (namespace, document), SegmentBounds.of(point)
        async with self._pool.reading() as connection:
            head = connection.execute(SQL["head"], (*key, None)).fetchone()
            if head is not None and _is_within(head, bounds):
                with reading_stored(*key):
                    return self._rows.to_newest(key, head)
            stored = self._segment(connection, key, bounds)
        if stored is None:
            return None
        with reading_stored(*key):
            return state_at(stored.base, stored.entries, point)

    async def segments(
        self, namespace: str, document: str, *, after_version: int | None, is_descending: bool
    ) -> AsyncGenerator[Segment, None]:
        """Yield segments in the requested order, each as of its own moment.

        A page never changes and the next begins where it ends, so that a page written in between neither loses nor
        repeats an entry. Only a rebuild's pages begin and end elsewhere: entries that were given are left out.
        """
        key, bounds = (namespace, document), first_bounds(after_version, is_descending=is_descending)
        edge: int | None = None
        while True:
            async with self._pool.reading() as connection:
                stored = self._segment(connection, key, bounds)
            if stored is None:
                return
            with reading_stored(*key):
                segment = Segment(stored.base, stored.base_sequence, _unpacked(stored.entries))
            segment = beyond(segment, edge, is_descending=is_descending)
            yield segment
            if segment.base_sequence == 0 if is_descending else stored.is_last:
                return
            edge = segment.base_sequence if is_descending else segment.entries[-1].sequence
            bounds = SegmentBounds(base_sequence=edge - is_descending)

    async def entry(self, namespace: str, document: str, sequence: int) -> Entry | None:
        async with self._pool.reading() as connection:
            return self._entry(connection, (namespace, document), sequence)

    async def entries_between(
        self, namespace: str, documents: Sequence[str], *, after_sequence: int, until_sequence: int
    ) -> list[tuple[str, Entry]]:
        between = range(after_sequence + 1, until_sequence + 1)

        def read(connection: Connection) -> list[tuple[str, Entry]]:
            return [
                (document, entry)
                for document in documents
                for entry in self._between(connection, (namespace, document), between)
            ]

        return sorted(await self._pool.scan(read), key=lambda it: it[1].sequence)

    async def find_id(self, namespace: str, document: str, event_id: str) -> Entry | None:
        key = (namespace, document)
        async with self._pool.reading() as connection:
            sequence = find_first(connection, key, event_id)
            return self._entry(connection, key, sequence) if sequence else None

    async def rejections(
        self, namespace: str | None, document: str | None, *, limit: int, before_sequence: int | None
    ) -> list[Rejection]:
        if namespace is None:
            statement = "rejections_of_all"
        else:
            statement = "rejections_of_namespace" if document is None else "rejections"
        before = edge_of(before_sequence, is_descending=True)
        return await self._rejections(statement, (namespace, document, before, limit))

    async def conflicts(
        self, namespace: str, document: str, *, after_sequence: int | None, is_descending: bool
    ) -> AsyncGenerator[list[Entry]]:
        """Yield entries with conflicts, page by page. Where it goes on is a sequence, never a row."""
        key, edge = (namespace, document), edge_of(after_sequence, is_descending=is_descending)
        read = self._conflicts_before if is_descending else self._conflicts_after
        while True:
            async with self._pool.reading() as connection:
                with reading_stored(*key):
                    entries, next_edge = read(connection, key, edge)
            found = [
                entry
                for entry in entries
                if entry.conflict is not None
                and (entry.sequence < edge if is_descending else entry.sequence > edge)
            ]
            if found:
                yield found[::-1] if is_descending else found
            if next_edge is None:
                return
            edge = next_edge

    async def open_conflicts(
        self,
        namespace: str | None,
        document: str | None,
        *,
        after_sequence: int | None,
        is_descending: bool,
        limit: int,
    ) -> list[Rejection]:
        statement = "open_conflicts_before" if is_descending else "open_conflicts_after"
        edge = edge_of(after_sequence, is_descending=is_descending)
        return await self._rejections(statement, (namespace, document, edge, limit))

    async def list_at(
        self, namespace: str, point: Point, *, prefix: str, limit: int, cursor: str | None
    ) -> Page:
        after = read_cursor(cursor)
        if not is_printable(prefix):
            return Page([], None)
        within = (namespace, after, prefix, prefix + LAST)
        return await self._pool.scan(partial(self._list_at, within, point, limit))

    def _list_at(
        self, within: tuple[str, str, str, str], point: Point, limit: int, connection: Connection
    ) -> Page:
        bounds, heads, looked = SegmentBounds.of(point), list[Head](), within[1]
        answer_bytes = read_bytes = 0
        given = (*within, bounds.version_sequence, bounds.recorded_at, bounds.occurred_max)
        for number, row in enumerate(connection.execute(SQL["list_at"], given)):
            if number == LIST_AT_DOCUMENTS_MAX or read_bytes > LIST_AT_BYTES_MAX:
                return Page(heads, write_cursor(looked))
            key = (within[0], row[0])
            found, stored_bytes = self._at(connection, key, row[1:], point)
            read_bytes += stored_bytes
            answer_bytes += len(found.state or b"")
            if found.state is not None:
                if len(heads) == limit or (heads and answer_bytes > ANSWER_BYTES_MAX):
                    return Page(heads, write_cursor(heads[-1].document))
                heads.append(Head(*key, found, found.sequence))
            looked = row[0]
        return Page(heads, None)

    def _at(
        self, connection: Connection, key: Key, row: Sequence[object], point: Point
    ) -> tuple[Snapshot, int]:
        """Return a document as of a point, and the stored bytes that were read; `row` has its head if that is it."""
        *head, is_head, state = row
        if is_head:
            with reading_stored(*key):
                found = self._rows.to_newest(key, (*head, state))
            return found, len(found.state or b"")
        stored = self._segment(connection, key, SegmentBounds.of(point))
        assert stored is not None, key
        with reading_stored(*key):
            return state_at(stored.base, stored.entries, point), stored.stored_bytes

    def _segment(self, connection: Connection, key: Key, bounds: SegmentBounds) -> _Stored | None:
        """Read the last segment within the bounds, and compare it with the document's counts.

        None where the document never had an event.
        """
        counts = connection.execute(SQL["events_of"], key).fetchone()
        if counts is None:
            refuse_lost_row(connection, key)
            return None
        base_row = connection.execute(SQL["base_page"], (*key, *bounds)).fetchone()
        base, base_sequence, base_events, base_bytes = self._base(key, base_row)
        page = connection.execute(SQL["next_page"], (*key, base_sequence)).fetchone()
        paged_events = counts[0] - counts[1]
        if page is None:
            rows = connection.execute(SQL["journal"], key).fetchall()
            with reading_stored(*key):
                entries = [self._rows.to_entry(key, *row) for row in rows]
            if base_events != paged_events:
                raise damaged(*key, "a page of its history is missing")
            if len(entries) != counts[1]:
                raise damaged(*key, "the journal lacks events of it", expected=counts[1], found=len(entries))
            read_bytes = base_bytes + sum(len(row[1]) for row in rows)
            return _Stored(base, base_sequence, entries, is_last=True, stored_bytes=read_bytes)
        with reading_stored(*key):
            packed = self._rows.to_packed(key, page[0], page[2])
        if base_events + len(packed) != page[1]:
            raise damaged(*key, "a page of its history is missing")
        return _Stored(base, base_sequence, packed, is_last=False, stored_bytes=base_bytes + len(page[2]))

    def _base(self, key: Key, row: Row | None) -> tuple[Snapshot, int, int, int]:
        """Return a base, the sequence and number of the events before it, and its stored bytes."""
        if row is None:
            return NEVER, 0, 0, 0
        last_sequence, version, version_sequence, *times, events, stored = row
        with reading_stored(*key):
            state = self._rows.to_snapshot(key, last_sequence, stored)
        return Snapshot(version, state, version_sequence, *times), last_sequence, events, len(stored or b"")

    def _entry(self, connection: Connection, key: Key, sequence: int) -> Entry | None:
        row = connection.execute(SQL["journal_entry"], (*key, sequence)).fetchone()
        page = None if row else connection.execute(SQL["next_page"], (*key, sequence - 1)).fetchone()
        with reading_stored(*key):
            if row is not None:
                return self._rows.to_entry(key, sequence, row[0])
            if page is None:
                return None
            packed = self._rows.to_packed(key, page[0], page[2])
            sequences = packed.numbers("sequence")
            return packed.entries([sequences.index(sequence)])[0] if sequence in sequences else None

    def _between(self, connection: Connection, key: Key, between: range) -> list[Entry]:
        """Return a document's effective entries whose sequence is in a range."""
        given = (*key, between.start - 1, between.stop - 1)
        pages = connection.execute(SQL["pages_between"], given).fetchall()
        journal = connection.execute(SQL["journal_between"], given).fetchall()
        found: list[Entry] = []
        with reading_stored(*key):
            for last_sequence, payload in pages:
                found += self._rows.to_packed(key, last_sequence, payload).effective(between)
            entries = (self._rows.to_entry(key, *row) for row in journal)
            return found + [entry for entry in entries if entry.status.is_effective]

    def _conflicts_after(self, connection: Connection, key: Key, edge: int) -> tuple[list[Entry], int | None]:
        """Return the next page that has conflicts, and where to go on; without one, the journal."""
        page = connection.execute(SQL["conflicts_after"], (*key, edge)).fetchone()
        if page is None:
            return self._journal(connection, key), None
        return self._rows.to_packed(key, *page).unpack(), page[0]

    def _conflicts_before(
        self, connection: Connection, key: Key, edge: int
    ) -> tuple[list[Entry], int | None]:
        """Return the page before the edge that has conflicts, the journal after it, and where to go on."""
        journal = self._journal(connection, key)
        page = connection.execute(SQL["conflicts_before"], (*key, edge)).fetchone()
        if page is None:
            return journal, None
        (before,) = connection.execute(SQL["sequence_before"], (*key, page[0])).fetchone()
        entries = self._rows.to_packed(key, *page).unpack()
        return [*entries, *journal], None if before is None else before + 1

    def _journal(self, connection: Connection, key: Key) -> list[Entry]:
        return [self._rows.to_entry(key, *row) for row in connection.execute(SQL["journal"], key)]

    async def _rejections(self, statement: str, given: tuple[object, ...]) -> list[Rejection]:
        async with self._pool.reading() as connection:
            rows = connection.execute(SQL[statement], given).fetchall()
        with reading_stored(str(given[0] or ""), str(given[1] or "")):
            return [self._rows.to_rejection(row) for row in rows]


def _is_within(head: Sequence[int], bounds: SegmentBounds) -> bool:
    """Tell whether a head's version, sequence and times are within the bounds."""
    version, version_sequence, recorded_at, _, occurred_max = head[:5]
    position = (version, version_sequence, recorded_at, occurred_max)
    limits = (bounds.version, bounds.version_sequence, bounds.recorded_at, bounds.occurred_max)
    return all(value <= limit for value, limit in zip(position, limits, strict=True))


def _unpacked(entries: PackedEntries | list[Entry]) -> list[Entry]:
    return entries.unpack() if isinstance(entries, PackedEntries) else entries
