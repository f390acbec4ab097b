"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.fold_state import FoldState as Shard
from refold.core.fold_state import Step, entry_of, first_checkpoints

__all__ = ["Shard", "Step", "entry_of", "first_checkpoints"]
