"""Write one commit as one transaction: the fence, documents, pages, journal, rejections and counts.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Final, NamedTuple
from uuid import UUID

from refold.core.errors import FenceLost, StoreDamaged, StoreError
from refold.core.history import Entry
from refold.store import (
    ClosedPage,
    Commit,
    DocumentWrite,
    Key,
    Resolution,
    damaged,
    reading_stored,
)
from refold.store.ports import StoredPage
from refold.store.postgres.pool import (
    SQL,
    Connection,
    ended_when_lost,
    single_statement,
    transaction,
    translated,
)
from refold.store.postgres.rows import (
    COMMIT_COLUMNS,
    DOCUMENT_COLUMNS,
    JOURNAL_COLUMNS,
    PAGE_COLUMNS,
    REJECTION_COLUMNS,
    Rows,
    checkpoint_columns,
    columns_of,
    key_of,
    rows_of,
)

STORE_FEW_EVENTS_MAX: Final = 200
"""Events of a commit without pages that one statement writes; more go through COPY."""

_NOT_CHANGED: Final = "22000"
"""SQLSTATE that `changed_all` raises where a row that should change is missing."""


class Fence(NamedTuple):
    """What must still be in force when a commit is written: the projection's epoch, and the key of its values."""

    epoch: UUID | None
    key: int | None


async def write_commit(
    connection: Connection, commit: Commit, fence: Fence, rows: Rows, *, is_synchronous: bool
) -> str:
    """Write all of it or nothing; return how. Raises `FenceLost`, and as `transaction` and `single_statement`."""
    with _naming_lost_rows():
        try:
            return await _write_at_once(connection, commit, fence, rows, is_synchronous=is_synchronous)
        except FenceLost:
            # The partitions may have belonged to other shards until now.
            async with transaction(connection), ended_when_lost(connection):
                await _regroup(connection, commit)
                await _write_parts(connection, commit, fence, rows, is_synchronous=is_synchronous)
            return _in_parts(is_synchronous=is_synchronous)


class PostgresOpenCommit:
    """An OpenCommit in the transaction of its block."""

    def __init__(self, connection: Connection, fence: Fence, rows: Rows) -> None:
        self._connection = connection
        self._fence = fence
        self._rows = rows
        self.is_written = False

    async def write_pages(self, pages: Sequence[ClosedPage]) -> None:
        with translated():
            if pages:
                async with ended_when_lost(self._connection):
                    await _write_pages(self._connection, pages, self._rows)
            else:
                await self._connection.execute(SQL["ping"])

    async def write(self, commit: Commit) -> None:
        connection, self.is_written = self._connection, True
        with _naming_lost_rows(), translated():
            try:
                # Rolled back, it also releases the log's row, which other shards lock before they regroup.
                async with connection.transaction(), ended_when_lost(connection):
                    await _write_parts(connection, commit, self._fence, self._rows, is_synchronous=True)
            except FenceLost:
                async with ended_when_lost(connection):
                    await _regroup(connection, commit)
                    await _write_parts(connection, commit, self._fence, self._rows, is_synchronous=True)


@contextmanager
def _naming_lost_rows() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        if error.facts.get("sqlstate") != _NOT_CHANGED:
            raise
        raise StoreDamaged("a document has lost its row", cause=error.facts["cause"]) from error


async def _write_at_once(
    connection: Connection, commit: Commit, fence: Fence, rows: Rows, *, is_synchronous: bool
) -> str:
    if is_synchronous or commit.rejections or commit.resolutions or not _are_few(commit):
        async with transaction(connection), ended_when_lost(connection):
            await _write_parts(connection, commit, fence, rows, is_synchronous=is_synchronous)
        return _in_parts(is_synchronous=is_synchronous)
    async with single_statement(connection):
        await _write(connection, commit, fence, commit.documents, rows)
    return "single"


def _in_parts(*, is_synchronous: bool) -> str:
    return "sync" if is_synchronous else "copy"


async def _write_parts(
    connection: Connection, commit: Commit, fence: Fence, rows: Rows, *, is_synchronous: bool
) -> None:
    if is_synchronous:
        await connection.execute(SQL["commit_synchronously"])
    if _are_few(commit):
        await _write(connection, commit, fence, commit.documents, rows)
    else:
        await _write(connection, commit, fence, [], rows)
        await _write_documents(connection, commit.documents, rows)
        await _write_pages(connection, commit.pages, rows)
        await _write_journal(connection, commit.documents, rows)
    await _write_rejections(connection, commit, rows)


async def _regroup(connection: Connection, commit: Commit) -> None:
    """Make a shard of partitions of other shards, under the log's lock, so that no two divide the same shard."""
    await connection.execute(SQL["lock_log"])
    await connection.execute(SQL["regroup_shards"], commit.checkpoint.partitions, commit.expected_sequence)


def _are_few(commit: Commit) -> bool:
    events = sum(len(write.journal) for write in commit.documents)
    return not commit.pages and events <= STORE_FEW_EVENTS_MAX


async def _write(
    connection: Connection,
    commit: Commit,
    fence: Fence,
    documents: Sequence[DocumentWrite],
    rows: Rows,
) -> None:
    """Pass the fence, and write the counts and these documents: one round trip."""
    now = commit.checkpoint
    written = ((*rows.of_document(write), write.has_state, write.is_new) for write in documents)
    row = await connection.fetchrow(
        SQL["write_commit"],
        now.partitions,
        commit.expected_sequence,
        *(now.read_sequence, now.recorded_at, now.fold, fence.epoch),
        *checkpoint_columns(now.touched),
        *columns_of(COMMIT_COLUMNS, written),
        *columns_of(JOURNAL_COLUMNS, _journal_rows(documents, rows)),
        now.partitions[0],
        *_counts(commit),
        sum(not write.is_new for write in documents),
        fence.key,
    )
    if row is None:
        raise FenceLost(expected_sequence=commit.expected_sequence)


def _journal_rows(documents: Sequence[DocumentWrite], rows: Rows) -> Iterator[tuple[object, ...]]:
    for write in documents:
        key = (write.document.namespace, write.document.document)
        for entry in write.journal:
            shown, content = rows.sealed(key, entry)
            yield (*key, *shown, content)


async def _write_documents(connection: Connection, documents: Sequence[DocumentWrite], rows: Rows) -> None:
    new = [rows.of_document(write) for write in documents if write.is_new]
    if new:
        await connection.copy_records_to_table("documents", records=new, columns=DOCUMENT_COLUMNS)
    changed = [(*rows.of_document(write), write.has_state) for write in documents if not write.is_new]
    if changed:
        columns = (*DOCUMENT_COLUMNS, "has_state")
        await connection.copy_records_to_table("changed_documents", records=changed, columns=columns)
        found = rows_of(await connection.execute(SQL["update_documents"]))
        await connection.execute(SQL["changed_all"], found, len(changed))


async def _write_journal(connection: Connection, documents: Sequence[DocumentWrite], rows: Rows) -> None:
    if any(write.journal for write in documents):
        copied = BytesIO(_journal_copy(documents, rows))
        await connection.copy_to_table("journal", source=copied, format="binary", columns=JOURNAL_COLUMNS)


async def _write_rejections(connection: Connection, commit: Commit, rows: Rows) -> None:
    records = [rows.of_rejection(rejection) for rejection in commit.rejections]
    if records:
        await connection.copy_records_to_table("rejections", records=records, columns=REJECTION_COLUMNS)
    if commit.resolutions:
        # After the rejections, some of which may be among those that are resolved.
        await connection.execute(
            SQL["resolve_rejections"], *columns_of(Resolution._fields, commit.resolutions)
        )


def _counts(commit: Commit) -> tuple[list[str], list[int], list[int]]:
    """Return the namespaces, and the documents and events that each gains."""
    documents: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for write in commit.documents:
        documents[write.document.namespace] += write.added_documents
        events[write.document.namespace] += write.added_events
    return list(events), [documents[name] for name in events], list(events.values())


async def _write_pages(connection: Connection, pages: Sequence[ClosedPage], rows: Rows) -> None:
    """Write pages, and delete what the journal has of them, which is read only for those that are not whole."""
    if pages:
        kept = await _read_journal(connection, pages, rows)
        await _delete_journal(connection, pages)
        copied = BytesIO(_page_copy(pages, kept, rows))
        await connection.copy_to_table("pages", source=copied, format="binary", columns=PAGE_COLUMNS)


async def _read_journal(
    connection: Connection, pages: Sequence[ClosedPage], rows: Rows
) -> dict[Key, list[Entry]]:
    kept: dict[Key, list[Entry]] = defaultdict(list)
    keys = [(page.namespace, page.document) for page in pages if not page.is_whole]
    if keys:
        for row in await connection.fetch(SQL["read_journal"], *map(list, zip(*keys, strict=True))):
            with reading_stored(*key_of(row)):
                kept[key_of(row)].append(rows.to_entry(row))
    return kept


async def _delete_journal(connection: Connection, pages: Sequence[ClosedPage]) -> None:
    """Delete the entries that are in these pages from now on. Raises `StoreDamaged` where the journal lacks some.

    Counting each document's rows costs 1.6 µs of CPU a row; returning and decoding them took 9.7.
    """
    expected = {(page.namespace, page.document): page.journal_events for page in pages if page.journal_events}
    if not expected:
        return
    rows = await connection.fetch(SQL["delete_journal"], *map(list, zip(*expected, strict=True)))
    deleted = {row["number"]: row["events"] for row in rows}
    for number, (key, count) in enumerate(expected.items(), 1):
        found = deleted.get(number, 0)
        if found != count:
            raise damaged(*key, "the journal lacks events of it", expected=count, found=found)


_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_EMPTY: Final = bytes(4)
_LENGTH: Final = struct.Struct(">i")

_PAGE_COUNT: Final = len(PAGE_COLUMNS).to_bytes(2, "big")
_PAGE_NUMBERS: Final = struct.Struct(">iqiqiqiqiqiqiq")
_INTEGER: Final = struct.Struct(">ii")

_JOURNAL_COUNT: Final = len(JOURNAL_COLUMNS).to_bytes(2, "big")
_NUMBERS: Final = struct.Struct(">iqiqiqiqiqihihi?")
_LAST: Final = struct.Struct(">iq")
_USUAL_TAIL: Final = b"".join((_NULL, _EMPTY, _EMPTY, _NULL, _LAST.pack(8, 0), _NULL))
"""No effect, no reason, no detail, no identity, no first sequence, no conflict; then the content."""


def _page_copy(pages: Iterable[ClosedPage], kept: Mapping[Key, list[Entry]], rows: Rows) -> bytes:
    """Return pages as input of a binary COPY into `PAGE_COLUMNS`; `kept` has the entries from the journal."""
    parts = [_SIGNATURE]
    for page in pages:
        key = (page.namespace, page.document)
        entries = page.entries if page.is_whole else [*kept[key], *page.entries]
        row = StoredPage.of(key, entries, page.closing, page.events)
        closing = row.closing
        since = (8, closing.version, 8, closing.sequence, 8, closing.recorded_at, 8, closing.occurred_max)
        numbers = _PAGE_NUMBERS.pack(8, row.last_sequence, *since, 8, row.events, 8, closing.occurred_at)
        parts += (_PAGE_COUNT, _text(row.namespace), _text(row.document), numbers)
        snapshot = rows.snapshot(key, row.last_sequence, closing.state)
        payload = rows.payload(key, row.last_sequence, entries)
        parts += (_nullable(snapshot), _INTEGER.pack(4, row.ids))
        parts += (_bytes(row.identities), _INTEGER.pack(4, row.conflicts), _bytes(payload))
    parts.append(_END)
    return b"".join(parts)


def _journal_copy(documents: Iterable[DocumentWrite], rows: Rows) -> bytes:
    """Return the journal entries as input of a binary COPY into `JOURNAL_COLUMNS`.

    Most of an entry's columns are of fixed width and packed at once; the driver looks up a codec for each value.
    """
    parts = [_SIGNATURE]
    for write in documents:
        if write.journal:
            document = write.document
            key = (document.namespace, document.document)
            head = _JOURNAL_COUNT + b"".join(map(_text, key))
            for entry in write.journal:
                shown, content = rows.sealed(key, entry)
                _add_row(parts, head, shown)
                parts.append(_nullable(content))
    parts.append(_END)
    return b"".join(parts)


def _add_row(parts: list[bytes], head: bytes, e: Entry) -> None:
    origin = (8, e.sequence, 8, e.time, 8, e.recorded_at, 8, e.occurred_at)
    numbers = _NUMBERS.pack(*origin, 8, e.version, 2, e.status, 2, e.kind, 1, e.is_creation)
    headers, body = e.headers, e.body
    length = _LENGTH.pack
    subject = _nullable(e.subject)
    parts += (head, numbers, subject, length(len(headers)), headers, length(len(body)), body)
    if e.effect is e.identity is e.conflict is None and not e.reason and not e.first_sequence:
        parts.append(_USUAL_TAIL)
        return
    made = (_nullable(e.effect), _text(e.reason), _text(e.detail), _nullable(e.identity))
    parts += (*made, _LAST.pack(8, e.first_sequence), _nullable(e.conflict))


def _nullable(value: bytes | None) -> bytes:
    return _NULL if value is None else _bytes(value)


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
