"""Convert core values to rows and back: the only module that knows the order of columns.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from refold.core.document import KINDS, STATUSES, Document, from_canonical
from refold.core.history import NEVER, Entry, Snapshot
from refold.core.page import PackedEntries
from refold.core.stream import Checkpoint, Record
from refold.store import DocumentWrite, Head, Key, Rejection, damaged, reading_stored
from refold.store.postgres.pool import Row

DOCUMENT_COLUMNS: Final = (
    "namespace",
    "document",
    "partition",
    "version",
    "version_sequence",
    "last_sequence",
    "last_recorded_at",
    "recorded_at",
    "occurred_at",
    "occurred_max",
    "events",
    "unpaged_events",
    "unpaged_bytes",
    "page_bytes",
    "size",
    "state",
)

ROW_MISSING: Final = "its row is missing, while events of it are stored"

COMMIT_COLUMNS: Final = (*DOCUMENT_COLUMNS, "has_state", "is_new")
"""In the order of the documents' parameters of `write_commit`."""


PAGE_COLUMNS: Final = (
    "namespace",
    "document",
    "last_sequence",
    "version",
    "version_sequence",
    "recorded_at",
    "occurred_max",
    "events",
    "occurred_at",
    "snapshot",
    "ids",
    "identities",
    "conflicts",
    "payload",
)

JOURNAL_COLUMNS: Final = ("namespace", "document", *Entry._fields)
_REJECTION: Final = tuple(name for name in Rejection._fields if name not in {"record", "resolved_by"})
REJECTION_COLUMNS: Final = (*_REJECTION, "time", "subject", "headers", "body", "resolved_by")

_NUMBERS: Final = DOCUMENT_COLUMNS[:-1]
_numbers = attrgetter(*_NUMBERS)
_COMPRESSOR: Final = ZstdCompressor(level=1)
_DECOMPRESSOR: Final = ZstdDecompressor()
_CHECKPOINT: Final = tuple(field.name for field in fields(Checkpoint) if field.name != "counts")
_LINK: Final = ("partition", "chain", "chain_before", "last_sequence")
_link = attrgetter(*_LINK)


_SINCE: Final = ("version_sequence", "recorded_at", "occurred_at", "occurred_max")


def key_of(row: Row) -> Key:
    """Return the names of a row's document."""
    return row["namespace"], row["document"]


def document_row(write: DocumentWrite) -> tuple[object, ...]:
    """Return the values of `DOCUMENT_COLUMNS`."""
    return (*_numbers(write.document), write.state)


def to_document(row: Row) -> Document:
    """Return a document without its dedup window. Raises `StoreDamaged`."""
    if row["version"] is None:
        raise damaged(*key_of(row), ROW_MISSING)
    with reading_stored(*key_of(row)):
        state = from_canonical(row["state"])
    return Document(**{name: row[name] for name in _NUMBERS}, state=state)


def to_head(row: Row) -> Head:
    """Return a document's head. Raises `StoreDamaged` for a row that is missing."""
    namespace, document = row["namespace"], row["document"]
    if row["version"] is None:
        raise damaged(namespace, document, ROW_MISSING)
    return Head(namespace, document, to_newest(row), row["last_sequence"])


def to_newest(row: Row) -> Snapshot:
    """Return the snapshot of a document's head."""
    if row["version"] == 0:
        return NEVER
    times = (row["recorded_at"], row["occurred_at"], row["occurred_max"])
    return Snapshot(row["version"], row["state"], row["version_sequence"], *times)


def to_base(row: Row) -> Snapshot:
    """Return the snapshot that a row's entries follow."""
    return NEVER if row["base_sequence"] is None else to_snapshot(row, "base_")


def to_snapshot(row: Row, prefix: str = "") -> Snapshot:
    """Return the snapshot that closes a page."""
    state = None if row["snapshot"] is None else decompress(row["snapshot"])
    return Snapshot(row[f"{prefix}version"], state, *(row[f"{prefix}{name}"] for name in _SINCE))


def to_entries(row: Row) -> list[Entry]:
    """Return the entries of a page, else those of the journal."""
    entries = to_packed(row)
    return entries.unpack() if isinstance(entries, PackedEntries) else entries


def to_packed(row: Row) -> PackedEntries | list[Entry]:
    """Return the entries of a page as they are stored, else those of the journal."""
    if row["payload"] is not None:
        return PackedEntries(decompress(row["payload"]))
    return [to_entry(entry) for entry in row["journal"]]


def to_entry(row: Iterable[Any]) -> Entry:
    """Return a journal row's entry, given its columns in order."""
    _, _, sequence, time, recorded_at, occurred_at, version, status, kind, *rest = row
    return Entry(sequence, time, recorded_at, occurred_at, version, STATUSES[status], KINDS[kind], *rest)


def checkpoint_columns(checkpoints: Iterable[Checkpoint]) -> list[list[object]]:
    """Return one array a column, for `unnest`, of what differs between a shard's partitions."""
    names = (*_LINK, *(status.name for status in STATUSES))
    return columns_of(names, ((*_link(checkpoint), *checkpoint.counts) for checkpoint in checkpoints))


def columns_of(names: Sequence[str], rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    """Return one array a column, for `unnest`; empty arrays where there is no row."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]


def to_checkpoint(row: Row) -> Checkpoint:
    """Return a partition's checkpoint."""
    counts = [row[status.name] for status in STATUSES]
    return Checkpoint(**{name: row[name] for name in _CHECKPOINT}, counts=counts)


def rejection_row(rejection: Rejection) -> tuple[object, ...]:
    """Return the values of `REJECTION_COLUMNS`."""
    record = rejection.record
    event = (None,) * 4 if record is None else (record.time, record.subject, record.headers, record.body)
    return (*rejection[:-2], *event, rejection.resolved_by)


def to_rejection(row: Row) -> Rejection:
    """Return a rejection, with the event itself where its subject names no document."""
    time, record = row["time"], None
    if time is not None:
        record = Record(row["sequence"], time, row["subject"], row["headers"], row["body"])
    return Rejection._make((*[row[name] for name in _REJECTION], record, row["resolved_by"]))


def rows_of(status: str) -> int:
    """Read the number of rows from a command's tag, such as `UPDATE 64`."""
    return int(status.rpartition(" ")[2])


def compress(plain: bytes) -> bytes:
    """Compress a part of a page."""
    return _COMPRESSOR.compress(plain)


def decompress(compressed: bytes) -> bytes:
    """Decompress a part of a page. Raises `ValueError` for bytes that are damaged."""
    try:
        return _DECOMPRESSOR.decompress(compressed)
    except ZstdError as error:
        raise ValueError(str(error)) from error
