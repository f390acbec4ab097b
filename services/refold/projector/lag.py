"""When the state of a large document is written: not with every commit, but often enough to lag by a bounded time.

Asked by the projector's loop as it makes a commit, and by what settles states (`refold.projector.settling`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from refold.core.document import ABSENT, Document
from refold.core.limits import STATE_LAG_BYTES, STATE_LAG_SECONDS
from refold.core.outcome import Entry
from refold.store import Key

_COMMITTED_AFTER: Final = 0.75
_SETTLED_AFTER: Final = 0.875
"""Shares of the time: a document that goes on changing is written by its commits, before the rest is settled."""

_LOOKS: Final = 8
"""How often within the time one looks for what is to be settled: what is found last is still in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LagBounds:
    """A state of more than `bytes_min` may lag for so many `seconds`; none does where they are 0."""

    bytes_min: int = STATE_LAG_BYTES
    seconds: float = STATE_LAG_SECONDS


class Lag:
    """Remembers when states were written last, for no longer than that matters."""

    def __init__(self, bounds: LagBounds, timer: Callable[[], float]) -> None:
        """Know of nothing: what is not remembered is written."""
        self._bounds = bounds
        self._timer = timer
        self._written_at: dict[Key, float] = {}

    @property
    def look_seconds(self) -> float:
        """Tell how long to wait between two looks for what is to be settled."""
        return self._bounds.seconds / _LOOKS

    def writes(self, document: Document, entries: Iterable[Entry]) -> bool:
        """Tell whether a commit writes the state of a document that it has these entries of, and remember it."""
        key = (document.namespace, document.document)
        if document.state is ABSENT or document.size <= self._bounds.bytes_min or not self._bounds.seconds:
            self._written_at.pop(key, None)
            return True
        if not any(entry.status.is_effective for entry in entries):
            return False
        if not self._is_older(key, _COMMITTED_AFTER):
            return False
        self._wrote(key)
        return True

    def is_due(self, key: Key) -> bool:
        """Tell whether a document that lags has not been written for too long: nothing has come that would do it."""
        return self._is_older(key, _SETTLED_AFTER)

    def settled(self, key: Key) -> None:
        """Remember that a state was written beside the commits, unless one of them has deleted the document meanwhile.

        What is remembered has a row that holds a state: only commits, in their order, can say so.
        """
        if key in self._written_at:
            self._wrote(key)

    def _wrote(self, key: Key) -> None:
        """Remember that a state is written now, and forget what is as good as unknown."""
        now = self._timer()
        self._written_at.pop(key, None)
        self._written_at[key] = now
        while now - self._written_at[oldest := next(iter(self._written_at))] > self._bounds.seconds:
            del self._written_at[oldest]

    def _is_older(self, key: Key, share: float) -> bool:
        written_at = self._written_at.get(key)
        return written_at is None or self._timer() - written_at >= share * self._bounds.seconds
