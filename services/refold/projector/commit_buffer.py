"""What has been folded since the last commit began: it becomes one transaction. Used by the projector's loop.

The loop folds into one buffer while another is being committed. `AdaptiveBatch` says how much a live commit may hold,
`CommitTimer` when it begins.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self

from refold.core.document import ABSENT, Document, to_canonical
from refold.core.history import Entry, snapshot_of
from refold.core.stream import PARTITIONS, Record, Route, ShardCheckpoint
from refold.projector.cache import ENTRY_BYTES
from refold.projector.tracing import Traced
from refold.store import ClosedPage, Commit, DocumentWrite, Key, Rejection, Resolution
from refold.store.ports import ProjectionWriter

RECORDS_FOLDED_MAX: Final = 500
"""Records folded before other tasks run (about ten milliseconds)."""

PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
"""Memory of events that are folded and not yet committed."""

COMMIT_SECONDS: Final = 2.0
"""A live commit that takes longer makes the next ones smaller. A replay's commits have no such bound."""

COMMIT_INTERVAL_SECONDS_MAX: Final = 0.2
COMMIT_INTERVAL_FACTOR: Final = 2
"""The interval is this many times the last commit's duration, within the bounds.

Measured at 18,000 events/s: a lag of 0.3 s at most; four times, up to 0.5 s, gave 0.7 s for an eighth less of CPU.
"""

PAGE_EVENTS_MAX: Final = 128
"""Events in one page."""

PAGE_BYTES_MIN: Final = 64 * 1024
"""A page is also full at this many bytes of events, or at its snapshot's size if that is larger."""

RUN_EVENTS_MIN: Final = 8
"""From this many on, and with as many bytes as its snapshot, a document's events in one commit become a page without
being in the journal first."""


@dataclass(slots=True)
class _Unwritten:
    """A document with uncommitted events: what it was before them, and its open segment, which is in no page yet.

    The segment is whole, or has only this commit's events. Earlier commits have written `journal_bytes` of it to the
    journal; its first `held_events` are some of those. `closed_state` is the document's canonical state as long as
    nothing has been added since its last page was closed.
    """

    document: Document
    version_before: int
    events_before: int
    was_present: bool
    journal_bytes: int
    segment: list[Entry]
    held_events: int
    closed_state: bytes | None = None

    @classmethod
    def of(cls, document: Document, first: Entry, segment: list[Entry]) -> Self:
        """Begin with the first event, which is folded already, and what is held of the segment before it."""
        is_effective = first.status.is_effective
        was_present = not first.is_creation if is_effective else document.state is not ABSENT
        before = (document.version - is_effective, document.events - 1, was_present)
        return cls(document, *before, document.unpaged_bytes, segment, len(segment))

    @property
    def journal(self) -> list[Entry]:
        """Return a copy of this commit's events that are in no page."""
        return self.segment[self.held_events :]


class CommitBuffer:
    """Entries by document, pages and rejections, in the order of the log."""

    def __init__(self, after_sequence: int, segments: dict[Key, list[Entry]] | None = None) -> None:
        """Begin after the sequence that the checkpoints have when this is committed.

        `segments` holds whole open segments between commits, so that a page is packed without reading the journal.
        Without it, and of documents that are not in it, a page's committed events are read from the journal.
        """
        self.after_sequence = after_sequence
        self.rejections: list[Rejection] = []
        self._resolutions: dict[tuple[str, str, int], Resolution] = {}
        self.pages: list[ClosedPage] = []
        self.traced: list[Traced] = []
        self.events = 0
        self.bytes = 0
        self.pages_bytes = 0
        self._unwritten: dict[Key, _Unwritten] = {}
        self._segments = {} if segments is None else segments

    @property
    def keys(self) -> set[Key]:
        """Return the documents that are not yet committed."""
        return set(self._unwritten)

    def entries_of(self, key: Key) -> list[Entry]:
        """Return a document's entries, in order."""
        return [*chain.from_iterable(page.new_entries for page in self.pages_of(key)), *self.journal_of(key)]

    def pages_of(self, key: Key) -> list[ClosedPage]:
        """Return a document's pages that have not been taken, in order."""
        if key not in self._unwritten:
            return []
        return [page for page in self.pages if (page.namespace, page.document) == key]

    def journal_of(self, key: Key) -> list[Entry]:
        """Return a document's entries that are in no page, in order."""
        return self._unwritten[key].journal if key in self._unwritten else []

    def add(self, document: Document, entry: Entry) -> None:
        """Add a folded event; close a page where the document's open segment is full."""
        key = (document.namespace, document.document)
        unwritten = self._unwritten.get(key)
        if unwritten is None:
            unwritten = self._unwritten[key] = _Unwritten.of(document, entry, self._segment_of(key, document))
        unwritten.segment.append(entry)
        entry_bytes = entry.size
        self.events += 1
        self.bytes += entry_bytes + ENTRY_BYTES
        document.unpaged_events += 1
        document.unpaged_bytes += entry_bytes
        # With fewer events and bytes no page is full.
        if document.unpaged_events < PAGE_EVENTS_MAX // 2 and document.unpaged_bytes < PAGE_BYTES_MIN:
            return
        if _is_full(document):
            self._close_page(unwritten)

    def refuse(self, record: Record, where: Route, recorded_at: int) -> Rejection:
        """Add the rejection of an event that names no document, and return it."""
        rejection = Rejection.unroutable(where, record, recorded_at)
        self.rejections.append(rejection)
        self.events += 1
        self.bytes += len(record.body) + len(record.headers) + len(record.subject) + ENTRY_BYTES
        return rejection

    def resolve(self, where: Route, sequence: int, resolved_by: int) -> None:
        """Add an accepted event that resolves another of its document; only the first counts, of an earlier event."""
        if sequence < resolved_by:
            resolution = Resolution(where.namespace, where.document, where.partition, sequence, resolved_by)
            self._resolutions.setdefault((where.namespace, where.document, sequence), resolution)

    def close_segments(self, *, bytes_max: int = 0) -> None:
        """Close pages where this commit's own events are worth a snapshot: they need no journal then.

        The longest segments come first, until the rest takes no more than `bytes_max` of memory.
        """
        worthy = filter(_is_worth_a_page, self._unwritten.values())
        for unwritten in sorted(worthy, key=_own_events, reverse=True):
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
            resolutions=list(self._resolutions.values()),
        )

    def _segment_of(self, key: Key, document: Document) -> list[Entry]:
        """Return the document's open segment where it is held whole, else an empty list."""
        if not document.unpaged_events:
            self._segments[key] = []
        held = self._segments.get(key, [])
        assert len(held) in {0, document.unpaged_events}, key
        return held

    def _close_page(self, unwritten: _Unwritten) -> None:
        document, own_events = unwritten.document, _own_events(unwritten)
        state = unwritten.closed_state = to_canonical(document.state)
        self.pages.append(
            ClosedPage(
                namespace=document.namespace,
                document=document.document,
                journal_events=document.unpaged_events - own_events,
                entries=unwritten.segment,
                is_whole=len(unwritten.segment) == document.unpaged_events,
                closing=snapshot_of(document, state),
                events=document.events,
            )
        )
        own_bytes = document.unpaged_bytes - unwritten.journal_bytes + ENTRY_BYTES * own_events
        unwritten.segment, unwritten.held_events, unwritten.journal_bytes = [], 0, 0
        self._segments[document.namespace, document.document] = unwritten.segment
        document.unpaged_events = document.unpaged_bytes = 0
        document.page_bytes = len(state or b"")
        self.bytes += document.page_bytes
        self.pages_bytes += document.page_bytes + own_bytes


def _is_full(document: Document) -> bool:
    """A page grows with the snapshot that it amortises, up to eight times the usual count.

    The first one is full at half of that or more, by the document's partition: so the pages of documents that change
    equally often do not fill at the same time. At 25,000 events/s over 3,000 documents the lag was 0.6 s at most
    where it was 1.0 without.
    """
    if document.unpaged_events == document.events:
        events_max = PAGE_EVENTS_MAX * (PARTITIONS + document.partition) // (2 * PARTITIONS)
    else:
        events_max = PAGE_EVENTS_MAX * min(8, max(1, document.page_bytes // PAGE_BYTES_MIN))
    is_long = document.unpaged_events >= events_max
    return is_long or document.unpaged_bytes >= max(PAGE_BYTES_MIN, document.page_bytes)


def _is_worth_a_page(unwritten: _Unwritten) -> bool:
    document = unwritten.document
    return _own_events(unwritten) >= RUN_EVENTS_MIN and document.unpaged_bytes >= document.size


def _own_events(unwritten: _Unwritten) -> int:
    return len(unwritten.segment) - unwritten.held_events


def _write_of(unwritten: _Unwritten, store: ProjectionWriter) -> DocumentWrite:
    document, journal = unwritten.document, unwritten.journal
    # The next buffer adds the document's further events to the held segment.
    unwritten.segment, unwritten.held_events = journal, 0
    is_changed = document.version != unwritten.version_before
    has_state = store.wants_state(document, is_changed=is_changed)
    state = None
    if has_state:
        state = to_canonical(document.state) if journal else unwritten.closed_state
    return DocumentWrite(
        # A copy: the document itself changes while this is written.
        document=document.without_state(),
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


class CommitTimer:
    """Space the starts of commits; at once after a pause, and when fired."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = self._pause_seconds = interval_seconds
        self._due_at = 0.0
        self._is_fired = asyncio.Event()

    def fire(self) -> None:
        """Let the next commit begin now."""
        self._is_fired.set()

    async def wait(self) -> None:
        """Wait until the next commit may begin; it begins now."""
        now = asyncio.get_running_loop().time
        if self._due_at > now():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._due_at):
                    await self._is_fired.wait()
        self._is_fired.clear()
        self._due_at = now() + self._pause_seconds

    def learn(self, seconds: float) -> None:
        """Adapt to how long the last commit took; the next one begins no earlier than that demands."""
        pause = min(COMMIT_INTERVAL_FACTOR * seconds, COMMIT_INTERVAL_SECONDS_MAX)
        pause = max(pause, self._interval_seconds)
        self._due_at += pause - self._pause_seconds
        self._pause_seconds = pause
