"""A page: entries packed by column, so that a reader decodes only the columns and bodies that it needs.

After the head come the columns of numbers, then those of bytes, each as its whole length, the entries' lengths and
their bytes. A column that has the usual value in all entries is left out: most entries take 31 bytes beside a body.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

from refold.core.document import KINDS, STATUSES
from refold.core.history import Entry

_HEAD: Final = struct.Struct(">IH")
"""The count of entries, and a bit for each column of `_OPTIONAL` that is there."""

_LENGTH: Final = struct.Struct(">I")
_NUMBERS: Final = {
    "sequence": "Q",
    "time": "q",
    "version": "Q",
    "status": "B",
    "kind": "B",
    "is_creation": "B",
    "recorded_at": "q",
    "occurred_at": "q",
    "first_sequence": "Q",
}
_BYTES: Final = ("body", "headers", "effect", "subject", "identity", "reason", "detail", "conflict")
"""Columns in their order."""

_NULLABLE: Final = frozenset({"effect", "subject", "identity", "conflict"})
"""Columns that are None or at least one byte."""

_STRINGS: Final = frozenset({"reason", "detail"})
_OPTIONAL: Final = ("recorded_at", "occurred_at", "first_sequence", *_BYTES[1:])
_BIT: Final = {name: 1 << place for place, name in enumerate(_OPTIONAL)}


def pack(entries: Sequence[Entry]) -> bytes:
    """Pack entries into one page's bytes."""
    if not entries:
        return _HEAD.pack(0, 0) + _LENGTH.pack(0)
    # Each field of `columns` has the values of all entries.
    columns: Any = Entry._make(zip(*entries, strict=True))
    count, present = len(entries), _present(columns)
    parts = [_HEAD.pack(count, present)]
    for name, code in _NUMBERS.items():
        if name not in _BIT or present & _BIT[name]:
            parts.append(struct.pack(f">{count}{code}", *getattr(columns, name)))
    for name in _BYTES:
        if name not in _BIT or present & _BIT[name]:
            values = getattr(columns, name)
            if name in _NULLABLE:
                values = [value or b"" for value in values]
            elif name in _STRINGS:
                values = [value.encode() for value in values]
            joined = b"".join(values)
            parts += (_LENGTH.pack(len(joined)), struct.pack(f">{count}I", *map(len, values)), joined)
    return b"".join(parts)


def _present(columns: Any) -> int:
    """Return the bits of the optional columns in which an entry differs from the usual."""
    is_unusual = (
        columns.recorded_at != columns.time,
        columns.occurred_at != columns.recorded_at,
        any(columns.first_sequence),
        *(any(getattr(columns, name)) for name in _BYTES[1:]),
    )
    return sum(bit for bit, is_present in zip(_BIT.values(), is_unusual, strict=True) if is_present)


_ENTRY: Final = struct.Struct(f">QqqqQBB?Q{len(_BYTES)}I")
"""One entry's numbers, and the lengths of its bytes."""


def pack_entry(entry: Entry) -> bytes:
    """Pack one entry alone: a page of one takes six times as long to read."""
    e = entry
    numbers = (e.sequence, e.time, e.recorded_at, e.occurred_at, e.version, e.status, e.kind, e.is_creation)
    texts = (e.reason.encode(), e.detail.encode())
    parts = (
        e.body,
        e.headers,
        e.effect or b"",
        e.subject or b"",
        e.identity or b"",
        *texts,
        e.conflict or b"",
    )
    return b"".join((_ENTRY.pack(*numbers, e.first_sequence, *map(len, parts)), *parts))


def unpack_entry(packed: bytes) -> Entry:
    """Unpack what `pack_entry` made. Other bytes raise `struct.error`, `ValueError` or `LookupError`."""
    row = _ENTRY.unpack_from(packed)
    *numbers, status, kind, is_creation, first_sequence = row[: -len(_BYTES)]
    ends = list(accumulate(row[-len(_BYTES) :], initial=_ENTRY.size))
    if ends[-1] != len(packed):
        raise ValueError(f"an entry of {len(packed)} bytes has values of {ends[-1]}")
    body, headers, effect, subject, identity, reason, detail, conflict = (
        packed[begin:end] for begin, end in pairwise(ends)
    )
    event = (subject or None, headers, body, effect or None, reason.decode(), detail.decode())
    last = (identity or None, first_sequence, conflict or None)
    # The generated constructor is slower.
    return tuple.__new__(Entry, (*numbers, STATUSES[status], KINDS[kind], is_creation, *event, *last))


def unpack(page: bytes) -> list[Entry]:
    """Unpack a page's bytes, or raise what `PackedEntries` does."""
    return PackedEntries(page).unpack()


class PackedEntries:
    """A page's entries by column. Bytes that are no page raise `struct.error`, `ValueError` or `LookupError`."""

    __slots__ = ("_count", "_page", "_starts")

    def __init__(self, page: bytes) -> None:
        self._page = page
        self._starts: dict[str, int] = {}
        self._count: int
        self._count, present = _HEAD.unpack_from(page)
        at = _HEAD.size
        for name, code in _NUMBERS.items():
            if name not in _BIT or present & _BIT[name]:
                self._starts[name] = at
                at += self._count * (1 if code == "B" else 8)
        for name in _BYTES:
            if name not in _BIT or present & _BIT[name]:
                self._starts[name] = at
                at += _LENGTH.size * (1 + self._count) + _LENGTH.unpack_from(page, at)[0]
        if at != len(page):
            raise ValueError(f"a page of {len(page)} bytes has columns of {at}")

    def __len__(self) -> int:
        return self._count

    def unpack(self) -> list[Entry]:
        """Decode all columns."""
        return self.entries(range(self._count))

    def effective(self, between: range) -> list[Entry]:
        """Decode the effective entries whose sequence is in a range."""
        sequences, statuses = self.numbers("sequence"), self.numbers("status")
        first, end = bisect_left(sequences, between.start), bisect_left(sequences, between.stop)
        return self.entries([at for at in range(first, end) if STATUSES[statuses[at]].is_effective])

    def entries(self, rows: Sequence[int]) -> list[Entry]:
        """Decode some rows."""
        columns = [self._column(name, rows) for name in Entry._fields]
        # The generated constructor is slower.
        return [tuple.__new__(Entry, row) for row in zip(*columns, strict=True)]

    def _column(self, name: str, rows: Sequence[int]) -> Iterable[Any]:
        if name not in _NUMBERS:
            return self.texts(name, rows)
        numbers = self.numbers(name)
        if len(rows) < self._count:
            numbers = [numbers[row] for row in rows]
        if name == "status":
            return [STATUSES[number] for number in numbers]
        if name == "kind":
            return [KINDS[number] for number in numbers]
        return map(bool, numbers) if name == "is_creation" else numbers

    def numbers(self, name: str) -> Sequence[int]:
        """Decode a column of numbers; `status` and `kind` are as stored."""
        at = self._starts.get(name)
        if at is not None:
            return struct.unpack_from(f">{self._count}{_NUMBERS[name]}", self._page, at)
        if name == "first_sequence":
            return (0,) * self._count
        return self.numbers("recorded_at" if name == "occurred_at" else "time")

    def texts(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Decode a column of bytes or text in some rows."""
        at = self._starts.get(name)
        if at is None:
            return [None if name in _NULLABLE else "" if name in _STRINGS else b""] * len(rows)
        page = self._page
        lengths = struct.unpack_from(f">{self._count}I", page, at + _LENGTH.size)
        begin = at + _LENGTH.size * (1 + self._count)
        ends = list(accumulate(lengths, initial=begin))
        if ends[-1] != begin + _LENGTH.unpack_from(page, at)[0]:
            raise ValueError(f"the lengths of the column {name} do not add up")
        values = [page[ends[row] : ends[row + 1]] for row in rows]
        if name in _NULLABLE:
            return [value or None for value in values]
        return [value.decode() for value in values] if name in _STRINGS else values
