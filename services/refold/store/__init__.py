"""Values that every store takes and gives, and the error for stored content that cannot be read.

`refold.store.ports` has the protocols; adapters are `refold.store.postgres` and `refold.store.memory`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from refold.core.document import Document
from refold.core.errors import Refused, StoreDamaged
from refold.core.history import Entry, Snapshot
from refold.core.stream import Record, ShardCheckpoint

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

Key = tuple[str, str]
"""Namespace and document."""


class Depth(Enum):
    """How much of a document's history a store keeps."""

    full = "full"
    """Every version."""
    recent = "recent"
    """The head, the dedup window and the last two pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do beyond the ports. Without `has_where`, a search by `where` is refused."""

    depth: Depth
    has_where: bool


class Head(NamedTuple):
    """A document's newest snapshot, and the sequence of its last event of any outcome."""

    namespace: str
    document: str
    snapshot: Snapshot
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedPage:
    """A page that a commit closes.

    `entries` are this commit's own; with `has_journal` the journal's entries of earlier commits come before them.
    `closing` is the snapshot after the last entry; it opens the next page.
    """

    entries: list[Entry]
    closing: Snapshot
    has_journal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentWrite:
    """What one commit writes of one document: its head, the pages it closes in order, and its journal entries.

    `state` is the head's canonical bytes, None where it is absent. `is_new`: the store has no row of it yet.
    Without `has_state` the state is left out, because the store did not want it (`ProjectionWriter.wants_state`).
    """

    document: Document
    state: bytes | None
    is_new: bool
    has_state: bool = True
    pages: list[ClosedPage] = field(default_factory=list)
    journal: list[Entry] = field(default_factory=list)

    @property
    def is_present(self) -> bool:
        """Tell whether the document exists after the commit."""
        return self.state is not None or not self.has_state

    def entries(self) -> Iterator[Entry]:
        """Yield this commit's entries in order."""
        for page in self.pages:
            yield from page.entries
        yield from self.journal


class Rejection(NamedTuple):
    """An event that the fold rejected. `namespace` and `document` are empty where its subject names no document.

    Only then `record` holds the event itself; a document's own events are in its journal and pages.
    `about` is canonical JSON bytes of the author's `id`, `actor` and `type`: bytes, because SQL's text type cannot
    hold U+0000. `reason` and `detail` hold no U+0000.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction: the shard advances from `expected_sequence` (the `read_sequence` of its partitions so far)."""

    expected_sequence: int
    checkpoint: ShardCheckpoint
    documents: Sequence[DocumentWrite]
    rejections: Sequence[Rejection]


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


@contextmanager
def reading_stored(namespace: str, document: str) -> Iterator[None]:
    """Raise what decoding a document's stored content raises as `StoreDamaged`: it was valid when it was stored."""
    try:
        yield
    except DAMAGES as error:
        cause = f"{type(error).__name__}: {error}"
        raise damaged(namespace, document, "its stored content cannot be read", cause=cause) from error


def damaged(namespace: str, document: str, what: str, **facts: object) -> StoreDamaged:
    """Make the error that names a document."""
    return StoreDamaged(f"{namespace}/{document}: {what}", namespace=namespace, document=document, **facts)
