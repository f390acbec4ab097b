"""The history of one document: entries, segments of them, points in it, and the change of one entry.

The projector makes entries, the store keeps them in segments (`page`), and readers apply them again (`replay`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.document import UNBOUNDED, Document, Kind, Status
from refold.core.envelope import open_envelope
from refold.core.json_text import Json
from refold.core.pointer import parse
from refold.core.timestamp import TIME_MIN_NANOSECONDS


class Entry(NamedTuple):
    """One event of a document with its outcome: what journal and pages keep, exactly once.

    Times are nanoseconds since 1970; `time` is the broker's clock, `recorded_at` the same made monotonic,
    `occurred_at` the author's, else `recorded_at`. `subject` is None where it is the document's usual one;
    `headers` are the author's; `effect` is the effective patch in canonical bytes where the fold changed it;
    `identity` what the dedup window keeps (`refold.core.dedup`), None for an event that takes no place there.
    `first_sequence` is the sequence of the event that a duplicate repeats, else 0. `conflict` is, in canonical bytes,
    what came of resolving a stale event.
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
    conflict: bytes | None = None

    @property
    def size(self) -> int:
        """Count the bytes that make a page full."""
        # By position: an attribute of a NamedTuple takes twice as long.
        return len(self[10]) + len(self[9]) + len(self[11] or b"")


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


def fields_of(entry: Entry) -> dict[str, Json]:
    """Return the fields of an entry's event, as it was published."""
    return open_envelope(entry.headers, entry.body, UNBOUNDED).fields


def operations_of(entry: Entry, fields: Mapping[str, Json] | None = None) -> list[Json]:
    """Return an effective entry's change: the RFC 6902 patch that turns the version before into its own.

    `fields` are the event's, where they are known.
    """
    if entry.effect is not None:
        return list(json_text.reread(entry.effect))
    if entry.kind is Kind.delete:
        return [{"op": "remove", "path": ""}]
    if fields is None:
        fields = fields_of(entry)
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
