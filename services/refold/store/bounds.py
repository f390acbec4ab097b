"""Where a point lies among a document's pages: at most which base each clock allows.

Used by the store's adapters to find the page that holds a point.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from refold.core.limits import TIME_MAX_NANOSECONDS
from refold.core.page import NEVER, Clock, Point, Run, Snapshot

ANY = TIME_MAX_NANOSECONDS
"""No base lies beyond it on any clock."""


class Bounds(NamedTuple):
    """The last page whose base lies at or before all of these is the one that is looked for."""

    base_sequence: int = ANY
    version: int = ANY
    version_sequence: int = ANY
    recorded_at: int = ANY
    occurred_max: int = ANY

    @classmethod
    def of(cls, point: Point) -> Self:
        """Bound one clock, within what every document's first page satisfies and an int64 holds."""
        name = _FIELDS[point.clock]
        first = getattr(NEVER, "sequence" if name == "version_sequence" else name)
        return cls(**{name: min(max(point.value, first), ANY)})

    def hold(self, base: Snapshot, base_sequence: int) -> bool:
        """Tell whether a page's base lies within."""
        place = (base_sequence, base.version, base.sequence, base.recorded_at, base.occurred_max)
        return all(value <= bound for value, bound in zip(place, self, strict=True))


_FIELDS = {
    Clock.version: "version",
    Clock.sequence: "version_sequence",
    Clock.recorded: "recorded_at",
    Clock.occurred: "occurred_max",
}


def first_bounds(after_version: int | None, *, is_descending: bool) -> Bounds:
    """Bound the run that a history begins with."""
    if after_version is None:
        return Bounds() if is_descending else Bounds(base_sequence=0)
    return Bounds.of(Point(Clock.version, after_version - 1 if is_descending else after_version))


def next_bounds(run: Run, *, is_descending: bool) -> Bounds:
    """Bound the run that follows a closed one, or lies before any."""
    return Bounds(base_sequence=run.base_sequence - 1 if is_descending else run.entries[-1].sequence)
