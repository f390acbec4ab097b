"""A digest of the log, read once in order: clock, chains, fold numbers, and one digest for each document's events.

Only the system's own documents are folded. `refold verify` compares a projection with it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from refold.core.document import Document
from refold.core.fold.rules import FOLD_MAX
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import PARTITIONS, SYSTEM_NAMESPACE, Record, Route, author_headers

_EVENT: Final = struct.Struct(">16sQqqII")
_DIGEST_BYTES: Final = 16
EMPTY_DIGEST: Final = bytes(_DIGEST_BYTES)
"""The digest of a document without events."""

UNROUTABLE: Final = ("", "")
"""The key of all events that belong to no document."""


def digest_of(previous: bytes, record: Record, recorded_at: int) -> bytes:
    """Return a document's digest after one more event, given with its author's headers only."""
    sequence, time, subject, headers, body = record
    packed = _EVENT.pack(previous, sequence, time, recorded_at, len(subject), len(headers))
    return sha256(b"".join((packed, subject, headers, body))).digest()[:_DIGEST_BYTES]


class LogDigest:
    """The log up to where it has been read; a document that is not wanted has no digest."""

    def __init__(self, log_id: str, wants: Callable[[Route], bool]) -> None:
        """Begin before the first event."""
        self._shard = FoldState(first_checkpoints(log_id))
        self._wants = wants
        self._system: dict[str, Document] = {}
        self._fold_numbers = [(0, 1)]
        self.digests: dict[tuple[str, str], bytes] = {}
        self.refused = [0] * PARTITIONS
        self.checkpoints = self._shard.checkpoints

    def add(self, record: Record) -> None:
        """Read one more event. Raises `FoldUnknown`, `LogHole`."""
        shard = self._shard
        where = shard.route(record.subject)
        record = record._replace(headers=author_headers(record.headers))
        if where.namespace == SYSTEM_NAMESPACE:
            self._fold(record, where)
        else:
            shard.witness(record, where)
            if where.reason:
                self.refused[where.partition] += 1
        if self._wants(where):
            key = where[1:3]
            self.digests[key] = digest_of(self.digests.get(key, EMPTY_DIGEST), record, shard.recorded_at)

    def fold_number_at(self, sequence: int) -> int:
        """Return the fold number in force for the event at a sequence."""
        return self._fold_numbers[bisect_right(self._fold_numbers, (sequence, FOLD_MAX)) - 1][1]

    def _fold(self, record: Record, where: Route) -> None:
        fresh = Document(namespace=where.namespace, document=where.document, partition=where.partition)
        self._shard.fold(record, where, self._system.setdefault(where.document, fresh))
        if record.sequence == 1:
            # A genesis is folded by the rules of its own number.
            self._fold_numbers = [(0, self._shard.fold_number)]
        elif self._shard.fold_number != self._fold_numbers[-1][1]:
            self._fold_numbers.append((record.sequence + 1, self._shard.fold_number))
