"""Convert core values to rows and back, through the codec: the only module that knows the order of columns.

Part of the SQLite adapter.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, Final

from refold.core.document import DOCUMENT_NUMBERS, Document, from_canonical
from refold.core.history import NEVER, Entry, Snapshot
from refold.core.page import PackedEntries, pack, pack_entry, unpack_entry
from refold.core.stream import Checkpoint, Record, ShardCheckpoint
from refold.store import ClosedPage, DocumentWrite, Key, Rejection
from refold.store.layers import Place, RowCodec
from refold.store.layers.dictionaries import DictionaryUnknown, learn, place_of
from refold.store.ports import StoredPage

_numbers = attrgetter(*DOCUMENT_NUMBERS)
_CONTENT: Final = struct.Struct(">?q5I")
"""Whether a rejection has the event itself, the event's time, and the lengths of the bytes that follow."""

Row = Sequence[Any]


class Rows:
    """Rows of one store, whose values are encoded for their places."""

    def __init__(self, codec: RowCodec, find_dictionary: Callable[[int], Row | None]) -> None:
        """`find_dictionary` reads the row of one that a value needs: number, namespace and content."""
        self.codec = codec
        self._find_dictionary = find_dictionary
        self.learned = 0
        """All dictionaries of the file up to this number are known."""

    def learn(self, row: Row) -> None:
        """Make a dictionary known to the codec. Raises `ValueError`."""
        learn(self.codec, *row)

    def forget(self) -> None:
        """Know no dictionary: the file may be another one now."""
        self.codec.dictionaries.forget()
        self.learned = 0

    def of_dictionary(self, number: int, namespace: str, content: bytes) -> Row:
        """Return the parameters of `add_dictionary`."""
        return number, namespace, self.codec.encode(place_of(number, namespace), content)

    def to_dictionary(self, number: int, namespace: str, stored: bytes) -> bytes:
        """Return the content of a dictionary."""
        return self.codec.decode(place_of(number, namespace), stored)

    def of_document(self, write: DocumentWrite) -> tuple[object, ...]:
        """Return the parameters of `make_document` and `change_document`."""
        document = write.document
        key = (document.namespace, document.document)
        return (*key, *_numbers(document), self._encode("documents.state", key, 0, write.state))

    def to_document(self, key: Key, row: Row) -> Document:
        """Return a document without its dedup window."""
        document, state = self.to_row(key, row)
        document.state = from_canonical(state)
        return document

    def to_row(self, key: Key, row: Row) -> tuple[Document, bytes | None]:
        """Return a document's columns, and its state's canonical bytes."""
        *numbers, stored = row
        columns = dict(zip(DOCUMENT_NUMBERS, numbers, strict=True))
        return Document(namespace=key[0], document=key[1], **columns), self.to_state(key, stored)

    def to_state(self, key: Key, stored: bytes | None) -> bytes | None:
        """Return a head's state."""
        return self._decode("documents.state", key, 0, stored)

    def to_newest(self, key: Key, row: Row) -> Snapshot:
        """Return a head's snapshot from version, version_sequence, three times, and at last the state."""
        version, version_sequence, recorded_at, occurred_at, occurred_max = row[:5]
        if version == 0:
            return NEVER
        state = self.to_state(key, row[-1])
        return Snapshot(version, state, version_sequence, recorded_at, occurred_at, occurred_max)

    def of_entry(self, key: Key, entry: Entry) -> tuple[object, ...]:
        """Return the parameters of `add_entry`."""
        packed = self.codec.encode(Place("journal", *key, entry.sequence), pack_entry(entry))
        return (*key, entry.sequence, entry.identity, packed)

    def to_entry(self, key: Key, sequence: int, stored: bytes) -> Entry:
        """Return an entry of the journal."""
        return unpack_entry(self._decode_at(Place("journal", *key, sequence), stored))

    def of_page(self, page: ClosedPage, entries: list[Entry]) -> tuple[object, ...]:
        """Return the parameters of `add_page`."""
        key = (page.namespace, page.document)
        row = StoredPage.of(key, entries, page.closing, page.events)
        closing, last = row.closing, row.last_sequence
        since = (closing.version, closing.sequence, closing.recorded_at, closing.occurred_max)
        counts = (row.events, closing.occurred_at, row.ids, row.conflicts)
        snapshot = self._encode("pages.snapshot", key, last, closing.state)
        payload = self.codec.encode(Place("pages.payload", *key, last), pack(entries))
        return (*key, last, *since, *counts, row.identities, snapshot, payload)

    def to_snapshot(self, key: Key, last_sequence: int, stored: bytes | None) -> bytes | None:
        """Return the state that closes a page."""
        return self._decode("pages.snapshot", key, last_sequence, stored)

    def to_packed(self, key: Key, last_sequence: int, stored: bytes) -> PackedEntries:
        """Return a page's entries as they are packed."""
        return PackedEntries(self._decode_at(Place("pages.payload", *key, last_sequence), stored))

    def of_rejection(self, found: Rejection) -> tuple[object, ...]:
        """Return the parameters of `add_rejection`."""
        record = found.record
        event = (0, b"", b"", b"") if record is None else record[1:]
        texts = (found.detail.encode(), found.about, *event[1:])
        content = _CONTENT.pack(record is not None, event[0], *map(len, texts)) + b"".join(texts)
        key = (found.namespace, found.document)
        encoded = self.codec.encode(Place("rejections", *key, found.sequence), content)
        position = (found.partition, found.sequence, found.recorded_at)
        return (*key, *position, found.reason, found.resolved_by, encoded)

    def to_rejection(self, row: Row) -> Rejection:
        """Return a rejection, with the event itself where its subject names no document."""
        namespace, document, partition, sequence, recorded_at, reason, resolved_by, stored = row
        content = self._decode_at(Place("rejections", namespace, document, sequence), stored)
        has_record, time, *lengths = _CONTENT.unpack_from(content)
        ends = list(accumulate(lengths, initial=_CONTENT.size))
        if ends[-1] != len(content):
            raise ValueError(f"a rejection of {len(content)} bytes has values of {ends[-1]}")
        detail, about, subject, headers, body = (content[begin:end] for begin, end in pairwise(ends))
        record = Record(sequence, time, subject, headers, body) if has_record else None
        position = (namespace, document, partition, sequence, recorded_at)
        return Rejection(*position, reason, detail.decode(), about, record, resolved_by)

    def _encode(self, part: str, key: Key, sequence: int, value: bytes | None) -> bytes | None:
        return None if value is None else self.codec.encode(Place(part, *key, sequence), value)

    def _decode(self, part: str, key: Key, sequence: int, stored: bytes | None) -> bytes | None:
        return None if stored is None else self._decode_at(Place(part, *key, sequence), stored)

    def _decode_at(self, place: Place, stored: bytes) -> bytes:
        try:
            return self.codec.decode(place, stored)
        except DictionaryUnknown as unknown:
            row = self._find_dictionary(unknown.number)
            if row is None:
                raise
            self.learn(row)
        return self.codec.decode(place, stored)


def checkpoint_rows(touched: Sequence[Checkpoint]) -> Iterator[tuple[object, ...]]:
    """Yield the parameters of `make_checkpoint` and `link`."""
    for each in touched:
        yield (each.partition, each.chain, each.chain_before, each.last_sequence, *each.counts)


def to_checkpoint(row: Row, shard: ShardCheckpoint) -> Checkpoint:
    """Return a partition's checkpoint from its row and its shard."""
    partition, chain, chain_before, last_sequence, *counts = row
    return Checkpoint(
        partition=partition,
        chain=chain,
        chain_before=chain_before,
        fold=shard.fold,
        read_sequence=shard.read_sequence,
        last_sequence=last_sequence,
        recorded_at=shard.recorded_at,
        counts=counts,
    )


def to_shard(row: Row) -> ShardCheckpoint:
    """Return a shard without checkpoints."""
    partitions, fold, read_sequence, recorded_at = row
    numbers = {"fold": fold, "read_sequence": read_sequence, "recorded_at": recorded_at}
    return ShardCheckpoint(partitions=tuple(partitions), **numbers, touched=())
