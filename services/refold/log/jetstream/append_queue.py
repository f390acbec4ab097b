"""The queue of appends that wait to be sent, and the rules for what is sent together.

Used by `refold.log.jetstream.append`. Order: no event overtakes another one of its document, and events without an
expectation keep the order in which they were appended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final

from refold.core.errors import LogError
from refold.log import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Appended, Stale, Unknown
from refold.log.jetstream.protocol import Event

PASSED_OVER_MAX: Final = 2_000
"""Appends that may be passed over in search of those that can be sent together."""

Answer = list[Appended] | Stale | Unknown


class PendingAppend:
    """What one caller appends: one event, or several that are stored together or not at all.

    `batch_max` bounds how many appends may share its batch; a batch that was refused is split by lowering it.
    """

    __slots__ = ("answer", "batch_max", "events", "is_strict", "size_bytes", "subjects")

    def __init__(self, events: list[Event], answer: asyncio.Future[Answer], *, is_strict: bool) -> None:
        self.events = events
        self.answer = answer
        self.is_strict = is_strict
        self.batch_max = BATCH_EVENTS_MAX
        self.subjects = frozenset([event.subject for event in events])
        self.size_bytes = sum([len(event.body) + len(event.headers) for event in events])

    @property
    def is_atomic(self) -> bool:
        """Whether it is sent alone, as a batch."""
        return len(self.events) > 1

    def resolve(self, answer: Answer | LogError) -> None:
        """Answer the caller, unless it was cancelled."""
        if self.answer.done():
            return
        if isinstance(answer, LogError):
            # Each caller gets an instance of its own, because raising adds a traceback.
            self.answer.set_exception(type(answer)(answer.message, **answer.facts))
        else:
            self.answer.set_result(answer)


class AppendQueue(deque[PendingAppend]):
    """Appends in the order of their callers; a group that was not stored returns to the front."""

    def take_group(self, batch_events_min: float, blocked: set[bytes]) -> Group:
        """Remove and return what is sent next: fewer events than these singly, and no blocked document."""
        group = Group(batch_events_min, blocked, as_singles=len(self) < batch_events_min)
        while self and not group.is_complete:
            append = self.popleft()
            if not append.answer.done():
                group.offer(append)
        self.extendleft(reversed(group.passed_over))
        return group

    def fail(self, error: LogError, subjects: Collection[bytes] | None = None) -> None:
        """Fail the appends to these documents, after an earlier event of theirs failed; without them, all."""
        for append in self:
            if subjects is None or not append.subjects.isdisjoint(subjects):
                append.resolve(error)


class Group:
    """Appends that are sent together, as one batch or singly; the others that were offered are passed over.

    Singles must not contain a document twice, since each may fail on its own.
    """

    def __init__(self, batch_events_min: float, blocked: set[bytes], *, as_singles: bool) -> None:
        self.subjects: set[bytes] = set()
        self.appends: list[PendingAppend] = []
        self.passed_over: list[PendingAppend] = []
        self.is_complete = False
        self._batch_events_min = batch_events_min
        self._as_singles = as_singles
        self._blocked = blocked
        self._has_passed_plain = False
        self._batch_max = BATCH_EVENTS_MAX
        self._size_bytes = 0

    @property
    def events(self) -> int:
        """How many events it has."""
        return sum([len(append.events) for append in self.appends])

    @property
    def is_batch(self) -> bool:
        """Whether to send it as one batch: because that is quicker, or must be."""
        events = self.events
        is_repeated = len(self.subjects) < events
        return is_repeated or self.appends[0].is_atomic or events >= self._batch_events_min

    def offer(self, append: PendingAppend) -> None:
        """Select it or pass it over."""
        if self._fits(append):
            self.appends.append(append)
            self.subjects |= append.subjects
            self._batch_max = min(self._batch_max, append.batch_max)
            self._size_bytes += append.size_bytes
            self.is_complete = append.is_atomic or len(self.appends) >= self._batch_max
        else:
            self.passed_over.append(append)
            self._blocked |= append.subjects
            self._has_passed_plain |= not append.is_strict
            # No plain event may overtake the plain one that was passed over.
            is_cut = self._has_passed_plain and bool(self.appends) and not self.appends[0].is_strict
            self.is_complete = is_cut or len(self.passed_over) >= PASSED_OVER_MAX

    def _fits(self, append: PendingAppend) -> bool:
        if not self._blocked.isdisjoint(append.subjects):
            return False
        if not append.is_strict and self._has_passed_plain:
            return False
        if not self.appends:
            return True
        if append.is_atomic or self._size_bytes + append.size_bytes > BATCH_BYTES_MAX:
            return False
        is_repeated = not self.subjects.isdisjoint(append.subjects)
        if self._as_singles:
            return not is_repeated
        return (
            append.is_strict == self.appends[0].is_strict
            and min(self._batch_max, append.batch_max) > len(self.appends)
            and not (append.is_strict and is_repeated)
        )
