"""What a database would hold, for the store in memory: documents with their histories, checkpoints, rejections, leases.

Part of the memory adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from uuid import uuid4

from refold.core.document import Document
from refold.core.history import NEVER, Entry, Point, Segment, snapshot_of
from refold.core.replay import state_at
from refold.core.stream import Checkpoint, ClockRange
from refold.store import ClosedPage, Commit, Head, Key, Rejection, SegmentBounds


@dataclass(slots=True)
class Kept:
    """A document's row, its state, and its segments: closed pages, and the open one."""

    document: Document
    state: bytes | None
    segments: list[Segment] = field(default_factory=lambda: [Segment(NEVER, 0, [])])

    @property
    def entries(self) -> list[Entry]:
        """Return all entries, in order."""
        return [entry for segment in self.segments for entry in segment.entries]

    @property
    def head(self) -> Head:
        """Return the head."""
        row = self.document
        return Head(row.namespace, row.document, snapshot_of(row, self.state), row.last_sequence)

    def head_at(self, point: Point) -> Head:
        """Return the document as it was at a point, as a head."""
        segment = self.segments[self.at(SegmentBounds.of(point))]
        found = state_at(segment.base, segment.entries, point)
        return Head(self.document.namespace, self.document.document, found, found.sequence)

    def at(self, bounds: SegmentBounds) -> int:
        """Find the last segment within the bounds."""
        return max(at for at, it in enumerate(self.segments) if bounds.include(it.base, it.base_sequence))

    def copy(self) -> Kept:
        """Return what no later commit changes."""
        segments = [segment._replace(entries=segment.entries.copy()) for segment in self.segments]
        return replace(self, segments=segments)


@dataclass(slots=True)
class Lease:
    """Which store holds a shard, and when it last renewed or committed."""

    holder: object
    renewed_at: float


@dataclass(slots=True)
class Tables:
    """What a database would hold, and the leases by shard."""

    log_id: str | None = None
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    documents: dict[Key, Kept] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    clock: dict[tuple[int, int], ClockRange] = field(default_factory=dict)
    epoch: str = field(default_factory=lambda: uuid4().hex)


def write(documents: dict[Key, Kept], commit: Commit) -> None:
    """Write a commit's documents and pages."""
    for write in commit.documents:
        key = (write.document.namespace, write.document.document)
        assert write.has_state, key
        assert write.is_new == (key not in documents), key
        row = write.document.without_state()
        kept = documents.setdefault(key, Kept(row, write.state))
        kept.document, kept.state = row, write.state
    for page in commit.pages:
        _close(documents[page.namespace, page.document].segments, page)
    for write in commit.documents:
        kept = documents[write.document.namespace, write.document.document]
        kept.segments[-1].entries.extend(write.journal)


def _close(segments: list[Segment], page: ClosedPage) -> None:
    entries = segments[-1].entries
    assert page.journal_events == len(entries), page
    entries.extend(page.new_entries)
    assert entries == page.entries or not page.is_whole, page
    assert page.events == sum(len(segment.entries) for segment in segments), page
    segments.append(Segment(page.closing, entries[-1].sequence, []))
