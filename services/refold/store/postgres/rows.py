"""Convert core values to rows and back: the only module that knows the order of columns.

Part of the PostgreSQL adapter.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, Final

from refold.core.document import DOCUMENT_NUMBERS, KINDS, STATUSES, Document, from_canonical
from refold.core.history import NEVER, Entry, Snapshot
from refold.core.page import PackedEntries, pack, pack_entry, unpack_entry
from refold.core.stream import Checkpoint, Record
from refold.store import ROW_MISSING, DocumentWrite, Head, Key, Rejection, damaged, reading_stored
from refold.store.layers import Place, RowCodec
from refold.store.postgres.pool import Row

DOCUMENT_COLUMNS: Final = ("namespace", "document", *DOCUMENT_NUMBERS, "state")

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

JOURNAL_COLUMNS: Final = ("namespace", "document", *Entry._fields, "content")
_REJECTION: Final = tuple(name for name in Rejection._fields if name not in {"record", "resolved_by"})
REJECTION_COLUMNS: Final = (*_REJECTION, "time", "subject", "headers", "body", "resolved_by", "content")

_NUMBERS: Final = DOCUMENT_COLUMNS[:-1]
_numbers = attrgetter(*_NUMBERS)
_CHECKPOINT: Final = tuple(field.name for field in fields(Checkpoint) if field.name != "counts")
_LINK: Final = ("partition", "chain", "chain_before", "last_sequence")
_link = attrgetter(*_LINK)


_SINCE: Final = ("version_sequence", "recorded_at", "occurred_at", "occurred_max")


def key_of(row: Row) -> Key:
    """Return the names of a row's document."""
    return row["namespace"], row["document"]


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


def rows_of(status: str) -> int:
    """Read the number of rows from a command's tag, such as `UPDATE 64`."""
    return int(status.rpartition(" ")[2])


_CONTENT: Final = struct.Struct(">5I")
"""The lengths of a rejection's encoded texts: detail, about, and of its event subject, headers and body."""


_ENCODED_BEGINS: Final = b" "
_ENCODED: Final = b' "encrypted:'
_ENCODED_ENDS: Final = b'"'
"""Around the base64 of an encoded state. No canonical text begins with a space, whatever an author writes."""


def encoded_state(stored: bytes | None) -> bytes | None:
    """Return the codec's bytes of what the column `state` holds; None where that is canonical text or NULL.

    Raises `ValueError`.
    """
    if stored is None or not stored.startswith(_ENCODED_BEGINS):
        return None
    if not stored.startswith(_ENCODED) or not stored.endswith(_ENCODED_ENDS):
        raise ValueError("an encrypted state without its mark")
    return binascii.a2b_base64(stored[len(_ENCODED) : -len(_ENCODED_ENDS)], strict_mode=True)


class Rows:
    """Rows of one store, whose values are encoded for their places.

    Pages always are. What is in the journal and of rejections is encoded, in the column `content`, only with
    `has_content`, and heads' states only with `has_encoded_states`; both kinds of rows are read.
    """

    def __init__(self, codec: RowCodec, *, has_content: bool, has_encoded_states: bool = False) -> None:
        self.codec = codec
        self.has_content = has_content
        self.has_encoded_states = has_encoded_states

    def of_document(self, write: DocumentWrite) -> tuple[object, ...]:
        """Return the values of `DOCUMENT_COLUMNS`."""
        document = write.document
        return (*_numbers(document), self.of_state((document.namespace, document.document), write.state))

    def of_state(self, key: Key, state: bytes | None) -> bytes | None:
        """Return what the column `state` holds of a head's state: its canonical bytes, or a JSON string."""
        if state is None or not self.has_encoded_states:
            return state
        encoded = self.codec.encode(Place("documents.state", *key, 0), state)
        return b"".join((_ENCODED, binascii.b2a_base64(encoded, newline=False), _ENCODED_ENDS))

    def to_state(self, key: Key, stored: bytes | None) -> bytes | None:
        """Return the canonical bytes of a head's state. Raises `ValueError`."""
        encoded = encoded_state(stored)
        return stored if encoded is None else self.codec.decode(Place("documents.state", *key, 0), encoded)

    def to_document(self, row: Row) -> Document:
        """Return a document without its dedup window. Raises `StoreDamaged`."""
        key = key_of(row)
        if row["version"] is None:
            raise damaged(*key, ROW_MISSING)
        with reading_stored(*key):
            state = from_canonical(self.to_state(key, row["state"]))
        return Document(**{name: row[name] for name in _NUMBERS}, state=state)

    def to_head(self, row: Row) -> Head:
        """Return a document's head. Raises `StoreDamaged`, also for a row that is missing."""
        namespace, document = key_of(row)
        if row["version"] is None:
            raise damaged(namespace, document, ROW_MISSING)
        return Head(namespace, document, self.to_newest((namespace, document), row), row["last_sequence"])

    def to_newest(self, key: Key, row: Row) -> Snapshot:
        """Return the snapshot of a document's head. Raises `StoreDamaged`."""
        if row["version"] == 0:
            return NEVER
        times = (row["recorded_at"], row["occurred_at"], row["occurred_max"])
        state = row["state"]
        if state is not None and state.startswith(_ENCODED_BEGINS):
            with reading_stored(*key):
                state = self.to_state(key, state)
        return Snapshot(row["version"], state, row["version_sequence"], *times)

    def snapshot(self, key: Key, sequence: int, state: bytes | None) -> bytes | None:
        """Encode the state that closes a page; `sequence` is its last."""
        return None if state is None else self.codec.encode(Place("pages.snapshot", *key, sequence), state)

    def payload(self, key: Key, sequence: int, entries: Sequence[Entry]) -> bytes:
        """Encode a page's entries; `sequence` is its last."""
        return self.codec.encode(Place("pages.payload", *key, sequence), pack(entries))

    def sealed(self, key: Key, entry: Entry) -> tuple[Entry, bytes | None]:
        """Return an entry as its columns show it, and its encoded content."""
        if not self.has_content:
            return entry, None
        content = self.codec.encode(Place("journal", *key, entry.sequence), pack_entry(entry))
        conflict = None if entry.conflict is None else b""
        return entry._replace(**SEALED, conflict=conflict), content

    def to_base(self, key: Key, row: Row) -> Snapshot:
        """Return the snapshot that a row's entries follow."""
        if row["base_sequence"] is None:
            return NEVER
        return self.to_snapshot(key, row, row["base_sequence"], "base_")

    def to_snapshot(self, key: Key, row: Row, sequence: int, prefix: str = "") -> Snapshot:
        """Return the snapshot that closes a page, whose last sequence is given."""
        state = self.to_closing_state(key, sequence, row["snapshot"])
        return Snapshot(row[f"{prefix}version"], state, *(row[f"{prefix}{name}"] for name in _SINCE))

    def to_closing_state(self, key: Key, sequence: int, stored: bytes | None) -> bytes | None:
        """Decode the state that closes a page."""
        return None if stored is None else self.codec.decode(Place("pages.snapshot", *key, sequence), stored)

    def to_entries(self, key: Key, row: Row) -> list[Entry]:
        """Return the entries of a page, else those of the journal."""
        entries = self.to_packed(key, row)
        return entries.unpack() if isinstance(entries, PackedEntries) else entries

    def to_packed(self, key: Key, row: Row) -> PackedEntries | list[Entry]:
        """Return the entries of a page as they are packed, else those of the journal."""
        if row["payload"] is None:
            return [self.to_entry(entry) for entry in row["journal"] or ()]
        return self.to_page(key, row)

    def to_page(self, key: Key, row: Row) -> PackedEntries:
        """Return the entries of a page as they are packed."""
        place = Place("pages.payload", *key, row["page_sequence"])
        return PackedEntries(self.codec.decode(place, row["payload"]))

    def to_entry(self, row: Iterable[Any]) -> Entry:
        """Return a journal row's entry, given its columns in order."""
        (
            namespace,
            document,
            sequence,
            time,
            recorded_at,
            occurred_at,
            version,
            status,
            kind,
            *rest,
            content,
        ) = row
        times = (time, recorded_at, occurred_at)
        entry = Entry(sequence, *times, version, STATUSES[status], KINDS[kind], *rest)
        if content is None:
            return entry
        opened = self.to_content((namespace, document), sequence, content)
        return entry._replace(conflict=opened.conflict, **{name: getattr(opened, name) for name in SEALED})

    def to_content(self, key: Key, sequence: int, content: bytes) -> Entry:
        """Decode the content of a journal row."""
        return unpack_entry(self.codec.decode(Place("journal", *key, sequence), content))

    def of_rejection(self, rejection: Rejection) -> tuple[object, ...]:
        """Return the values of `REJECTION_COLUMNS`."""
        record = rejection.record
        event = (None,) * 4 if record is None else (record.time, record.subject, record.headers, record.body)
        if not self.has_content:
            return (*rejection[:-2], *event, rejection.resolved_by, None)
        time, *values = event
        parts = (rejection.detail.encode(), rejection.about, *(value or b"" for value in values))
        place = Place("rejections", rejection.namespace, rejection.document, rejection.sequence)
        content = self.codec.encode(place, b"".join((_CONTENT.pack(*map(len, parts)), *parts)))
        shown = rejection._replace(detail="", about=b"{}")
        return (*shown[:-2], time, None, None, None, rejection.resolved_by, content)

    def to_rejection(self, row: Row) -> Rejection:
        """Return a rejection, with the event itself where its subject names no document."""
        values = {name: row[name] for name in (*_REJECTION, "subject", "headers", "body")}
        if row["content"] is not None:
            place = Place("rejections", row["namespace"], row["document"], row["sequence"])
            content = self.codec.decode(place, row["content"])
            ends = list(accumulate(_CONTENT.unpack_from(content), initial=_CONTENT.size))
            if ends[-1] != len(content):
                raise ValueError(f"a rejection of {len(content)} bytes has values of {ends[-1]}")
            detail, *parts = (content[begin:end] for begin, end in pairwise(ends))
            names = ("about", "subject", "headers", "body")
            values |= {"detail": detail.decode(), **dict(zip(names, parts, strict=True))}
        time, record = row["time"], None
        if time is not None:
            event = (values["subject"], values["headers"], values["body"])
            record = Record(row["sequence"], time, *event)
        return Rejection._make((*[values[name] for name in _REJECTION], record, row["resolved_by"]))


SEALED: Final[dict[str, Any]] = {
    "subject": None,
    "headers": b"",
    "body": b"",
    "effect": None,
    "reason": "",
    "detail": "",
}
"""What the columns show of an entry whose content is encoded; `conflict` shows whether there is one."""
