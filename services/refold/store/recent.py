"""What the last segments of a document's history answer, and where they do not reach.

Used by the stores of recent depth, and by the store in memory, where the segments may be all that there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from refold.core.errors import HistoryElsewhere
from refold.core.history import NEVER, Clock, Entry, Point, Segment, Snapshot
from refold.core.replay import state_at
from refold.store import (
    REJECTIONS_KEPT_MAX,
    UNROUTABLE_KEPT_MAX,
    Key,
    Rejection,
    SegmentBounds,
    damaged,
    first_bounds,
    reading_stored,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentHistory:
    """The last segments of one document, at least one, oldest first; the last one is open.

    `HistoryElsewhere` says from which version on, and after which sequence, all is kept.
    """

    key: Key
    segments: Sequence[Segment]

    def check(self) -> None:
        """Raise `StoreDamaged` where a segment does not continue the one before it."""
        for before, after in pairwise(self.segments):
            if not before.entries or before.entries[-1].sequence != after.base_sequence:
                raise damaged(*self.key, "a page of its history is missing")

    def snapshot_at(self, point: Point) -> Snapshot:
        """Return the document at a point. Raises `HistoryElsewhere`."""
        if point.clock in {Clock.version, Clock.sequence} and point.value < 1:
            return NEVER
        segment = self.segments[self._find(SegmentBounds.of(point))]
        with reading_stored(*self.key):
            return state_at(segment.base, segment.entries, point)

    def read(self, after_version: int | None, *, is_descending: bool) -> Iterator[Segment]:
        """Yield segments in the requested order, from the one that holds a version. Raises `HistoryElsewhere`."""
        first = self._find(first_bounds(after_version, is_descending=is_descending))
        if is_descending:
            yield from self.segments[first::-1]
            self._need_all()
        else:
            yield from self.segments[first:]

    def entry(self, sequence: int) -> Entry | None:
        """Return the entry at a sequence; None where the document has none. Raises `HistoryElsewhere`."""
        if 0 < sequence <= self.segments[0].base_sequence:
            raise self._elsewhere(sequence=sequence)
        return next((entry for entry in self._entries if entry.sequence == sequence), None)

    def between(self, after_sequence: int, until_sequence: int) -> Iterator[Entry]:
        """Yield the effective entries after a sequence up to another. Raises `HistoryElsewhere`."""
        if after_sequence < min(self.segments[0].base_sequence, until_sequence):
            raise self._elsewhere()
        for entry in self._entries:
            if entry.status.is_effective and after_sequence < entry.sequence <= until_sequence:
                yield entry

    def conflicts(self, after_sequence: int | None, *, is_descending: bool) -> Iterator[list[Entry]]:
        """Yield the entries that have a conflict, in the requested order. Raises `HistoryElsewhere`."""
        found = [
            entry
            for entry in self._entries
            if entry.conflict is not None
            and is_beyond(entry.sequence, after_sequence, is_descending=is_descending)
        ]
        oldest = self.segments[0].base_sequence
        if is_descending:
            yield found[::-1]
            self._need_all()
        elif (after_sequence or 0) < oldest:
            raise self._elsewhere()
        else:
            yield found

    @property
    def _entries(self) -> Iterable[Entry]:
        return chain.from_iterable(segment.entries for segment in self.segments)

    def _find(self, bounds: SegmentBounds) -> int:
        """Find the last segment within the bounds."""
        for at in reversed(range(len(self.segments))):
            segment = self.segments[at]
            if bounds.include(segment.base, segment.base_sequence):
                return at
        raise self._elsewhere()

    def _need_all(self) -> None:
        if self.segments[0].base_sequence:
            raise self._elsewhere()

    def _elsewhere(self, **facts: object) -> HistoryElsewhere:
        oldest = self.segments[0]
        return HistoryElsewhere(
            None,
            namespace=self.key[0],
            document=self.key[1],
            from_version=oldest.base.version,
            after_sequence=oldest.base_sequence,
            **facts,
        )


def rejections_kept_max(namespace: str) -> int:
    """Return how many rejections a store of recent depth keeps of a namespace."""
    return REJECTIONS_KEPT_MAX if namespace else UNROUTABLE_KEPT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRejections:
    """The last rejections of one namespace, newest first.

    Without `is_all` there are older ones that are not kept.
    """

    found: Sequence[Rejection]
    is_all: bool


def newest_rejections(
    kept: Iterable[RecentRejections], document: str | None, *, limit: int, before_sequence: int | None
) -> list[Rejection]:
    """Return the newest rejections of namespaces, or of a document in them. Raises `HistoryElsewhere`."""
    found: list[Rejection] = []
    horizon = 0
    for each in kept:
        found += [
            it
            for it in each.found
            if document in {None, it.document} and is_beyond(it.sequence, before_sequence, is_descending=True)
        ]
        if not each.is_all:
            horizon = max(horizon, each.found[-1].sequence if each.found else before_sequence or 1)
    found.sort(key=lambda it: it.sequence, reverse=True)
    if horizon and (len(found) < limit or found[limit - 1].sequence < horizon):
        raise HistoryElsewhere("older rejections are not kept", after_sequence=horizon - 1)
    return found[:limit]


def is_beyond(sequence: int, after: int | None, *, is_descending: bool) -> bool:
    """Tell whether a sequence is beyond another in the requested order."""
    return after is None or (sequence < after if is_descending else sequence > after)
