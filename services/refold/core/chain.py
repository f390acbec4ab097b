"""The hash chain over a partition's events: the second witness of what the log once held.

SHA-256 over (previous, sequence, broker's time, subject, author's headers, body); integers are 8 bytes
big-endian, lengths 4. Seeded with the log id and the partition. Used by whoever folds or verifies.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final

from refold.core.record import Record, author_headers

_LINK: Final = struct.Struct(">32sQqI")
_LENGTH: Final = struct.Struct(">I")


def seed(log_id: str, partition: int) -> bytes:
    """Return the chain before a partition's first event: SHA-256 over (length, log id, partition)."""
    name = log_id.encode()
    return sha256(_LENGTH.pack(len(name)) + name + partition.to_bytes(8, "big")).digest()


def link(previous: bytes, record: Record) -> bytes:
    """Return the chain after one more event."""
    sequence, time, subject, headers, body = record
    if headers:
        headers = author_headers(headers)
    head = _LINK.pack(previous, sequence, time, len(subject))
    length = _LENGTH.pack
    return sha256(b"".join((head, subject, length(len(headers)), headers, length(len(body)), body))).digest()
