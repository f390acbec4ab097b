"""Find where a read begins: the page that holds a point, or the cursor that continues a list.

Shared by the adapters, so that a cursor of one is a cursor of the other.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, urlsafe_b64encode
from typing import NamedTuple, Self

from refold.core.errors import Refused
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.core.stream import check_name
from refold.core.timestamp import TIME_MAX_NANOSECONDS

_ANY = TIME_MAX_NANOSECONDS
"""No base is beyond it on any clock."""


class Bounds(NamedTuple):
    """Bounds of a search for a page: the last one whose base is at or before all of them."""

    base_sequence: int = _ANY
    version: int = _ANY
    version_sequence: int = _ANY
    recorded_at: int = _ANY
    occurred_max: int = _ANY

    @classmethod
    def of(cls, point: Point) -> Self:
        """Bound one clock, within int64 and no lower than the first page of every document."""
        name = _FIELDS[point.clock]
        first = getattr(NEVER, "sequence" if name == "version_sequence" else name)
        return cls(**{name: min(max(point.value, first), _ANY)})

    def include(self, base: Snapshot, base_sequence: int) -> bool:
        """Tell whether a page's base is within the bounds."""
        position = (base_sequence, base.version, base.sequence, base.recorded_at, base.occurred_max)
        return all(value <= bound for value, bound in zip(position, self, strict=True))


_FIELDS = {
    Clock.version: "version",
    Clock.sequence: "version_sequence",
    Clock.recorded: "recorded_at",
    Clock.occurred: "occurred_max",
}


def first_bounds(after_version: int | None, *, is_descending: bool) -> Bounds:
    """Bound the segment that a history begins with."""
    if after_version is None:
        return Bounds() if is_descending else Bounds(base_sequence=0)
    return Bounds.of(Point(Clock.version, after_version - 1 if is_descending else after_version))


def write_cursor(document: str) -> str:
    """Make the cursor after the last document of a page."""
    return urlsafe_b64encode(document.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str:
    """Return the document that a list continues after; without a cursor the empty name, which sorts first."""
    if cursor is None:
        return ""
    try:
        return check_name(
            b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode(), "cursor"
        )
    except (Refused, binascii.Error, ValueError):
        rule = "is not one that a list answered as `next`"
        raise Refused("bad_cursor", rule, field="cursor", shape=repr(cursor[:40])) from None
