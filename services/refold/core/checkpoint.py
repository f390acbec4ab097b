"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.stream import Checkpoint, Counts, ShardCheckpoint

__all__ = ["Checkpoint", "Counts", "ShardCheckpoint"]
