"""Former names of what moved, for callers that have not followed yet. Nothing new imports from here."""

from __future__ import annotations

from refold.core.fold import genesis, genesis_rules, read_genesis

__all__ = ["genesis", "genesis_rules", "read_genesis"]
