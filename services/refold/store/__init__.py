"""Values that every store takes and returns, and the error for stored content that cannot be read.

`refold.store.ports` has the protocols; adapters are `refold.store.postgres` and `refold.store.memory`.
"""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self

from refold.core import json_text
from refold.core.document import Document, Limits
from refold.core.envelope import open_envelope
from refold.core.errors import Refused, StoreDamaged
from refold.core.history import NEVER, Clock, Entry, Point, Segment, Snapshot
from refold.core.stream import NAME_RULE, Record, Route, ShardCheckpoint, check_document
from refold.core.timestamp import TIME_MAX_NANOSECONDS

ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of one answer of a list or a history; `next` continues it."""

SHARD_LEASE_SECONDS: Final = 5.0
"""A shard's lease can be taken over after its holder has been silent for this long."""

STATE_LAG_BYTES: Final = 32 * 1024
"""Canonical bytes of a state; a larger one is not written to its row with every commit."""

STATE_LAG_SECONDS: Final = 1.0
"""The longest that a row keeps an older state; reads fold what is missing."""

REBUILD_LOCK_SECONDS: Final = 5
"""The longest that a rebuild waits for the live projection's locks and lease."""

NEEDS_RESOLUTION: Final = "needs_resolution"
"""The reason of a rejection that a resolver decides on: it is open until an accepted event `resolves` it."""

LAST: Final = "\U0010ffff"
"""Sorts after every character of a name, so that `prefix + LAST` ends the names that begin with the prefix."""

ABOUT_CHARS_MAX: Final = 256
"""Characters of each of the author's texts in a rejection's row; the event itself is kept whole."""

PAGES_KEPT: Final = 2
"""Closed pages that a store of recent depth keeps of a document, beside the open segment."""

REJECTIONS_KEPT_MAX: Final = 1_000
"""Rejections that such a store keeps of a namespace, and those that are open."""

UNROUTABLE_KEPT_MAX: Final = 10_000
"""Rejections that it keeps of events whose subject names no document."""

Key = tuple[str, str]
"""Namespace and document."""

OMITTED: Final = b""
"""Stands for the state of a present document that a read left out; no state's canonical bytes are empty."""

ANY_VERSION: Final = -1
"""The `known_version` of a read that needs no state at all."""

KEYS_CACHED_MAX: Final = 100_000
"""Documents whose partitions are remembered: computing one takes 2 to 3 microseconds."""


@lru_cache(KEYS_CACHED_MAX)
def partition_of_key(key: Key) -> int:
    """Return a document's partition, from a cache."""
    return Route.of(*key).partition


class Depth(Enum):
    """How much of a document's history a store keeps."""

    full = "full"
    """Every version."""
    recent = "recent"
    """The head, the dedup window and the last two pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do beyond the ports.

    Without `has_where`, a search by `where` is refused; with it, only where states are encrypted.
    """

    depth: Depth
    has_where: bool


class Head(NamedTuple):
    """A document's newest snapshot, and the sequence of its last event of any outcome."""

    namespace: str
    document: str
    snapshot: Snapshot
    last_sequence: int

    def without_state(self) -> Head:
        """Return it with the state of a present document `OMITTED`."""
        return self._replace(snapshot=self.snapshot._replace(state=OMITTED))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedPage:
    """A page that a commit writes: a run of a document's entries, and the document after the last of them.

    The page begins with `journal_events` entries that earlier commits left in the journal, all that it has of the
    document. `entries` are all of the page where `is_whole`, else those that are not in the journal.
    `closing` is the snapshot after the last entry, `events` the number of the document's events up to there.
    """

    namespace: str
    document: str
    journal_events: int
    entries: list[Entry]
    is_whole: bool
    closing: Snapshot
    events: int

    @property
    def new_entries(self) -> list[Entry]:
        """Return the entries that are not in the journal."""
        return self.entries[self.journal_events :] if self.is_whole else self.entries


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentWrite:
    """What one commit writes of one document: its head, and the entries that no page of the commit has.

    `state` is the head's canonical bytes, None where it is absent. `is_new`: the store has no row of it yet.
    Without `has_state` the state is left out, because the store did not want it (`ProjectionWriter.wants_state`).
    `was_present` and `added_events` say what the commit changes in its namespace's counts.
    """

    document: Document
    state: bytes | None
    is_new: bool
    was_present: bool
    added_events: int
    has_state: bool = True
    journal: list[Entry] = field(default_factory=list)

    @property
    def added_documents(self) -> int:
        """Return what the commit adds to the number of present documents: -1, 0 or 1."""
        return (self.state is not None or not self.has_state) - self.was_present


class Connections(NamedTuple):
    """Connections of a process for its reads: used, open and idle, and how many there may be."""

    used: int
    idle: int
    limit: int


class Rejection(NamedTuple):
    """An event that the fold rejected. `namespace` and `document` are empty where its subject names no document.

    Only then `record` holds the event itself; a document's own events are in its journal and pages.
    `about` is canonical JSON bytes of the author's `id`, `actor` and `type`: bytes, because SQL's text type cannot
    hold U+0000. `reason` and `detail` hold no U+0000. `resolved_by` is the sequence of the first accepted event that
    `resolves` this one, where it needs a resolution.
    """

    namespace: str
    document: str
    partition: int
    sequence: int
    recorded_at: int
    reason: str
    detail: str
    about: bytes
    record: Record | None
    resolved_by: int | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether it waits for a resolver's decision."""
        return self.reason == NEEDS_RESOLUTION and self.resolved_by is None

    @classmethod
    def of_entry(cls, where: Route, entry: Entry, limits: Limits) -> Self:
        """Make the rejection of a document's own event."""
        names = (where.namespace, where.document, where.partition)
        about = _about(entry.headers, entry.body, limits)
        return cls(*names, entry.sequence, entry.recorded_at, entry.reason, entry.detail, about, None)

    @classmethod
    def unroutable(cls, where: Route, record: Record, recorded_at: int) -> Self:
        """Make the rejection of an event whose subject names no document; its record has the author's headers only."""
        names = b".".join(record.subject.rsplit(b".", 2)[-2:])[:200].decode("latin-1")
        shown = names.encode("unicode_escape").decode()
        detail = f"state.{shown}: {NAME_RULE} in a name; all else of a document id escaped (%20)"
        return cls("", "", where.partition, record.sequence, recorded_at, where.reason, detail, b"{}", record)


def _about(headers: bytes, body: bytes, limits: Limits) -> bytes:
    """Return id, actor and type of a rejected event, as far as they can be read."""
    try:
        fields = open_envelope(headers, body, limits).fields
    except Refused:
        return b"{}"
    names = ("id", "actor", "type")
    texts = {name: fields[name][:ABOUT_CHARS_MAX] for name in names if isinstance(fields.get(name), str)}
    return json_text.dumps(texts)


class Resolution(NamedTuple):
    """An accepted event, at `resolved_by`, that `resolves` an earlier event of its document, at `sequence`."""

    namespace: str
    document: str
    partition: int
    sequence: int
    resolved_by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction: the shard advances from `expected_sequence` (the `read_sequence` of its partitions so far).

    `pages` are in the order of each document's history. `resolutions` has one for each event that is resolved, the
    first; those of events that need none, or have one already, change nothing.
    """

    expected_sequence: int
    checkpoint: ShardCheckpoint
    documents: Sequence[DocumentWrite]
    pages: Sequence[ClosedPage]
    rejections: Sequence[Rejection]
    resolutions: Sequence[Resolution] = ()


class VersionAt(NamedTuple):
    """A document's version and the sequence of the event that made it; both are 0 where it never had one."""

    version: int
    sequence: int


class BoundLog(NamedTuple):
    """The log that a projection was made from, and how far it was folded (0 where that cannot be read)."""

    log_id: str
    read_sequence: int


class NamespaceCount(NamedTuple):
    """A namespace with its documents (absent ones left out) and events (of any outcome)."""

    namespace: str
    documents: int
    events: int


class Page(NamedTuple):
    """A bounded list of documents; `cursor` continues it, None at the end."""

    heads: list[Head]
    cursor: str | None


class Name(NamedTuple):
    """A document that has had a version, whether it is present now or not."""

    document: str
    version: int
    recorded_at: int
    is_present: bool


class Names(NamedTuple):
    """A bounded list of names; `cursor` continues it, None at the end."""

    names: list[Name]
    cursor: str | None


DAMAGES: Final = (
    Refused,
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
"""What decoding damaged content may raise."""


ROW_MISSING: Final = "its row is missing, while events of it are stored"
"""What is damaged where a document has events and no row."""


def refuse_where(where: str | None) -> None:
    """Refuse a search by `where`: for stores without `Capabilities.has_where`."""
    if where is not None:
        raise Refused("where_needs_postgres", "only Postgres evaluates SQL/JSON paths", field="where")


@contextmanager
def reading_stored(namespace: str, document: str) -> Iterator[None]:
    """Raise what decoding a document's stored content raises as `StoreDamaged`: it was valid when it was stored."""
    try:
        yield
    except DAMAGES as error:
        cause = f"{type(error).__name__}: {error}"
        raise damaged(namespace, document, "its stored content cannot be read", cause=cause) from error


def damaged(namespace: str, document: str, what: str, **facts: Any) -> StoreDamaged:
    """Make the error that names a document."""
    return StoreDamaged(f"{namespace}/{document}: {what}", namespace=namespace, document=document, **facts)


# --- Where a read begins: the segment that holds a point, the cursor that continues a list --------------------

_ANY = TIME_MAX_NANOSECONDS
"""No base is beyond it on any clock."""


class SegmentBounds(NamedTuple):
    """Bounds of a search for a segment: the last one whose base is at or before all of them."""

    base_sequence: int = _ANY
    version: int = _ANY
    version_sequence: int = _ANY
    recorded_at: int = _ANY
    occurred_max: int = _ANY

    @classmethod
    def of(cls, point: Point) -> Self:
        """Bound one clock, within int64 and no lower than the first segment of every document."""
        name = _FIELDS[point.clock]
        first = getattr(NEVER, "sequence" if name == "version_sequence" else name)
        return cls(**{name: min(max(point.value, first), _ANY)})

    def include(self, base: Snapshot, base_sequence: int) -> bool:
        """Tell whether a segment's base is within the bounds."""
        position = (base_sequence, base.version, base.sequence, base.recorded_at, base.occurred_max)
        return all(value <= bound for value, bound in zip(position, self, strict=True))


_FIELDS = {
    Clock.version: "version",
    Clock.sequence: "version_sequence",
    Clock.recorded: "recorded_at",
    Clock.occurred: "occurred_max",
}


def first_bounds(after_version: int | None, *, is_descending: bool) -> SegmentBounds:
    """Bound the segment that a history begins with."""
    if after_version is None:
        return SegmentBounds() if is_descending else SegmentBounds(base_sequence=0)
    return SegmentBounds.of(Point(Clock.version, after_version - 1 if is_descending else after_version))


def edge_of(after_sequence: int | None, *, is_descending: bool) -> int:
    """Return the sequence after which, in the requested order, a list begins."""
    if after_sequence is not None:
        return after_sequence
    return _ANY if is_descending else 0


def beyond(segment: Segment, edge: int | None, *, is_descending: bool) -> Segment:
    """Leave out of a segment what is before an edge, in the requested order."""
    if edge is None:
        return segment
    entries = [entry for entry in segment.entries if (entry.sequence > edge) is not is_descending]
    return segment._replace(entries=entries)


def write_cursor(document: str) -> str:
    """Make the cursor after the last document of a page."""
    return urlsafe_b64encode(document.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str:
    """Return the document that a list continues after; without a cursor the empty name, which sorts first."""
    if cursor is None:
        return ""
    try:
        return check_document(
            b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode(), "cursor"
        )
    except (Refused, binascii.Error, ValueError):
        rule = "is not one that a list answered as `next`"
        raise Refused("bad_cursor", rule, field="cursor", shape=repr(cursor[:40])) from None
