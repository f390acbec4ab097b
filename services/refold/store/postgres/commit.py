"""One commit as one transaction: the fence, documents, pages, journal, rejections and counts.

For this adapter alone; runs on the connection that owns the shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Final
from uuid import UUID

from refold.core.errors import FenceLost, StoreDamaged, StoreError
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
    checkpoint_columns,
    columns_of,
    document_row,
    rejection_row,
    rows_of,
)
from refold.store.postgres.sql import SQL
from refold.store.postgres.transaction import alone, transaction

_NOT_CHANGED: Final = "22000"
"""What the function `changed_all` raises where a row that was to be changed is not there."""


async def write_commit(
    connection: Connection, commit: Commit, epoch: UUID | None, *, is_synchronous: bool
) -> None:
    """Write all of it or nothing. Raises `FenceLost`, and what `transaction` and `alone` raise."""
    try:
        await _write_at_once(connection, commit, epoch, is_synchronous=is_synchronous)
    except StoreError as error:
        if error.facts.get("sqlstate") == _NOT_CHANGED:
            raise StoreDamaged("a document has lost its row", cause=error.facts["cause"]) from error
        if not isinstance(error, FenceLost):
            raise
        # Its partitions may have been of other shards until now.
        async with transaction(connection):
            await _regroup(connection, commit)
            await _write_parts(connection, commit, epoch, is_synchronous=is_synchronous)


async def _write_at_once(
    connection: Connection, commit: Commit, epoch: UUID | None, *, is_synchronous: bool
) -> None:
    if is_synchronous or commit.rejections or not _are_few(commit.documents):
        async with transaction(connection):
            await _write_parts(connection, commit, epoch, is_synchronous=is_synchronous)
    else:
        async with alone(connection):
            await _write(connection, commit, epoch, commit.documents)


async def _write_parts(
    connection: Connection, commit: Commit, epoch: UUID | None, *, is_synchronous: bool
) -> None:
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


async def _regroup(connection: Connection, commit: Commit) -> None:
    """Make a shard of partitions that were of others; one writer at a time, so that no two divide the same one."""
    await connection.execute(SQL["lock_log"])
    await connection.execute(SQL["regroup_shards"], commit.checkpoint.partitions, commit.expected_sequence)


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
        SQL["write_commit"], *_progress(commit, epoch), *given, *kept, *_counts(commit), _changed(documents)
    )
    if row is None:
        raise FenceLost(expected_sequence=commit.expected_sequence)


def _progress(commit: Commit, epoch: UUID | None) -> tuple[object, ...]:
    """Return where all owned partitions are now, and what the events of some have made of these."""
    now = commit.checkpoint
    place = (now.read_sequence, now.recorded_at, now.fold, epoch)
    return (now.partitions, commit.expected_sequence, *place, *checkpoint_columns(now.touched))


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
        found = rows_of(await connection.execute(SQL["update_documents"]))
        await connection.execute(SQL["changed_all"], found, len(changed))


def _changed(documents: Sequence[Dirty]) -> int:
    return sum(not dirty.is_new for dirty in documents)


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
    shard = commit.checkpoint.partitions[0]
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
