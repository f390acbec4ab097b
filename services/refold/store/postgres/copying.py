"""Journal rows in the binary form of COPY: most of an event's columns are of fixed width and written in one go.

For `commit` alone; the driver's own encoder looks up a codec for each of a row's eighteen values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from refold.core.outcome import Entry
from refold.store import Dirty
from refold.store.postgres.rows import JOURNAL_COLUMNS

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END: Final = b"\xff\xff"
_COLUMNS: Final = len(JOURNAL_COLUMNS).to_bytes(2, "big")
_NULL: Final = b"\xff\xff\xff\xff"
_EMPTY: Final = bytes(4)
_LENGTH: Final = struct.Struct(">i")
_NUMBERS: Final = struct.Struct(">iqiqiqiqiqihihi?")
_LAST: Final = struct.Struct(">iq")
_USUAL_TAIL: Final = b"".join((_NULL, _EMPTY, _EMPTY, _NULL, _LAST.pack(8, 0)))
"""No effect, no reason, no detail, no identity, no first sequence."""


def journal_copy(documents: Iterable[Dirty]) -> bytes:
    """Return the journal entries of these documents as the input of a binary COPY into `JOURNAL_COLUMNS`."""
    parts = [_SIGNATURE]
    for dirty in documents:
        if dirty.journal:
            document = dirty.document
            names = b"".join((_text(document.namespace), _text(document.document)))
            head = _COLUMNS + names
            for entry in dirty.journal:
                _add_row(parts, head, entry)
    parts.append(_END)
    return b"".join(parts)


def _add_row(parts: list[bytes], head: bytes, e: Entry) -> None:
    whence = (8, e.sequence, 8, e.time, 8, e.recorded_at, 8, e.occurred_at)
    numbers = _NUMBERS.pack(*whence, 8, e.version, 2, e.status, 2, e.kind, 1, e.is_creation)
    headers, body = e.headers, e.body
    length = _LENGTH.pack
    subject = _nullable(e.subject)
    parts += (head, numbers, subject, length(len(headers)), headers, length(len(body)), body)
    if e.effect is e.identity is None and not e.reason and not e.first_sequence:
        parts.append(_USUAL_TAIL)
        return
    made = (_nullable(e.effect), _text(e.reason), _text(e.detail), _nullable(e.identity))
    parts += (*made, _LAST.pack(8, e.first_sequence))


def _nullable(value: bytes | None) -> bytes:
    return _NULL if value is None else _bytes(value)


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
