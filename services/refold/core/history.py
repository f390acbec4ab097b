"""The history of one document: entries, segments of them, and the state at any version or time.

The projector makes entries and segments, the store keeps them (packed into pages), readers fold them again.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import ABSENT, KINDS, STATUSES, Document, Kind, Status
from refold.core.envelope import open_envelope
from refold.core.json_text import Json
from refold.core.limits import UNBOUNDED
from refold.core.patch import apply_again
from refold.core.pointer import parse
from refold.core.timestamp import TIME_MIN_NANOSECONDS


class Entry(NamedTuple):
    """One event of a document with its outcome: what journal and pages keep, exactly once.

    Times are nanoseconds since 1970; `time` is the broker's clock, `recorded_at` the same made monotone,
    `occurred_at` the author's, else `recorded_at`. `subject` is None where it is the document's usual one;
    `headers` are the author's; `effect` the effective patch in canonical bytes where the fold changed it;
    `identity` what the id window keeps (`refold.core.dedup`), None for an event that takes no place there.
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
    """For a duplicate: the sequence of the event it repeats; else 0."""

    @property
    def size(self) -> int:
        """Count the bytes that make a page full."""
        return len(self.body) + len(self.headers) + len(self.effect or b"")


class Clock(Enum):
    """By what a point in a document's history is named."""

    version = "version"
    sequence = "sequence"
    recorded = "recorded"
    occurred = "occurred"


class Point(NamedTuple):
    """A place in a document's history: the last effective event at or before `value` on that clock."""

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
    """Fold a run up to a point that lies within it.

    The entries were accepted once, so their patches apply again; nothing here decides anything.
    """
    chosen, occurred_max = _effective_until(segment, point)
    if not chosen:
        return segment.base
    last = chosen[-1]
    state = _replay(segment.base.state, chosen)
    return Snapshot(last.version, state, last.sequence, last.recorded_at, last.occurred_at, occurred_max)


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


def _fields(entry: Entry) -> dict[str, Json]:
    """Open an accepted event; it was held to the rules when it was folded."""
    return open_envelope(entry.headers, entry.body, UNBOUNDED).fields


def _effective_until(segment: Segment, point: Point) -> tuple[list[Entry], int]:
    occurred_max = segment.base.occurred_max
    chosen: list[Entry] = []
    for entry in segment.entries:
        if entry.status > Status.merged:
            continue
        newest = max(occurred_max, entry.occurred_at)
        if _place_on(point.clock, entry, newest) > point.value:
            break
        occurred_max = newest
        chosen.append(entry)
    return chosen, occurred_max


def _place_on(clock: Clock, entry: Entry, occurred_max: int) -> int:
    if clock is Clock.version:
        return entry.version
    if clock is Clock.sequence:
        return entry.sequence
    return entry.recorded_at if clock is Clock.recorded else occurred_max


def _replay(base: bytes | None, entries: list[Entry]) -> bytes | None:
    """Start at the last write of the whole document, if there is one, else at the base."""
    start = next((i for i in range(len(entries) - 1, -1, -1) if entries[i].kind in _WHOLE), -1)
    state, size = _loaded(base) if start < 0 else _written(entries[start])
    for entry in entries[start + 1 :]:
        if state is ABSENT:
            state, size = {}, 2
        state, size = apply_again(state, _patch_of(entry), size=size)
    return None if state is ABSENT else json_text.dumps(state)


def _loaded(base: bytes | None) -> tuple[Json, int]:
    return (ABSENT, 0) if base is None else (json_text.reread(base), len(base))


def _written(entry: Entry) -> tuple[Json, int]:
    if entry.kind is Kind.delete:
        return ABSENT, 0
    state = _fields(entry)["put"]
    return state, json_text.size(state)


def _patch_of(entry: Entry) -> Json:
    return _fields(entry)["patch"] if entry.effect is None else json_text.reread(entry.effect)


_ENTRY: Final = struct.Struct(">QqqqQQBBBHIIIHHH")
_CREATION, _SUBJECT, _EFFECT, _IDENTITY = 1, 2, 4, 8


def pack(entries: list[Entry]) -> bytes:
    """Pack a run's entries into one page's bytes: the count, a fixed index, then all that varies in length."""
    index = [len(entries).to_bytes(4, "big")]
    blobs: list[bytes] = []
    for entry in entries:
        numbers, flags, texts = _parts(entry)
        index.append(_ENTRY.pack(*numbers, flags, *map(len, texts)))
        blobs += texts
    return b"".join(index + blobs)


def _parts(e: Entry) -> tuple[tuple[int, ...], int, tuple[bytes, ...]]:
    """Take an entry apart: what the index holds, its flags, what varies in length."""
    numbers = (
        e.sequence,
        e.time,
        e.recorded_at,
        e.occurred_at,
        e.version,
        e.first_sequence,
        e.status,
        e.kind,
    )
    if e.subject is e.effect is e.identity is None and not e.reason:
        return numbers, _CREATION * e.is_creation, (b"", e.headers, e.body, b"", b"", b"", b"")
    flags = (
        _CREATION * e.is_creation
        | _SUBJECT * (e.subject is not None)
        | _EFFECT * (e.effect is not None)
        | _IDENTITY * (e.identity is not None)
    )
    tail = (e.effect or b"", e.reason.encode(), e.detail.encode(), e.identity or b"")
    return numbers, flags, (e.subject or b"", e.headers, e.body, *tail)


def unpack(page: bytes) -> list[Entry]:
    """Take a page's bytes apart into its entries."""
    count = int.from_bytes(page[:4], "big")
    at = 4 + count * _ENTRY.size
    entries = []
    for numbers in _ENTRY.iter_unpack(page[4:at]):
        blobs = []
        for length in numbers[9:]:
            blobs.append(page[at : at + length])
            at += length
        entries.append(_entry(numbers, blobs))
    return entries


def _entry(numbers: tuple[int, ...], blobs: list[bytes]) -> Entry:
    sequence, time, recorded_at, occurred_at, version, first_sequence, status, kind, flags = numbers[:9]
    subject, headers, body, effect, reason, detail, identity = blobs
    return Entry(
        sequence,
        time,
        recorded_at,
        occurred_at,
        version,
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
