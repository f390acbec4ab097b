"""The newest changes of all namespaces, in the order of the log, and what subscribers of a namespace are sent of them.

A subscriber is a position: a sequence up to which it has all. Where the ring does not reach it, it is sent parts of the
backlog (`refold.live.backlog`) until it does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from refold.core import json_text
from refold.live import Frame, Mode, Subscription
from refold.live.changes import TypeFilter
from refold.live.query import UNKNOWN, Behind, change_frame
from refold.live.watched import Change
from refold.store import Key

RING_CHANGES_MAX: Final = 100_000
RING_BYTES_MAX: Final = 64 * 1024 * 1024
"""What is kept of the changes of all namespaces, for subscribers that are behind."""

DROPPED_AT_ONCE: Final = 0.02
"""The share of the ring that is dropped when it is full."""

FRAMES_MAX: Final = 256
"""Messages of a query that are kept for other subscribers."""

SUPERSEDED_MIN: Final = 64
"""Changes of which newer ones are known are dropped where there are so many, and half of all are."""


class Noted(NamedTuple):
    """A change with its document."""

    key: Key
    change: Change

    @property
    def sequence(self) -> int:
        """Return its sequence."""
        return self.change.sequence


class Ring:
    """The newest changes of all documents: a listener of the feed.

    All changes after `floor` up to `sequence` are there. Those beyond wait for the feed to tell that none is missing.
    """

    def __init__(self) -> None:
        self.floor = self.sequence = 0
        self._changes: deque[Noted] = deque()
        self._pending: dict[int, Noted] = {}
        self._bytes = 0
        self._gap_sequence = 0
        self._queries: dict[str, list[NamespaceQuery]] = {}

    def add(self, query: NamespaceQuery) -> None:
        """Pass changes of its namespace to a query, from those that are there on."""
        self._queries.setdefault(query.namespace, []).append(query)
        for noted in self._changes:
            if noted.key[0] == query.namespace:
                query.take(noted)

    def remove(self, query: NamespaceQuery) -> None:
        """Pass nothing more to a query."""
        queries = self._queries[query.namespace]
        queries.remove(query)
        if not queries:
            del self._queries[query.namespace]

    def take(self, key: Key, change: Change) -> None:
        """Take a change; it may come again."""
        sequence = change.sequence
        if sequence <= max(self.sequence, self.floor) or sequence in self._pending:
            return
        if not change.has_patch:
            # It is too large for a notice: it is read from the backlog.
            self._gap_sequence = max(sequence, self._gap_sequence)
            return
        self._pending[sequence] = Noted(key, change)
        self._bytes += len(change.body)
        self._bound()

    def advance(self, sequence: int, gap_sequence: int) -> None:
        """Note that all changes up to `sequence` have come, but perhaps not all of those up to `gap_sequence`."""
        gap_sequence = max(gap_sequence, self._gap_sequence)
        # While one shard is silent, thousands wait, and every notice of another one comes here.
        is_further = sequence > self.sequence
        due = sorted(number for number in self._pending if number <= sequence) if is_further else []
        if gap_sequence > self.floor:
            self._lose(gap_sequence)
        self.sequence = max(sequence, self.sequence)
        woken: dict[NamespaceQuery, None] = {}
        for number in due:
            if (noted := self._pending.pop(number, None)) is not None:
                self._changes.append(noted)
                for query in self._queries.get(noted.key[0], ()):
                    if query.take(noted):
                        woken[query] = None
        for query in woken:
            query.wake()

    def _lose(self, gap_sequence: int) -> None:
        """Forget all up to a sequence, as some of it may be missing."""
        for noted in [noted for number, noted in self._pending.items() if number <= gap_sequence]:
            self._forget(self._pending.pop(noted.sequence))
        while self._changes and self._changes[0].sequence <= gap_sequence:
            self._forget(self._changes.popleft())
        self.floor = gap_sequence
        for query in self._all_queries():
            query.lose(gap_sequence)

    def _bound(self) -> None:
        """Drop the oldest changes where there are too many; what waits is dropped with them where it is too much."""
        if len(self._changes) + len(self._pending) <= RING_CHANGES_MAX and self._bytes <= RING_BYTES_MAX:
            return
        if not self._changes:
            self._gap_sequence = max(self._gap_sequence, *self._pending)
            self._pending.clear()
            self._bytes = 0
            return
        for _ in range(max(1, int(len(self._changes) * DROPPED_AT_ONCE))):
            last = self._changes.popleft()
            self._forget(last)
            self.floor = last.sequence
        for query in self._all_queries():
            query.drop(self.floor)

    def _forget(self, noted: Noted) -> None:
        self._bytes -= len(noted.change.body)

    def _all_queries(self) -> Iterable[NamespaceQuery]:
        return [query for queries in self._queries.values() for query in queries]


class NamespaceQuery:
    """What the subscribers share that ask for the same of a namespace. Positions are sequences.

    A subscriber at a position from `floor` on can be sent what follows. A head is sent once for several changes of a
    document: the older ones are passed over.
    """

    def __init__(self, ring: Ring, asked: Subscription, committed_sequence: Callable[[], int]) -> None:
        self.namespace = asked.namespace
        self.key = key_of(asked)
        self.wake: Callable[[], None] = lambda: None
        self.floor = ring.floor
        self._ring = ring
        self._committed_sequence = committed_sequence
        self._prefix, self._type = asked.prefix, TypeFilter(asked.type)
        self._is_heads = asked.mode is Mode.heads
        self._changes: list[Noted] = []
        self._newest: dict[str, int] = {}
        self._frames: dict[int, Frame] = {}
        # Who has all up to `_quiet_from` has all up to `_quiet_until`: there was nothing before something was lost.
        self._quiet_from = self._quiet_until = 0
        ring.add(self)

    def is_wanted(self, document: str) -> bool:
        """Tell whether changes of a document can be sent."""
        return document.startswith(self._prefix)

    # --- What the ring passes ----------------------------------------------------------------------------

    def take(self, noted: Noted) -> bool:
        """Take a change; return whether there is something new to send."""
        if not self._matches(noted):
            return False
        self._changes.append(noted)
        if self._is_heads:
            self._newest[noted.key[1]] = noted.sequence
            if len(self._changes) > 2 * len(self._newest) + SUPERSEDED_MIN:
                self._changes = [each for each in self._changes if not self._is_superseded(each)]
        return True

    def drop(self, sequence: int) -> None:
        """Drop the changes up to a sequence."""
        count = bisect_right(self._changes, sequence, key=_sequence_of)
        for noted in self._changes[:count]:
            if not self._is_superseded(noted):
                self.floor = noted.sequence
                self._newest.pop(noted.key[1], None)
        del self._changes[:count]

    def lose(self, sequence: int) -> None:
        """Note that changes up to a sequence may be missing that were not there at the ring's last one."""
        self._quiet_from = self._changes[-1].sequence if self._changes else self.floor
        self._quiet_until = self._ring.sequence
        self.drop(sequence)
        self.floor = sequence
        self.wake()

    # --- What subscribers are sent -----------------------------------------------------------------------

    def is_behind(self, position: int) -> bool:
        """Tell whether there is something to send to a subscriber at a position, or perhaps is."""
        return position < self.floor or (bool(self._changes) and self._changes[-1].sequence > position)

    def caught_up(self, position: int) -> int:
        """Return the sequence that a subscriber with all up to a position is up to date with."""
        return max(self._ring.sequence, position)

    def covered(self, position: int, sequence: int) -> int:  # noqa: ARG002 - the ring has a sequence of its own
        """Return the sequence up to which a subscriber has got all."""
        return position if self.is_behind(position) else self.caught_up(position)

    def next(self, position: int, sent: int, *, is_merged: bool, why: str) -> Frame | None:  # noqa: ARG002
        """Return the next message. Raises `Behind` where it must be read from the backlog."""
        if position == UNKNOWN:
            return self._beginning(
                max(self._ring.sequence, self._committed_sequence()), is_reset=why == "log"
            )
        if position < self.floor:
            raise Behind
        for at in range(bisect_right(self._changes, position, key=_sequence_of), len(self._changes)):
            noted = self._changes[at]
            if not self._is_superseded(noted):
                return self._frame(noted)
        return None

    def _beginning(self, sequence: int, *, is_reset: bool) -> Frame:
        fields: dict[str, json_text.Json] = {
            "kind": "reset" if is_reset else "ready",
            "namespace": self.namespace,
            "sequence": sequence,
        }
        if self._prefix:
            fields["prefix"] = self._prefix
        return Frame(
            "reset" if is_reset else "ready", json_text.dumps(fields), position=sequence, sequence=sequence
        )

    def replay(self, changes: list[Noted], sequence: int) -> Replay:
        """Return what a subscriber is sent of a part of the backlog that ends at a sequence."""
        matching = [noted for noted in changes if self._type.passes(noted.change)]
        if self._is_heads:
            newest = {noted.key: noted for noted in matching}
            matching = [noted for noted in matching if newest[noted.key] is noted]
        return Replay([self._made(noted) for noted in matching], sequence)

    def start_of(self, position: int) -> int:
        """Return where a subscriber's backlog begins that is at a position."""
        return max(self._quiet_until, position) if position >= self._quiet_from else position

    def _matches(self, noted: Noted) -> bool:
        return self.is_wanted(noted.key[1]) and self._type.passes(noted.change)

    def _is_superseded(self, noted: Noted) -> bool:
        return self._is_heads and self._newest.get(noted.key[1], 0) > noted.sequence

    def _frame(self, noted: Noted) -> Frame:
        frame = self._frames.get(noted.sequence)
        if frame is None:
            if len(self._frames) >= FRAMES_MAX:
                self._frames.clear()
            frame = self._frames[noted.sequence] = self._made(noted)
        return frame

    def _made(self, noted: Noted) -> Frame:
        sequence = noted.sequence
        if not self._is_heads:
            return change_frame(noted.change.body, position=sequence, sequence=sequence)
        fields = noted.change.fields()
        head = {"kind": "head"} | {name: fields[name] for name in _HEAD}
        return Frame("head", json_text.dumps(head), position=sequence, sequence=sequence)


class Replay:
    """Messages of a part of the backlog, for a subscriber that is behind. It covers all up to `sequence`."""

    def __init__(self, frames: list[Frame], sequence: int) -> None:
        self.wake: Callable[[], None] = lambda: None
        self.size = sum(len(frame.body) for frame in frames)
        self._frames = frames
        self._sequence = sequence

    def is_behind(self, position: int) -> bool:
        """Tell whether there is something to send."""
        return bool(self._frames) and self._frames[-1].position > position

    def caught_up(self, position: int) -> int:
        """Return the sequence that the part covers."""
        return max(self._sequence, position)

    def covered(self, position: int, sequence: int) -> int:  # noqa: ARG002 - as `NamespaceQuery`
        """Return the sequence up to which a subscriber has got all."""
        return position if self.is_behind(position) else self.caught_up(position)

    def next(self, position: int, sent: int, *, is_merged: bool, why: str) -> Frame | None:  # noqa: ARG002
        """Return the next message; None at the end."""
        at = bisect_right(self._frames, position, key=_position_of)
        return self._frames[at] if at < len(self._frames) else None


def key_of(asked: Subscription) -> tuple[str, str, Mode, str | None]:
    """Return what tells queries of namespaces apart."""
    return asked.namespace, asked.prefix, asked.mode, asked.type


def _sequence_of(noted: Noted) -> int:
    return noted.change.sequence


def _position_of(frame: Frame) -> int:
    return frame.position


_HEAD: Final = ("namespace", "document", "version", "sequence", "type", "actor")
