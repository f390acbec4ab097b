"""Convert core values to the bytes of keys and back: the only module that knows their layout.

Part of the Redis adapter. Numbers come first and are plain; contents follow, encoded by the store's codec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from refold.core.dedup import admit
from refold.core.document import DOCUMENT_NUMBERS, Document, from_canonical
from refold.core.fold import ID_WINDOW_IDS
from refold.core.history import NEVER, Entry, Segment, Snapshot
from refold.core.page import pack, unpack
from refold.core.stream import Checkpoint, Record
from refold.store import ANY_VERSION, OMITTED, DocumentWrite, Head, Key, Rejection
from refold.store.layers import Place, RowCodec
from refold.store.layers.dictionaries import learn, place_of

_numbers = attrgetter(*DOCUMENT_NUMBERS)
_HEAD: Final = struct.Struct(">HQQQqqqqQQQQQI")
"""A document's numbers, then the length of its encoded state, 0 where it is absent."""

HEAD_BYTES: Final = _HEAD.size

_LINK: Final = struct.Struct(">32s32sQ4Q")
_POSITION: Final = struct.Struct(">QqI")
_BASE: Final = struct.Struct(">BQQQqqq?")
_RUN: Final = struct.Struct(">BQ")
_IS_BASE, _IS_RUN = 0, 1
_REJECTION: Final = struct.Struct(">QqHQH")
_TIME: Final = struct.Struct(">q")
_LENGTH: Final = struct.Struct(">I")


class Encoded(NamedTuple):
    """An encoded value, and what precedes it in a key's bytes."""

    before: bytes
    place: Place
    value: bytes

    def replaced(self, value: bytes) -> bytes:
        """Return the key's bytes with another value; a head's also tell its length."""
        before = self.before
        if self.place.part == "documents.state":
            before = before[: -_LENGTH.size] + _LENGTH.pack(len(value))
        return before + value


def encoded_in_head(key: Key, stored: bytes) -> Encoded | None:
    """Return the state of a document's row; None where it is absent. Raises what `DAMAGES` lists."""
    if len(stored) != whole_bytes(stored):
        raise ValueError(f"a row of {len(stored)} bytes, {whole_bytes(stored)} were written")
    if len(stored) == HEAD_BYTES:
        return None
    return Encoded(stored[:HEAD_BYTES], Place("documents.state", *key, 0), stored[HEAD_BYTES:])


def encoded_in_element(key: Key, element: bytes) -> Encoded | None:
    """Return the value of a segment's element; None for the base of an absent document."""
    if element[0] == _IS_BASE:
        _, sequence, *_, is_present = _BASE.unpack_from(element)
        part, size = "pages.snapshot", _BASE.size
        if not is_present:
            return None
    else:
        _, sequence = _RUN.unpack_from(element)
        part, size = "journal", _RUN.size
    return Encoded(element[:size], Place(part, *key, sequence), element[size:])


def encoded_in_rejection(namespace: str, stored: bytes) -> Encoded:
    """Return the content of a rejection."""
    sequence, *_, name_bytes = _REJECTION.unpack_from(stored)
    content_at = _REJECTION.size + name_bytes
    document = stored[_REJECTION.size : content_at].decode()
    place = Place("rejections", namespace, document, sequence)
    return Encoded(stored[:content_at], place, stored[content_at:])


def encoded_in_dictionary(number: int, stored: bytes) -> Encoded:
    """Return the content of a dictionary. Raises what `DAMAGES` lists."""
    content_at = _LENGTH.size + _LENGTH.unpack_from(stored)[0]
    namespace = stored[_LENGTH.size : content_at].decode()
    return Encoded(stored[:content_at], place_of(number, namespace), stored[content_at:])


class Position(tuple[int, int, int]):
    """What the partitions of a group share: `read_sequence`, `recorded_at` and `fold`."""

    __slots__ = ()

    def pack(self) -> bytes:
        """Return it as bytes."""
        return _POSITION.pack(*self)

    @classmethod
    def unpack(cls, stored: bytes) -> Position:
        """Read it. Raises what `DAMAGES` lists."""
        return cls(_POSITION.unpack(stored))


def pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return what a partition has of its own."""
    return _LINK.pack(checkpoint.chain, checkpoint.chain_before, checkpoint.last_sequence, *checkpoint.counts)


def to_checkpoint(partition: int, stored: bytes, position: Position) -> Checkpoint:
    """Return a partition's checkpoint."""
    chain, chain_before, last_sequence, *counts = _LINK.unpack(stored)
    read_sequence, recorded_at, fold = position
    return Checkpoint(
        partition=partition,
        chain=chain,
        chain_before=chain_before,
        fold=fold,
        read_sequence=read_sequence,
        last_sequence=last_sequence,
        recorded_at=recorded_at,
        counts=counts,
    )


class Rows:
    """Encode and decode by one codec."""

    def __init__(self, codec: RowCodec) -> None:
        self.codec = codec

    def dictionary(self, number: int, namespace: str, content: bytes) -> bytes:
        """Return a dictionary's bytes."""
        name = namespace.encode()
        return _LENGTH.pack(len(name)) + name + self.codec.encode(place_of(number, namespace), content)

    def learn(self, number: int, stored: bytes) -> None:
        """Make a dictionary known to the codec. Raises what `DAMAGES` lists."""
        found = encoded_in_dictionary(number, stored)
        learn(self.codec, number, found.place.namespace, found.value)

    def forget(self) -> None:
        """Know no dictionary: the server may have been emptied."""
        self.codec.dictionaries.forget()

    def head(self, write: DocumentWrite) -> bytes:
        """Return a document's row and state."""
        document, state = write.document, b""
        if write.state is not None:
            place = Place("documents.state", document.namespace, document.document, 0)
            state = self.codec.encode(place, write.state)
        return _HEAD.pack(*_numbers(document), len(state)) + state

    def to_document(self, key: Key, stored: bytes, identities: Iterable[bytes]) -> Document:
        """Return a document with its dedup window. Raises what `DAMAGES` lists."""
        document, state = self._to_row(key, stored)
        document.state = from_canonical(state)
        for identity in identities:
            admit(document.identities, identity, ID_WINDOW_IDS)
        return document

    def to_head(self, key: Key, stored: bytes) -> Head:
        """Return a document's head. Raises what `DAMAGES` lists."""
        return _head_of(*self._to_row(key, stored))

    def to_bare_head(self, key: Key, stored: bytes) -> Head:
        """Return a document's head without its state; `stored` may end with the numbers."""
        row, is_present = self.to_row(key, stored)
        return _head_of(row, OMITTED if is_present else None)

    def to_row(self, key: Key, stored: bytes) -> tuple[Document, bool]:
        """Return a document without its state, and whether it is present; `stored` may end with the numbers."""
        *numbers, state_bytes = _HEAD.unpack_from(stored)
        names = dict(zip(DOCUMENT_NUMBERS, numbers, strict=True))
        return Document(namespace=key[0], document=key[1], **names), bool(state_bytes)

    def _to_row(self, key: Key, stored: bytes) -> tuple[Document, bytes | None]:
        document, is_present = self.to_row(key, stored)
        if len(stored) != whole_bytes(stored):
            raise ValueError(f"a row of {len(stored)} bytes, {whole_bytes(stored)} were written")
        if not is_present:
            return document, None
        return document, self.codec.decode(Place("documents.state", *key, 0), stored[HEAD_BYTES:])

    def base(self, key: Key, base: Snapshot, base_sequence: int) -> bytes:
        """Return the element that begins a segment."""
        version, state, *since = base
        numbers = _BASE.pack(_IS_BASE, base_sequence, version, *since, state is not None)
        if state is None:
            return numbers
        return numbers + self.codec.encode(Place("pages.snapshot", *key, base_sequence), state)

    def run(self, key: Key, entries: Sequence[Entry]) -> bytes:
        """Return an element with the entries that a commit adds to a segment."""
        sequence = entries[0].sequence
        encoded = self.codec.encode(Place("journal", *key, sequence), pack(entries))
        return _RUN.pack(_IS_RUN, sequence) + encoded

    def to_segment(self, key: Key, elements: Sequence[bytes]) -> Segment:
        """Return a segment. Raises what `DAMAGES` lists."""
        first, *runs = elements
        kind, base_sequence, *numbers, is_present = _BASE.unpack_from(first)
        if kind != _IS_BASE:
            raise ValueError("a segment without its base")
        state = None
        if is_present:
            state = self.codec.decode(Place("pages.snapshot", *key, base_sequence), first[_BASE.size :])
        version, *since = numbers
        base = Snapshot(version, state, *since)
        return Segment(base, base_sequence, [entry for run in runs for entry in self._to_entries(key, run)])

    def _to_entries(self, key: Key, element: bytes) -> list[Entry]:
        kind, sequence = _RUN.unpack_from(element)
        if kind != _IS_RUN:
            raise ValueError("a segment with two bases")
        return unpack(self.codec.decode(Place("journal", *key, sequence), element[_RUN.size :]))

    def rejection(self, it: Rejection) -> bytes:
        """Return a rejection's bytes."""
        name, record = it.document.encode(), it.record
        numbers = (it.sequence, it.recorded_at, it.partition, it.resolved_by or 0, len(name))
        parts = [it.reason.encode(), it.detail.encode(), it.about]
        if record is not None:
            parts += [_TIME.pack(record.time), record.subject, record.headers, record.body]
        content = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
        place = Place("rejections", it.namespace, it.document, it.sequence)
        return _REJECTION.pack(*numbers) + name + self.codec.encode(place, content)

    def to_rejection(self, namespace: str, stored: bytes) -> Rejection:
        """Return a rejection. Raises what `DAMAGES` lists."""
        sequence, recorded_at, partition, resolved_by, name_bytes = _REJECTION.unpack_from(stored)
        content_at = _REJECTION.size + name_bytes
        document = stored[_REJECTION.size : content_at].decode()
        place = Place("rejections", namespace, document, sequence)
        reason, detail, about, *event = _parts(self.codec.decode(place, stored[content_at:]))
        record = None
        if event:
            time, subject, headers, body = event
            record = Record(sequence, _TIME.unpack(time)[0], subject, headers, body)
        names = (namespace, document, partition, sequence, recorded_at)
        return Rejection(*names, reason.decode(), detail.decode(), about, record, resolved_by or None)


def _head_of(row: Document, state: bytes | None) -> Head:
    key = (row.namespace, row.document)
    if row.version == 0:
        return Head(*key, NEVER, row.last_sequence)
    times = (row.recorded_at, row.occurred_at, row.occurred_max)
    return Head(*key, Snapshot(row.version, state, row.version_sequence, *times), row.last_sequence)


def is_known(stored: bytes, version: int | None) -> bool:
    """Tell whether a document's row is of a version, or of any for `ANY_VERSION`."""
    return version is not None and version in (ANY_VERSION, _HEAD.unpack_from(stored)[1])


def whole_bytes(stored: bytes) -> int:
    """Return how long a document's row is, with its state, given at least its numbers."""
    return HEAD_BYTES + int(_HEAD.unpack_from(stored)[-1])


def _parts(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(content, at)[0]
        if at > len(content):
            raise ValueError("a rejection is cut off")
        yield content[begin:at]
