"""The queue of appends that wait to be sent, and the rule that selects the next group.

Used by `refold.log.jetstream.append`. Order: no event overtakes another one of its document, and events without an
expectation keep the order in which they were appended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from refold.core.errors import LogError
from refold.log import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Appended, Stale, Unknown
from refold.log.jetstream.protocol import Event

PASSED_OVER_MAX: Final = 2_000
"""Appends that may be passed over in search of those that can be sent together."""

Answer = list[Appended] | Stale | Unknown


@dataclass(slots=True, kw_only=True, eq=False)
class PendingAppend:
    """What one caller appends: one event, or several that are stored together or not at all.

    `group_max` bounds how many appends may share a group; a group that was refused is split by lowering it.
    """

    events: list[Event]
    is_strict: bool
    answer: asyncio.Future[Answer]
    group_max: int = BATCH_EVENTS_MAX
    size_bytes: int = field(init=False)
    subjects: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Compute size and subjects once."""
        self.subjects = frozenset([event.subject for event in self.events])
        self.size_bytes = sum([len(event.body) + len(event.headers) for event in self.events])

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

    def take_group(self, in_flight: Collection[bytes], *, as_singles: bool) -> list[PendingAppend]:
        """Remove and return the next group; empty while every append waits for a document that is in flight.

        `as_singles`: the group will not be a batch, so it must not contain a document twice.
        """
        group = _Group(in_flight, as_singles=as_singles)
        while self and not group.is_complete:
            append = self.popleft()
            if not append.answer.done():
                group.offer(append)
        self.extendleft(reversed(group.passed_over))
        return group.appends

    def fail(self, error: LogError, subjects: Collection[bytes] | None = None) -> None:
        """Fail the appends to these documents, after an earlier event of theirs failed; without them, all."""
        for append in self:
            if subjects is None or not append.subjects.isdisjoint(subjects):
                append.resolve(error)


class _Group:
    """A group while it is selected: those selected, those passed over, and what may no longer be selected."""

    def __init__(self, in_flight: Collection[bytes], *, as_singles: bool) -> None:
        self.appends: list[PendingAppend] = []
        self.passed_over: list[PendingAppend] = []
        self.is_complete = False
        self._blocked = set(in_flight)
        self._as_singles = as_singles
        self._has_passed_plain = False
        self._subjects: set[bytes] = set()
        self._group_max = BATCH_EVENTS_MAX
        self._size_bytes = 0

    def offer(self, append: PendingAppend) -> None:
        """Select it or pass it over."""
        if self._fits(append):
            self.appends.append(append)
            self._subjects |= append.subjects
            self._group_max = min(self._group_max, append.group_max)
            self._size_bytes += append.size_bytes
            self.is_complete = append.is_atomic or len(self.appends) >= self._group_max
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
        has_own_document = append.is_strict or self._as_singles
        return (
            not append.is_atomic
            and append.is_strict == self.appends[0].is_strict
            and min(self._group_max, append.group_max) > len(self.appends)
            and self._size_bytes + append.size_bytes <= BATCH_BYTES_MAX
            and not (has_own_document and append.events[0].subject in self._subjects)
        )


class Semaphore:
    """FIFO semaphore with O(1) wake-up; `asyncio.Semaphore` takes quadratic time over its waiters."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waking = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Take a place, in the order of the calls."""
        # A waiter that has been woken but has not run yet comes first.
        if self._free and not self._waiters and not self._waking:
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._waking -= 1
                self.release()
            raise
        self._waking -= 1
        self._wake()

    def release(self) -> None:
        """Give the place back."""
        self._free += 1
        self._wake()

    def _wake(self) -> None:
        while self._free and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._free -= 1
                self._waking += 1
                waiter.set_result(None)
