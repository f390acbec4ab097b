"""The history of one document: entries, segments of them, and the state at any version or time.

The projector makes entries, the store keeps them in segments (packed into pages), and readers fold them again.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import ABSENT, KINDS, STATUSES, UNBOUNDED, Document, Kind, Status, to_canonical
from refold.core.envelope import open_envelope
from refold.core.json_text import Json
from refold.core.patch import apply_again
from refold.core.pointer import parse
from refold.core.timestamp import TIME_MIN_NANOSECONDS


class Entry(NamedTuple):
    """One event of a document with its outcome: what journal and pages keep, exactly once.

    Times are nanoseconds since 1970; `time` is the broker's clock, `recorded_at` the same made monotonic,
    `occurred_at` the author's, else `recorded_at`. `subject` is None where it is the document's usual one;
    `headers` are the author's; `effect` is the effective patch in canonical bytes where the fold changed it;
    `identity` what the dedup window keeps (`refold.core.dedup`), None for an event that takes no place there.
    `first_sequence` is the sequence of the event that a duplicate repeats, else 0.
    """

    sequence: int
    time: int
    recorded_at: int
    occurred_at: int
    version: int
    status: Status
    kind: Kind
    is_creation: bool
    subject: bytes | None
    headers: bytes
    body: bytes
    effect: bytes | None
    reason: str
    detail: str
    identity: bytes | None
    first_sequence: int

    @property
    def size(self) -> int:
        """Count the bytes that make a page full."""
        return len(self.body) + len(self.headers) + len(self.effect or b"")


class Clock(Enum):
    """What a point in a document's history is measured by."""

    version = "version"
    sequence = "sequence"
    recorded = "recorded"
    occurred = "occurred"


class Point(NamedTuple):
    """A point in a document's history: the last effective event at or before `value` on that clock."""

    clock: Clock
    value: int


class Snapshot(NamedTuple):
    """A document's whole state at one version, with its event's sequence and times (nanoseconds).

    `state` is canonical bytes, None where the document is absent. `occurred_max` is the running maximum.
    """

    version: int
    state: bytes | None
    sequence: int
    recorded_at: int
    occurred_at: int
    occurred_max: int


class Segment(NamedTuple):
    """A snapshot, the sequence of the last event folded into it, and the entries that follow."""

    base: Snapshot
    base_sequence: int
    entries: list[Entry]


_WHOLE: Final = frozenset({Kind.put, Kind.delete})

NEVER: Final = Snapshot(0, None, 0, TIME_MIN_NANOSECONDS, TIME_MIN_NANOSECONDS, TIME_MIN_NANOSECONDS)
"""Version 0: what every document is before its first effective event."""


def snapshot_of(document: Document, state: bytes | None) -> Snapshot:
    """Return a document's head as a snapshot; `state` is its canonical bytes."""
    if document.version == 0:
        return NEVER
    return Snapshot(
        document.version,
        state,
        document.version_sequence,
        document.recorded_at,
        document.occurred_at,
        document.occurred_max,
    )


def state_at(segment: Segment, point: Point) -> Snapshot:
    """Fold a segment up to a point within it; its entries were accepted once, so that their patches apply again."""
    occurred_max = segment.base.occurred_max
    chosen: list[Entry] = []
    for entry in segment.entries:
        if entry.status <= Status.merged:
            newest = max(occurred_max, entry.occurred_at)
            if _value_on(point.clock, entry, newest) > point.value:
                break
            occurred_max = newest
            chosen.append(entry)
    if not chosen:
        return segment.base
    last = chosen[-1]
    state = _replay(segment.base.state, chosen)
    return Snapshot(last.version, state, last.sequence, last.recorded_at, last.occurred_at, occurred_max)


def _value_on(clock: Clock, entry: Entry, occurred_max: int) -> int:
    if clock is Clock.version:
        return entry.version
    if clock is Clock.sequence:
        return entry.sequence
    return entry.recorded_at if clock is Clock.recorded else occurred_max


def _replay(base: bytes | None, entries: list[Entry]) -> bytes | None:
    """Start at the last write of the whole document, if there is one, else at the base."""
    start = next((i for i in range(len(entries) - 1, -1, -1) if entries[i].kind in _WHOLE), None)
    state: Json = ABSENT
    size = 0
    if start is None and base is not None:
        state, size = json_text.reread(base), len(base)
    elif start is not None and entries[start].kind is Kind.put:
        state = _fields(entries[start])["put"]
        size = json_text.size(state)
    for entry in entries[0 if start is None else start + 1 :]:
        if state is ABSENT:
            state, size = {}, 2
        patch = _fields(entry)["patch"] if entry.effect is None else json_text.reread(entry.effect)
        state, size = apply_again(state, patch, size=size)
    return to_canonical(state)


def _fields(entry: Entry) -> dict[str, Json]:
    return open_envelope(entry.headers, entry.body, UNBOUNDED).fields


def operations_of(entry: Entry) -> list[Json]:
    """Return an effective entry's change: the RFC 6902 patch that turns the version before into its own."""
    if entry.effect is not None:
        return list(json_text.reread(entry.effect))
    if entry.kind is Kind.delete:
        return [{"op": "remove", "path": ""}]
    fields = _fields(entry)
    if entry.kind is Kind.put:
        return [{"op": "add" if entry.is_creation else "replace", "path": "", "value": fields["put"]}]
    return list(fields["patch"])


def touches(operations: list[Json], tokens: tuple[str, ...]) -> bool:
    """Return whether a patch wrote the value at a path, a value inside it or one around it."""
    for operation in operations:
        written = [operation["path"]] if operation["op"] != "test" else []
        if operation["op"] == "move":
            written.append(operation["from"])
        for pointer in written:
            shared = min(len(parts := parse(pointer)), len(tokens))
            if parts[:shared] == tokens[:shared]:
                return True
    return False


_ENTRY: Final = struct.Struct(">QqqqQQBBBHIIIHHH")
_CREATION, _SUBJECT, _EFFECT, _IDENTITY = 1, 2, 4, 8


def pack(entries: list[Entry]) -> bytes:
    """Pack a segment's entries into one page's bytes: the count, a fixed index, then all that varies in length."""
    index = [len(entries).to_bytes(4, "big")]
    blobs: list[bytes] = []
    for e in entries:
        numbers = (*e[:5], e.first_sequence, e.status, e.kind)
        flags = _CREATION * e.is_creation
        if e.subject is e.effect is e.identity is None and not e.reason:
            # Most entries: a page is packed in less time without the rest.
            texts = (b"", e.headers, e.body, b"", b"", b"", b"")
        else:
            flags |= _SUBJECT * (e.subject is not None)
            flags |= _EFFECT * (e.effect is not None) | _IDENTITY * (e.identity is not None)
            tail = (e.effect or b"", e.reason.encode(), e.detail.encode(), e.identity or b"")
            texts = (e.subject or b"", e.headers, e.body, *tail)
        index.append(_ENTRY.pack(*numbers, flags, *map(len, texts)))
        blobs += texts
    return b"".join(index + blobs)


def unpack(page: bytes) -> list[Entry]:
    """Take a page's bytes apart into its entries."""
    count = int.from_bytes(page[:4], "big")
    at = 4 + count * _ENTRY.size
    entries = []
    for numbers in _ENTRY.iter_unpack(page[4:at]):
        first_sequence, status, kind, flags = numbers[5:9]
        blobs = []
        for length in numbers[9:]:
            blobs.append(page[at : at + length])
            at += length
        subject, headers, body, effect, reason, detail, identity = blobs
        entry = (
            *numbers[:5],
            STATUSES[status],
            KINDS[kind],
            bool(flags & _CREATION),
            subject if flags & _SUBJECT else None,
            headers,
            body,
            effect if flags & _EFFECT else None,
            reason.decode(),
            detail.decode(),
            identity if flags & _IDENTITY else None,
            first_sequence,
        )
        entries.append(Entry._make(entry))
    return entries
