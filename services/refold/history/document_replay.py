"""One document's history from its beginning, folded again from its own events of the log.

Used by `refold.history.replayed`. An entry is the same, byte for byte, as the one that a store of full depth keeps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from refold.core.document import Document, to_canonical
from refold.core.fold.rules import Rules, Step
from refold.core.fold.window import recent_since
from refold.core.fold_state import FoldState, WindowNeeded, first_checkpoints
from refold.core.history import NEVER, Clock, Entry, Point, Segment, snapshot_of
from refold.core.settings import SETTINGS_PREFIX
from refold.core.stream import (
    NAME_CHARS_MAX,
    SYSTEM_DOCUMENTS,
    SYSTEM_NAMESPACE,
    ClockRange,
    Record,
    Route,
)
from refold.store import Key, SegmentBounds

SEGMENT_EVENTS_MIN: Final = 128
"""A segment ends after so many events, once they have as many bytes as the state that it begins with."""

ENTRY_BYTES: Final = 600
"""What an entry takes in memory in addition to its bytes."""


class DocumentReplay:
    """A document as the log's events make it, with its segments so far; the last one is open.

    It has all of the document's events up to `read_sequence`, and of the system's up to `system_sequence`; `events` is
    their number and `size_bytes` an estimate of the memory.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        where = Route.of(*key)
        self.document = Document.new(where)
        self.segments = [Segment(NEVER, 0, [])]
        self.read_sequence = self.system_sequence = self.events = self.size_bytes = 0
        # The other partitions' events are left out, which only a fold state of all partitions notices.
        self._fold_state = FoldState([first_checkpoints("")[where.partition]])
        self._segment_bytes = 0

    def take_system(self, record: Record) -> None:
        """Fold an event of one of the system's documents that says how this document is folded."""
        self.system_sequence = record.sequence
        self._fold_state.skip(record, self._fold_state.route(record.subject))

    def take(
        self, record: Record, members: Sequence[Record], clamps: Clamps, others_rules: Rules | None = None
    ) -> None:
        """Fold the document's next event; `members` are those of its transaction, where it may be in one.

        `others_rules` are those of the first member's namespace, where that is another one.
        """
        state, self.read_sequence = self._fold_state, record.sequence
        where = state.route(record.subject)
        if where.reason:
            # Its name made no document yet.
            return
        state.recorded_at = max(state.recorded_at, clamps.at(record.sequence))
        state.members.read(members)
        if members:
            # A transaction is found at its first member.
            first = state.route(members[0].subject)
            rules = others_rules or state.rules_of(first.namespace)
            state.members.of(members[0], rules, state.route)
        entry = self._fold(record, where)[0]
        self.events += 1
        self._segment_bytes += entry.size
        self.size_bytes += entry.size + ENTRY_BYTES
        self.segments[-1].entries.append(entry)
        self._close_segment()

    def _fold(self, record: Record, where: Route) -> Step:
        try:
            return self._fold_state.fold(record, where, self.document)
        except WindowNeeded as needed:
            whole = Segment(NEVER, 0, [*self.entries(self.read_sequence)])
            self.document.recent = recent_since(whole, self.document, needed.version)
            return self._fold_state.fold(record, where, self.document)

    def _close_segment(self) -> None:
        segment = self.segments[-1]
        size = max(len(segment.base.state or b""), self.document.size)
        if len(segment.entries) >= SEGMENT_EVENTS_MIN and self._segment_bytes >= size:
            state = to_canonical(self.document.state)
            self.segments.append(Segment(snapshot_of(self.document, state), self.read_sequence, []))
            self.size_bytes += len(state or b"")
            self._segment_bytes = 0

    def is_beyond(self, point: Point) -> bool:
        """Tell whether no later event can belong to the history up to a point."""
        if point.clock is Clock.version:
            return self.document.version >= point.value
        if point.clock is Clock.sequence:
            return self.read_sequence >= point.value
        is_recorded = point.clock is Clock.recorded
        return (self.document.recorded_at if is_recorded else self.document.occurred_max) > point.value

    def find(self, bounds: SegmentBounds) -> int:
        """Find the last segment within the bounds."""
        return max(at for at, it in enumerate(self.segments) if bounds.include(it.base, it.base_sequence))

    def until(self, sequence: int) -> list[Segment]:
        """Return the segments up to a sequence."""
        found = [it for it in self.segments if it.base_sequence < sequence or not it.base_sequence]
        return [it._replace(entries=_until(it.entries, sequence)) for it in found]

    def entries(self, until_sequence: int) -> Iterator[Entry]:
        """Yield the entries up to a sequence."""
        for segment in self.until(until_sequence):
            yield from segment.entries


class Clamps:
    """Which events were recorded at the time of an earlier one."""

    def __init__(self, ranges: Iterable[ClockRange]) -> None:
        """Join ranges of one time: the times of a log never fall, so all events between them have it."""
        joined: dict[int, ClockRange] = {}
        for each in ranges:
            first, last, recorded_at = joined.get(each.recorded_at, each)
            first, last = min(first, each.first_sequence), max(last, each.last_sequence)
            joined[recorded_at] = ClockRange(first, last, recorded_at)
        self._ranges = sorted(joined.values())

    def at(self, sequence: int) -> int:
        """Return the time of an event that is in a range, else 0."""
        at = bisect_left(self._ranges, sequence, key=itemgetter(1))
        found = self._ranges[at] if at < len(self._ranges) else None
        return found.recorded_at if found is not None and found.first_sequence <= sequence else 0


def rules_after(system: Iterable[Record], namespace: str) -> Rules:
    """Return the rules that the system's documents put in force for a namespace."""
    state = FoldState(first_checkpoints("")[:1])
    for record in sorted(system):
        state.skip(record, state.route(record.subject))
    return state.rules_of(namespace)


def system_documents(key: Key) -> list[Key]:
    """Return the system's documents that say how a document is folded, without itself."""
    found = [(SYSTEM_NAMESPACE, name) for name in (*SYSTEM_DOCUMENTS, f"{SETTINGS_PREFIX}{key[0]}")]
    return [other for other in found if other != key and len(other[1]) <= NAME_CHARS_MAX]


def _until(entries: list[Entry], sequence: int) -> list[Entry]:
    is_whole = not entries or entries[-1].sequence <= sequence
    return entries.copy() if is_whole else [entry for entry in entries if entry.sequence <= sequence]
