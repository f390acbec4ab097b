"""Write one commit as one transaction: the fence, documents, pages, journal, rejections and counts.

Part of the SQLite adapter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from refold.core.errors import FenceLost, StoreDamaged
from refold.core.history import Entry
from refold.core.stream import ShardCheckpoint
from refold.store import ClosedPage, Commit, damaged
from refold.store.sqlite.keyed import require_key
from refold.store.sqlite.pool import SQL, Connection
from refold.store.sqlite.rows import Rows, checkpoint_rows, to_shard

_Parameters = list[tuple[object, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCommit:
    """A commit with its rows: they are encoded before the transaction begins, which keeps other shards out."""

    commit: Commit
    new: _Parameters
    changed: _Parameters
    journal: _Parameters
    rejections: _Parameters
    whole_pages: _Parameters

    @classmethod
    def of(cls, commit: Commit, rows: Rows) -> PreparedCommit:
        """Encode the rows of a commit."""
        assert all(write.has_state for write in commit.documents), "this store wants every state"
        return cls(
            commit=commit,
            new=[rows.of_document(write) for write in commit.documents if write.is_new],
            changed=[rows.of_document(write) for write in commit.documents if not write.is_new],
            journal=[
                rows.of_entry((write.document.namespace, write.document.document), entry)
                for write in commit.documents
                for entry in write.journal
            ],
            rejections=[rows.of_rejection(rejection) for rejection in commit.rejections],
            whole_pages=[rows.of_page(page, page.entries) for page in commit.pages if page.is_whole],
        )


class Fence(NamedTuple):
    """What must still be in force when a commit is written: the projection's epoch, and the key of its values."""

    epoch: str | None
    key: int | None


def write_commit(connection: Connection, prepared: PreparedCommit, fence: Fence, rows: Rows) -> None:
    """Write all of it, within a transaction. Raises `FenceLost`, and `StoreDamaged` where rows are missing."""
    commit = prepared.commit
    _pass_fence(connection, commit, fence)
    connection.executemany(SQL["make_document"], prepared.new)
    found = (
        connection.executemany(SQL["change_document"], prepared.changed).rowcount if prepared.changed else 0
    )
    if found != len(prepared.changed):
        raise StoreDamaged("a document has lost its row", expected=len(prepared.changed), found=found)
    for page in commit.pages:
        if not page.is_whole:
            entries = [*_read_journal(connection, page, rows), *page.entries]
            connection.execute(SQL["add_page"], rows.of_page(page, entries))
        _delete_journal(connection, page)
    connection.executemany(SQL["add_page"], prepared.whole_pages)
    connection.executemany(SQL["add_entry"], prepared.journal)
    connection.executemany(SQL["add_rejection"], prepared.rejections)
    # After the rejections, some of which may be among those that are resolved.
    connection.executemany(SQL["resolve_rejection"], commit.resolutions)
    connection.executemany(SQL["count_namespace"], _counts(commit))


def _pass_fence(connection: Connection, commit: Commit, fence: Fence) -> None:
    now = commit.checkpoint
    (is_bound,) = connection.execute(SQL["has_epoch"], (fence.epoch,)).fetchone()
    if not is_bound:
        raise FenceLost("the projection was replaced by a rebuild")
    require_key(connection, fence.key)
    if not _advance(connection, now, commit.expected_sequence):
        # The partitions may have belonged to other shards until now.
        _regroup(connection, now.partitions, commit.expected_sequence)
        if not _advance(connection, now, commit.expected_sequence):
            raise FenceLost(expected_sequence=commit.expected_sequence)
    connection.executemany(SQL["link"], checkpoint_rows(now.touched))


def _advance(connection: Connection, now: ShardCheckpoint, expected_sequence: int) -> bool:
    position = (now.read_sequence, now.recorded_at, now.fold)
    given = (*position, bytes(now.partitions), expected_sequence)
    return connection.execute(SQL["fence"], given).rowcount == 1


def _regroup(connection: Connection, partitions: Sequence[int], expected_sequence: int) -> None:
    """Make a shard of partitions of other shards, if all are at one sequence; the others stay together."""
    wanted = set(partitions)
    former = [
        shard
        for shard in map(to_shard, connection.execute(SQL["shards"]).fetchall())
        if shard.read_sequence == expected_sequence and wanted.intersection(shard.partitions)
    ]
    if not former or not wanted.issubset(part for shard in former for part in shard.partitions):
        return
    for shard in former:
        connection.execute(SQL["delete_shard"], (bytes(shard.partitions),))
        rest = bytes(part for part in shard.partitions if part not in wanted)
        if rest:
            position = (shard.fold, shard.read_sequence, shard.recorded_at)
            connection.execute(SQL["make_shard"], (rest, *position))
    fold, recorded_at = max(shard.fold for shard in former), max(shard.recorded_at for shard in former)
    connection.execute(SQL["make_shard"], (bytes(partitions), fold, expected_sequence, recorded_at))


def _read_journal(connection: Connection, page: ClosedPage, rows: Rows) -> list[Entry]:
    key = (page.namespace, page.document)
    return [rows.to_entry(key, *row) for row in connection.execute(SQL["journal"], key)]


def _delete_journal(connection: Connection, page: ClosedPage) -> None:
    """Delete the entries that are in this page from now on. Raises `StoreDamaged` where the journal lacks some."""
    if page.journal_events:
        key = (page.namespace, page.document)
        found = connection.execute(SQL["delete_journal"], key).rowcount
        if found != page.journal_events:
            raise damaged(*key, "the journal lacks events of it", expected=page.journal_events, found=found)


def _counts(commit: Commit) -> list[tuple[str, int, int]]:
    """Return the namespaces, and the documents and events that each gains."""
    documents: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for write in commit.documents:
        documents[write.document.namespace] += write.added_documents
        events[write.document.namespace] += write.added_events
    return [(name, documents[name], count) for name, count in events.items()]
