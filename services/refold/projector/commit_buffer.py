"""What has been folded since the last commit began: it becomes one transaction. Used by the projector's loop.

The loop folds into one buffer while another is being committed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, Self

from refold.core.document import ABSENT, Document, to_canonical
from refold.core.history import Entry, snapshot_of
from refold.core.stream import ShardCheckpoint
from refold.store import ClosedPage, Commit, DocumentWrite, Key, Rejection
from refold.store.ports import ProjectionWriter

RECORDS_FOLDED_MAX: Final = 500
"""Records folded before other tasks run (about ten milliseconds)."""

PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
"""Memory of events that are folded and not yet committed."""

COMMIT_SECONDS: Final = 2.0
"""A live commit that takes longer makes the next ones smaller. A replay's commits have no such bound."""

PAGE_EVENTS_MAX: Final = 128
"""Events in one page."""

PAGE_BYTES_MIN: Final = 64 * 1024
"""A page is also full at this many bytes of events, or at its snapshot's size if that is larger."""

RUN_EVENTS_MIN: Final = 8
"""From this many on, and with as many bytes as its snapshot, a document's events in one commit become a page without
being in the journal first."""

ENTRY_BYTES: Final = 300
"""What an entry costs in memory in addition to its bytes."""


@dataclass(slots=True)
class _Unwritten:
    """A document with uncommitted events: what it was before them, and those that are in no page yet.

    `journal_bytes` of its open segment are in the journal, from earlier commits. `closed_state` is its canonical state
    as long as nothing has been added since its last page was closed.
    """

    document: Document
    version_before: int
    events_before: int
    was_present: bool
    journal_bytes: int
    journal: list[Entry] = field(default_factory=list)
    closed_state: bytes | None = None

    @classmethod
    def of(cls, document: Document, first: Entry) -> Self:
        """Begin with the first event, which is folded already."""
        is_effective = first.status.is_effective
        was_present = not first.is_creation if is_effective else document.state is not ABSENT
        before = (document.version - is_effective, document.events - 1, was_present)
        return cls(document, *before, document.unpaged_bytes)


class CommitBuffer:
    """Entries by document, pages and rejections, in the order of the log."""

    def __init__(self, after_sequence: int) -> None:
        """Begin after the sequence that the checkpoints have when this is committed."""
        self.after_sequence = after_sequence
        self.rejections: list[Rejection] = []
        self.pages: list[ClosedPage] = []
        self.events = 0
        self.bytes = 0
        self.pages_bytes = 0
        self._unwritten: dict[Key, _Unwritten] = {}

    @property
    def keys(self) -> set[Key]:
        """Return the documents that are not yet committed."""
        return set(self._unwritten)

    def entries_of(self, key: Key) -> list[Entry]:
        """Return a document's entries, in order."""
        if key not in self._unwritten:
            return []
        pages = (page.entries for page in self.pages if (page.namespace, page.document) == key)
        return [*chain.from_iterable(pages), *self._unwritten[key].journal]

    def add(self, document: Document, entry: Entry) -> None:
        """Add a folded event; close a page where the document's open segment is full."""
        key = (document.namespace, document.document)
        unwritten = self._unwritten.get(key)
        if unwritten is None:
            unwritten = self._unwritten[key] = _Unwritten.of(document, entry)
        unwritten.journal.append(entry)
        entry_bytes = entry.size
        self.events += 1
        self.bytes += entry_bytes + ENTRY_BYTES
        document.unpaged_events += 1
        document.unpaged_bytes += entry_bytes
        # With fewer events and bytes no page is full.
        if document.unpaged_events < PAGE_EVENTS_MAX and document.unpaged_bytes < PAGE_BYTES_MIN:
            return
        if _is_full(document):
            self._close_page(unwritten)

    def count(self, event_bytes: int) -> None:
        """Count an event and the memory that it takes until it is committed."""
        self.events += 1
        self.bytes += event_bytes + ENTRY_BYTES

    def close_segments(self, *, bytes_max: int = 0) -> None:
        """Close pages where this commit's own events are worth a snapshot: they need no journal then.

        The longest segments come first, until the rest takes no more than `bytes_max` of memory.
        """
        worthy = filter(_is_worth_a_page, self._unwritten.values())
        for unwritten in sorted(worthy, key=lambda it: len(it.journal), reverse=True):
            if self.bytes - self.pages_bytes <= bytes_max:
                return
            self._close_page(unwritten)

    def take_pages(self) -> list[ClosedPage]:
        """Take the closed pages out: they are written ahead of the commit."""
        taken, self.pages = self.pages, []
        self.bytes -= self.pages_bytes
        self.pages_bytes = 0
        return taken

    def to_commit(self, checkpoint: ShardCheckpoint, store: ProjectionWriter) -> Commit:
        """Make one transaction of everything; the documents may change while it is written."""
        return Commit(
            expected_sequence=self.after_sequence,
            checkpoint=checkpoint,
            documents=[_write_of(unwritten, store) for unwritten in self._unwritten.values()],
            pages=self.pages,
            rejections=self.rejections,
        )

    def _close_page(self, unwritten: _Unwritten) -> None:
        document, entries = unwritten.document, unwritten.journal
        state = unwritten.closed_state = to_canonical(document.state)
        self.pages.append(
            ClosedPage(
                namespace=document.namespace,
                document=document.document,
                journal_events=document.unpaged_events - len(entries),
                entries=entries,
                closing=snapshot_of(document, state),
                events=document.events,
            )
        )
        own_bytes = document.unpaged_bytes - unwritten.journal_bytes + ENTRY_BYTES * len(entries)
        unwritten.journal, unwritten.journal_bytes = [], 0
        document.unpaged_events = document.unpaged_bytes = 0
        document.page_bytes = len(state or b"")
        self.bytes += document.page_bytes
        self.pages_bytes += document.page_bytes + own_bytes


def _is_full(document: Document) -> bool:
    """A page grows with the snapshot that it amortises, up to eight times the usual count."""
    scale = min(8, max(1, document.page_bytes // PAGE_BYTES_MIN))
    is_long = document.unpaged_events >= PAGE_EVENTS_MAX * scale
    return is_long or document.unpaged_bytes >= max(PAGE_BYTES_MIN, document.page_bytes)


def _is_worth_a_page(unwritten: _Unwritten) -> bool:
    document = unwritten.document
    return len(unwritten.journal) >= RUN_EVENTS_MIN and document.unpaged_bytes >= document.size


def _write_of(unwritten: _Unwritten, store: ProjectionWriter) -> DocumentWrite:
    document, journal = unwritten.document, unwritten.journal
    is_changed = document.version != unwritten.version_before
    has_state = store.wants_state(document, is_changed=is_changed)
    state = None
    if has_state:
        state = to_canonical(document.state) if journal else unwritten.closed_state
    return DocumentWrite(
        # A copy: the document itself changes while this is written.
        document=replace(document, state=None, identities={}),
        state=state,
        is_new=not unwritten.events_before,
        was_present=unwritten.was_present,
        added_events=document.events - unwritten.events_before,
        has_state=has_state,
        journal=journal,
    )


class AdaptiveBatch:
    """Bound the next commit's events by the last one's duration: large commits cost least, but delay every event."""

    def __init__(self, events_max: int) -> None:
        """Begin with, and never exceed, this many."""
        self._events_max_ever = events_max
        self.events_max = events_max

    def learn(self, events: int, seconds: float) -> None:
        """Adapt to how long a commit of so many events took."""
        if seconds <= COMMIT_SECONDS:
            self.events_max = min(2 * self.events_max, self._events_max_ever)
        else:
            fitting = int(events * COMMIT_SECONDS / seconds)
            self.events_max = min(max(fitting, RECORDS_FOLDED_MAX), self._events_max_ever)
