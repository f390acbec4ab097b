"""Appends that wait for their turn, and which of them travel together.

Used by `refold.log.jetstream.appender` alone. Order: no event overtakes another of its document, and plain ones
keep the order in which they were appended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from refold.core.errors import LogError
from refold.core.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, OVERTAKEN_MAX
from refold.log import Appended, Stale, Unknown
from refold.log.jetstream.frames import Event

Answer = list[Appended] | Stale | Unknown


@dataclass(slots=True, kw_only=True, eq=False)
class Parcel:
    """What one caller appends: one event, or several that are stored together or not at all.

    `company` bounds how many events may travel with it; a group that was refused is split so.
    """

    events: list[Event]
    is_strict: bool
    answer: asyncio.Future[Answer]
    company: int = BATCH_EVENTS_MAX
    size: int = field(init=False)
    subjects: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Weigh it, and note where it goes."""
        self.subjects = frozenset([event.subject for event in self.events])
        self.size = sum([len(event.body) + len(event.lines) for event in self.events])

    @property
    def is_atomic(self) -> bool:
        """Tell whether it travels alone."""
        return len(self.events) > 1

    def resolve(self, answer: Answer | LogError) -> None:
        """Answer the caller, if he still waits."""
        if self.answer.done():
            return
        if isinstance(answer, LogError):
            # Each caller gets an error of his own: a raised one carries his traceback.
            self.answer.set_exception(type(answer)(answer.message, **answer.facts))
        else:
            self.answer.set_result(answer)


class WaitingLine:
    """A queue with a rule for who goes next."""

    def __init__(self) -> None:
        """Begin empty."""
        self._line: deque[Parcel] = deque()

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self._line)

    def join(self, parcel: Parcel) -> None:
        """Stand at the end."""
        self._line.append(parcel)

    def return_to_front(self, parcels: list[Parcel]) -> None:
        """Stand where they stood before they were sent in vain."""
        self._line.extendleft(reversed(parcels))

    def take(self, travelling: Collection[bytes], *, as_singles: bool = False) -> list[Parcel]:
        """Take out the next group; nothing where everyone waits for a document that is travelling.

        `as_singles`: the group is sent event by event, so it has no document twice.
        """
        group = _Group(travelling, as_singles=as_singles)
        while self._line and not group.is_closed:
            parcel = self._line.popleft()
            if not parcel.answer.done():
                group.offer(parcel)
        self._line.extendleft(reversed(group.passed))
        return group.parcels

    def dismiss(self, subjects: Collection[bytes], answer: LogError) -> None:
        """Answer those who would write to these documents after an event that failed."""
        left = [parcel for parcel in self._line if parcel.subjects.isdisjoint(subjects)]
        if len(left) < len(self._line):
            for parcel in set(self._line).difference(left):
                parcel.resolve(answer)
            self._line = deque(left)

    def dismiss_all(self, answer: LogError) -> None:
        """Answer everyone."""
        for parcel in self._line:
            parcel.resolve(answer)
        self._line.clear()


class _Group:
    """A group in the making: who is chosen, who is passed over, and who may no longer be chosen for that."""

    def __init__(self, travelling: Collection[bytes], *, as_singles: bool) -> None:
        self.parcels: list[Parcel] = []
        self.passed: list[Parcel] = []
        self.is_closed = False
        self._barred = set(travelling)
        self._as_singles = as_singles
        self._has_passed_plain = False
        self._subjects: set[bytes] = set()
        self._company = BATCH_EVENTS_MAX
        self._size = 0

    def offer(self, parcel: Parcel) -> None:
        """Choose it or pass it over."""
        if self._fits(parcel):
            self.parcels.append(parcel)
            self._subjects |= parcel.subjects
            self._company = min(self._company, parcel.company)
            self._size += parcel.size
            self.is_closed = parcel.is_atomic or len(self.parcels) >= self._company
        else:
            self.passed.append(parcel)
            self._barred |= parcel.subjects
            self._has_passed_plain |= not parcel.is_strict
            self.is_closed = len(self.passed) >= OVERTAKEN_MAX or self._is_plain_and_cut()

    def _fits(self, parcel: Parcel) -> bool:
        if not self._barred.isdisjoint(parcel.subjects):
            return False
        if not parcel.is_strict and self._has_passed_plain:
            return False
        if not self.parcels:
            return True
        return (
            not parcel.is_atomic
            and parcel.is_strict == self.parcels[0].is_strict
            and min(self._company, parcel.company) > len(self.parcels)
            and self._size + parcel.size <= BATCH_BYTES_MAX
            and not ((parcel.is_strict or self._as_singles) and parcel.events[0].subject in self._subjects)
        )

    def _is_plain_and_cut(self) -> bool:
        return bool(self.parcels) and not self.parcels[0].is_strict and self._has_passed_plain
