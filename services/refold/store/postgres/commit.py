"""One commit as one transaction: the fence, documents, pages, journal, rejections and counts.

For this adapter alone; runs on the connection that owns the shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from uuid import UUID

from refold.core.errors import FenceLost, StoreError
from refold.core.limits import STORE_FEW_EVENTS_MAX
from refold.core.outcome import Entry
from refold.store import Commit, Dirty
from refold.store.postgres.copying import journal_copy
from refold.store.postgres.cuts import write_cuts
from refold.store.postgres.pool import Connection
from refold.store.postgres.rows import (
    DOCUMENT_COLUMNS,
    GIVEN,
    JOURNAL_COLUMNS,
    REJECTION_COLUMNS,
    chain_columns,
    columns_of,
    document_row,
    rejection_row,
    rows_of,
)
from refold.store.postgres.sql import SQL
from refold.store.postgres.transaction import transaction


async def write_commit(
    connection: Connection, commit: Commit, epoch: UUID | None, *, is_synchronous: bool
) -> None:
    """Write all of it or nothing. Raises `FenceLost`, and what `transaction` raises."""
    async with transaction(connection):
        if is_synchronous:
            await connection.execute(SQL["commit_synchronously"])
        if _are_few(commit.documents):
            await _write(connection, commit, epoch, commit.documents)
        else:
            await _write(connection, commit, epoch, [])
            await _write_documents(connection, commit.documents)
            await write_cuts(connection, [dirty for dirty in commit.documents if dirty.cuts])
            await _write_journal(connection, commit.documents)
        await _write_rejections(connection, commit)


def _are_few(documents: Sequence[Dirty]) -> bool:
    events = 0
    for dirty in documents:
        events += len(dirty.journal)
        if dirty.cuts or events > STORE_FEW_EVENTS_MAX:
            return False
    return True


async def _write(
    connection: Connection, commit: Commit, epoch: UUID | None, documents: Sequence[Dirty]
) -> None:
    """Pass the fence, and write the counts and these documents: one round trip."""
    given = columns_of(
        GIVEN, ((*document_row(dirty), dirty.writes_state, dirty.is_new) for dirty in documents)
    )
    kept = columns_of(JOURNAL_COLUMNS, _journal_rows(documents))
    row = await connection.fetchrow(
        SQL["write_commit"], *_progress(commit, epoch), *given, *kept, *_counts(commit)
    )
    assert row is not None
    expected = len(commit.checkpoints)
    if row["advanced"] != expected:
        raise FenceLost(
            expected_sequence=commit.expected_sequence, partitions=expected, as_expected=row["advanced"]
        )
    _check_changed(row["changed"], documents)


def _progress(commit: Commit, epoch: UUID | None) -> tuple[object, ...]:
    """Return where all owned partitions are now, and what the events of some have made of these."""
    expected, now = commit.expected_sequence, commit.checkpoints[0]
    partitions = [checkpoint.partition for checkpoint in commit.checkpoints]
    touched = [checkpoint for checkpoint in commit.checkpoints if checkpoint.last_sequence > expected]
    place = (now.read_sequence, now.recorded_at, now.fold, epoch)
    return (partitions, expected, *place, *chain_columns(touched))


def _journal_rows(documents: Sequence[Dirty]) -> Iterator[tuple[object, ...]]:
    for dirty in documents:
        for entry in dirty.journal:
            yield (dirty.document.namespace, dirty.document.document, *entry)


async def _write_documents(connection: Connection, documents: Sequence[Dirty]) -> None:
    new = [document_row(dirty) for dirty in documents if dirty.is_new]
    if new:
        await connection.copy_records_to_table("documents", records=new, columns=DOCUMENT_COLUMNS)
    changed = [(*document_row(dirty), dirty.writes_state) for dirty in documents if not dirty.is_new]
    if changed:
        columns = (*DOCUMENT_COLUMNS, "writes_state")
        await connection.copy_records_to_table("dirty_documents", records=changed, columns=columns)
        _check_changed(rows_of(await connection.execute(SQL["update_documents"])), documents)


def _check_changed(found: int, documents: Sequence[Dirty]) -> None:
    expected = sum(not dirty.is_new for dirty in documents)
    if found != expected:
        raise StoreError("a document that was loaded has no row", expected=expected, found=found)


async def _write_journal(connection: Connection, documents: Sequence[Dirty]) -> None:
    if any(dirty.journal for dirty in documents):
        rows = BytesIO(journal_copy(documents))
        await connection.copy_to_table("journal", source=rows, format="binary", columns=JOURNAL_COLUMNS)


async def _write_rejections(connection: Connection, commit: Commit) -> None:
    rows = [rejection_row(rejection) for rejection in commit.rejections]
    if rows:
        await connection.copy_records_to_table("rejections", records=rows, columns=REJECTION_COLUMNS)


def _counts(commit: Commit) -> tuple[object, ...]:
    documents: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for dirty in commit.documents:
        documents[dirty.document.namespace] += _gained(dirty)
        events[dirty.document.namespace] += sum(1 for _ in _entries(dirty))
    shard = min(checkpoint.partition for checkpoint in commit.checkpoints)
    return (shard, list(events), [documents[name] for name in events], list(events.values()))


def _gained(dirty: Dirty) -> int:
    """Tell by how many (-1, 0, 1) a document adds to those present: its first effective event knew it."""
    first = next((entry for entry in _entries(dirty) if entry.status.is_effective), None)
    was_present = not dirty.is_new and first is not None and not first.is_creation
    return 0 if first is None else dirty.is_present - was_present


def _entries(dirty: Dirty) -> Iterator[Entry]:
    for cut in dirty.cuts:
        yield from cut.entries
    yield from dirty.journal
