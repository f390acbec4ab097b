"""What a group of events costs at this broker, one by one and as a batch: learned from the groups that were answered.

Used by `refold.log.jetstream.flights` alone. A batch is staged in files of its own, so it costs from 4 to 15 ms more
than its events do, by the disk and the file system; a single event costs a sync of 0.1 to 0.4 ms.
"""

from __future__ import annotations

from typing import Final

from refold.core.limits import BATCH_EVENTS_MIN

_WEIGHT: Final = 0.25
_FORGETTING: Final = 0.01
_MEMBER_SECONDS: Final = 15e-6
_SINGLE_SECONDS: Final = 1e-4
_BATCH_SECONDS: Final = BATCH_EVENTS_MIN * (_SINGLE_SECONDS - _MEMBER_SECONDS)
"""What nobody has seen yet is taken to cost little: so it is tried."""


class Pace:
    """Two costs; that of the way not taken is slowly forgotten, so that it is tried again."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._single_seconds = _SINGLE_SECONDS
        self._batch_seconds = _BATCH_SECONDS
        self._landed_at = 0.0

    def prefers_batch(self, events: int) -> bool:
        """Tell whether so many events go more quickly as a batch."""
        return (
            events >= BATCH_EVENTS_MIN
            and events * (self._single_seconds - _MEMBER_SECONDS) >= self._batch_seconds
        )

    def note(self, events: int, *, is_batch: bool, sent_at: float, landed_at: float) -> None:
        """Learn from a group; the broker takes one after the other."""
        seconds = landed_at - max(sent_at, self._landed_at)
        self._landed_at = landed_at
        if is_batch:
            self._batch_seconds += (seconds - events * _MEMBER_SECONDS - self._batch_seconds) * _WEIGHT
            self._single_seconds += (_SINGLE_SECONDS - self._single_seconds) * _FORGETTING
        elif events >= BATCH_EVENTS_MIN:
            self._single_seconds += (seconds / events - self._single_seconds) * _WEIGHT
            self._batch_seconds += (_BATCH_SECONDS - self._batch_seconds) * _FORGETTING
