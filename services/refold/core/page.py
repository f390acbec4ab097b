"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.history import (
    NEVER,
    Clock,
    Point,
    Snapshot,
    operations_of,
    pack,
    snapshot_of,
    state_at,
    unpack,
)
from refold.core.history import Segment as Run

__all__ = [
    "NEVER",
    "Clock",
    "Point",
    "Run",
    "Snapshot",
    "operations_of",
    "pack",
    "snapshot_of",
    "state_at",
    "unpack",
]
